"""One end of an open stream: its two channels, and how it ends.

    transport --deliver()-> reader --receive()--> codec, handler or caller
    transport <-send_nowait- writer <---send()--- codec, handler or caller

The transport delivers batches (or a task of the `Reader` asks it for them), and a `send` that finds nothing queued
before it goes straight to the transport if that takes it; the task of the `Writer` takes what is queued in one go. So a
message costs no task and no timer of its own, and a task switch only where somebody has to wait.

Checkpoints: `receive` and `send` notice a cancellation every time, and before anything has moved. They
let other tasks run when they wait, and otherwise every `_TURN` messages.

How a stream ended is decided once, by whoever comes first (`end`). What is left to do after that, to
flush and to close, is done on the way out of `open`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Literal, Protocol, final

import trio

from streamrt.api.limits import Limits
from streamrt.api.request import Request
from streamrt.api.stream import Port, TopicPosition
from streamrt.errors import APIError, CloseCode, Ended, ResourceExhausted, error_from_close
from streamrt.wire.control import END, Drain, Notice, drain_frame, error_frame
from streamrt.wire.dialect import RESUME, STREAMRT_V1, offered_positions
from streamrt.wire.transport import Disconnected, Frame, Payload, Transport

from .broker import Channel, Position
from .closing import close
from .reader import Reader
from .scopes import lone_error
from .writer import Writer

_TURN = 64
"""Messages that one task may move before others get a turn: well under a millisecond of work."""


@final
class Stalled(ResourceExhausted):
    """A peer does not read; tells which, because the handler that meets it may be another stream's."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(f"the peer has not read for {connection.limits.send_timeout:g} s")
        self.connection: Connection = connection


class Feed(Protocol):
    """What sends to a stream besides its handler: a topic that it is attached to. Its calls never wait."""

    def catch_up(self) -> None:
        """Hand over what was published before now, because something is about to be sent behind it."""
        ...


@final
class Connection(Port):
    """What a stream stands on while it is open.

    Args:
        transport: What carries it. The connection closes it.
        request: What the stream began with.
        limits: Its limits.
        draining: Set when the server begins to shut down.
        side: At the ``"client"``, a close with an error is raised as that error; at the ``"server"`` it is
            an end of input like any other.
        takes_input: Whether the other end may send messages at all.
        owes_response: Whether closing the stream leaves a response to be sent.
        grace: Seconds after the other end is gone until `scope` is cancelled.
        told: At a client: is given what topics say, once the messages before it have been received, and the
            announcement of a drain at once.
    """

    __slots__ = (
        "_controls",
        "_error",
        "_feeds",
        "_grace",
        "_half_closed",
        "_offered",
        "_owes_response",
        "_reader",
        "_side",
        "_transport",
        "_turn",
        "_verdict",
        "draining",
        "ended",
        "limits",
        "request",
        "scope",
        "writer",
    )

    def __init__(
        self,
        transport: Transport,
        request: Request,
        limits: Limits,
        *,
        draining: trio.Event,
        side: Literal["server", "client"],
        takes_input: bool,
        owes_response: bool = False,
        grace: float = math.inf,
        told: Callable[[Notice | Drain], None] | None = None,
    ) -> None:
        self.request: Request = request
        self.limits: Limits = limits
        self.draining: trio.Event = draining
        self.ended: Ended | None = None
        self.scope: trio.CancelScope = trio.CancelScope()  # around the handler; a client's is never entered
        self.writer: Writer = Writer(self, transport, limits)
        self._transport = transport
        self._controls = request.dialect == STREAMRT_V1
        self._reader = Reader(
            self,
            self.writer,
            transport,
            limits,
            side=side,
            controls=self._controls,
            takes_input=takes_input,
            told=told,
        )
        self._side: Literal["server", "client"] = side
        self._owes_response = owes_response
        self._grace = grace
        self._offered: dict[tuple[str, str], str] | None = None  # where the client was, until it is asked for
        self._feeds: list[Feed] = []
        self._half_closed = False  # this end has said that it sends no more, but may receive
        self._error: APIError | None = None  # what the Close will be about
        self._verdict = Ended("handler", CloseCode.DONE)
        self._turn = 0

    # What a stream calls.

    async def receive(self) -> Payload:
        """Return the next message; see `Port.receive`."""
        reader = self._reader
        inbox = reader.inbox
        if inbox or inbox.closed:
            self._turn += 1
            if self._turn % _TURN:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await trio.lowlevel.checkpoint()
        while not inbox:
            if inbox.closed:
                raise self._end_of_input()
            await inbox.filled()
        payload: Payload = inbox.take()
        if reader.notices:
            reader.take_notices()
        if reader.held and inbox.half_empty:
            reader.allow()
        return payload

    async def send(self, frame: Frame) -> None:
        """Send one message; see `Port.send`."""
        writer = self.writer
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
            writer.bunching = True  # now and then, to see whether the task finds more than this one
        if self.ended is not None or writer.closing:
            self.check_open()
        for feed in self._feeds:
            feed.catch_up()
        somebody_waits = writer.waiting_room is not None and writer.waiting_room.locked()
        straight = not writer.bunching and not self._reader.inbox  # a burst of input makes a burst of output
        if straight and not somebody_waits and writer.send_nowait(frame):
            return
        if somebody_waits or not writer.outbox.offer(frame):
            await writer.queue(frame)

    @property
    def half_closes(self) -> bool:
        """Whether the other end can be told that no more messages come; see `Port.half_closes`."""
        return self._controls

    async def send_eof(self) -> None:
        """Send no more messages, and say so; see `StreamInOut.send_eof`."""
        await trio.lowlevel.checkpoint()
        if self._half_closed:
            return
        self.check_open()
        if not self._controls:
            raise APIError.failed_precondition(
                "the other end speaks encore-ws, in which one direction cannot be ended alone; streamrt.v1 is needed"
            )
        for feed in self._feeds:
            feed.catch_up()
        self.writer.say(END)
        self.writer.closing = self._half_closed = True

    async def aclose(self) -> None:
        """End this side; see `Stream.aclose`."""
        writer = self.writer
        self._reader.discard()
        if self._owes_response or (writer.closing and not self._half_closed) or self.ended is not None:
            await trio.lowlevel.checkpoint()
            return
        self._half_closed = False
        for feed in self._feeds:
            feed.catch_up()
        writer.closing = True
        await writer.flush()
        self.end(self._verdict)
        with trio.move_on_after(self.limits.close_timeout):
            await self._transport.close(self._verdict.code, self._verdict.reason)

    @property
    def positions(self) -> Mapping[tuple[str, str], TopicPosition]:
        """Where a client is in topics, by topic and key; see `Stream.positions`."""
        whereabouts = self._reader.whereabouts
        return {} if whereabouts is None else whereabouts.positions

    @property
    def round_trip_time(self) -> float | None:
        """Seconds that the last heartbeat took; see `Stream.round_trip_time`."""
        return self._transport.round_trip_time

    # What a topic calls.

    async def ready(self) -> None:
        """Wait while the send channel is full; raise as `send` does.

        Otherwise a peer that reads nothing, and makes its handler change topics, would fill it without an end.
        """
        await trio.lowlevel.checkpoint()
        self.check_open()
        if not self.writer.offer(()):
            await self.writer.queue()

    @contextmanager
    def fed_by(self, feed: Feed) -> Generator[None]:
        """Let a feed send to the stream for as long as the block lasts."""
        self._feeds.append(feed)
        try:
            yield
        finally:
            self._feeds.remove(feed)

    @property
    def is_told(self) -> bool:
        """Whether topics tell the other end positions and gaps."""
        return self._controls and self._side == "server"

    def offered_position(self, channel: Channel) -> str | None:
        """Return where the client says that it was in a channel, once; None when it says nothing that is a position."""
        if not self.is_told:
            return None
        if self._offered is None:
            self._offered = offered_positions(self.request.header(RESUME))
        position = self._offered.pop(channel, "")
        return None if Position.parse(position) is None else position

    async def send_together(self, *frames: Frame) -> None:
        """Send frames with nothing between them; see `Port.send`."""
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        self.check_open()
        for feed in self._feeds:
            feed.catch_up()
        if self.writer.somebody_waits or not self.writer.offer(frames):
            await self.writer.queue(*frames)

    # What its owner calls.

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve both channels for as long as the block lasts, then flush and close.

        A block that is left by an exception is not flushed: it closes with 1001, at once.
        """
        try:
            with lone_error():
                async with trio.open_nursery() as nursery:
                    self.writer.serve(nursery)
                    self._reader.serve(nursery)
                    try:
                        yield
                    finally:
                        self.writer.closing = True
                    self._reader.discard()  # a peer that writes before it reads would wait for us, and we for it
                    if self._error is not None and self.ended is None:
                        self._tell(self._error)
                    await self.writer.flush()
                    self.end(self._verdict)
                    if nursery.child_tasks:
                        nursery.cancel_scope.cancel()
        except trio.Cancelled:
            self.end(Ended("scope", CloseCode.GOING_AWAY))
            raise
        except BaseException:
            self.end(Ended("handler", CloseCode.GOING_AWAY))
            raise
        finally:
            assert self.ended is not None
            await close(self._transport, self.ended, self.limits.close_timeout)  # noqa: ASYNC102 - it has a deadline

    @property
    def error(self) -> APIError | None:
        """At a client: what the stream has ended with; None while it has not, or when that was well."""
        if self.ended is None:
            return None
        return self._reader.error or error_from_close(self.ended.code, self.ended.reason)

    async def unread(self) -> Sequence[Payload | Notice]:
        """Wait for what nobody has received, and take it; nothing at the end of the input."""
        await self._reader.inbox.filled()
        return self._reader.take_all()

    def conclude(self, error: APIError) -> None:
        """Say that the stream ends with an error once the block is left, if nobody else ends it before."""
        self._error = error
        self._verdict = Ended("handler", error.close_code, error.reason())

    def announce_drain(self, within: float) -> None:
        """Tell a client that its stream is about to be closed, within so many seconds."""
        if self._controls and self.ended is None:
            self.writer.say(drain_frame(within))

    def cut_off(self, ended: Ended) -> None:
        """End the stream, and cancel a handler that is still there although it had ended before."""
        self.end(ended)
        self.scope.cancel()

    def fail_with(self, error: APIError) -> None:
        """End the stream with an error."""
        if self.ended is None:
            self._tell(error)
            self.end(Ended("runtime", error.close_code, error.reason()))

    def end(self, ended: Ended) -> None:
        """Decide how the stream ended; only the first call counts.

        A peer that is gone leaves the handler its grace; the runtime ends it at once.
        """
        if self.ended is not None:
            return
        self.ended = ended
        self.writer.outbox.close()
        if ended.by == "peer":
            self._begin_grace()
        elif ended.by == "runtime":
            self._reader.close()
            self.scope.cancel()
            self.writer.hurry()

    # What its reader and its writer call.

    def fail(self, code: int, reason: str) -> None:
        """End the stream, because the peer has broken a rule."""
        self.end(Ended("runtime", code, reason))

    def lost(self, gone: Disconnected) -> None:
        """Begin the grace, because the peer is gone."""
        self.end(Ended("peer", gone.code, gone.reason))
        self.writer.lost(gone)

    def stalled(self) -> Stalled:
        """End the stream, because its peer does not read; return what to raise."""
        error = Stalled(self)
        if self.ended is None:
            self.ended = Ended("runtime", error.close_code, error.reason())
        self.writer.outbox.close()
        self.writer.give_up()
        self._begin_grace()
        self._transport.abort(self.ended.code, self.ended.reason)
        return error

    def check_open(self) -> None:
        """Raise what `send` raises when nothing more can be sent."""
        ended = self.ended
        if ended is not None and ended.by in ("peer", "runtime"):
            raise trio.BrokenResourceError(
                f"{self._name} was ended by the {ended.by}: {ended.code} {ended.reason}".rstrip()
            )
        if self.writer.closing:
            raise trio.ClosedResourceError(f"{self._name} was closed on this side")

    # Inside.

    @property
    def _name(self) -> str:
        return f"the stream {self.request.connection_id} of {self.request.endpoint}"

    def _tell(self, error: APIError) -> None:
        if self._controls:
            self.writer.say(error_frame(error))

    def _end_of_input(self) -> Exception:
        if self._reader.discarding:
            return trio.ClosedResourceError(f"{self._name} was closed on this side")
        error = self.error if self._side == "client" else None
        return trio.EndOfChannel() if error is None else error

    def _begin_grace(self) -> None:
        self.scope.deadline = trio.current_time() + self._grace
