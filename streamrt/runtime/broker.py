"""The seam between topics and what carries their messages from one process to another, and the broker for one process.

A broker moves publications between channels of the same name, wherever they are. The rules:

- what one task publishes on a channel is delivered everywhere in that order, once, to the publisher's process too;
- once `subscribe` has returned, what is published is delivered, and after `unsubscribe` nothing is, until `subscribe`;
- `unsubscribe` is a plain call, so that nothing can be left subscribed by a cancellation; one that is followed by a
  `subscribe` loses nothing that is published after that;
- where a broker cannot keep this, because it has lost its connection, it says so (`lose`), or raises;
- where a history is kept, every publication has a position: an epoch, which changes when a history begins anew, and an
  offset in it.

And it carries marks: what each process has set under names on a channel, for as long as it lives. The rules:

- `mark` is a plain call too, so that nothing can be left marked by a cancellation; it never fails, and what is marked
  while there is no connection holds once there is one;
- every change of a mark has a position of its own on its channel, one behind that of the change before it, and is
  announced wherever the channel is subscribed, with its position and in that order;
- `marks` is all of a channel at one position, with what this process has marked before; so who subscribes first, and
  then goes on from that position, misses no change;
- the marks of a process that is gone, however it went, are cleared within `lease` seconds, and announced like others;
  a broker that ends has told what was cleared before, and leaves the others to that;
- where announcements may have been lost, it says so (`lose`) once that is over, of each channel that is subscribed and
  keeps no history.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple, TypeAlias, final

import attrs
import trio
from attrs import define, field, frozen

from streamrt.wire.transport import Frame


def _more_than_none(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{attribute.name} of a history must be more than 0, not {value!r}")


@final
@frozen(kw_only=True)
class History:
    """How much of a topic is kept for those who come back, or come late. Each key has a history of its own.

    Args:
        messages: The newest so many. Default 100.
        seconds: Of these, what is no older. A history that nothing has touched for so long is forgotten. Default 300.
        bytes: And of these, what fits into so many bytes; one message always does. Default 1 MiB.
    """

    OLDEST: ClassVar[str] = "oldest"
    """For `since`: everything that is kept."""

    messages: int = field(default=100, validator=_more_than_none)
    seconds: float = field(default=300, validator=_more_than_none)
    bytes: int = field(default=1 << 20, validator=_more_than_none)


RESERVED = "streamrt:"
"""What no topic's name begins with: so begin those of channels that are no topic's."""


class Channel(NamedTuple):
    """What is published to, and subscribed to: one key of one topic."""

    topic: str
    key: str


@final
@frozen
class Position:
    """A place in a history.

    Args:
        epoch: Of the history that it is a place in; letters and digits.
        offset: Of the last message before it, from 1; 0 is the beginning.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Read one; None when it is none, for it may come from anywhere."""
        epoch, _, offset = text.partition(".")
        return cls(epoch, int(offset)) if offset.isascii() and offset.isdecimal() and len(offset) < 20 else None


@final
class Publication:
    """One message on its way to all who are subscribed; the same object for all of them.

    Args:
        frame: The message.
        origin: The connection id of the stream whose handler has published it, in this process.
        exclude: The connection id of the stream that does not get it, in this process.
        name: Under which a later message takes its place, for those who want the latest only.
    """

    __slots__ = ("announcement", "exclude", "frame", "message", "name", "origin", "position")

    def __init__(
        self, frame: Frame, *, origin: int | None = None, exclude: int | None = None, name: Hashable = None
    ) -> None:
        self.frame: Frame = frame
        self.origin: int | None = origin
        self.exclude: int | None = exclude
        self.name: Hashable = name
        self.position: Position | None = None
        """Set by the broker, where a history is kept."""
        self.message: object = None
        """Decoded, by the first subscriber that wants it so."""
        self.announcement: Frame | None = None
        """Its position, for those who are told, once one of them has to be told of this message alone."""

    def is_after(self, position: Position) -> bool:
        """Whether it was published after a position, or in another history."""
        at = self.position
        return at is None or at.epoch != position.epoch or at.offset > position.offset


@final
@frozen
class Replay:
    """What a history answers.

    Args:
        publications: What was published after the position that was asked about, oldest first.
        position: Behind the last of them.
        recovered: Whether that is everything.
    """

    publications: Sequence[Publication]
    position: Position
    recovered: bool

    @property
    def start(self) -> Position:
        """Before the first of them."""
        return attrs.evolve(self.position, offset=self.position.offset - len(self.publications))


@final
@frozen
class Mark:
    """What a process has set under a name on a channel.

    Args:
        process: Which, as `Broker.process` says.
        name: The name; each process has one mark of a name.
        value: What was set; None where it was cleared.
    """

    process: str
    name: str
    value: str | None


@final
@frozen
class Marks:
    """The marks of a channel, of all processes.

    Args:
        marks: All of them, in any order.
        position: Behind the last change of them. The changes are counted by themselves, and no history keeps them.
    """

    marks: Sequence[Mark]
    position: Position


Deliver: TypeAlias = Callable[[Channel, Publication], None]
"""Gives a publication to this process's subscribers; a plain call, which never waits and never fails."""
Lose: TypeAlias = Callable[[Channel, Position | None], None]
"""Tells this process that it may lack what was published, or announced, before now; a plain call like `Deliver`. The
position is where the channel's history goes on, if it has one."""
Announce: TypeAlias = Callable[[Channel, Mark, Position], None]
"""Tells this process of a mark that has changed, and the position behind that; a plain call as well."""

Settle: TypeAlias = Callable[[], Awaitable[None]]
"""Waits until what was delivered is handed on, and always lets others run. A broker that delivers what comes from
outside calls it each time before it takes more: so what has not been handed on has a bound."""


class Broker(ABC):
    """Carries publications and marks between processes; see the rules of this file.

    Attributes:
        process: Names this process beside all others that there are and were. A broker that connects several draws
            another each time that it runs, or two that were forked from one would have the same.
        lease: Seconds after which the marks of a process that is gone are cleared, at the latest.
    """

    lease: float = 0.0

    def __init__(self) -> None:
        self.process: str = secrets.token_hex(8)
        self.deliver: Deliver | None = None
        """Set before anything else is asked of it, like the others; None when it belongs to no exchange."""
        self.lose: Lose | None = None
        self.announce: Announce | None = None
        self.settle: Settle | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Be connected for as long as the block lasts. By default there is nothing to connect to."""
        yield

    @abstractmethod
    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        """Have a message delivered, to this process too.

        Args:
            channel: Where.
            publication: The message. Its `origin` and `exclude` mean nothing in another process.
            history: What is to be kept of the channel.
        """

    @abstractmethod
    async def subscribe(self, channel: Channel) -> None:
        """Have what is published on a channel delivered from now on. May be repeated."""

    @abstractmethod
    def unsubscribe(self, channel: Channel) -> None:
        """Have no more of it delivered."""

    @abstractmethod
    async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
        """Return what a channel's history has after a position, none of it when it does not have all.

        Args:
            channel: Which.
            since: The position as text, however wrong; `History.OLDEST`; or None for nothing but the position.
            history: What is kept of it.
        """

    def mark(self, channel: Channel, name: str, value: str | None) -> None:
        """Set the mark that this process has under a name on a channel, or clear it.

        What is as it was is no change, and is not announced. Of several changes that follow each other at once, the
        last is enough.

        Args:
            channel: Where.
            name: Under which name.
            value: What; None to clear it.

        Raises:
            NotImplementedError: This broker carries no marks.
        """
        raise NotImplementedError(f"{type(self).__name__} carries no marks, which presence and App(user=...) need")

    async def marks(self, channel: Channel) -> Marks:
        """Return all that is marked on a channel.

        Args:
            channel: Which. Who wants to go on from there has subscribed to it.

        Raises:
            NotImplementedError: This broker carries no marks.
        """
        raise NotImplementedError(f"{type(self).__name__} carries no marks, which presence and App(user=...) need")


_FORGET_AT_ONCE = 8
"""Histories that a call looks at which may be too old: no more, or one would pay for all; and one comes with a call."""


@final
class MemoryBroker(Broker):
    """Carries publications within this process: it delivers at once, and never waits."""

    def __init__(self) -> None:
        super().__init__()
        self._subscribed: set[Channel] = set()
        self._logs: dict[
            str, OrderedDict[Channel, _Log]
        ] = {}  # by topic; the one first that was touched least recently
        self._marked: dict[Channel, _Marked] = {}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """See `Broker.running`. What it holds ends with it: the clock of another run is another."""
        try:
            yield
        finally:
            self._subscribed.clear()
            self._logs.clear()
            self._marked.clear()

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        """Deliver a message; see `Broker.publish`. Not a checkpoint."""
        if history is not None:
            self._log(channel, history).append(publication, history)
        if channel in self._subscribed and self.deliver is not None:
            self.deliver(channel, publication)

    async def subscribe(self, channel: Channel) -> None:
        """See `Broker.subscribe`. Not a checkpoint."""
        self._subscribed.add(channel)

    def unsubscribe(self, channel: Channel) -> None:
        """See `Broker.unsubscribe`."""
        self._subscribed.discard(channel)
        logs = self._logs.get(channel.topic)
        if logs is not None and channel in logs:
            _touch(logs, channel)
        self._forget_unmarked(channel)

    async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
        """See `Broker.replay`. Not a checkpoint."""
        return self._log(channel, history).replay(since, history)

    def mark(self, channel: Channel, name: str, value: str | None) -> None:
        """Announce a mark at once; see `Broker.mark`."""
        marked = self._marked.get(channel)
        if value == (None if marked is None else marked.values.get(name)):
            return
        if marked is None:
            marked = self._marked[channel] = _Marked()
        marked.set(name, value)
        if channel in self._subscribed and self.announce is not None:
            self.announce(channel, Mark(self.process, name, value), marked.position)
        self._forget_unmarked(channel)

    async def marks(self, channel: Channel) -> Marks:
        """See `Broker.marks`. Not a checkpoint."""
        marked = self._marked.get(channel) or _Marked()
        if channel in self._subscribed:
            self._marked[channel] = marked
        return Marks([Mark(self.process, name, value) for name, value in marked.values.items()], marked.position)

    def _forget_unmarked(self, channel: Channel) -> None:
        """Forget where the marks of a channel are, once there are none and nobody goes on from there."""
        marked = self._marked.get(channel)
        if marked is not None and not marked.values and channel not in self._subscribed:
            del self._marked[channel]

    def _log(self, channel: Channel, history: History) -> _Log:
        """Return a channel's log, and forget those that have not been touched for too long."""
        logs = self._logs.setdefault(channel.topic, OrderedDict())
        if channel not in logs:
            logs[channel] = _Log()
        log = _touch(logs, channel)
        for _ in range(_FORGET_AT_ONCE):
            oldest = next(iter(logs))
            if oldest == channel or logs[oldest].touched > log.touched - history.seconds:
                break
            if oldest in self._subscribed:
                _touch(logs, oldest)
            else:
                del logs[oldest]
        return log


def _touch(logs: OrderedDict[Channel, _Log], channel: Channel) -> _Log:
    log = logs[channel]
    log.touched = trio.current_time()
    logs.move_to_end(channel)
    return log


@final
@define
class _Marked:
    """The marks of one channel."""

    values: dict[str, str] = field(factory=lambda: dict[str, str]())
    position: Position = field(factory=lambda: Position(secrets.token_hex(4), 0))

    def set(self, name: str, value: str | None) -> None:
        if value is None:
            del self.values[name]
        else:
            self.values[name] = value
        self.position = attrs.evolve(self.position, offset=self.position.offset + 1)


@final
@define
class _Log:
    """The history of one channel."""

    epoch: str = field(factory=lambda: secrets.token_hex(4))
    offset: int = 0
    bytes: int = 0
    touched: float = 0
    entries: deque[tuple[float, Publication]] = field(factory=lambda: deque[tuple[float, Publication]]())

    def append(self, publication: Publication, history: History) -> None:
        self.offset += 1
        self.bytes += len(publication.frame)
        publication.position = Position(self.epoch, self.offset)
        self.entries.append((self.touched, publication))
        while len(self.entries) > history.messages or (self.bytes > history.bytes and len(self.entries) > 1):
            self._forget_oldest()
        self._forget_old(history)

    def replay(self, since: str | None, history: History) -> Replay:
        self._forget_old(history)
        first = self.offset - len(self.entries)  # the oldest place that there is
        asked = Position(self.epoch, first) if since == History.OLDEST else Position.parse(since or "")
        recovered = asked is not None and asked.epoch == self.epoch and first <= asked.offset <= self.offset
        publications: list[Publication] = []
        if asked is not None and recovered:
            publications = [publication for _, publication in list(self.entries)[asked.offset - first :]]
        return Replay(publications, Position(self.epoch, self.offset), recovered)

    def _forget_old(self, history: History) -> None:
        while self.entries and self.entries[0][0] <= self.touched - history.seconds:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, publication = self.entries.popleft()
        self.bytes -= len(publication.frame)
