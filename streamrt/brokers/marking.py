"""What a process has marked, and how the server is told of it: as it is now, of each channel that has changed.

Marking changes a table, and notes what the server has to be told. One task tells it: what has changed goes out in one
round trip, and what changes meanwhile waits for the answer; so nothing is under way when the lease is renewed. The
rules of this file:

- before anything is marked the process has a lease, and the server knows on which channels it may have marks: so they
  are found if it is killed at any moment;
- after each reconnection the server is told of everything again, for it may have forgotten;
- a process whose lease was found ended takes another name, and marks everything under that. What it may have marked
  under the one before is left to whoever clears after the dead, even if that was done already;
- what a server refuses is tried again when the lease is renewed;
- who has nothing to do with marks, and hears of none, sends nothing.
"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import trio
from attrs import define, field

from streamrt.runtime.broker import Broker, Channel, Mark, Marks, Position
from streamrt.wire.waiting import Waiting

from .connection import Lost, Refused
from .envelope import MARKS as ANNOUNCEMENT
from .envelope import read_text, write_text
from .mark_scripts import CLEAR, LEASE, MARK, MARKS, SWEEP
from .pipe import Question, Script, milliseconds
from .scripts import LINGER

if TYPE_CHECKING:
    from .link import Link

_RENEWED = 1 / 5
"""Of the lease that a broker promises: after so much its own is renewed, and others' are looked at."""

_LASTS = 3 / 5
"""Of the same: so much a lease lasts on the server. The last fifth is for being late, and for clearing."""

_CHANNELS = 1000
"""Channels that the server is told of in one round trip."""

_CHANGES = 256
"""Marks that are set in one step of the server, and announced as one."""

_MARK, _CLEAR, _MARKS, _LEASE, _SWEEP = map(Script, (MARK, CLEAR, MARKS, LEASE, SWEEP))

_logger = logging.getLogger("streamrt")


@final
@define(eq=False)
class _Unsent:
    """What the server has to be told of one channel.

    Args:
        names: Of the marks that are not as they were.
        is_over: Whether it has been sent, or has come to nothing.
    """

    names: dict[str, None] = field(factory=lambda: dict[str, None]())
    is_over: bool = False


@final
class Marking:
    """The marks of one process.

    Args:
        broker: Whose process it is; its `process` may become another.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._own: dict[Channel, dict[str, str]] = {}
        self._there: dict[Channel, set[str]] = {}  # names that the server may have
        self._known: set[Channel] = set()  # channels of which it knows that it may have some there
        self._unsent: dict[Channel, _Unsent] = {}
        self._refused: dict[Channel, list[str]] = {}
        self._former: dict[str, list[bytes]] = {}  # names that the process has had, and where it may have marks by them
        self._ended: dict[str, None] = {}  # processes whose marks are to be cleared here
        self._is_new = True  # its lease has not begun
        self._is_wanted = False
        self._is_sending = False
        self._refusal: Refused | None = None  # of the lease
        self._has_complained = False
        self._link: Link | None = None
        self._news = Waiting()  # the task that tells the server
        self._dead = Waiting()  # the task that clears
        self._changed = Waiting()  # all others, until something has been sent

    # What the broker calls.

    def mark(self, channel: Channel, name: str, value: str | None) -> None:
        """Note what is to be marked."""
        own = self._own.get(channel, {})
        if own.get(name) == value:
            return
        if value is not None:
            self._own.setdefault(channel, own)[name] = value
        else:
            del own[name]
            if not own:
                del self._own[channel]
            if name not in self._there.get(channel, ()):
                self._forget(channel, name)
                return
        self._tell(channel, (name,))

    def want(self) -> None:
        """Have a lease, and look after those of others."""
        if not self._is_wanted:
            self._is_wanted = True
            self._news.wake_all()

    def own(self, channel: Channel) -> Iterable[tuple[str, str]]:
        """Return the marks of this process."""
        return self._own.get(channel, {}).items()

    async def marks(self, channel: Channel, link: Link) -> Marks:
        """Return all that is marked on a channel, after what is marked here has been sent.

        Raises:
            Lost: The connection is over.
            Refused: The server refuses.
        """
        self.want()
        unsent = self._unsent.get(channel)
        while unsent is not None and not unsent.is_over and self._refusal is None and self._link is link:
            await self._changed.wait()
        if self._link is not link:
            raise Lost("the connection is over")
        ear = link.hearing.ears.get(channel)
        if ear is not None:
            ear.is_read = True
        question = self._step(link, _MARKS, link.name(channel), self._broker.process, (b"0" if ear is None else b"1",))
        epoch, offset, found = await question.answer()
        marks: list[Mark] = []
        for process, values in zip(found[::2], found[1::2], strict=True):
            for one, value in zip(values[::2], values[1::2], strict=True):
                marks.append(Mark(process.decode(), read_text(one), read_text(value)))
        return Marks(marks, Position(epoch.decode(), int(offset)))

    async def told(self) -> None:
        """Wait until the server knows everything, unless it refuses, or there is none."""
        while (self._unsent or self._is_sending) and self._refusal is None and self._link is not None:
            await self._changed.wait()

    def end(self) -> None:
        """Have no connection any more."""
        self._link = None
        self._is_sending = False
        self._changed.wake_all()

    # What a link calls.

    def begin(self, link: Link) -> None:
        """Have a new connection, of which it is not known what the server has."""
        self._link, self._refusal, self._has_complained = link, None, False
        self._known.clear()
        self._refused.clear()
        self._ended.clear()
        for names in (self._own, self._there):
            for channel in names:
                self._tell(channel, names[channel])

    async def keep(self, link: Link) -> None:
        """Renew the lease, and tell the server what is marked, until cancelled.

        Raises:
            Lost: The connection is over.
        """
        while not self._is_wanted:
            await self._news.wait()
        while True:
            renewal = trio.current_time() + self._broker.lease * _RENEWED
            await self._renew(link)
            while trio.current_time() < renewal:
                with trio.move_on_at(renewal):
                    while not self._is_due:
                        await self._news.wait()
                if self._is_due:
                    await self._send(link)

    async def sweep(self, link: Link) -> None:
        """Clear the marks of processes that have ended, until cancelled.

        Raises:
            Lost: The connection is over.
        """
        while True:
            while not self._ended:
                await self._dead.wait()
            process = next(iter(self._ended))
            try:
                await self._clear(link, process)
            except Refused as error:
                _logger.warning("the marks of a process that has ended cannot be cleared: %s", error)
            del self._ended[process]

    # Inside.

    @property
    def _is_due(self) -> bool:
        return bool(self._unsent) and self._refusal is None

    def _tell(self, channel: Channel, names: Iterable[str]) -> None:
        self.want()
        self._unsent.setdefault(channel, _Unsent()).names.update(dict.fromkeys(names))
        self._news.wake_all()

    def _forget(self, channel: Channel, name: str) -> None:
        """Let the server not be told of what it has not been told of."""
        unsent = self._unsent.get(channel)
        if unsent is not None:
            unsent.names.pop(name, None)
            if not unsent.names:
                del self._unsent[channel]
                unsent.is_over = True
                self._changed.wake_all()

    async def _renew(self, link: Link) -> None:
        try:
            while not await self._lives(link):
                self._rename(link)
        except Refused as error:
            self._complain(error)
            self._refusal = error
            self._changed.wake_all()
            return
        self._refusal = None
        refused, self._refused = self._refused, {}
        self._has_complained &= bool(refused)
        for channel, names in refused.items():
            self._tell(channel, names)

    async def _lives(self, link: Link) -> bool:
        """Renew the lease; return whether it had not ended."""
        names, former, is_new = link.hearing.names, dict(self._former), self._is_new
        for process, channels in former.items():
            await self._register(link, process, channels)
        lease = self._broker.lease
        times = (milliseconds(lease * _LASTS), milliseconds(lease * _RENEWED))
        who = (self._broker.process.encode(), b"1" if is_new else b"0")
        asked = (*who, *times, *(process.encode() for process in former))
        question = _run(_LEASE, (names.processes, names.ended), *asked)
        self._is_new = False  # once asked, for nobody can tell what has become of a question
        try:
            alive, ended = await link.ask(question, names.processes).answer()
        except Refused:
            self._is_new = is_new
            raise
        for process in former:
            del self._former[process]
        self._ended.update(dict.fromkeys(process.decode() for process in ended))
        if self._ended:
            self._dead.wake_all()
        return bool(alive)

    def _rename(self, link: Link) -> None:
        """Be another process: this one is taken for dead, or the server has forgotten everything."""
        if self._there:
            self._former[self._broker.process] = [link.name(channel) for channel in self._there]
        self._broker.process = secrets.token_hex(8)
        self._is_new = True
        self._there.clear()
        self._known.clear()
        for channel, values in self._own.items():
            self._tell(channel, values)
        link.hearing.doubt()

    async def _register(self, link: Link, process: str, channels: Sequence[bytes]) -> None:
        """Tell the server where a process may have marks."""
        key = link.hearing.names.marked_by(process)
        for begin in range(0, len(channels), _CHANNELS):
            some = channels[begin : begin + _CHANNELS]
            await link.ask(_command(b"SADD", key, *some), key).answer()

    async def _send(self, link: Link) -> None:
        """Tell the server what it has to be told of some channels, and wait for its answers."""
        self._is_sending = True
        some = list(itertools.islice(self._unsent, _CHANNELS))
        new = [channel for channel in some if channel not in self._known]
        try:
            await self._register(link, self._broker.process, [link.name(channel) for channel in new])
        except Refused as error:
            self._complain(error)
            for channel in some:
                self._put_off(channel, self._take(channel))
        else:
            self._known.update(new)
            asked: list[tuple[Channel, dict[str, str | None], Question]] = []
            for channel in some:
                asked += self._ask(link, channel, self._take(channel))
            self._changed.wake_all()
            for channel, values, question in asked:
                try:
                    await question.answer()
                except Refused as error:
                    self._complain(error)
                    self._put_off(channel, values)
                else:
                    self._note(channel, values)
            for channel in some:
                self._leave(link, channel)
        self._is_sending = False
        self._changed.wake_all()

    def _take(self, channel: Channel) -> Iterable[str]:
        """Return what the server is told of a channel now; nothing when that has come to nothing meanwhile."""
        unsent = self._unsent.pop(channel, None)
        if unsent is None:
            return ()
        unsent.is_over = True
        return unsent.names

    def _ask(
        self, link: Link, channel: Channel, changed: Iterable[str]
    ) -> Iterator[tuple[Channel, dict[str, str | None], Question]]:
        own, there, names = self._own.get(channel, {}), self._there.setdefault(channel, set()), iter(changed)
        while some := list(itertools.islice(names, _CHANGES)):
            values = {name: own.get(name) for name in some}
            there.update(name for name, value in values.items() if value is not None)
            written: list[bytes] = []
            for name, value in values.items():
                written += (write_text(name), b"-" if value is None else b"+" + write_text(value))
            yield channel, values, self._step(link, _MARK, link.name(channel), self._broker.process, written)

    def _step(self, link: Link, script: Script, name: bytes, process: str, more: Sequence[bytes] = ()) -> Question:
        """Have the server do something with the marks of a channel in one step."""
        keys = link.hearing.names.mark_keys(name, process)
        epoch, linger = secrets.token_hex(4).encode(), milliseconds(LINGER)
        arguments = (epoch, linger, name, ANNOUNCEMENT, process.encode(), *more)
        return link.ask(Question(b"EVALSHA", lambda server: (script.sha, b"3", *keys, server, *arguments)), name)

    def _note(self, channel: Channel, values: dict[str, str | None]) -> None:
        there = self._there.get(channel, set[str]())
        there.difference_update(name for name, value in values.items() if value is None)

    def _leave(self, link: Link, channel: Channel) -> None:
        """Tell the server that there are no marks on a channel any more, if that is so."""
        if not self._there.get(channel, True):
            del self._there[channel]
            self._known.discard(channel)
            key = link.hearing.names.marked_by(self._broker.process)
            link.ask(_command(b"SREM", key, link.name(channel)), key)

    def _put_off(self, channel: Channel, names: Iterable[str]) -> None:
        self._refused.setdefault(channel, []).extend(names)

    def _complain(self, error: Refused) -> None:
        """Say, once, that others do not see what is."""
        if not self._has_complained:
            self._has_complained = True
            _logger.warning("who comes and goes here is not known to others for now: %s", error)

    async def _clear(self, link: Link, process: str) -> None:
        names = link.hearing.names
        keys = (names.ended, names.marked_by(process))
        claim = milliseconds(self._broker.lease * _RENEWED)
        cleared: list[bytes] = []
        while True:
            asked = (process.encode(), claim, *cleared)
            some: list[Any] = await link.ask(_run(_SWEEP, keys, *asked), names.ended).answer()
            if not some:
                return
            for question in [self._step(link, _CLEAR, name, process) for name in some]:
                await question.answer()
            cleared = some


def _command(name: bytes, *arguments: bytes) -> Question:
    return Question(name, lambda _server: arguments)


def _run(script: Script, keys: Sequence[bytes], *arguments: bytes) -> Question:
    return _command(b"EVALSHA", script.sha, b"%d" % len(keys), *keys, *arguments)
