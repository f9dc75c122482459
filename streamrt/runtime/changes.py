"""Who reads the presence of a key: one change after the other or, behind too many, what has become of each member.

Whoever reads too slowly is never wrong about who is there. It may only not be told of what is over again by then.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, final

import trio
from attrs import frozen

from streamrt.wire.waiting import Waiting

from .presence import A_co, Member
from .roster import Roster

_TURN = 64
"""Changes that one task may receive before others get a turn."""


@final
@frozen
class Joined(Generic[A_co]):
    """Somebody is there who was not.

    Args:
        member: As it is now.
    """

    member: Member[A_co]


@final
@frozen
class Left(Generic[A_co]):
    """Somebody is not there any more.

    Args:
        member: As it was before.
    """

    member: Member[A_co]


@final
@frozen
class Changed(Generic[A_co]):
    """Somebody has more connections than before, or fewer, or tells something else.

    Args:
        member: As it is now.
        before: As it was before.
    """

    member: Member[A_co]
    before: Member[A_co]


Change: TypeAlias = Joined[A_co] | Left[A_co] | Changed[A_co]


@final
class Present(trio.abc.ReceiveChannel[Change[A_co]], Generic[A_co]):
    """Who is attached to a key of a topic; see `Topic.presence`. Iterate over it for changes, or call `receive`."""

    def __init__(self, roster: Roster[Any], backlog: int) -> None:
        self._roster = roster
        self._backlog = backlog
        self._changes: deque[tuple[str, Member[Any] | None, Member[Any] | None]] = deque()
        # Where there were too many: what was told last of each member that has changed since.
        self._behind: OrderedDict[str, Member[Any] | None] | None = None
        self._filled = Waiting()
        self._closed = False
        self._turn = 0

    @property
    def members(self) -> Mapping[str, Member[A_co]]:
        """Who is there now, by name. What it returns does not change; ask again.

        Where changes wait to be received, it is ahead of them.
        """
        return self._roster.snapshot()

    async def receive(self) -> Change[A_co]:
        """Wait for the next change.

        Raises:
            trio.ClosedResourceError: It is over, because its block was left, or it was closed.
        """
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while (change := self._take()) is None:
            if self._closed:
                raise trio.ClosedResourceError("this is over: the block of topic.presence() was left, or it was closed")
            await self._filled.wait()
        return change

    async def aclose(self) -> None:
        """Receive no more changes."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Receive no more changes."""
        self._closed = True
        self._changes.clear()
        self._behind = None
        self._filled.wake_all()

    def tell(self, name: str, before: Member[Any] | None, after: Member[Any] | None) -> None:
        """Note a change."""
        if self._closed:
            return
        if self._behind is None and len(self._changes) >= self._backlog:
            self._behind = OrderedDict()
            for earlier, told, _ in self._changes:
                self._behind.setdefault(earlier, told)
            self._changes.clear()
        if self._behind is None:
            self._changes.append((name, before, after))
        else:
            self._behind.setdefault(name, before)
        self._filled.wake_all()

    def _take(self) -> Change[Any] | None:
        if self._changes:
            _, before, after = self._changes.popleft()
            return _change(before, after)
        while self._behind:
            name, before = self._behind.popitem(last=False)
            after = self._roster.members.get(name)
            if before != after:
                return _change(before, after)
        self._behind = None
        return None


def _change(before: Member[Any] | None, after: Member[Any] | None) -> Change[Any]:
    if before is None:
        assert after is not None
        return Joined(after)
    return Left(before) if after is None else Changed(after, before)
