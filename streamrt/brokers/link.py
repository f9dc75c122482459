"""One time of being connected: a connection to listen, one to each primary to speak, and the heartbeat of all of them.

They live and die together. So there are two states, and what happens between them happens in one place: what was heard
without a hole before has one when a connection is lost, whichever it was.

The heartbeat is a message to oneself, which takes the way of all others: it shows that both connections carry
something, and how long that takes. Any byte that comes meanwhile counts as life, and so does being busy ourselves.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import final

import trio

from streamrt.runtime.broker import Channel, History, Position, Publication, Replay
from streamrt.runtime.scopes import leaves
from streamrt.wire.waiting import Waiting

from .address import Address
from .connection import Connection, Lost, Options, Refused
from .envelope import UnknownVersion, read_entry
from .finding import Servers, find
from .hearing import Ear, Hearing
from .marking import Marking
from .pipe import Pipe, Question
from .scripts import LINGER

_SUBSCRIBE_AT_ONCE = 1000
"""Names in one command: some 50 KiB."""

_ASK_AT_ONCE = 64
"""Histories that are asked in one go after a reconnection: each answer may have a megabyte."""

_logger = logging.getLogger("streamrt")


@final
class Link:
    """The connections of a broker, from `run` to the end of the first of them.

    Args:
        address: Where to.
        options: How.
        hearing: What is heard.
        marking: What is marked.
        settle: Waits until what was handed on has left this process's hands.
        interval: Seconds between two beats.
    """

    def __init__(
        self,
        address: Address,
        options: Options,
        hearing: Hearing,
        marking: Marking,
        settle: Callable[[], Awaitable[None]],
        *,
        interval: float,
    ) -> None:
        self._address = address
        self._options = options
        self._names = hearing.names
        self.hearing: Hearing = hearing
        self._marking = marking
        self._settle = settle
        self._interval = interval
        self._servers = Servers(())
        self._pipes: Sequence[Pipe] = ()
        self._ear: Connection | None = None
        self._pending: set[bytes] = set()  # names whose subscribing, or unsubscribing, is not confirmed
        self._confirmed = Waiting()
        self._beaten = trio.Event()
        self._is_busy = False
        self.round_trip: float | None = None
        """Seconds that the last beat has taken."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and be connected until cancelled.

        Raises:
            Lost: There is no connection, or no longer.
        """
        try:
            async with trio.open_nursery() as nursery:
                await self._connect(nursery)
                nursery.start_soon(self._listen)
                nursery.start_soon(self._subscribe)
                nursery.start_soon(self._catch_up)
                nursery.start_soon(self._beat)
                nursery.start_soon(self._marking.keep, self)
                nursery.start_soon(self._marking.sweep, self)
                task_status.started()
        except BaseExceptionGroup as group:
            errors = [leaf for leaf in leaves(group) if not isinstance(leaf, trio.Cancelled)]
            if not errors:
                raise
            faults = [error for error in errors if not isinstance(error, Lost)]
            raise (faults or errors)[0] from None

    async def _connect(self, nursery: trio.Nursery) -> None:
        self.hearing.begin()
        self._marking.begin(self)
        self._servers = await find(self._address, self._options)
        pipes: list[Pipe] = []
        for place in self._servers.primaries:
            connection = Connection(place, self._options)
            await nursery.start(connection.run)
            pipes.append(await self._begin(connection))
        self._ear = Connection(self._servers.primaries[0], self._options)
        await nursery.start(self._ear.run)
        for pipe in pipes:
            nursery.start_soon(pipe.run)
        self._pipes = pipes
        self._ear.say(b"SUBSCRIBE", self._names.beat)

    async def _begin(self, connection: Connection) -> Pipe:
        with trio.move_on_after(self._options.timeout):
            pipe = Pipe(connection, await _identify(connection), self.hearing)
            await pipe.load()
            return pipe
        raise Lost(f"{connection}: no answer within {self._options.timeout:g} s")

    # What the broker asks for.

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        """Have a message published; see `Pipe.publish`."""
        await self._pipe(channel).publish(channel, publication, history)

    async def replay(self, channel: Channel, mode: bytes, since: Position | None, history: History) -> Replay:
        """Have a history asked.

        Raises:
            Lost: The connection is over.
            Refused: The server refuses.
        """
        return await self._answer(self._ask_history(channel, mode, since, history), history)

    def _pipe(self, channel: Channel) -> Pipe:
        if len(self._pipes) == 1:  # so that nobody has to know what it is called there
            return self._pipes[0]
        return self._pipes[self._servers.of(self._names.keys(channel).tag)]

    def name(self, channel: Channel) -> bytes:
        """Return what a channel is called on the servers."""
        return self._names.keys(channel).name

    def ask(self, question: Question, key: bytes) -> Question:
        """Have a question sent to where a key is, or what is published by this name; return it."""
        self._pipes[self._servers.of(self._names.tag(key))].put(question)
        return question

    def _ask_history(self, channel: Channel, mode: bytes, since: Position | None, history: History) -> Question:
        epoch, offset = ("", 0) if since is None else (since.epoch, since.offset)
        question = Question.replay(self._names.keys(channel), history, mode, epoch, offset)
        self._pipe(channel).put(question)
        return question

    async def _answer(self, question: Question, history: History) -> Replay:
        epoch, offset, recovered, entries = await question.answer()
        position = Position(epoch.decode(), int(offset))
        publications: list[Publication] = []
        try:
            for place, (field, value) in entries:
                publication = read_entry(field, value, self._names.sender)
                publication.position = Position(position.epoch, int(place.partition(b"-")[0]))
                publications.append(publication)
        except UnknownVersion as error:
            self.hearing.complain(error)
            return Replay((), position, recovered=False)
        return Replay(publications, position, bool(recovered))

    # Its tasks.

    async def _listen(self) -> None:
        assert self._ear is not None
        hearing = self.hearing
        while True:
            try:
                pushed = await self._ear.pushed()
            except Lost as lost:
                raise self._because(lost) from None
            for kind, name, content in pushed:
                if kind != b"message":
                    if kind == b"subscribe":
                        hearing.opened(name)
                    self._pending.discard(name)
                    if not self._pending:
                        self._confirmed.wake_all()
                elif name != self._names.beat:
                    hearing.hear(name, content)
                else:
                    self.round_trip = trio.current_time() - float(content)
                    self._beaten.set()
            self._is_busy = True
            async with self._ear.pausing():
                await self._settle()
            self._is_busy = False

    async def _subscribe(self) -> None:
        assert self._ear is not None
        hearing = self.hearing
        while True:
            while not hearing.changes:
                await hearing.news.wait()
            new, gone = hearing.take_changes()
            for command, names in ((b"SUBSCRIBE", new), (b"UNSUBSCRIBE", gone)):
                for begin in range(0, len(names), _SUBSCRIBE_AT_ONCE):
                    some = names[begin : begin + _SUBSCRIBE_AT_ONCE]
                    self._pending.update(some)
                    self._ear.say(command, *some)
                    while self._pending:
                        await self._confirmed.wait()

    async def _catch_up(self) -> None:
        hearing = self.hearing
        while True:
            while not hearing.due:
                await hearing.news.wait()
            some = list(hearing.due)[:_ASK_AT_ONCE]
            asked: list[tuple[Ear, History, Question]] = []
            for ear in some:
                del hearing.due[ear]
                assert ear.history is not None
                asked.append((ear, ear.history, self._ask_history(ear.channel, b"after", ear.last, ear.history)))
            for ear, history, question in asked:
                try:
                    replay = await self._answer(question, history)
                except Refused as error:
                    _logger.warning("what was missed of the topic %s cannot be read: %s", ear.channel.topic, error)
                    assert ear.last is not None
                    replay = Replay((), ear.last, recovered=False)
                hearing.replayed(ear, replay)
                await self._settle()

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self._interval)
            self._touch()
            questions = [Question(b"PING", _constant()) for _ in self._pipes[1:]]
            questions.append(Question(b"PUBLISH", _constant(self._names.beat, b"%r" % trio.current_time())))
            read = [connection.bytes_read for connection in self._connections]
            self._beaten = trio.Event()
            for pipe, question in zip((*self._pipes[1:], self._pipes[0]), questions, strict=True):
                pipe.put(question)
            for _ in range(2):  # a whole half is left for what was late because this process was
                with trio.move_on_after(self._options.timeout / 2) as patience:
                    for question in questions:
                        try:
                            await question.answer()
                        except Refused as error:
                            raise self._because(Lost(str(error))) from None
                    await self._beaten.wait()
                if not patience.cancelled_caught:
                    break
            else:
                for connection, before in zip(self._connections, read, strict=True):
                    busy = self._is_busy and connection is self._ear
                    if connection.bytes_read == before and not busy:
                        raise self._because(Lost(f"{connection}: nothing came for {self._options.timeout:g} s"))

    def _because(self, lost: Lost) -> Lost:
        """Have those who wait for other connections told why they end too."""
        for pipe in self._pipes:
            pipe.reason = lost
        return lost

    @property
    def _connections(self) -> Sequence[Connection]:
        assert self._ear is not None
        return (*(pipe.connection for pipe in self._pipes), self._ear)

    def _touch(self) -> None:
        """Have the positions of what is heard kept, though nothing is published there."""
        now = trio.current_time()
        for ear in self.hearing.ears.values():
            history = ear.history
            if history is not None and ear.last is not None and ear.touched < now - LINGER / 4:
                ear.touched = now
                kept = b"%d" % (1000 * (history.seconds + LINGER))
                self._pipe(ear.channel).put(Question(b"PEXPIRE", _constant(ear.keys.at, kept)))


def _constant(*arguments: bytes) -> Callable[[bytes], Sequence[bytes]]:
    return lambda _server: arguments


async def _identify(connection: Connection) -> bytes:
    """Return what tells this run of a server from all others.

    Raises:
        Lost: The connection is over, or the server does not say, or is not a primary.
    """
    try:
        info: bytes = await connection.ask_one(b"INFO")
    except Refused as error:
        raise Lost(str(error)) from None
    told = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    if told.get(b"role") != b"master":
        raise Lost(f"{connection}: it is not a primary, but {told.get(b'role', b'unknown').decode()}")
    return told[b"run_id"]
