"""One key of one topic: who is there, and what is about to be handed to them.

What is published is noted in a short log, and the fan-out hands it on, in its next turn, to everyone: all that has
been noted by then in one write for each, joined once. Everyone in the room has a place in the log. So whoever has to
be ahead of the others, because it leaves or sends something itself, is handed what it lacks before they are.

Whoever publishes waits when the log is full. That is the time the fan-out takes, and never that of a subscriber: what
one does not take is queued for it alone (`Subscriber.take`).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Literal, TypeAlias, final

from attrs import frozen

from streamrt.wire.codec import Codec
from streamrt.wire.transport import Batch
from streamrt.wire.waiting import Waiting

from .broker import Channel, History, Position, Publication

WhenFull: TypeAlias = Literal["disconnect", "drop_oldest", "drop_newest", "latest"]

_LOG_MESSAGES = 64
"""Messages that one write takes at most: well under a millisecond of work for each hundred subscribers."""

_LOG_BYTES = 64 * 1024
"""Bytes of the same: more would bring nothing."""

_SHARE = 4
"""The part of a backlog that the log may hold, so that a burst is handed on before it can fill one."""

_AT_ONCE = 32
"""Subscribers that are served before the time is looked at."""

_logger = logging.getLogger("streamrt")


@final
@frozen(kw_only=True)
class Terms:
    """What a topic was declared with; see `Topic`."""

    name: str
    codec: Codec[Any]
    when_full: WhenFull
    latest_by: Callable[[Any], Hashable] | None
    backlog: int
    backlog_bytes: int
    history: History | None


class Subscriber(ABC):
    """Somebody in a room."""

    __slots__ = ("handed", "replayed", "room", "seen")

    def __init__(self) -> None:
        self.room: Room | None = None
        self.seen: int = 0  # how much of all that was ever noted in the room it has been handed
        self.handed: Position | None = None  # the position of the last of it
        self.replayed: Position | None = None  # of the last that a history has had; what comes late is not after it

    def skips(self, publication: Publication) -> bool:
        """Whether a message is not for this one."""
        if self.replayed is None:
            return False
        if publication.is_after(self.replayed):
            self.replayed = None
            return False
        return True

    def note_replay(self, position: Position) -> None:
        """Note how far a history has come that it was handed."""
        self.replayed = position
        if self.handed is None or (self.handed.epoch == position.epoch and self.handed.offset < position.offset):
            self.handed = position

    def note_loss(self, position: Position | None) -> None:
        """Note where a history goes on, and that what was before is not to come."""
        if position is not None:
            self.handed = position

    @property
    def is_shy(self) -> bool:
        """Whether it skips what it has published itself."""
        return False

    @abstractmethod
    def take(self, publications: Sequence[Publication], batch: Batch) -> None:
        """Take messages, all of them: what it cannot use at once it queues, within the limits of the topic.

        Args:
            publications: The messages.
            batch: The same, as frames; others get it too.
        """

    def passed_over(self) -> None:
        """Note that what was published is not for this one. By default, that is nothing."""

    @abstractmethod
    def lose(self, position: Position | None) -> None:
        """Note that something may be missing behind what was handed so far.

        Args:
            position: Where the history goes on, if there is one.
        """

    def left(self) -> None:
        """Be out of the room. By default, nothing is left to do then."""

    @abstractmethod
    def fail(self) -> None:
        """Be gone, after a fault of ours."""

    def catch_up(self) -> None:
        """Take what has been noted before now."""
        assert self.room is not None
        self.room.serve((self,))


@final
class Room:
    """Who is subscribed to one channel, and what they have not been handed yet.

    Args:
        channel: Which.
        terms: Those of its topic.
    """

    __slots__ = (
        "_bytes",
        "_end",
        "_goal",
        "_limit",
        "_limit_bytes",
        "_log",
        "_passing",
        "_served",
        "_shy",
        "_slice",
        "channel",
        "delivered",
        "dropped",
        "emptied",
        "published",
        "subscribers",
        "terms",
    )

    def __init__(self, channel: Channel, terms: Terms) -> None:
        self.channel: Channel = channel
        self.terms: Terms = terms
        self.subscribers: dict[Subscriber, None] = {}
        self.published: int = 0
        self.delivered: int = 0
        self.dropped: int = 0
        self.emptied: Waiting = Waiting()
        self._shy = 0
        self._log: list[Publication] = []
        self._end = 0  # how much was ever noted
        self._bytes = 0
        self._limit = max(1, min(_LOG_MESSAGES, terms.backlog // _SHARE))
        self._limit_bytes = max(1, min(_LOG_BYTES, terms.backlog_bytes // _SHARE))
        self._passing: list[Subscriber] = []  # whom the pass that is under way serves
        self._served = 0  # how many of them it has served
        self._goal = 0  # where it ends
        self._slice: _Slice | None = None  # what was handed out last, if nothing has been noted since

    def add(self, subscriber: Subscriber) -> None:
        """Let somebody in, who hears what is published from now on."""
        subscriber.room = self
        subscriber.seen = self._end
        self.subscribers[subscriber] = None
        self._shy += subscriber.is_shy

    def remove(self, subscriber: Subscriber) -> None:
        """Let somebody go; it is handed what was published before now."""
        self.serve((subscriber,))
        subscriber.room = None
        del self.subscribers[subscriber]
        self._shy -= subscriber.is_shy
        subscriber.left()

    @property
    def full(self) -> bool:
        """Whether whoever publishes has to wait, until `emptied`."""
        return len(self._log) >= self._limit or self._bytes >= self._limit_bytes

    def note(self, publication: Publication) -> None:
        """Note a message for everyone who is there."""
        self.published += 1
        terms = self.terms
        if terms.latest_by is not None and publication.name is None:
            publication.name = terms.latest_by(message_of(publication, terms))
        self._log.append(publication)
        self._end += 1
        self._bytes += len(publication.frame)
        self._slice = None

    def lose(self, position: Position | None) -> None:
        """Tell everyone that something may be missing between what was noted before now and what comes."""
        for subscriber in list(self.subscribers):
            try:
                subscriber.catch_up()
                subscriber.lose(position)
            except Exception:
                _logger.exception("a subscriber of the topic %s cannot be told of a loss", self.terms.name)
                subscriber.fail()

    def hand_out(self, until: float) -> bool:
        """Serve everyone, or go on where the time was over.

        Args:
            until: When it is over, by `time.perf_counter`.

        Returns:
            Whether everyone has been handed everything.
        """
        if not self._passing:
            self._passing, self._served = list(self.subscribers), 0
            self._goal = self._end
        while self._served < len(self._passing):
            at_once = max(1, min(_AT_ONCE, 2 * _LOG_BYTES // max(1, self._bytes)))  # much may be compressed for each
            self.serve(self._passing[self._served : self._served + at_once])
            self._served += at_once
            if time.perf_counter() >= until and self._served < len(self._passing):
                return False
        self._passing.clear()
        handed = len(self._log) - (self._end - self._goal)
        self._bytes -= sum(len(publication.frame) for publication in self._log[:handed])
        del self._log[:handed]
        self._slice = None
        self.emptied.rotate()
        self.emptied.wake_all()
        return not self._log

    def serve(self, subscribers: Iterable[Subscriber]) -> None:
        """Hand to each what it has not been handed yet, if it is still here."""
        end, slice_ = self._end, self._slice
        for subscriber in subscribers:
            start = subscriber.seen
            if start == end or subscriber.room is not self:
                continue
            if slice_ is None or slice_.start != start:
                slice_ = self._slice = _Slice(start, self._log[start - end :], shy=bool(self._shy))
            subscriber.seen = end
            publications, batch = slice_.publications, slice_.batch
            try:
                if subscriber.replayed is not None or not slice_.is_for_all:
                    publications = [publication for publication in publications if not subscriber.skips(publication)]
                    batch = Batch([publication.frame for publication in publications])
                if subscriber.replayed is None:
                    subscriber.handed = slice_.position
                if publications:
                    self.delivered += len(publications)
                    subscriber.take(publications, batch)
                elif subscriber.replayed is None:
                    subscriber.passed_over()
            except Exception:  # a fault of one subscriber must not be all others' silence
                _logger.exception("a message of the topic %s cannot be handed to a subscriber", self.terms.name)
                subscriber.fail()


@final
class _Slice:
    """The end of a log, from one place on: what most subscribers are handed in a pass."""

    __slots__ = ("batch", "is_for_all", "position", "publications", "start")

    def __init__(self, start: int, publications: Sequence[Publication], *, shy: bool) -> None:
        self.start = start
        self.publications = publications
        self.position = publications[-1].position
        self.batch = Batch([publication.frame for publication in publications])
        self.is_for_all = all(
            publication.exclude is None and (not shy or publication.origin is None) for publication in publications
        )


def message_of(publication: Publication, terms: Terms) -> Any:
    """Return the message of a publication, decoded once for all who want it so."""
    if publication.message is None:
        publication.message = terms.codec.decode(publication.frame.payload)
    return publication.message
