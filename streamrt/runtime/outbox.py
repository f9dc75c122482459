"""What waits to go out of a stream, in the order in which it was sent: its send channel.

Three kinds of things stand in one line:

- what the stream sends itself: frames, which have the limits of the send channel;
- what topics send to it: slots, whose message may be replaced or taken back until it goes out. Their limit is the
  topic's backlog, and not this one: or a stream that hears a busy topic, and is read a little slowly, could send
  nothing else;
- control frames, right behind the first, which may be out in part already: the peer must not have to read all that is
  queued before it has its answer.

What a topic leaves behind when the stream leaves it counts as the stream's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast, final

import trio

from streamrt.api.limits import Limits
from streamrt.wire.transport import Frame
from streamrt.wire.waiting import Waiting

from .broker import Publication
from .telling import Teller

WRITE_BYTES = 64 * 1024
"""What one write takes: so much that more would bring nothing, and so little that a peer which reads slowly
makes room often enough not to be taken for one that does not read."""


class Source(Protocol):
    """Whose slots they are."""

    def taken(self, slot: Slot) -> Sequence[Frame]:
        """Note that the message in a slot goes out, the oldest that it has; return what is to be said behind it."""
        ...


@final
class Slot:
    """A place in a queue, whose message may still be replaced or taken back; then it is empty."""

    __slots__ = ("missed", "publication", "source", "teller")

    def __init__(self, publication: Publication, source: Source, teller: Teller | None = None) -> None:
        self.publication: Publication | None = publication
        self.source: Source = source
        self.teller: Teller | None = teller
        """Who says where the stream is, if somebody does."""
        self.missed: int = 0
        """How many messages were left out right before it."""

    def __len__(self) -> int:
        return 0 if self.publication is None else len(self.publication.frame)


@final
class Outbox:
    """The queue. It is true when something is in it.

    Args:
        limits: Those of its stream.
        start: Called when something is queued and nobody waits for it: the writer is busy, or has to be started.
    """

    __slots__ = (
        "_consumers",
        "_empty",
        "_items",
        "_limits",
        "_own",
        "_own_bytes",
        "_producers",
        "_slots",
        "_start",
        "_urgent",
        "closed",
        "queued_bytes",
    )

    def __init__(self, limits: Limits, start: Callable[[], None]) -> None:
        self.queued_bytes: int = 0
        self.closed: bool = False
        self._limits = limits
        self._start = start
        self._items: list[Frame | Slot] = []
        self._own = 0  # what of it has a limit
        self._own_bytes = 0
        self._slots = 0
        self._empty = 0  # of them, those whose message was taken back
        self._urgent = 0  # control frames, behind the first
        self._producers = Waiting()
        self._consumers = Waiting()

    def __bool__(self) -> bool:
        return bool(self._items)

    def __len__(self) -> int:
        return len(self._items) - self._empty

    # What the stream sends itself.

    def has_room_for(self, size: int) -> bool:
        """Whether a message of so many bytes fits; one always does."""
        limits = self._limits
        fits = self._own < limits.send_messages and self._own_bytes + size <= limits.send_bytes
        return fits or not self._own

    def offer(self, frame: Frame) -> bool:
        """Queue a message and return True; return False when it does not fit."""
        fits = self.has_room_for(len(frame))
        if fits:
            self.put(frame)
        return fits

    def offer_urgent(self, frame: Frame) -> bool:
        """Queue a control frame and return True; return False when it does not fit."""
        fits = self.has_room_for(len(frame))
        if fits:
            self._urgent += 1
            self._own += 1
            self._own_bytes += len(frame)
            self._insert(self._urgent, frame)
        return fits

    def put(self, frame: Frame) -> None:
        """Queue a message whether it fits or not."""
        self._own += 1
        self._own_bytes += len(frame)
        self._insert(len(self._items), frame)

    # What topics send to it.

    def add(self, slots: Iterable[Slot]) -> None:
        """Queue slots."""
        for slot in slots:
            self._slots += 1
            self._insert(len(self._items), slot)

    def take_back(self, slot: Slot) -> None:
        """Empty a slot that has not gone out."""
        self.queued_bytes -= len(slot)
        slot.publication = None
        self._empty += 1
        if self._empty * 2 > len(self._items):  # so that it costs nothing, on average
            self._items = [item for item in self._items if isinstance(item, Frame) or item.publication is not None]
            self._slots -= self._empty
            self._empty = 0

    def resized(self, size: int) -> None:
        """Note that a slot has got another message, so many bytes larger."""
        self.queued_bytes += size

    def keep(self, slots: Iterable[Slot]) -> None:
        """Count slots as the stream's own, because their source has left."""
        for slot in slots:
            self._own += 1
            self._own_bytes += len(slot)
            slot.source = self

    def taken(self, slot: Slot) -> Sequence[Frame]:
        """Note that one of those goes out; see `Source.taken`."""
        self._own -= 1
        self._own_bytes -= len(slot)
        return ()

    # What the writer takes.

    def take(self) -> list[Frame]:
        """Return what goes out in one write; nothing when it was taken back, or when nothing is queued."""
        if not self._slots and self.queued_bytes <= WRITE_BYTES:  # no topic, and not much: the usual case
            frames = cast("list[Frame]", self._items)
            self._items = []
            self._own = self._own_bytes = self._urgent = self.queued_bytes = 0
        else:
            frames = self._take_some()
        self._producers.wake_all()
        return frames

    def _take_some(self) -> list[Frame]:
        frames: list[Frame] = []
        count = size = 0
        for item in self._items:
            if frames and size + len(item) > WRITE_BYTES:
                break
            count += 1
            size += len(item)
            if isinstance(item, Frame):
                self._own -= 1
                self._own_bytes -= len(item)
                frames.append(item)
                continue
            self._slots -= 1
            if item.publication is None:
                self._empty -= 1
            else:
                if item.teller is not None:
                    frames += item.teller.ahead(item.publication, item.missed)
                frames.append(item.publication.frame)
                frames += item.source.taken(item)
        del self._items[:count]
        self.queued_bytes -= size
        self._urgent = max(0, self._urgent + 1 - count)
        return frames

    def clear(self) -> None:
        """Throw everything away: nothing can go out any more."""
        self._items.clear()
        self.queued_bytes = 0

    def close(self) -> None:
        """End all waiting, now and in future. What is queued stays to be taken."""
        self.closed = True
        self._producers.wake_all()
        self._consumers.wake_all()

    async def room(self) -> None:
        """Wait until something was taken, or it is closed. Always a checkpoint."""
        if self.closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._producers.wait()

    async def filled(self) -> None:
        """Wait until something is queued, or it is closed. Always a checkpoint."""
        if self._items or self.closed:
            await trio.lowlevel.checkpoint()
        else:
            await self._consumers.wait()

    def _insert(self, index: int, item: Frame | Slot) -> None:
        self._items.insert(index, item)
        self.queued_bytes += len(item)
        if self._consumers:
            self._consumers.wake()
        else:
            self._start()
