"""Who is attached to a key, as this process knows it: a copy of the marks of all processes, and those who read it.

There is one roster for each key that somebody reads the presence of. It subscribes, asks for all marks, and from there
on follows their changes. The rules:

- between what it was told at once and the changes after that nothing is missing, and nothing comes twice: changes are
  applied in the order of their positions, and where one is missing, all marks are asked for anew;
- so they are after the connection was lost; what has changed meanwhile is told as the difference;
- until then, and while that fails, the members are those that were known last.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, final

import trio

from streamrt.errors import InvalidMessage
from streamrt.wire.waiting import Waiting

from .broker import Broker, Channel, Mark, Marks, Position
from .presence import A, Member, Part, Presence, combine

A_contra = TypeVar("A_contra", contravariant=True)

_LATE = 16_384
"""Changes that may come while all marks are asked for; when there are more, these are asked for again."""

_AT_ONCE = 64
"""Keys whose marks are asked for at a time."""

_RETRY = 1.0
"""Seconds after which a broker that failed is asked again."""

_logger = logging.getLogger("streamrt")


class Reader(Protocol[A_contra]):
    """Who is told of changes."""

    def tell(self, name: str, before: Member[A_contra] | None, after: Member[A_contra] | None) -> None:
        """Note a change; a plain call, which never waits and never fails."""
        ...


@final
class Roster(Generic[A]):
    """The members of one key.

    Args:
        channel: Where they are marked.
        presence: How their topic declares them.
        broker: Where the marks come from.
    """

    def __init__(self, channel: Channel, presence: Presence[A], broker: Broker) -> None:
        self.channel: Channel = channel
        self.members: dict[str, Member[A]] = {}
        self.users: int = 0
        self._presence = presence
        self._broker = broker
        self._parts: dict[str, dict[str, tuple[str, Part[A]]]] = {}  # by name and process, with what its mark says
        self._readers: dict[Reader[A], None] = {}
        self._at: Position | None = None  # behind the last change; None while that is not known
        self._subscribed = False
        self._doubts = 0  # how often it has expired
        self._late: deque[tuple[Mark, Position]] | None = None  # what comes while all marks are asked for
        self._asked = Waiting()
        self._snapshot: Mapping[str, Member[A]] | None = None

    @property
    def stale(self) -> bool:
        """Whether all marks have to be asked for anew."""
        return self._subscribed and self._at is None

    def expire(self) -> None:
        """Note that changes may be missing, also in what is being asked for."""
        self._at = None
        self._doubts += 1

    async def sync(self) -> None:
        """Ask for all marks, unless they are known. Not always a checkpoint."""
        while self._at is None:
            if self._late is not None:  # somebody else asks, and may be cancelled
                await self._asked.wait()
            else:
                await self._ask()

    async def _ask(self) -> None:
        late = self._late = deque[tuple[Mark, Position]](maxlen=_LATE)
        doubts = self._doubts
        try:
            if not self._subscribed:
                await self._broker.subscribe(self.channel)
                self._subscribed = True
            marks = await self._broker.marks(self.channel)
        finally:
            self._late = None
            self._asked.wake_all()
        if doubts == self._doubts:
            self._read(marks)
            for mark, position in late:
                self.announce(mark, position)

    def announce(self, mark: Mark, position: Position) -> None:
        """Apply a change, if it is the next."""
        at = self._at
        if self._late is not None:
            self._late.append((mark, position))
        elif at is not None and not (position.epoch == at.epoch and position.offset <= at.offset):
            if position.epoch != at.epoch or position.offset != at.offset + 1:
                self._at = None  # whoever asks for all marks now is told of this one too
                return
            self._at = position
            self._note(mark)
            self._settle(mark.name)

    @contextmanager
    def read_by(self, reader: Reader[A]) -> Generator[None]:
        """Tell somebody of changes for as long as the block lasts."""
        self._readers[reader] = None
        try:
            yield
        finally:
            del self._readers[reader]

    def snapshot(self) -> Mapping[str, Member[A]]:
        """Return the members as they are now; the same object until one changes."""
        if self._snapshot is None:
            self._snapshot = MappingProxyType(dict(self.members))
        return self._snapshot

    def _read(self, marks: Marks) -> None:
        before, self._parts = self._parts, {}
        for mark in marks.marks:
            known = before.get(mark.name, {}).get(mark.process)
            if known is not None and known[0] == mark.value:
                self._parts.setdefault(mark.name, {})[mark.process] = known
            else:
                self._note(mark)
        self._at = marks.position
        for name in [*before, *(name for name in self._parts if name not in before)]:
            self._settle(name)

    def _note(self, mark: Mark) -> None:
        parts = self._parts.setdefault(mark.name, {})
        parts.pop(mark.process, None)
        if mark.value is not None:
            try:
                parts[mark.process] = (mark.value, self._presence.decode(mark.value))
            except InvalidMessage:
                _logger.exception("a member of %s cannot be read, and is left out", self.channel)
        if not parts:
            del self._parts[mark.name]

    def _settle(self, name: str) -> None:
        before = self.members.get(name)
        after = combine(name, [part for _, part in self._parts.get(name, {}).values()])
        if before == after:
            return
        if after is None:
            del self.members[name]
        else:
            self.members[name] = after
        self._snapshot = None
        for reader in self._readers:
            reader.tell(name, before, after)


@final
class Rosters:
    """All rosters of an exchange, and the task that asks for their marks anew, which is there when it is needed.

    Args:
        broker: Where the marks come from.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rosters: dict[Channel, Roster[Any]] = {}
        self._scope: trio.CancelScope | None = None  # around the task

    @contextmanager
    def inside(self, channel: Channel, presence: Presence[A]) -> Generator[Roster[A]]:
        """Have a key's roster for as long as the block lasts; going in and out are plain calls."""
        roster = self._rosters.get(channel)
        if roster is None:
            roster = self._rosters[channel] = Roster(channel, presence, self._broker)
        roster.users += 1
        try:
            yield roster
        finally:
            roster.users -= 1
            if not roster.users:
                del self._rosters[channel]
                self._broker.unsubscribe(channel)

    def announce(self, channel: Channel, mark: Mark, position: Position) -> None:
        """Tell a roster of a change; see `Announce`."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.announce(mark, position)
            if roster.stale:
                self._ask_anew()

    def expire(self, channel: Channel) -> None:
        """Note that announcements may have been lost; see `Lose`."""
        roster = self._rosters.get(channel)
        if roster is not None:
            roster.expire()
            self._ask_anew()

    def close(self) -> None:
        """Ask no more."""
        if self._scope is not None:
            self._scope.cancel()

    def _ask_anew(self) -> None:
        if self._scope is None:
            self._scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._sync, self._scope)

    async def _sync(self, scope: trio.CancelScope) -> None:
        with scope:
            while stale := [roster for roster in self._rosters.values() if roster.stale]:
                async with trio.open_nursery() as nursery:
                    for roster in stale[:_AT_ONCE]:
                        nursery.start_soon(self._sync_one, roster)
        self._scope = None

    async def _sync_one(self, roster: Roster[Any]) -> None:
        try:
            await roster.sync()
        except Exception:
            _logger.exception("the members of %s cannot be asked for", roster.channel)
            await trio.sleep(_RETRY)
