"""What a process has subscribed to, and what it is handed of it: everything, in order, once; or it is told of a loss.

A channel that has a history is heard without holes: each message says its offset, and one that does not follow the last
means that some are missing. Then what comes is held back, and the history is asked for what lies between (`due`). That
is so after every reconnection too. Where no history is, or it has not got everything, the loss is told, once.

Marks are announced as they come: whoever reads them looks at their positions, and is told where some may be missing.

Nothing here waits, and nothing here is sent: a link does both.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import final

from streamrt.runtime.broker import Announce, Channel, Deliver, History, Lose, Position, Publication, Replay
from streamrt.wire.waiting import Waiting

from .envelope import MARKS, Envelope, UnknownVersion, open_envelope, open_marks
from .names import Keys, Names

_HELD = 64
"""Envelopes that are held back at most: when there are more, the history is asked again."""

_logger = logging.getLogger("streamrt")


@final
class Ear:
    """One channel that is heard.

    Args:
        channel: Which.
        keys: Its names on the server.

    Attributes:
        open: Whether the server knows of it now.
        missed_some: Whether something may have been published since somebody subscribed that did not come.
        history: What is kept, once that is known.
        last: The position of what was delivered last; None before that is known.
        held: What came while the history was asked; None while it is not.
        touched: When the server was last told that the history is needed.
        is_read: Whether somebody goes on from all marks that it has.
        echoes: What has been published here and is not back, by its number: to be called when it is.
    """

    __slots__ = (
        "channel",
        "echoes",
        "held",
        "history",
        "is_read",
        "keys",
        "last",
        "missed_some",
        "open",
        "touched",
        "waiting",
    )

    def __init__(self, channel: Channel, keys: Keys) -> None:
        self.channel: Channel = channel
        self.keys: Keys = keys
        self.open: bool = False
        self.missed_some: bool = False
        self.history: History | None = None
        self.last: Position | None = None
        self.held: deque[Envelope] | None = None
        self.touched: float = 0
        self.is_read: bool = False
        self.echoes: dict[int, Callable[[], None]] = {}
        self.waiting: Waiting = Waiting()

    def close(self) -> None:
        """Hear nothing more, for now or forever."""
        self.open, self.held = False, None
        self.waiting.wake_all()
        echoes, self.echoes = self.echoes, {}
        for echo in echoes.values():
            echo()


@final
class Hearing:
    """All that is heard.

    Args:
        names: Of the broker.
        deliver: Takes a message.
        lose: Is told that something may be missing, and where the history goes on, if there is one.
        announce: Takes a mark.

    Attributes:
        ears: By channel.
        changes: Names of channels that the server may have to be told about.
        due: Ears whose histories have to be asked.
        news: Whoever waits for one of these.
        numbers: Of what is published.
        delivered: Messages that were delivered.
        losses: How often a loss was told.
    """

    def __init__(
        self,
        names: Names,
        deliver: Deliver,
        lose: Lose,
        announce: Announce,
    ) -> None:
        self.ears: dict[Channel, Ear] = {}
        self.changes: dict[bytes, None] = {}
        self.due: dict[Ear, None] = {}
        self.news: Waiting = Waiting()
        self.delivered: int = 0
        self.losses: int = 0
        self.names: Names = names
        self.numbers: Iterator[int] = itertools.count()
        self._deliver = deliver
        self._lose = lose
        self._announce = announce
        self._named: dict[bytes, Ear] = {}
        self._known: set[bytes] = set()  # names that the server sends us messages of
        self._has_complained = False

    # What the broker calls.

    def add(self, channel: Channel) -> Ear:
        """Begin to hear a channel, or go on; the ear may have to be waited for until it is open."""
        ear = self.ears.get(channel)
        if ear is None:
            ear = self.ears[channel] = Ear(channel, self.names.keys(channel))
            self._named[ear.keys.name] = ear
            ear.open = ear.keys.name in self._known
            if not ear.open:
                self._change(ear.keys.name)
        return ear

    def remove(self, channel: Channel) -> None:
        """Hear a channel no more."""
        ear = self.ears.pop(channel, None)
        if ear is not None:
            del self._named[ear.keys.name]
            self.due.pop(ear, None)
            self._change(ear.keys.name)
            ear.close()

    def note(self, channel: Channel, history: History, position: Position) -> None:
        """Note where a history is: what comes of it now is behind that."""
        ear = self.ears.get(channel)
        if ear is not None:
            ear.history = history
            if ear.last is None:
                ear.last = position

    def doubt(self) -> None:
        """Have all marks read anew: the server may have forgotten them without a word."""
        for ear in self.ears.values():
            if ear.is_read and ear.open:
                self._lost(ear, None)

    # What a link calls.

    def begin(self) -> None:
        """Have a new connection, of which the server knows nothing yet."""
        self._known.clear()
        self.due.clear()
        self.changes = dict.fromkeys(self._named)

    def end(self) -> None:
        """Have no connection any more: from now on, something may be missed."""
        for ear in self.ears.values():
            ear.missed_some |= ear.open
            ear.close()

    def take_changes(self) -> tuple[list[bytes], list[bytes]]:
        """Return the names to subscribe to, and those to unsubscribe from."""
        changes, self.changes = self.changes, {}
        new = [name for name in changes if name in self._named and name not in self._known]
        gone = [name for name in changes if name not in self._named and name in self._known]
        self._known.difference_update(gone)
        return new, gone

    def opened(self, name: bytes) -> None:
        """Note that the server sends messages of a channel from now on."""
        self._known.add(name)
        ear = self._named.get(name)
        if ear is None:
            return
        ear.open = True
        ear.waiting.wake_all()
        if ear.missed_some:
            self._catch_up(ear, None)

    def hear(self, name: bytes, payload: bytes) -> None:
        """Take what was published."""
        ear = self._named.get(name)
        if ear is None or not ear.open:
            return
        try:
            if payload.startswith(MARKS):
                for mark, position in open_marks(payload):
                    self._announce(ear.channel, mark, position)
                return
            envelope = open_envelope(payload, self.names.sender)
        except UnknownVersion as error:
            self.complain(error)
            self._catch_up(ear, None)  # which ends with what can be read, or a loss
            return
        self._take(ear, envelope)
        if envelope.own is not None and (echo := ear.echoes.pop(envelope.own, None)) is not None:
            echo()

    def replayed(self, ear: Ear, replay: Replay) -> None:
        """Go on behind what a history has had."""
        held, ear.held, ear.missed_some = ear.held or (), None, False
        if self.ears.get(ear.channel) is not ear:
            return
        ear.last = replay.position
        if replay.recovered:
            self._hand_on(ear, replay.publications)
        else:
            for envelope in held:  # what has come since is not lost, though the history may have it already
                first = envelope.first
                if first is not None and first.epoch == ear.last.epoch and first.offset <= ear.last.offset:
                    ear.last = Position(first.epoch, first.offset - 1)
                    break
            self._lost(ear, ear.last)
        for envelope in held:
            self._take(ear, envelope, asked=True)

    def complain(self, error: UnknownVersion) -> None:
        """Say, once, that somebody sends what cannot be read."""
        if not self._has_complained:
            self._has_complained = True
            _logger.error("messages of another version of streamrt are skipped: %s", error)

    # Inside.

    def _change(self, name: bytes) -> None:
        self.changes[name] = None
        self.news.wake_all()

    def _take(self, ear: Ear, envelope: Envelope, *, asked: bool = False) -> None:
        if ear.held is None:
            self._go_on(ear, envelope, asked=asked)
        else:
            ear.held.append(envelope)

    def _go_on(self, ear: Ear, envelope: Envelope, *, asked: bool = False) -> None:
        first, publications = envelope.first, envelope.publications
        if first is None:
            self._hand_on(ear, publications)
            return
        end = Position(first.epoch, first.offset + len(publications) - 1)
        if ear.last is not None and ear.last.epoch == first.epoch:
            ahead = ear.last.offset + 1 - first.offset
            if ahead < 0:
                self._catch_up(ear, envelope)
                return
            if ear.last.offset >= end.offset:
                return
            publications = publications[ahead:]
        elif ear.last is not None and not asked:  # behind an answer, what is of another epoch was published before it
            self._catch_up(ear, envelope)
            return
        self._hand_on(ear, publications)
        ear.last = end

    def _catch_up(self, ear: Ear, envelope: Envelope | None) -> None:
        """Have the history asked for what is missing, if it can be."""
        if ear.history is not None and ear.last is not None:
            if ear.held is None:
                ear.held = deque(maxlen=_HELD)
            self.due[ear] = None
            self.news.wake_all()
        else:
            self._lost(ear, None)
            ear.missed_some, ear.last = False, None
        if envelope is not None:
            self._take(ear, envelope)

    def _hand_on(self, ear: Ear, publications: Sequence[Publication]) -> None:
        self.delivered += len(publications)
        for publication in publications:
            self._deliver(ear.channel, publication)

    def _lost(self, ear: Ear, position: Position | None) -> None:
        self.losses += 1
        self._lose(ear.channel, position)
