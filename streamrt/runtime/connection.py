"""One end of an open stream: a receive channel, a send channel, and the two tasks that serve them.

    transport --deliver()-> receive channel --receive()--> codec, handler or caller
    transport <--writer---- send channel    <--send()----- codec, handler or caller

The transport delivers batches (or a reader task asks it for them), the writer takes what is queued in one go, and a
`send` that finds nothing queued before it goes straight to the transport if that takes it. So a message costs no
task and no timer of its own, and a task switch only where somebody has to wait.

Checkpoints: `receive` and `send` notice a cancellation every time, and before anything has moved. They
let other tasks run when they wait, and otherwise every `_TURN` messages.

How a stream ended is decided once, by whoever comes first (`end`). What is left to do after that, to
flush and to close, is done on the way out of `open`.

Where both ends speak ``streamrt.v1``, binary frames are controls (`wire.control`). They are taken out where batches
come in, so that nobody else knows of them; what goes out stands in the send channel like messages.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, Protocol, final

import trio

from streamrt.api.limits import Limits
from streamrt.api.request import Request
from streamrt.api.stream import Port, TopicPosition
from streamrt.errors import APIError, CloseCode, Ended, ResourceExhausted, error_from_close
from streamrt.wire.backlog import Backlog
from streamrt.wire.control import (
    END,
    BrokenControl,
    Drain,
    End,
    Failure,
    Gap,
    Notice,
    Position,
    drain_frame,
    error_frame,
    read_control,
)
from streamrt.wire.dialect import RESUME, STREAMRT_V1, offered_positions
from streamrt.wire.transport import Batch, Disconnected, Frame, Payload, PullTransport, Transport, payload_size
from streamrt.wire.waiting import Waiting

from .broker import Channel
from .broker import Position as Place
from .outbox import Outbox
from .scopes import lone_error
from .whereabouts import Whereabouts

_TURN = 64
"""Messages that one task may move before others get a turn: well under a millisecond of work."""

_FAREWELL = 1.0
"""Seconds that a cancelled stream takes to send its Close to a peer that does not read."""


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
        "_broken",
        "_bunching",
        "_closing",
        "_controls",
        "_discarding",
        "_error",
        "_feeds",
        "_flushed",
        "_grace",
        "_half_closed",
        "_held",
        "_inbox",
        "_notices",
        "_nursery",
        "_offered",
        "_owes_response",
        "_patient",
        "_peer_done",
        "_side",
        "_takes_input",
        "_told",
        "_transport",
        "_turn",
        "_verdict",
        "_waiting_room",
        "_whereabouts",
        "_writing",
        "draining",
        "ended",
        "limits",
        "outbox",
        "request",
        "scope",
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
        self._transport = transport
        self._controls = request.dialect == STREAMRT_V1
        self._side: Literal["server", "client"] = side
        self._takes_input = takes_input
        self._owes_response = owes_response
        self._grace = grace
        self._told = told
        # Messages; at a client also the notices of topics, each behind the message that it is about.
        size = payload_size if side == "server" else _size
        self._inbox: Backlog[Any] = Backlog(limits.receive_messages, limits.receive_bytes, size)
        self._whereabouts = Whereabouts() if self._controls and side == "client" else None
        self._notices = 0  # how many of the receive channel are no messages; the oldest never is
        self._offered: dict[tuple[str, str], str] | None = None  # where the client was, until it is asked for
        self.outbox: Outbox = Outbox(limits, self._start_writer)
        self._feeds: list[Feed] = []
        self._nursery: trio.Nursery | None = None  # until the writer, which starts when something queues
        self._writing = False
        self._bunching = False  # messages go out faster than one for each turn of the scheduler
        self._held = False  # the transport waits for room in the receive channel
        self._flushed = Waiting()
        self._waiting_room: trio.StrictFIFOLock | None = None  # where nobody overtakes who waits for room
        self._patient: list[trio.CancelScope] = []  # who waits for the peer to read
        self._discarding = False  # this end receives no more
        self._closing = False  # this end sends no more
        self._half_closed = False  # and has said so, but may receive
        self._peer_done = False  # the other end has said so
        self._error: APIError | None = None  # what a Close is about: that of a server's own end, or of its peer
        self._broken = False  # what is queued cannot go out any more
        self._verdict = Ended("handler", CloseCode.DONE)
        self._turn = 0

    # What a stream calls.

    async def receive(self) -> Payload:
        """Return the next message; see `Port.receive`."""
        inbox = self._inbox
        if inbox or inbox.closed:
            await self._checkpoint()
        while not inbox:
            if inbox.closed:
                raise self._end_of_input()
            await inbox.filled()
        payload: Payload = inbox.take()
        if self._notices:
            self._take_notices()
        if self._held and inbox.half_empty:
            self._allow(inbox.free)
        return payload

    async def send(self, frame: Frame) -> None:
        """Send one message; see `Port.send`."""
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
            self._bunching = True  # now and then, to see whether the writer finds more than this one
        if self.ended is not None or self._closing:
            self._check_open()
        for feed in self._feeds:
            feed.catch_up()
        somebody_waits = self._waiting_room is not None and self._waiting_room.locked()
        straight = not self._bunching and not self._inbox  # a burst of input makes a burst of output
        if straight and not somebody_waits and self._send_nowait(frame):
            return
        if somebody_waits or not self.outbox.offer(frame):
            await self._wait_for_room(lambda: self.outbox.offer(frame))

    @property
    def half_closes(self) -> bool:
        """Whether the other end can be told that no more messages come; see `Port.half_closes`."""
        return self._controls

    async def send_eof(self) -> None:
        """Send no more messages, and say so; see `StreamInOut.send_eof`."""
        await trio.lowlevel.checkpoint()
        if self._half_closed:
            return
        self._check_open()
        if not self._controls:
            raise APIError.failed_precondition(
                "the other end speaks encore-ws, in which one direction cannot be ended alone; streamrt.v1 is needed"
            )
        for feed in self._feeds:
            feed.catch_up()
        self.say(END)
        self._closing = self._half_closed = True

    async def aclose(self) -> None:
        """End this side; see `Stream.aclose`."""
        self._discard()
        if self._owes_response or (self._closing and not self._half_closed) or self.ended is not None:
            await trio.lowlevel.checkpoint()
            return
        self._half_closed = False
        for feed in self._feeds:
            feed.catch_up()
        self._closing = True
        await self._flush()
        self.end(self._verdict)
        with trio.move_on_after(self.limits.close_timeout):
            await self._transport.close(self._verdict.code, self._verdict.reason)

    @property
    def positions(self) -> Mapping[tuple[str, str], TopicPosition]:
        """Where a client is in topics, by topic and key; see `Stream.positions`."""
        return {} if self._whereabouts is None else self._whereabouts.positions

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
        self._check_open()
        if not self.outbox.has_room_for(0):
            await self._wait_for_room(lambda: self.outbox.has_room_for(0))

    @contextmanager
    def fed_by(self, feed: Feed) -> Generator[None]:
        """Let a feed send to the stream for as long as the block lasts."""
        self._feeds.append(feed)
        try:
            yield
        finally:
            self._feeds.remove(feed)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._closing or self.ended is not None

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
        return None if Place.parse(position) is None else position

    def say(self, control: Frame) -> None:
        """Send a control behind what was sent before, whether it fits or not: there are few of them."""
        if not self._send_nowait(control):
            self.outbox.put(control)

    async def send_together(self, *frames: Frame) -> None:
        """Send frames with nothing between them; see `Port.send`."""

        def enter() -> bool:
            fits = self.outbox.has_room_for(sum(map(len, frames)))
            if fits:
                for frame in frames:
                    self.outbox.put(frame)
            return fits

        await self._checkpoint()
        self._check_open()
        for feed in self._feeds:
            feed.catch_up()
        somebody_waits = self._waiting_room is not None and self._waiting_room.locked()
        if somebody_waits or not enter():
            await self._wait_for_room(enter)

    def push_whole(self, batch: Batch) -> bool:
        """Send messages that must not be parted, if nothing is queued before them; return whether it is so."""
        if self.outbox or self._writing or self._closing or self.ended is not None:
            return False
        for frame in self._transport.send_batch_nowait(batch):
            self.outbox.put(frame)
        return True

    def push(self, batch: Batch) -> int:
        """Send messages of a feed, if nothing is queued before them.

        Returns:
            How many of them, the last ones, have to be queued.
        """
        if self.outbox or self._writing or self._closing or self.ended is not None:
            return len(batch.frames)
        rest = self._transport.send_batch_nowait(batch)
        if not rest:
            return 0
        self.outbox.put(rest[0])  # it may be out in part
        return len(rest) - 1

    # What its transport calls.

    def deliver(self, payloads: Sequence[Payload]) -> int:
        """Take a batch; see `Receiver.deliver`."""
        inbox = self._inbox
        if self._controls and bytes in map(type, payloads):
            return self._deliver_each(payloads)
        if not inbox.closed and self._takes_messages():
            inbox.extend(payloads)
            room = inbox.free
            self._held = not room
            return room
        self._refuse_more()
        return _TURN  # for what is thrown away

    def answer(self, frame: Frame) -> bool:
        """Send a control frame, if there is room for it; see `Receiver.answer`."""
        if self.ended is not None:
            return False
        if self._send_nowait(frame):
            return True
        return self.outbox.offer_urgent(frame)

    def moved(self) -> None:
        """Give those who wait for the peer to read the whole time again; see `Receiver.moved`."""
        for patience in self._patient:
            patience.deadline = trio.current_time() + self.limits.send_timeout

    def fail(self, code: int, reason: str) -> None:
        """End the stream; see `Receiver.fail`."""
        self.end(Ended("runtime", code, reason))

    def lost(self, gone: Disconnected) -> None:
        """Begin the grace; see `Receiver.lost`."""
        self.end(Ended("peer", gone.code, gone.reason))
        if self._writing and gone.code != CloseCode.ABNORMAL:
            self.outbox.clear()  # through TLS nothing can follow a write cut short, no Close either
        else:
            self._break()  # also when the end was decided before, and the flush is what is left

    def finish(self) -> None:
        """End the input behind what was delivered; see `Receiver.finish`."""
        self._inbox.close()

    # What its owner calls.

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve both channels for as long as the block lasts, then flush and close.

        A block that is left by an exception is not flushed: it closes with 1001, at once.
        """
        try:
            with lone_error():
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self._transport.attach(self)
                    if isinstance(self._transport, PullTransport):
                        nursery.start_soon(self._read, self._transport)
                    try:
                        yield
                    finally:
                        self._closing = True
                    self._discard()  # a peer that writes before it reads would wait for us, and we for it
                    if self._side == "server" and self._error is not None and self.ended is None:
                        self._tell(self._error)
                    await self._flush()
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
            await self._close()  # noqa: ASYNC102 - it shields what must be, with a deadline

    @property
    def error(self) -> APIError | None:
        """At a client: what the stream has ended with; None while it has not, or when that was well."""
        return None if self.ended is None else self._error or error_from_close(self.ended.code, self.ended.reason)

    async def unread(self) -> Sequence[Payload | Notice]:
        """Wait for what nobody has received, and take it; nothing at the end of the input."""
        await self._inbox.filled()
        self._notices = 0
        return self._inbox.take_batch()

    def conclude(self, error: APIError) -> None:
        """Say that the stream ends with an error once the block is left, if nobody else ends it before."""
        self._error = error
        self._verdict = Ended("handler", error.close_code, error.reason())

    def announce_drain(self, within: float) -> None:
        """Tell a client that its stream is about to be closed, within so many seconds."""
        if self._controls and self.ended is None:
            self.say(drain_frame(within))

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
        self.outbox.close()
        if ended.by == "peer":
            self._begin_grace()
        elif ended.by == "runtime":
            self._close_inbox()
            self.scope.cancel()
            self._hurry()

    # Inside.

    @property
    def _name(self) -> str:
        return f"the stream {self.request.connection_id} of {self.request.endpoint}"

    def _discard(self) -> None:
        if not self._discarding:
            self._discarding = True
            self._inbox.take_batch()
            self._close_inbox()

    def _close_inbox(self) -> None:
        self._inbox.close()
        if self._held:
            self._allow(_TURN)  # the peer's Close may be behind what is thrown away

    def _allow(self, room: int) -> None:
        self._held = False
        self._transport.allow(room)

    def _takes_messages(self) -> bool:
        if not self._takes_input:
            self.end(Ended("runtime", CloseCode.UNSUPPORTED_DATA, "this stream takes no messages"))
        return self._takes_input

    def _send_nowait(self, frame: Frame) -> bool:
        return not self.outbox and not self._writing and self._transport.send_nowait(frame)

    def _tell(self, error: APIError) -> None:
        if self._controls:
            self.say(error_frame(error))

    def _deliver_each(self, payloads: Sequence[Payload]) -> int:
        """Take a batch in which there are controls."""
        for payload in payloads:
            if isinstance(payload, bytes):
                self._obey(payload)
            else:
                self.deliver((payload,))
        room = _TURN if self._inbox.closed else self._inbox.free
        self._held = not room
        return room

    def _obey(self, payload: bytes) -> Notice | None:
        """Do what a control says, as long as there is somebody to read what comes in; return what stands in line."""
        if self._discarding:
            return None
        whereabouts = self._whereabouts
        try:
            if whereabouts is not None and whereabouts.due is not None:
                raise BrokenControl("the messages of a 'position' must follow it at once, and a control came")
            match read_control(payload, "client" if self._side == "server" else "server"):
                case Position(messages=0) | Gap() as notice:
                    return notice
                case Position() if self._peer_done:
                    self._refuse_more()
                case Position() as position:
                    assert whereabouts is not None  # no client announces messages
                    whereabouts.due = position
                case End() if self._peer_done:
                    self.fail(CloseCode.PROTOCOL_ERROR, "'end' must be the last, and came twice")
                case End():
                    self._peer_done = True
                    self._close_inbox()
                case Failure() as failure:
                    self._error = failure.error()
                case Drain() as drain:
                    self.draining.set()
                    if self._told is not None:
                        self._told(drain)
                case _:
                    pass
        except BrokenControl as broken:
            self.fail(CloseCode.PROTOCOL_ERROR, str(broken))
        return None

    def _refuse_more(self) -> None:
        """End a stream whose peer sends messages although it has said that it does not."""
        if self._peer_done and not self._discarding and self._takes_messages():
            self.fail(CloseCode.PROTOCOL_ERROR, "'end' must be the last, and a message came behind it")

    def _start_writer(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._write)
            self._nursery = None

    async def _checkpoint(self) -> None:
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        ended = self.ended
        if ended is not None and ended.by in ("peer", "runtime"):
            raise trio.BrokenResourceError(
                f"{self._name} was ended by the {ended.by}: {ended.code} {ended.reason}".rstrip()
            )
        if self._closing:
            raise trio.ClosedResourceError(f"{self._name} was closed on this side")

    def _end_of_input(self) -> Exception:
        if self._discarding:
            return trio.ClosedResourceError(f"{self._name} was closed on this side")
        if self._side == "client" and self.error is not None:
            return self.error
        return trio.EndOfChannel()

    async def _wait_for_room(self, enter: Callable[[], bool]) -> None:
        if self._waiting_room is None:
            self._waiting_room = trio.StrictFIFOLock()
        with self._patience() as patience:
            async with self._waiting_room:
                self._check_open()
                while not enter():
                    await self.outbox.room()
                    self._check_open()
        if patience.cancelled_caught:
            raise self._stalled()

    @contextmanager
    def _patience(self) -> Generator[trio.CancelScope]:
        """Wait for as long as the peer takes something every `send_timeout`."""
        with trio.move_on_after(self.limits.send_timeout) as patience:
            self._patient.append(patience)
            try:
                yield patience
            finally:
                if patience in self._patient:
                    self._patient.remove(patience)

    def _hurry(self) -> None:
        """Wait no longer than `close_timeout`: cut off, a peer that reads slowly has no more time than another."""
        latest = trio.current_time() + self.limits.close_timeout
        for patience in self._patient:
            patience.deadline = min(patience.deadline, latest)
        self._patient.clear()

    def _stalled(self) -> Stalled:
        error = Stalled(self)
        if self.ended is None:
            self.ended = Ended("runtime", error.close_code, error.reason())
        self.outbox.close()
        self._break()
        self._begin_grace()
        self._transport.abort(self.ended.code, self.ended.reason)
        return error

    def _break(self) -> None:
        self._broken = True
        self._flushed.wake_all()

    def _begin_grace(self) -> None:
        self.scope.deadline = trio.current_time() + self._grace

    async def _read(self, transport: PullTransport) -> None:
        inbox = self._inbox
        limit = self.limits.max_message_bytes
        whereabouts = self._whereabouts
        try:
            while True:
                for payload in await transport.receive():
                    if payload_size(payload) > limit:
                        self.fail(CloseCode.TOO_BIG, f"a message may have {limit} bytes")
                        return
                    if self._controls and isinstance(payload, bytes):
                        if (notice := self._obey(payload)) is not None:
                            while inbox and not inbox.closed and not inbox.free:
                                await inbox.room()
                            self._put(notice)
                    elif not self._takes_messages():
                        return
                    elif whereabouts is not None and whereabouts.due is not None:
                        await self._hold_back(whereabouts.due, payload)
                    else:
                        while not inbox.closed and not inbox.offer(payload):
                            await inbox.room()
                        if inbox.closed:
                            self._refuse_more()
        except Disconnected as gone:
            self.lost(gone)
        finally:
            inbox.close()

    async def _hold_back(self, position: Position, payload: Payload) -> None:
        """Take one of the messages that a position has announced, and with the last all of them."""
        assert self._whereabouts is not None
        try:
            whole = self._whereabouts.hold_back(payload)
        except BrokenControl as broken:
            self.fail(CloseCode.PROTOCOL_ERROR, str(broken))
            return
        for message in whole:
            while not self._inbox.closed and not self._inbox.offer(message):
                await self._inbox.room()
        if whole:
            self._put(position)

    def _put(self, notice: Notice) -> None:
        """Note something of a topic, once the messages before it have been received."""
        if self._inbox:
            self._inbox.extend((notice,))
            self._notices += 1
        elif not self._discarding:
            self._note(notice)

    def _take_notices(self) -> None:
        while self._inbox and isinstance(self._inbox.oldest, Notice):
            self._notices -= 1
            self._note(self._inbox.take())

    def _note(self, notice: Notice) -> None:
        assert self._whereabouts is not None
        self._whereabouts.note(notice)
        if self._told is not None:
            self._told(notice)

    async def _write(self) -> None:
        outbox = self.outbox
        try:
            while True:
                await outbox.filled()
                frames = outbox.take()
                if not frames and outbox.closed:
                    return
                if frames:  # else all of it was taken back
                    self._bunching = len(frames) > 1
                    self._writing = True
                    await self._transport.send(frames)
                    self._writing = False
                    self.moved()
                self._flushed.wake_all()
        except Disconnected as gone:
            self.lost(gone)
            self._break()

    async def _flush(self) -> None:
        if not self.outbox and not self._writing:
            return
        with self._patience() as patience:
            if self.ended is not None:
                self._hurry()
            while (self.outbox or self._writing) and not self._broken:
                await self._flushed.wait()
        if patience.cancelled_caught:
            self._stalled()

    async def _close(self) -> None:
        assert self.ended is not None
        cancelled = self.ended.by == "scope"
        patience = min(_FAREWELL, self.limits.close_timeout) if cancelled else self.limits.close_timeout
        deadline = trio.current_time() + patience
        answered = False
        try:
            # A Close goes out even when everything around is cancelled; its answer is not waited for then.
            with trio.CancelScope(shield=True, deadline=deadline) as scope:
                await self._transport.close(self.ended.code, self.ended.reason)
                if not cancelled:
                    scope.shield = False
                    await self._transport.wait_closed()
                    answered = True
        finally:
            if not answered:
                self._transport.abort(CloseCode.ABNORMAL, "")


def _size(item: Payload | Notice) -> int:
    """Return the bytes of what is in a client's receive channel."""
    return payload_size(item) if isinstance(item, (str, bytes)) else 0
