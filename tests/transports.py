"""A stream on its own socket without a server, for tests that note what it delivers, and how it ends.

Where a line has to be read or written without a task it is a real one over loopback, and elsewhere a fake, which is
to the transport what TLS is.
"""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from streamrt import Limits
from streamrt.server.line import Condition, Line, PlainLine
from streamrt.server.socket import SocketTransport
from streamrt.wire.transport import Disconnected, Frame, Payload
from tests.peers import cut_off

QUIET = Limits(ping_interval=None)
GONE = ("lost", 1006, "")


@attrs.define
class Recorder:
    """A receiver that notes what it is told, and has room for so many messages."""

    room: int = 64
    calls: list[Any] = attrs.Factory(list[Any])
    moves: int = 0
    takes_pings: bool = True

    def deliver(self, payloads: Sequence[Payload]) -> int:
        assert len(payloads) <= self.room or not self.calls  # the first one comes before the room is known
        self.calls.append(("deliver", *payloads))
        self.room = max(0, self.room - len(payloads))
        return self.room

    def answer(self, frame: Frame) -> bool:
        assert frame.is_ready
        self.calls.append(("answer", frame.wire))
        return self.takes_pings

    def moved(self) -> None:
        self.moves += 1

    def fail(self, code: int, reason: str) -> None:
        self.calls.append(("fail", code, reason))

    def lost(self, gone: Disconnected) -> None:
        self.calls.append(("lost", gone.code, gone.reason))

    def finish(self) -> None:
        self.calls.append("finish")


@attrs.define
class Reader:
    """Who reads a line, and notes when it may."""

    calls: list[str] = attrs.Factory(list[str])

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def stop(self) -> None:
        self.calls.append("stop")


class FakeLine(Line):
    """A line on which only tasks write, one after the other: it notes what goes out, and how it ends."""

    def __init__(self) -> None:
        self.closed = False
        self.rest = memoryview(b"")
        self.moved = lambda: None
        self.calls: list[Any] = []
        self.known: Condition | None = None
        self.broken = False
        self.writable = trio.Event()
        self.writable.set()
        self._turns = trio.StrictFIFOLock()

    async def send(self, data: bytes | memoryview) -> None:
        async with self._turns:
            self.rest = memoryview(data)
            await self.writable.wait()
            if self.broken:
                raise trio.BrokenResourceError
            self.calls.append(data)
            self.rest = memoryview(b"")

    async def flush(self) -> None:
        async with self._turns:
            if self.rest:
                raise trio.BrokenResourceError

    async def receive(self) -> bytes:
        raise NotImplementedError

    def condition(self) -> Condition | None:
        return self.known

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.closed = True
        self.calls.append("close")

    def reset(self) -> None:
        self.closed = True
        self.calls.append("reset")


@attrs.frozen
class Plain:
    """A transport on a real line, and the other end of that."""

    line: PlainLine
    transport: SocketTransport
    receiver: Recorder
    peer: trio.SocketStream

    async def come(self, *frames: bytes) -> None:
        """Send as the peer, and read."""
        await self.peer.send_all(b"".join(frames))
        await self.read()

    async def read(self) -> None:
        await trio.lowlevel.wait_readable(self.line.fileno())
        self.transport.read()

    def fill(self) -> int:
        """Write into the socket, past the line, until it takes no more; return how much."""
        filled = 0
        try:
            while True:
                filled += os.write(self.line.fileno(), bytes(1 << 16))
        except BlockingIOError:
            return filled

    def vanish(self) -> None:
        cut_off(self.peer.socket)

    async def heard(self) -> bytes:
        """Everything that the peer hears, to the end."""
        heard = bytearray()
        async for data in self.peer:
            heard += data
        return bytes(heard)


@asynccontextmanager
async def plain(receiver: Recorder | None = None, limits: Limits = QUIET, **options: Any) -> AsyncGenerator[Plain]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as peer:
        line = PlainLine(await listener.accept())
        receiver = Recorder() if receiver is None else receiver
        transport = SocketTransport(line, limits, **options)
        transport.attach(receiver)
        try:
            with trio.fail_after(10):  # noqa: ASYNC100 - it is for the block
                yield Plain(line, transport, receiver, peer)
        finally:
            transport.abort(1006, "")


def attached(receiver: Recorder, limits: Limits = QUIET, **options: Any) -> tuple[SocketTransport, FakeLine]:
    line = FakeLine()
    transport = SocketTransport(line, limits, **options)
    transport.attach(receiver)
    return transport, line


def frames(*payloads: bytes) -> list[Frame]:
    return [Frame(payload) for payload in payloads]


def negotiated(limits: Limits) -> Any:
    assert limits.compression is not None
    agreed = limits.compression.negotiate(["permessage-deflate"])
    assert agreed is not None
    return agreed[1]
