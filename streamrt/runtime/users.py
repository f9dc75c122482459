"""The open streams of each user, in all processes, and the way to end them.

Each process marks its streams on a channel of their user; so whoever asks is told of all, and of none that a process
left behind when it was killed. To end a user's streams is a command to all processes, on one channel that all that run
the app are subscribed to; each ends what it has at that time, and says how many these were, if it had any, or was
expected to. So a stream that is open is not missed, whether its mark is known already or not.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import cast, final

import attrs
import trio
from attrs import define, field, frozen

from streamrt.errors import APIError, InvalidMessage
from streamrt.wire.codec import codec
from streamrt.wire.control import Failure
from streamrt.wire.transport import Frame

from .broker import RESERVED, Channel, Publication
from .connection import Connection
from .exchange import Exchange

_logger = logging.getLogger("streamrt")


@final
@frozen(kw_only=True)
class OpenStream:
    """A stream that is open.

    Args:
        connection_id: Its `Request.connection_id`, which no other stream of its process has.
        process: The name of its process, which no other has; another one after each restart.
        endpoint: ``service.endpoint``.
        since: When it began, by the clock of its process, in UTC.
    """

    connection_id: int
    process: str
    endpoint: str
    since: datetime


@final
@frozen
class _Command:
    """That the streams of a user have to end.

    Args:
        user: Whose.
        why: The error that they end with.
        sender: The process that says so.
        number: Of this command, among those of its sender.
        expected: The processes that answer in any case.
        again: Whether the others have been told already.
    """

    user: str
    why: Failure
    sender: str
    number: int
    expected: list[str]
    again: bool


@final
@frozen
class _Answer:
    """What has come of a command: how many streams a process has ended."""

    process: str
    ended: int


_COMMANDS = Channel(f"{RESERVED}commands", "")
_OPEN = codec(OpenStream)
_COMMAND = codec(_Command)
_ANSWER = codec(_Answer)


@final
@define
class _Answers:
    """What has come of a command until now.

    Args:
        ended: How many streams all that have answered have ended.
        expected: The processes that have not answered.
        complete: Set once there are none.
    """

    ended: int = 0
    expected: set[str] = field(factory=lambda: set[str]())
    complete: trio.Event = field(factory=trio.Event)

    def note(self, publication: Publication) -> None:
        answer = _ANSWER.decode(publication.frame.payload)
        self.ended += answer.ended
        self.expected.discard(answer.process)
        if not self.expected:
            self.complete.set()


@final
class Users:
    """The users of an app.

    Args:
        exchange: That of the app.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._broker = exchange.broker
        self._streams: dict[str, dict[Connection, None]] = {}
        self._numbers = itertools.count()

    @asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncGenerator[None]:
        """Obey commands of other processes for as long as the block lasts; answers are sent by tasks of the nursery.

        Raises:
            NotImplementedError: The app's broker carries no marks.
        """

        def obey(publication: Publication) -> None:
            command = _COMMAND.decode(publication.frame.payload)
            expected = self._broker.process in command.expected
            if command.sender != self._broker.process and (expected or not command.again):
                ended = self._end(command.user, command.why.error())
                if ended or expected:
                    nursery.start_soon(self._answer, command, ended)

        with self._exchange.heard_by(obey, _COMMANDS):
            await self._broker.subscribe(_COMMANDS)
            await self._broker.marks(_COMMANDS)  # a broker that carries none says so now, and not to the first user
            yield

    @contextmanager
    def counted(self, user: str, connection: Connection) -> Generator[None]:
        """Count a stream for as long as the block lasts."""
        request = connection.request
        stream = OpenStream(
            connection_id=request.connection_id,
            process=self._broker.process,
            endpoint=request.endpoint,
            since=datetime.now(UTC),
        )
        streams = self._streams.setdefault(user, {})
        streams[connection] = None
        try:
            self._broker.mark(_marked(user), str(request.connection_id), _OPEN.encode(stream).decode())
            yield
        finally:
            del streams[connection]
            if not streams:
                del self._streams[user]
            self._broker.mark(_marked(user), str(request.connection_id), None)

    async def streams(self, user: str) -> list[OpenStream]:
        """Return the open streams of a user; see `App.streams`."""
        await trio.lowlevel.checkpoint()
        marks = await self._broker.marks(_marked(user))
        streams: list[OpenStream] = []
        for mark in marks.marks:
            try:
                streams.append(_OPEN.decode(mark.value or ""))
            except InvalidMessage:
                _logger.exception("an open stream cannot be read, and is left out")
        return sorted(streams, key=lambda stream: (stream.since, stream.process, stream.connection_id))

    async def disconnect(self, user: str, error: APIError) -> int:
        """End the streams of a user; see `App.disconnect`."""
        if not isinstance(cast("object", error), APIError):
            raise TypeError(f"a user is disconnected with an APIError, such as permission_denied, not with {error!r}")
        await trio.lowlevel.checkpoint()
        answers = _Answers()
        number = next(self._numbers)
        with self._exchange.heard_by(answers.note, _answers_to(self._broker.process, number)):
            try:
                command = await self._command(user, error, number, answers)
            finally:  # and not before others are told, because it may end this task
                ended = self._end(user, error)
            with trio.move_on_after(self._broker.lease):  # who has not answered by then is gone
                while answers.expected:
                    with trio.move_on_after(self._broker.lease / 3):
                        await answers.complete.wait()
                    if answers.expected:  # their connection may have been lost for a moment
                        again = attrs.evolve(command, expected=sorted(answers.expected), again=True)
                        await self._publish(_COMMANDS, _COMMAND.encode(again))
        return ended + answers.ended

    async def _command(self, user: str, error: APIError, number: int, answers: _Answers) -> _Command:
        """Tell other processes to end the streams of a user."""
        public = error.public()
        details = None if public.details is None else dict(public.details)
        retry_after = None if public.retry_after is None else max(0, public.retry_after)
        me = self._broker.process
        marks = await self._broker.marks(_marked(user))
        answers.expected = {mark.process for mark in marks.marks} - {me}
        command = _Command(
            user=user,
            why=Failure(public.code, public.message, details, retry_after),
            sender=me,
            number=number,
            expected=sorted(answers.expected),
            again=False,
        )
        if answers.expected:
            await self._broker.subscribe(_answers_to(me, number))
        await self._publish(_COMMANDS, _COMMAND.encode(command))
        return command

    async def _answer(self, command: _Command, ended: int) -> None:
        try:
            channel = _answers_to(command.sender, command.number)
            await self._publish(channel, _ANSWER.encode(_Answer(self._broker.process, ended)))
        except Exception:
            _logger.exception("it cannot be told that streams of a user have ended")

    async def _publish(self, channel: Channel, payload: bytes) -> None:
        await self._broker.publish(channel, Publication(Frame(payload)), None)

    def _end(self, user: str, error: APIError) -> int:
        """End the streams of a user in this process; return how many had not ended yet."""
        ended = 0
        for connection in list(self._streams.get(user, ())):
            if connection.ended is None:
                ended += 1
                connection.fail_with(error)
            connection.scope.cancel()  # also if its handler has still some grace, because the peer is gone
            self._broker.mark(_marked(user), str(connection.request.connection_id), None)
        return ended


def _marked(user: str) -> Channel:
    """Return where the streams of a user are marked."""
    return Channel(f"{RESERVED}user", user)


def _answers_to(process: str, number: int) -> Channel:
    """Return where a process is answered to a command."""
    return Channel(f"{RESERVED}answers", f"{process}.{number}")
