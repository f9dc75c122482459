"""A carrier whose peer has to be heard in time.

The time runs only while this end listens: a peer that is not read, because the program does not receive, says nothing
that could be heard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import trio

from streamrt.errors import APIError, CloseCode
from streamrt.wire.transport import Disconnected, Frame, Payload, PullTransport, Receiver


@final
class WatchedTransport(PullTransport):
    """A carrier with deadlines; past one, the stream is ended with `DeadlineExceeded`.

    Args:
        carrier: What carries the stream.
        first: Seconds to the first message.
        silence: Seconds in which something must be heard, also what is no message.
    """

    __slots__ = ("_carrier", "_due", "_first", "_receiver", "_silence")

    name = "watched"

    def __init__(self, carrier: PullTransport, *, first: float, silence: float) -> None:
        self._carrier = carrier
        self._first = first
        self._silence = silence
        self._due = trio.current_time() + first  # the first message
        self._receiver: Receiver | None = None

    def attach(self, receiver: Receiver) -> None:
        """Note whom to tell; see `PullTransport.attach`."""
        self._receiver = receiver
        self._carrier.attach(receiver)

    async def receive(self) -> Sequence[Payload]:
        """Wait for the next batch, as long as the peer may take for it; see `PullTransport.receive`."""
        begin = trio.current_time()
        while True:
            with trio.move_on_at(min(self._due, self._too_silent_at(begin))):
                payloads = await self._carrier.receive()
                if str in map(type, payloads):
                    self._due = math.inf
                return payloads
            if trio.current_time() >= self._due:
                self._give_up(f"no message came within {self._first:g} s")
            if trio.current_time() >= self._too_silent_at(begin):
                self._give_up(f"nothing was heard for {self._silence:g} s")

    def _too_silent_at(self, begin: float) -> float:
        return max(begin, self._carrier.heard) + self._silence

    def _give_up(self, why: str) -> None:
        assert self._receiver is not None
        error = APIError.deadline_exceeded(why)
        self._receiver.fail(error.close_code, error.reason())
        self._carrier.abort(error.close_code, error.reason())  # who does not speak would not answer a Close either
        raise Disconnected(CloseCode.ABNORMAL)

    def send_nowait(self, frame: Frame) -> bool:
        """See `Transport.send_nowait`."""
        return self._carrier.send_nowait(frame)

    async def send(self, frames: Sequence[Frame]) -> None:
        """See `Transport.send`."""
        await self._carrier.send(frames)

    async def close(self, code: int, reason: str) -> None:
        """See `Transport.close`."""
        await self._carrier.close(code, reason)

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""
        await self._carrier.wait_closed()

    def abort(self, code: int, reason: str) -> None:
        """See `Transport.abort`."""
        self._carrier.abort(code, reason)
