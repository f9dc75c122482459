"""The heartbeat of all connections: one task that pings them, and tells those apart that have gone.

Every `interval` a connection is pinged, and when nothing at all has come from it within `timeout` after that, it is
taken for gone: so a peer that vanishes at any moment is noticed within the sum of both. No clock is read and no
timer is set for a message: a connection only notes that something came.

A verdict needs a punctual judge. When this task wakes late, because something has blocked the whole loop, answers
may be waiting in sockets that nobody has read; so everyone who would be judged then has the whole time again.

Like the hub, it runs as a system task of the Trio run, for as long as there are connections.
"""

from __future__ import annotations

import itertools
import logging
import math
from heapq import heapify, heappop, heappush
from typing import Protocol, final

import trio
from attrs import define, field

_logger = logging.getLogger("streamrt")

_LATE = 0.25
"""The part of `timeout` by which a verdict may be late."""

_ids = itertools.count()


class Patient(Protocol):
    """A connection, as the heartbeat sees it; its calls never wait."""

    def ping(self) -> None:
        """Send a ping, and begin to listen."""
        ...

    def alive(self) -> bool:
        """Return whether there was a sign of life since the last ping."""
        ...

    def mourn(self) -> None:
        """Note that the peer is gone."""
        ...


@final
@define
class Beat:
    """One connection's heartbeat.

    Args:
        due: When there is something to do next.
        interval: Seconds between two pings.
        timeout: Seconds that a sign of life may take after a ping.
        patient: The connection; None when the heartbeat has stopped.
        heart: What keeps it.
    """

    due: float
    interval: float
    timeout: float
    patient: Patient | None
    heart: Heart
    _id: int = field(factory=lambda: next(_ids), init=False)
    _next_ping: float = field(default=0, init=False)
    _verdict: float = field(default=math.inf, init=False)

    def __attrs_post_init__(self) -> None:
        self._next_ping = self.due

    def __lt__(self, other: Beat) -> bool:
        return (self.due, self._id) < (other.due, other._id)

    def stop(self) -> None:
        """Let go of the connection. Safe to repeat."""
        if self.patient is not None:
            self.patient = None
            self.heart.lose()

    def go_on(self, now: float) -> None:
        """Do what is due, or what was due before a suspicion that has proved unfounded."""
        assert self.patient is not None
        if now >= self._verdict:
            self._verdict = math.inf
        if now >= self._next_ping:
            if self._verdict == math.inf or self.patient.alive():  # else the last ping is still under way
                self.patient.ping()
                self._verdict = now + self.timeout
            self._next_ping = now + self.interval
        self.due = min(self._verdict, self._next_ping)

    def suspicious(self, now: float) -> bool:
        """Return whether there was no sign of life in time."""
        return self.patient is not None and now >= self._verdict and not self.patient.alive()

    def postpone(self, now: float) -> None:
        """Give the connection the whole time again."""
        self._verdict = self.due = now + self.timeout


@final
class Heart:
    """Keeps the beats of all connections of a Trio run."""

    def __init__(self) -> None:
        self._beats: list[Beat] = []  # a heap; of those that have stopped, each leaves when it is due, or with others
        self._living = 0
        self._running = False
        self._alarm = trio.CancelScope()

    def add(self, patient: Patient, interval: float, timeout: float) -> Beat:
        """Begin the heartbeat of a connection."""
        beat = Beat(trio.current_time() + interval, interval, timeout, patient, self)
        if len(self._beats) > 2 * self._living + 64:  # so that those that have stopped are never the most
            self._beats = [other for other in self._beats if other.patient is not None]
            heapify(self._beats)
        heappush(self._beats, beat)
        self._living += 1
        if not self._running:
            self._running = True
            trio.lowlevel.spawn_system_task(self._run)
        self._alarm.deadline = min(self._alarm.deadline, beat.due)
        return beat

    def lose(self) -> None:
        """Note that one of them has stopped."""
        self._living -= 1
        if not self._living:
            self._alarm.cancel()

    async def _run(self) -> None:
        while self._living:
            with trio.CancelScope(deadline=self._beats[0].due) as self._alarm:
                await trio.sleep_forever()
            now = trio.current_time()
            due: list[Beat] = []
            while self._beats and self._beats[0].due <= now:
                due.append(heappop(self._beats))
            for _ in range(2):  # what has come in is read before anyone is judged
                await trio.lowlevel.checkpoint()
            for beat in due:
                try:
                    self._beat(beat, now)
                except Exception:  # a fault of one connection must not be all others' end
                    _logger.exception("the heartbeat of a connection failed")
                    beat.stop()
        self._beats.clear()
        self._running = False

    def _beat(self, beat: Beat, now: float) -> None:
        if beat.patient is None:
            return
        if not beat.suspicious(now):
            beat.go_on(now)
        elif now - beat.due > beat.timeout * _LATE:
            _logger.warning("the event loop was blocked for %.1f s: no peer is taken for gone by that", now - beat.due)
            beat.postpone(now)
        else:
            beat.patient.mourn()
            beat.stop()
            return
        heappush(self._beats, beat)


_current: trio.lowlevel.RunVar[Heart | None] = trio.lowlevel.RunVar("streamrt.heart", None)


def current_heart() -> Heart:
    """Return the heart of this Trio run."""
    heart = _current.get()
    if heart is None:
        heart = Heart()
        _current.set(heart)
    return heart
