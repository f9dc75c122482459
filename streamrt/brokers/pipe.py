"""What is sent to one server: everything that was asked for in one turn of the scheduler, in one round trip.

A pipe has one connection and one task. What is asked for while a round trip is under way waits for the next, so nobody
has to choose between few round trips and short ones. Messages of one channel travel together, in one command; what one
task publishes stays in order, for it waits for each.

Who waits for what has not been sent can be cancelled, and then nothing has been done. What has been sent is done, and
who waits for that gets the answer first; that takes no longer than the link's heartbeat lets a silence last.

Where this process hears the channel itself, publishing has an end only when the message is back: so what was published
in an `attach` block was heard before the block ends, and no process publishes faster than it hears.
"""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import outcome
import trio

from streamrt.runtime.broker import Channel, History, Publication
from streamrt.wire.waiting import Waiting

from .connection import Ask, Connection, Elsewhere, Lost, NoScript, Refused
from .envelope import field as entry_field
from .envelope import record, seal
from .hearing import Ear, Hearing
from .mark_scripts import MARK_SCRIPTS
from .names import Keys
from .scripts import LINGER, PUBLISH, REPLAY

_TOGETHER = 64
"""Messages that travel in one command at most."""

_TOGETHER_BYTES = 64 * 1024
"""Bytes of the same: more would bring nothing, and what is published as one has to be received as one."""

_TRIES = 2
"""Times that a command is sent at most which a server refuses because something was not as it should be there."""


@final
class Unsent(Lost):
    """The connection is over, and nothing was sent."""


@final
class Script:
    """Lua that a server has been given."""

    def __init__(self, text: str) -> None:
        self.text: bytes = text.encode()
        self.sha: bytes = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_PUBLISH, _REPLAY = Script(PUBLISH), Script(REPLAY)
SCRIPTS: Sequence[Script] = (_PUBLISH, _REPLAY, *map(Script, MARK_SCRIPTS))


def milliseconds(seconds: float) -> bytes:
    """Write a time for the server, which has no time for ever."""
    return b"%d" % max(1, min(seconds, 1e9) * 1000)


def _opening(server: bytes, keys: Keys, history: History) -> tuple[bytes, ...]:
    epoch = secrets.token_hex(4).encode()
    return (b"2", keys.at, keys.log, server, epoch, milliseconds(history.seconds), milliseconds(LINGER))


class Errand(ABC):
    """A command, and who waits for its answer."""

    __slots__ = ("name", "serialized_arguments", "tries")

    decode: None = None

    def __init__(self) -> None:
        self.name: bytes = b""
        self.serialized_arguments: Sequence[bytes] = ()
        self.tries: int = 0

    def say(self, name: bytes, *arguments: bytes) -> None:
        """Be this command."""
        self.name = name
        self.serialized_arguments = arguments

    @property
    def is_wanted(self) -> bool:
        """Whether it still has to be sent."""
        return True

    @abstractmethod
    def prepare(self, server: bytes) -> None:
        """Be sent."""

    @abstractmethod
    def finish(self, answer: outcome.Maybe[Any]) -> None:
        """Tell who waits."""


@final
class Question(Errand):
    """A command whose answer one task waits for.

    Args:
        name: Of the command.
        arguments: For a server of this identity.
    """

    __slots__ = ("_answer", "_arguments", "_command", "_task")

    def __init__(self, name: bytes, arguments: Callable[[bytes], Sequence[bytes]]) -> None:
        super().__init__()
        self._command = name
        self._arguments = arguments
        self._answer: outcome.Maybe[Any] | None = None
        self._task: trio.lowlevel.Task | None = None

    @classmethod
    def replay(cls, keys: Keys, history: History, mode: bytes, epoch: str = "", offset: int = 0) -> Question:
        """Return the one for what a history has; see `REPLAY`."""
        asked = (mode, epoch.encode("utf-8", "replace"), b"%d" % offset)
        return cls(b"EVALSHA", lambda server: (_REPLAY.sha, *_opening(server, keys, history), *asked))

    def prepare(self, server: bytes) -> None:
        """See `Errand.prepare`."""
        self.say(self._command, *self._arguments(server))

    def finish(self, answer: outcome.Maybe[Any]) -> None:
        """See `Errand.finish`."""
        self._answer = answer
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    async def answer(self) -> Any:
        """Wait for the answer; cancelled, one may ask again.

        Raises:
            Lost: The connection is over.
            Refused: The server refuses.
        """
        if self._answer is None:
            self._task = trio.lowlevel.current_task()

            def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
                self._task = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._task = None
        assert self._answer is not None
        if isinstance(self._answer, outcome.Error):
            raise self._answer.error
        return self._answer.value


@final
class Bundle(Errand):
    """Messages for one channel, and the tasks that have published them."""

    __slots__ = (
        "_channel",
        "_ear",
        "_hearing",
        "_history",
        "_is_back",
        "_is_taken",
        "_number",
        "_publications",
        "is_sent",
        "size",
    )

    def __init__(self, channel: Channel, history: History | None, hearing: Hearing) -> None:
        super().__init__()
        self._channel = channel
        self._history = history
        self._hearing = hearing
        self._publications: dict[trio.lowlevel.Task, Publication] = {}
        self._number = next(hearing.numbers) % (1 << 32)
        self._ear: Ear | None = None  # which hears it, and has not heard it yet
        self._is_taken = self._is_back = False
        self.size: int = 0
        self.is_sent: bool = False

    def __len__(self) -> int:
        return len(self._publications)

    @property
    def is_wanted(self) -> bool:
        """See `Errand.is_wanted`."""
        return bool(self._publications)

    async def join(self, publication: Publication) -> None:
        """Travel with this bundle; return when it is there.

        Raises:
            Unsent: It was not published, because the connection is over.
            Refused: It was not published, because the server refuses.
            Lost: The connection is over, and it is not known whether it was published.
        """
        task = trio.lowlevel.current_task()
        self._publications[task] = publication
        self.size += len(publication.frame)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            if self.is_sent:
                return trio.lowlevel.Abort.FAILED
            del self._publications[task]
            self.size -= len(publication.frame)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def prepare(self, server: bytes) -> None:
        """See `Errand.prepare`."""
        self.is_sent = True
        history, names = self._history, self._hearing.names
        ear = self._hearing.ears.get(self._channel)
        keys = names.keys(self._channel) if ear is None else ear.keys
        if ear is not None and ear.open:
            self._ear = ear
            ear.echoes[self._number] = self.echo
        publications = self._publications.values()
        records = [record(publication, names.sender, self._number) for publication in publications]
        if history is None:
            self.say(b"PUBLISH", keys.name, seal(records))
            return
        arguments = [_PUBLISH.sha, *_opening(server, keys, history), b"%d" % history.messages, b"%d" % history.bytes]
        arguments.append(keys.name)
        for publication, written in zip(publications, records, strict=True):
            arguments += (entry_field(publication), written)
        self.say(b"EVALSHA", *arguments)

    def finish(self, answer: outcome.Maybe[Any]) -> None:
        """See `Errand.finish`."""
        self._is_taken = True
        if isinstance(answer, outcome.Error) and not self._is_back:
            if self._ear is not None:
                self._ear.echoes.pop(self._number, None)
            for task in self._publications:
                error = answer.error  # each task adds its traceback to one of its own
                trio.lowlevel.reschedule(task, outcome.Error(type(error)(*error.args)))
        elif self._ear is None:
            self._let_go()

    def echo(self) -> None:
        """Be back, or not expected any more."""
        self._ear, self._is_back = None, True
        if self._is_taken:
            self._let_go()

    def _let_go(self) -> None:
        for task in self._publications:
            trio.lowlevel.reschedule(task)


@final
class Pipe:
    """What is sent to one server.

    Args:
        connection: To it; the pipe has it alone.
        server: The identity of this run of the server.
        hearing: What this process hears.
    """

    def __init__(self, connection: Connection, server: bytes, hearing: Hearing) -> None:
        self.connection: Connection = connection
        self._server = server
        self._hearing = hearing
        self._queue: list[Errand] = []
        self._open: dict[tuple[Channel, History | None], Bundle] = {}  # of those, which take more messages
        self._idle = Waiting()
        self._closed = False
        self.reason: Lost = Lost("the broker is no longer running")
        """Why it is cancelled, when it is."""

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        """Have a message published; see `Bundle.join`."""
        bundle = self._open.get((channel, history))
        if bundle is None or len(bundle) >= _TOGETHER or bundle.size >= _TOGETHER_BYTES:
            if self._closed:
                raise Unsent
            bundle = self._open[channel, history] = Bundle(channel, history, self._hearing)
            self.put(bundle)
        await bundle.join(publication)

    def put(self, errand: Errand) -> None:
        """Send something with the next round trip."""
        if self._closed:
            errand.finish(outcome.Error(Unsent()))
            return
        self._queue.append(errand)
        if self._idle:
            self._idle.wake()

    async def run(self) -> None:
        """Send what is put, until cancelled; what waits then is `Unsent`, and what is under way `Lost`.

        Raises:
            Lost: The connection is over, or the server is no longer the right one.
        """
        under_way: list[Errand] = []
        try:
            while True:
                while not self._queue:
                    await self._idle.wait()
                under_way, self._queue, self._open = [errand for errand in self._queue if errand.is_wanted], [], {}
                if not under_way:
                    continue  # coredis would take the next answer for one to nothing
                for errand in under_way:
                    errand.prepare(self._server)
                answers = await self.connection.ask(under_way)
                again: list[Errand] = []
                faults: set[type[Refused]] = set()
                for errand, answer in zip(under_way, answers, strict=True):
                    errand.tries += 1
                    if isinstance(answer, (Elsewhere, NoScript)) and errand.tries < _TRIES:
                        again.append(errand)
                        faults.add(type(answer))
                    else:
                        errand.finish(outcome.Error(answer) if isinstance(answer, Refused) else outcome.Value(answer))
                    if isinstance(answer, Elsewhere):
                        self.reason = Lost(str(answer))
                        faults.add(Elsewhere)
                under_way = []
                self._queue[:0] = again
                if Elsewhere in faults:
                    raise self.reason
                if NoScript in faults:
                    await self.load()
        except Lost as lost:
            self.reason = lost
            raise
        finally:
            self._closed = True
            self._open.clear()
            for errand in under_way:
                errand.finish(outcome.Error(self.reason))
            for errand in self._queue:
                errand.finish(outcome.Error(Unsent()))

    async def load(self) -> None:
        """Give the scripts to the server.

        Raises:
            Lost: The connection is over, or the server does not take them.
        """
        for answer in await self.connection.ask([Ask(b"SCRIPT", (b"LOAD", script.text)) for script in SCRIPTS]):
            if isinstance(answer, Refused):
                raise Lost(str(answer))
