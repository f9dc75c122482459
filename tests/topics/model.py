"""What topics do, in the plainest Python: lists, and one message after the other.

Nothing happens by itself here. `Model.publish` notes a message for everyone who listens, `Listener.catch_up` hands on
what was noted, and `Line.write` lets a writer run.
"""

import math
from collections import defaultdict

import attrs

from streamrt import History, KeyStatistics, TopicStatistics
from streamrt.runtime.room import WhenFull


@attrs.frozen
class Message:
    """What was published.

    Args:
        number: Its content; its size is that of its text.
        offset: Its place in the history, from 1; 0 where there is none.
        by: Whose handler has published it.
        exclude: Who does not get it.
    """

    number: int
    offset: int
    by: "Line | None" = attrs.field(default=None, repr=False)
    exclude: "Line | None" = attrs.field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(str(self.number))


@attrs.frozen
class Terms:
    """What a topic is declared with."""

    name: str
    when_full: WhenFull
    named: bool  # by size, so that a message takes the place of one of its own size
    backlog: int
    backlog_bytes: int
    history: History | None


@attrs.define(eq=False)
class Place:
    """A place in a line, or in the backlog of a task.

    Args:
        message: What is in it.
        listener: In whose backlog it counts; None when in nobody's.
    """

    message: Message
    listener: "Listener | None" = None

    def leave(self) -> int:
        if self.listener is not None:
            self.listener.backlog.remove(self)
        return self.message.number


@attrs.define(eq=False)
class Line:
    """The way out of a stream: what stands in line, what its writer has in hand, and what the peer has heard."""

    listeners: "list[Listener]" = attrs.Factory(lambda: list[Listener]())
    places: list[Place] = attrs.Factory(lambda: list[Place]())
    hand: list[int] = attrs.Factory(lambda: list[int]())
    heard: list[int] = attrs.Factory(lambda: list[int]())
    room: float = math.inf
    ended: int | None = None  # the close code
    broken: bool = False  # nothing goes out any more

    @property
    def stalled(self) -> bool:
        return self.room <= 0

    def send(self, message: Message) -> None:
        for listener in self.listeners:
            listener.catch_up()
        if not self.straight(message):
            self.places.append(Place(message))

    def straight(self, message: Message) -> bool:
        """Send a message, if nothing is before it, and the peer takes it."""
        if self.places or self.hand or self.stalled:
            return False
        self._hear(message.number)
        return True

    def write(self) -> None:
        """Let the writer run: it takes everything that is in line at once."""
        while not self.broken:
            while self.hand and not self.stalled:
                self._hear(self.hand.pop(0))
            if self.hand or not self.places:
                break
            self.hand = [place.leave() for place in self.places]
            self.places.clear()

    def _hear(self, number: int) -> None:
        self.heard.append(number)
        self.room -= 1


@attrs.define(eq=False)
class Listener:
    """Somebody in a room: a stream, or a task if it has no line.

    Args:
        room: Which.
        line: The way out of the stream.
        shy: Whether it does not want what it has published itself.
        handed: The offset of the last message that the stream was handed, or that the task has received.
        replayed: What a task has of the history, and has not received.
    """

    room: "Room"
    line: Line | None
    shy: bool = False
    handed: int = 0
    noted: list[Message] = attrs.Factory(lambda: list[Message]())
    backlog: list[Place] = attrs.Factory(lambda: list[Place]())
    replayed: list[Message] = attrs.Factory(lambda: list[Message]())
    failed: bool = False

    def catch_up(self) -> None:
        """Be handed what was noted."""
        noted, self.noted = self.noted, []
        if noted and self.line is not None:
            self.handed = noted[-1].offset
        messages = [message for message in noted if self.wants(message)]
        if self.failed or (self.line is not None and self.line.ended is not None):
            return
        if self.line is not None:
            while messages and self.line.straight(messages[0]):
                self.room.delivered += 1
                del messages[0]
            if messages and not self.line.places and not self.line.hand:
                self.line.places.append(Place(messages.pop(0)))  # it may be out in part: no more to be dropped
                self.room.delivered += 1
        while messages and not self.failed:
            self._offer(messages)

    def wants(self, message: Message) -> bool:
        return self.line is None or not (self.line is message.exclude or (self.shy and self.line is message.by))

    def receive(self) -> Message:
        message = self.replayed.pop(0) if self.replayed else self.backlog.pop(0).message
        self.handed = message.offset
        return message

    @property
    def filled(self) -> bool:
        return bool(self.replayed or self.backlog)

    def _offer(self, messages: list[Message]) -> None:
        """Queue the first of the messages, or not."""
        terms, message = self.room.terms, messages[0]
        same = [place for place in self.backlog if not terms.named or place.message.size == message.size]
        if terms.when_full == "latest" and same:
            same[0].message = message
            self.room.dropped += 1
        else:
            while not self._fits(message) and terms.when_full in ("drop_oldest", "latest"):
                self._drop(self.backlog[0])
            if self._fits(message):
                place = Place(message, self)
                self.backlog.append(place)
                if self.line is not None:
                    self.line.places.append(place)
                self.room.delivered += 1
            elif terms.when_full == "drop_newest":
                self.room.dropped += 1
            else:
                self.failed = True
                self.room.dropped += len(messages)
                for place in list(self.backlog):
                    self._drop(place)
                self.room.delivered -= len(self.replayed)
                self.room.dropped += len(self.replayed)
                self.replayed.clear()
                if self.line is not None:
                    self.line.ended = 4429
        del messages[0]

    def _fits(self, message: Message) -> bool:
        terms = self.room.terms
        size = sum(place.message.size for place in self.backlog) + message.size
        return not self.backlog or (len(self.backlog) < terms.backlog and size <= terms.backlog_bytes)

    def _drop(self, place: Place) -> None:
        place.leave()
        if self.line is not None:
            self.line.places.remove(place)
        self.room.delivered -= 1
        self.room.dropped += 1


@attrs.define(eq=False)
class Room:
    """Who listens to one key of a topic, and what is counted meanwhile."""

    terms: Terms
    key: str
    listeners: list[Listener] = attrs.Factory(lambda: list[Listener]())
    published: int = 0
    delivered: int = 0
    dropped: int = 0

    def statistics(self) -> KeyStatistics:
        return KeyStatistics(
            subscribers=len(self.listeners),
            published=self.published,
            delivered=self.delivered,
            dropped=self.dropped,
        )


@attrs.define(eq=False)
class Log:
    """The history of one key. It begins anew when it was forgotten."""

    beginning: int = 0  # how often it was forgotten before
    offset: int = 0
    touched: float = 0
    entries: list[tuple[float, Message]] = attrs.Factory(lambda: list[tuple[float, Message]]())

    def trim(self, history: History, now: float) -> None:
        self.touched = now
        self.entries = [entry for entry in self.entries if entry[0] > now - history.seconds][-history.messages :]
        while len(self.entries) > 1 and sum(message.size for _, message in self.entries) > history.bytes:
            del self.entries[0]


@attrs.frozen
class Since:
    """A position: how often the history had been forgotten, and the last message before it."""

    key: str
    beginning: int
    offset: int


@attrs.define(eq=False)
class Model:
    """One topic. Whoever hears several has one line for all of them."""

    terms: Terms
    rooms: dict[str, Room] = attrs.Factory(lambda: dict[str, Room]())
    logs: defaultdict[str, Log] = attrs.Factory(lambda: defaultdict[str, Log](Log))
    published: int = 0
    delivered: int = 0
    dropped: int = 0

    def publish(self, key: str, number: int, now: float, *, by: Line | None, exclude: Line | None) -> None:
        self.published += 1
        offset = self._log(key, now).offset + 1 if self.terms.history is not None else 0
        message = Message(number, offset, by, exclude)
        if self.terms.history is not None:
            log = self.logs[key]
            log.offset += 1
            log.entries.append((now, message))
            log.trim(self.terms.history, now)
        if key in self.rooms:
            room = self.rooms[key]
            room.published += 1
            for listener in room.listeners:
                listener.noted.append(message)

    def join(
        self, key: str, line: Line | None, since: Since | str | None, now: float, *, shy: bool
    ) -> tuple[Listener, bool]:
        """Let somebody in; return it, and whether the history was recovered."""
        room = self.rooms.setdefault(key, Room(self.terms, key))
        listener = Listener(room, line, shy)
        room.listeners.append(listener)
        recovered = False
        if self.terms.history is not None:
            log = self._log(key, now)
            replay = []
            first = log.offset - len(log.entries)
            if since == History.OLDEST:
                since = Since(key, log.beginning, first)
            if isinstance(since, Since) and (since.key, since.beginning) == (key, log.beginning):
                recovered = since.offset >= first
            if recovered:
                assert isinstance(since, Since)
                missed = [message for _, message in log.entries if message.offset > since.offset]
                replay = [message for message in missed if listener.wants(message)]
            room.delivered += len(replay)
            listener.handed = log.offset
            if line is None:
                listener.replayed = replay
                listener.handed -= len(replay)
            else:
                for message in replay:
                    line.send(message)
        if line is not None:
            line.listeners.append(listener)
        return listener, recovered

    def leave(self, listener: Listener, now: float) -> None:
        room = listener.room
        if listener.line is None:
            listener.failed = True  # it takes no more
        listener.catch_up()
        if listener.line is not None:
            listener.line.listeners.remove(listener)
        room.listeners.remove(listener)
        if not room.listeners:
            del self.rooms[room.key]
            self.delivered += room.delivered
            self.dropped += room.dropped
            if self.terms.history is not None:
                self.logs[room.key].touched = now

    def statistics(self) -> TopicStatistics:
        rooms = self.rooms.values()
        return TopicStatistics(
            subscribers=sum(len(room.listeners) for room in rooms),
            published=self.published,
            delivered=self.delivered + sum(room.delivered for room in rooms),
            dropped=self.dropped + sum(room.dropped for room in rooms),
            keys={room.key: room.statistics() for room in rooms},
        )

    def _log(self, key: str, now: float) -> Log:
        """Return a history, and forget those that were not touched for too long, and that nobody listens to."""
        assert self.terms.history is not None
        self.logs[key].trim(self.terms.history, now)
        for other, log in list(self.logs.items()):
            if log.touched <= now - self.terms.history.seconds:
                if other in self.rooms:
                    log.touched = now
                else:
                    self.logs[other] = Log(log.beginning + 1, touched=math.inf)
        return self.logs[key]
