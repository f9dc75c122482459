"""Who subscribes to a topic: streams that are attached, and tasks of this process; and the backlog of each.

A subscriber takes what it is handed at once if it can. What it cannot take is its backlog, in messages and bytes, and
what happens when that is full is the topic's `when_full`. A subscriber that is handed a history is held meanwhile: what
is published then waits in its backlog, and comes after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Generic, Protocol, TypeVar, cast, final

import trio

from streamrt.errors import APIError
from streamrt.wire.transport import Batch, Frame
from streamrt.wire.waiting import Waiting

from .broker import Channel, Position, Publication, Replay
from .connection import Connection
from .outbox import Outbox, Slot
from .room import Subscriber, Terms, message_of
from .telling import Teller

M_co = TypeVar("M_co", covariant=True)

_TURN = 64
"""Messages that one task may receive before others get a turn."""


class Owner(Protocol):
    """Whose backlog it is."""

    handed: Position | None

    def overflow(self) -> None:
        """Be gone, because the backlog is full."""
        ...


@final
class Pending:
    """A subscriber's backlog.

    Args:
        terms: Those of its topic.
        owner: Whose it is.
        outlet: Where its slots stand in line too; None when that is nowhere, or not yet.
        teller: Who says what was dropped, and where the stream is, if somebody does.

    Attributes:
        missed: How many were dropped behind the last slot.
    """

    __slots__ = ("_bytes", "_named", "_owner", "_teller", "_terms", "missed", "outlet", "slots")

    def __init__(self, terms: Terms, owner: Owner, outlet: Outbox | None, teller: Teller | None = None) -> None:
        self.slots: deque[Slot] = deque()
        self.outlet: Outbox | None = outlet
        self._terms = terms
        self._owner = owner
        self.missed: int = 0
        self._teller = teller
        self._bytes = 0
        self._named: dict[Hashable, Slot] = {}

    def offer(self, publications: Sequence[Publication]) -> int:
        """Queue messages, as far as the topic's terms allow; return how many had to be dropped, of these or others."""
        when_full = self._terms.when_full
        before = len(self.slots)
        for publication in publications:
            if when_full == "latest" and (slot := self._named.get(publication.name)) is not None:
                self._replace(slot, publication)
                while self._bytes > self._terms.backlog_bytes and len(self.slots) > 1:
                    self._drop_oldest()
                continue
            while self._has_no_room_for(publication) and when_full in {"drop_oldest", "latest"}:
                self._drop_oldest()
            if not self._has_no_room_for(publication):
                self._add(publication)
            elif when_full == "disconnect":
                self._owner.overflow()
                break
            else:
                self.missed += 1
        return before + len(publications) - len(self.slots)

    def taken(self, slot: Slot) -> Sequence[Frame]:
        """Forget the oldest message, which is in this slot; see `Source.taken`."""
        self._forget(slot)
        return () if self._teller is None or self.slots else self.last_words()

    def last_words(self) -> Sequence[Frame]:
        """Return what is to be said when nothing waits any more."""
        assert self._teller is not None
        missed, self.missed = self.missed, 0
        return self._teller.behind(missed, self._owner.handed)

    def _forget(self, slot: Slot) -> None:
        assert slot.publication is not None
        self.slots.popleft()
        self._bytes -= len(slot)
        if self._terms.when_full == "latest":
            del self._named[slot.publication.name]

    def take(self) -> Publication:
        """Return the oldest message, and forget it."""
        slot = self.slots[0]
        assert slot.publication is not None
        self._forget(slot)
        return slot.publication

    def clear(self) -> None:
        """Take all of them back."""
        if self.outlet is not None:
            for slot in self.slots:
                self.outlet.take_back(slot)
        self.slots.clear()
        self._named.clear()
        self._bytes = 0

    def keep_after(self, position: Position) -> None:
        """Forget those that a history has had, while they are not in line yet."""
        slots = list(self.slots)
        last, self.missed = self.missed, 0
        self.clear()
        for slot in slots:
            if slot.publication is not None and slot.publication.is_after(position):
                self.missed = slot.missed
                self._add(slot.publication)
        self.missed = last

    def _drop_oldest(self) -> None:
        slot = self.slots[0]
        self._forget(slot)
        missed = slot.missed + 1
        if self.slots:
            self.slots[0].missed += missed
        else:
            self.missed += missed
        if self.outlet is not None:
            self.outlet.take_back(slot)

    def _has_no_room_for(self, publication: Publication) -> bool:
        slots, terms = self.slots, self._terms
        too_many = len(slots) >= terms.backlog or self._bytes + len(publication.frame) > terms.backlog_bytes
        return bool(slots) and too_many

    def _add(self, publication: Publication) -> None:
        slot = Slot(publication, self, self._teller)
        slot.missed, self.missed = self.missed, 0
        self.slots.append(slot)
        self._bytes += len(slot)
        if self._terms.when_full == "latest":
            self._named[publication.name] = slot
        if self.outlet is not None:
            self.outlet.add((slot,))

    def _replace(self, slot: Slot, publication: Publication) -> None:
        size = len(publication.frame) - len(slot)
        slot.publication = publication
        slot.missed += 1
        self._bytes += size
        if self.outlet is not None:
            self.outlet.resized(size)


@final
class Attachment(Subscriber):
    """A stream that hears a topic; see `Topic.attach`."""

    __slots__ = (
        "_connection",
        "_held",
        "_lost",
        "_pending",
        "_shy",
        "_teller",
        "_terms",
        "_tracked",
        "_writer",
        "recovered",
    )

    def __init__(self, connection: Connection, channel: Channel, terms: Terms, *, exclude_self: bool) -> None:
        super().__init__()
        self.recovered: bool = False
        """Whether everything that was published since the position that was asked for has been sent; no longer, once a
        broker has lost its connection, and messages with it."""
        self._connection = connection
        self._writer = connection.writer
        self._terms = terms
        self._shy = exclude_self
        self._held = False
        self._lost = False
        self._teller = Teller(channel, positions=terms.history is not None, in_order=terms.when_full != "latest")
        self._tracked = connection.is_told and terms.history is not None
        self._pending = Pending(terms, self, self._writer.outbox, self._teller if connection.is_told else None)

    @property
    def position(self) -> str | None:
        """Where the stream is in the topic's history: behind the last message that it was handed.

        To be given to `Topic.attach` as `since`, when the peer comes back. None where no history is kept.
        """
        if self.room is not None and not self._held:
            self.catch_up()  # or a stream that tells it to its peer would tell one of before what is sent ahead of it
        return None if self.handed is None else str(self.handed)

    # What the room calls.

    @property
    def is_shy(self) -> bool:
        """See `Subscriber.is_shy`."""
        return self._shy

    def skips(self, publication: Publication) -> bool:
        """See `Subscriber.skips`."""
        late = super().skips(publication)
        return late or self._is_own(publication)

    def _is_own(self, publication: Publication) -> bool:
        me = self._connection.request.connection_id
        return publication.exclude == me or (self._shy and publication.origin == me)

    def take(self, publications: Sequence[Publication], batch: Batch) -> None:
        """Send messages straight to the socket, or queue them; see `Subscriber.take`."""
        if self._held:
            left = len(publications)
        elif self._tracked:
            announced = self._teller.announced(publications, batch, self.handed)
            left = 0 if self._writer.push_whole(announced) else len(publications)
        else:
            left = self._writer.push(batch)
        if left == 0:
            return
        assert self.room is not None
        if self._writer.over:
            self.room.delivered -= len(publications)
            return
        dropped = self._pending.offer(publications[-left:])
        self.room.delivered -= dropped
        self.room.dropped += dropped

    def passed_over(self) -> None:
        """Say where the stream is all the same, if that can be said at once; see `Subscriber.passed_over`."""
        if self._tracked and not self._held and self.handed is not None:
            self._writer.push_whole(Batch([self._teller.position(self.handed)]))

    def lose(self, position: Position | None) -> None:
        """Tell the peer, if it can be told; see `Subscriber.lose`."""
        self.recovered = False
        if self._held:
            self._lost = True
            return
        self.note_loss(position)
        if self._connection.is_told and not self._writer.over:
            # Where slots go out in another order, a position would be one of before what waits in them.
            if self._tracked and position is not None and self._teller.in_order:
                self._say([self._teller.position(position, recovered=False)])
            else:
                self._say([self._teller.gap(0)])

    def left(self) -> None:
        """Leave to the stream what has not gone out; see `Subscriber.left`."""
        if self._held or not self._pending.slots:
            return
        self._writer.outbox.keep(self._pending.slots)
        if self._connection.is_told and not self._writer.over:
            self._say(self._pending.last_words())

    def fail(self) -> None:
        """End the stream; see `Subscriber.fail`."""
        self._end(APIError.internal())

    def overflow(self) -> None:
        """End the stream with 4429, because it lacks messages and does not know; see `Owner.overflow`."""
        self._end(APIError.resource_exhausted(f"too far behind topic {self._terms.name}"))

    # What `Topic.attach` calls.

    def hold(self) -> None:
        """Let what is published wait, until `replay` is over."""
        self._held = True
        self._pending.outlet = None

    async def replay(self, replay: Replay) -> None:
        """Send a history, as fast as the peer reads it, and then what has been published meanwhile.

        Raises:
            BrokenResourceError: As `StreamOut.send` does, and its other errors too.
        """
        assert self.room is not None
        behind: Position | None = replay.start
        if self._tracked:
            self._say([self._teller.position(replay.start, recovered=replay.recovered)])
        for publication in replay.publications:
            if self._is_own(publication):
                continue
            if self._tracked:
                await self._connection.send_together(*self._teller.alone(publication), publication.frame)
                behind = publication.position
            else:
                await self._connection.send(publication.frame)
            self.room.delivered += 1
        if self._tracked and behind != replay.position:
            self._say([self._teller.position(replay.position)])
        self.catch_up()  # before anything can go out straight
        self.note_replay(replay.position)
        self.recovered = replay.recovered
        self._pending.keep_after(replay.position)
        self._held = False
        self._pending.outlet = self._writer.outbox
        if self._pending.slots:
            self._writer.outbox.add(self._pending.slots)
        if self._lost:
            self.lose(None)

    def _say(self, controls: Sequence[Frame]) -> None:
        for control in controls:
            self._writer.say(control)

    def _end(self, error: APIError) -> None:
        self._pending.clear()
        self._connection.fail_with(error)


@final
class Subscription(Subscriber, trio.abc.ReceiveChannel[M_co], Generic[M_co]):
    """A topic's messages for a task of this process; see `Topic.subscribe`. Iterate over it, or call `receive`."""

    __slots__ = ("_closed", "_error", "_filled", "_pending", "_received", "_replay", "_terms", "_turn", "recovered")

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.recovered: bool = False
        """Whether everything that was published since the position that was asked for comes first; no longer, once a
        broker has lost its connection, and messages with it."""
        self._terms = terms
        self._pending = Pending(terms, self, None)
        self._replay: deque[Publication] = deque()
        self._filled = Waiting()
        self._error: APIError | None = None
        self._closed = False
        self._received: Position | None = None
        self._turn = 0

    @property
    def position(self) -> str | None:
        """Where this task is in the topic's history: behind the last message that it has received.

        To be given to `Topic.subscribe` as `since`, to go on from here. None where no history is kept.
        """
        return None if self._received is None else str(self._received)

    async def receive(self) -> M_co:
        """Wait for the next message.

        Raises:
            ResourceExhausted: The topic disconnects who is too far behind, and this subscription was.
            trio.ClosedResourceError: It is over, because its block was left, or it was closed.
        """
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while not (self._replay or self._pending.slots):
            if self._closed:
                raise trio.ClosedResourceError(f"the subscription to topic {self._terms.name} is over")
            if self._error is not None:
                raise self._error
            await self._filled.wait()
        publication = self._replay.popleft() if self._replay else self._pending.take()
        self._received = publication.position
        return cast("M_co", message_of(publication, self._terms))

    async def aclose(self) -> None:
        """Receive nothing more."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Receive nothing more."""
        self._closed = True
        self._forget()

    def replay(self, replay: Replay) -> None:
        """Have a history come first."""
        assert self.room is not None
        self._replay.extend(replay.publications)
        self.room.delivered += len(replay.publications)
        self.catch_up()
        self._pending.keep_after(replay.position)
        self.note_replay(replay.position)
        self.recovered = replay.recovered
        self._received = replay.start

    def take(self, publications: Sequence[Publication], batch: Batch) -> None:
        """Queue messages; see `Subscriber.take`."""
        assert self.room is not None
        if self._closed or self._error is not None:
            self.room.delivered -= len(publications)
            return
        dropped = self._pending.offer(publications)
        self.room.delivered -= dropped
        self.room.dropped += dropped
        self._filled.wake_all()

    def lose(self, position: Position | None) -> None:
        """See `Subscriber.lose`."""
        self.recovered = False

    def overflow(self) -> None:
        """End with an error; see `Owner.overflow`."""
        assert self.room is not None
        self.room.delivered -= len(self._replay)
        self.room.dropped += len(self._replay)
        self._fail(APIError.resource_exhausted(f"too far behind topic {self._terms.name}"))

    def fail(self) -> None:
        """End with an error; see `Subscriber.fail`."""
        self._fail(APIError.internal())

    def _fail(self, error: APIError) -> None:
        self._error = error
        self._forget()

    def _forget(self) -> None:
        self._replay.clear()
        self._pending.clear()
        self._filled.wake_all()
