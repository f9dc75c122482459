"""A stream that outlives its connections: a port over one connection after another.

One task keeps a connection for as long as the stream is open, and decides what follows when one is lost (`Retries`).
The program's calls go straight to the connection that there is. The rules:

- what had come before a connection was lost is received before anything else; it waits in `_rest`, which has the limits
  of the receive channel, and no further connection is made while that is full;
- the program's position is behind what it has received; the server is offered that behind what has come;
- what is sent while there is no connection waits in a queue, or is refused;
- what ends the stream for good is decided once, and both `receive` and `send` say it.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias, final

import trio
from attrs import frozen

from streamrt.api.request import Request
from streamrt.api.stream import Port, TopicPosition
from streamrt.errors import APIError, CloseCode, Ended, ResourceExhausted
from streamrt.runtime.connection import Connection, Stalled
from streamrt.runtime.scopes import lone_error
from streamrt.runtime.whereabouts import Whereabouts
from streamrt.wire.backlog import Backlog
from streamrt.wire.control import END, Drain, Notice
from streamrt.wire.transport import Frame, Payload, payload_size
from streamrt.wire.waiting import Waiting

from .dialling import Call, Dialler
from .events import Back, Interpreter, Lost, StreamEvent
from .reconnect import Reconnect, Retries

_POSITIONS = 64
"""Topics and keys whose position is offered: a stream hears one or two, and they travel in a header."""


@final
@frozen
class _Noted:
    """What a topic has said, between the messages that wait."""

    notice: Notice
    event: StreamEvent | None


_Item: TypeAlias = Payload | _Noted


def _size(item: _Item) -> int:
    return 0 if isinstance(item, _Noted) else payload_size(item)


@final
class ReconnectingPort(Port):
    """What a client's stream stands on that comes back.

    Args:
        dialler: What connects it.
        call: What is called.
        terms: How it comes back.
        uploads: Whether what was sent before is needed: then it comes back only until it is connected first.
        resume: Where a stream before this one was in topics.
    """

    def __init__(
        self,
        dialler: Dialler,
        call: Call,
        terms: Reconnect,
        *,
        uploads: bool,
        resume: Iterable[TopicPosition],
    ) -> None:
        self.ended: Ended | None = None
        self._dialler = dialler
        self._call = call
        self._terms = terms
        self._uploads = uploads
        self._retries = Retries(terms, renews=dialler.renews)
        self._connection: Connection | None = None  # while there is one
        self._last: Connection | None = None
        self._leaving = trio.Event()
        self._scope = trio.CancelScope()  # around what is done while there is none
        self._changed = Waiting()  # for a connection, for something in the rest, or for the end
        self._receiving = 0  # calls that wait for a message of the connection
        self._received = Waiting()  # for none to do so
        limits = dialler.limits
        self._rest: Backlog[_Item] = Backlog(limits.receive_messages, limits.receive_bytes, _size)
        self._queue: list[Frame] = []
        self._whereabouts = Whereabouts()  # of what was received
        self._arrived = Whereabouts()  # of what has come
        self._arrived.positions = {(at.topic, at.key): at for at in resume}
        self._interpreter = Interpreter()  # of what this connection is told
        self._drained_at = -math.inf
        self._error: APIError | None = None  # what the stream has ended with
        self._closed = False  # this end has closed the stream
        self._eof = False  # this end has said that it sends no more
        self._thrown: BaseException | None = None  # what the program has raised when it was told something

    # What a stream calls.

    async def receive(self) -> Payload:
        """Return the next message, of whichever connection; see `Port.receive`."""
        while True:
            if self._closed:
                await trio.lowlevel.checkpoint()
                raise trio.ClosedResourceError(f"{self._name} was closed on this side")
            if self._rest:
                await trio.lowlevel.checkpoint()
                if self._rest:  # another may have been faster
                    return self._take()
            elif (connection := self._open_connection) is not None:
                try:
                    return await self._receive_from(connection)
                except (trio.EndOfChannel, APIError) as error:
                    if connection.ended is None or error is self._thrown:
                        raise  # the server sends no more, and the stream goes on; or it is the program's own
            elif self.ended is not None:
                await trio.lowlevel.checkpoint()
                raise trio.EndOfChannel if self._error is None else self._error
            else:
                await self._changed.wait()

    async def send(self, frame: Frame) -> None:
        """Send one message, or have it wait for a connection; see `Port.send`."""
        while (connection := self._open_connection) is not None and not self._eof and not self._closed:
            with suppress(trio.BrokenResourceError, Stalled):  # of the connection, which may not be the last
                await connection.send(frame)
                return
        await trio.lowlevel.checkpoint()
        self._check_open()
        if not self._terms.queue:
            raise APIError.unavailable(f"{self._name} has no connection now")
        if len(self._queue) >= self._terms.queue:
            raise APIError.resource_exhausted(
                f"{self._name} has no connection now, and {len(self._queue)} messages wait for one already"
            )
        self._queue.append(frame)

    @property
    def half_closes(self) -> bool:
        """See `Port.half_closes`; of the last connection, while there is none."""
        return self._last is not None and self._last.half_closes

    async def send_eof(self) -> None:
        """Send no more messages, and say so, also over connections to come; see `Port.send_eof`."""
        await trio.lowlevel.checkpoint()
        if self._eof:
            return
        self._check_open()
        if (connection := self._open_connection) is not None:
            with suppress(trio.BrokenResourceError):
                await connection.send_eof()
        self._eof = True

    async def aclose(self) -> None:
        """End this side, whether there is a connection or not; see `Port.aclose`."""
        self._closed = True
        self._changed.wake_all()
        try:
            if self._connection is not None:
                await self._connection.aclose()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self.leave()

    @property
    def positions(self) -> Mapping[tuple[str, str], TopicPosition]:
        """Where this client is in topics; see `Port.positions`."""
        return self._whereabouts.positions

    @property
    def round_trip_time(self) -> float | None:
        """See `Port.round_trip_time`."""
        return None if self._last is None else self._last.round_trip_time

    # What its owner calls.

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Keep a connection for as long as the block lasts, which begins with the first.

        Raises:
            APIError: There is none, and none is to be expected.
        """
        with lone_error():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._keep)
                try:
                    yield
                finally:
                    self._closed = True
                self.leave()

    def leave(self) -> None:
        """Have the connection flushed and closed, if there is one; and make no other."""
        self._leaving.set()
        if self._connection is None:
            self._scope.cancel()

    # Inside.

    @property
    def _name(self) -> str:
        return f"the stream to {self._call.name}"

    @property
    def _open_connection(self) -> Connection | None:
        connection = self._connection
        return connection if connection is not None and connection.ended is None else None

    def _check_open(self) -> None:
        if self.ended is not None and self.ended.by in ("peer", "runtime"):
            raise trio.BrokenResourceError(
                f"{self._name} was ended by the {self.ended.by}: {self.ended.code} {self.ended.reason}".rstrip()
            )
        if self._closed or self._eof:
            raise trio.ClosedResourceError(f"{self._name} was closed on this side")

    async def _receive_from(self, connection: Connection) -> Payload:
        self._receiving += 1
        try:
            return await connection.receive()
        finally:
            self._receiving -= 1
            if not self._receiving:
                self._received.wake_all()

    def _take(self) -> Payload:
        payload = self._rest.take()
        assert not isinstance(payload, _Noted)  # they stand behind a message
        while self._rest and isinstance(self._rest.oldest, _Noted):
            noted = self._rest.take()
            assert isinstance(noted, _Noted)
            self._note(noted)
        return payload

    def _tell(self, event: StreamEvent | None) -> None:
        if event is not None and self._call.tell is not None:
            try:
                self._call.tell(event)
            except BaseException as error:
                self._thrown = error
                raise

    def _told(self, what: Notice | Drain) -> None:
        if isinstance(what, Drain):
            self._drained_at = trio.current_time() + what.within
            self._tell(self._interpreter.event(what))
        elif self._rest:
            self._rest.extend((self._arrive(what),))
        else:
            self._note(self._arrive(what))

    def _arrive(self, notice: Notice) -> _Noted:
        self._arrived.note(notice)
        return _Noted(notice, self._interpreter.event(notice))

    def _note(self, noted: _Noted) -> None:
        self._whereabouts.note(noted.notice)
        self._tell(noted.event)

    async def _keep(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                pause: float | None = 0
                while pause is not None:
                    await trio.sleep(pause)
                    pause = await self._connect(task_status)
        finally:
            if self.ended is None:
                way = Ended("handler", CloseCode.DONE)
                self.ended = way if self._leaving.is_set() else Ended("scope", CloseCode.GOING_AWAY)
            self._changed.wake_all()

    async def _connect(self, task_status: trio.TaskStatus[None]) -> float | None:
        """Have one connection until it ends; return the seconds to the next attempt, None if there is none."""
        positions = [at for at in self._arrived.positions.values() if at.position is not None][-_POSITIONS:]
        self._interpreter = Interpreter((at.topic, at.key) for at in positions)
        self._drained_at = -math.inf
        connection: Connection | None = None
        try:
            dial = self._dialler.dial(
                self._call,
                rejected=self._retries.rejected,
                renewed=self._retries.renewed,
                resume=positions,
                told=self._told,
                grace=0,
            )
            async with dial as connection:
                begin = trio.current_time()
                self._begin(connection, task_status)
                with connection.scope:  # which its end cancels
                    await self._leaving.wait()
                self._connection = None
                self._retries.connected(trio.current_time() - begin)
                if not self._leaving.is_set():
                    await self._keep_the_rest(connection)
        except APIError as error:
            if connection is not None:
                raise  # the program's own, of an event
            return self._decide(Ended("peer", error.close_code, error.reason()), error)
        assert connection.ended is not None
        return self._decide(connection.ended, connection.error)

    def _begin(self, connection: Connection, task_status: trio.TaskStatus[None]) -> None:
        is_first = self._last is None
        self._last = self._connection = connection
        self.request: Request = connection.request
        self.draining: trio.Event = connection.draining
        for frame in self._queue:
            connection.writer.say(frame)
        self._queue.clear()
        if self._eof and connection.half_closes:
            connection.writer.say(END)  # what was said holds for the new handler too
        self._changed.wake_all()
        if is_first:
            task_status.started()
        else:
            self._tell(Back())

    async def _keep_the_rest(self, connection: Connection) -> None:
        """Take over what has come and was not received yet, and learn how the connection has ended."""
        while self._receiving:
            await self._received.wait()
        while items := await connection.unread():
            self._rest.extend([item if isinstance(item, (str, bytes)) else self._arrive(item) for item in items])
            self._changed.wake_all()
            while not self._rest.free:
                await self._rest.room()

    def _decide(self, ended: Ended, error: APIError | None) -> float | None:
        was_open = self._last is not None
        pause = None
        if error is not None and not self._leaving.is_set() and not (was_open and self._uploads):
            left = max(0, self._drained_at - trio.current_time())
            stalled = ended.by == "runtime" and ended.code == ResourceExhausted.close_code  # it may be gone as well
            pause = self._retries.pause(CloseCode.ABNORMAL if stalled else ended.code, error, left)
        if error is not None and pause is not None:
            self._tell(Lost(error, pause))
        elif error is not None and not was_open:
            raise error
        else:
            self.ended, self._error = ended, error
        return pause
