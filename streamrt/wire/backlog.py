"""A bounded queue of messages: what every channel of a stream is made of.

Two rules. It is bounded twice, in messages and in bytes, because a limit in messages says nothing of
memory and a limit in bytes nothing of latency. And it never waits by itself: `offer` and `take` are
plain calls, `room` and `filled` are the two waits, so that whoever moves messages decides where the
checkpoint is, and a cancelled wait has moved nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast, final

import trio

from .waiting import Waiting

T = TypeVar("T")


@final
class Backlog(Generic[T]):
    """A FIFO bounded in messages and in bytes.

    A message that is larger than ``max_bytes`` is taken when nothing else is queued; otherwise it could
    never pass.

    Args:
        max_messages: How many messages fit.
        max_bytes: How many bytes fit, counted with `size`.
        size: The bytes of one message.
    """

    __slots__ = (
        "_consumers",
        "_items",
        "_max_bytes",
        "_max_messages",
        "_producers",
        "_size",
        "_taken",
        "closed",
        "queued_bytes",
    )

    def __init__(self, max_messages: int, max_bytes: int, size: Callable[[T], int]) -> None:
        self._items: list[T | None] = []  # empty, it takes a tenth of a deque
        self._taken = 0  # how many at its beginning have been taken already
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._size = size
        self._producers = Waiting()
        self._consumers = Waiting()
        self.queued_bytes: int = 0
        self.closed: bool = False

    def __len__(self) -> int:
        return len(self._items) - self._taken

    def __bool__(self) -> bool:
        return bool(self._items)

    def offer(self, item: T) -> bool:
        """Queue one message and return True; return False when it does not fit."""
        size = self._size(item)
        items = self._items
        if items and (len(self) >= self._max_messages or self.queued_bytes + size > self._max_bytes):
            return False
        items.append(item)
        self.queued_bytes += size
        if self._consumers:
            self._consumers.wake()
        return True

    def extend(self, items: Sequence[T]) -> None:
        """Queue messages whether they fit or not: whoever brings them asks for `free` before."""
        self._items.extend(items)
        for item in items:
            self.queued_bytes += self._size(item)
            if self._consumers:
                self._consumers.wake()

    @property
    def free(self) -> int:
        """How many messages more fit; none when the bytes are used up."""
        return self._max_messages - len(self) if self.queued_bytes < self._max_bytes else 0

    @property
    def half_empty(self) -> bool:
        """Whether about half of it is free, which is when those that wait for room are woken."""
        return len(self) * 2 <= self._max_messages and self.queued_bytes * 2 <= self._max_bytes

    @property
    def oldest(self) -> T:
        """What `take` returns next."""
        return cast("T", self._items[self._taken])

    def take(self) -> T:
        """Return the oldest message.

        Raises:
            IndexError: Nothing is queued.
        """
        items, taken = self._items, self._taken
        item = cast("T", items[taken])
        taken += 1
        if taken == len(items):
            items.clear()
            self._taken = self.queued_bytes = 0
        else:
            items[taken - 1] = None
            self.queued_bytes -= self._size(item)
            self._taken = taken
            if taken * 2 > len(items):  # so that it costs nothing, on average
                self._forget_taken()
        if self._producers and self.half_empty:
            self._producers.wake_all()
        return item

    def take_batch(self, max_bytes: float = math.inf) -> list[T]:
        """Return what is queued, oldest first; an empty list when there is nothing.

        Args:
            max_bytes: Take no more than this, but one message at least. Default: everything.
        """
        self._forget_taken()
        items = cast("list[T]", self._items)
        if self.queued_bytes <= max_bytes:
            batch = items.copy()
            items.clear()
            self.queued_bytes = 0
        else:
            count, size = 1, self._size(items[0])
            while count < len(items) and size + self._size(items[count]) <= max_bytes:
                size += self._size(items[count])
                count += 1
            batch = items[:count]
            del items[:count]
            self.queued_bytes -= size
        self._producers.wake_all()
        return batch

    def _forget_taken(self) -> None:
        del self._items[: self._taken]
        self._taken = 0

    def recheck(self) -> None:
        """Wake those that wait for room, because something besides the room has changed."""
        self._producers.wake_all()

    def close(self) -> None:
        """End all waiting, now and in future. What is queued stays to be taken."""
        self.closed = True
        self._producers.wake_all()
        self._consumers.wake_all()

    async def room(self) -> None:
        """Wait until about half of it is free, or it is closed. Always a checkpoint.

        Waking at half, and not at the first free place, makes producer and consumer take turns in
        batches instead of switching tasks for every message.
        """
        if self.closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._producers.wait()

    async def filled(self) -> None:
        """Wait until something is queued, or it is closed. Always a checkpoint.

        It may be nothing again when the task runs that was woken: another was faster.
        """
        if self._items or self.closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._consumers.wait()
