"""All rooms of all topics in one place, the fan-out that serves them, and the broker that connects them with others.

Who is attached is here too: the seats of each topic that has a presence, and the rosters of keys that somebody reads.

There is one exchange in a Trio run, for all apps and tasks in it, and one for each app that has a broker of its own.
The fan-out is one system task for as long as there are rooms, like the hub that reads: it serves every room that has
something new, and lets others run when that takes long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, final

import trio
from attrs import define

from streamrt.wire.waiting import Waiting

from .attendance import Attendance
from .broker import Broker, Channel, MemoryBroker, Position, Publication
from .presence import Presence
from .room import Room, Subscriber, Terms
from .roster import Rosters

_TURN = 64
"""Messages that one task may publish before others get a turn, when nobody is subscribed."""

_FAN_OUT = 0.005
"""Seconds of the fan-out, after which others get a turn."""

_logger = logging.getLogger("streamrt")


@final
@define
class Totals:
    """What a topic has counted in rooms that are gone, and the messages that were published in this process."""

    published: int = 0
    delivered: int = 0
    dropped: int = 0


@final
class Exchange:
    """Rooms, a fan-out and a broker.

    Args:
        broker: What connects it.

    Raises:
        ValueError: The broker belongs to another exchange.
    """

    def __init__(self, broker: Broker) -> None:
        if broker.deliver is not None:
            raise ValueError("this broker belongs to another app that is running; give each app one of its own")
        self.broker: Broker = broker
        self.rosters: Rosters = Rosters(broker)
        broker.deliver, broker.lose, broker.settle = self._deliver, self._lose, self._settle
        broker.announce = self.rosters.announce
        self._attendances: dict[str, Attendance] = {}
        self._listeners: dict[Channel, Callable[[Publication], None]] = {}
        self._rooms: dict[Channel, Room] = {}
        self._totals: dict[str, Totals] = {}
        self._terms: dict[str, Terms] = {}
        self._new: dict[Room, None] = {}  # rooms that have something to hand out
        self._idle = Waiting()  # the fan-out, when there are none
        self._scope = trio.CancelScope()
        self._turn = 0

    def close(self) -> None:
        """Let go of the broker."""
        self.broker.deliver = self.broker.lose = self.broker.settle = self.broker.announce = None
        self.rosters.close()
        for attendance in self._attendances.values():
            attendance.close()

    def totals(self, terms: Terms) -> Totals:
        """Return what is counted of a topic.

        Raises:
            ValueError: Another topic has the same name.
        """
        if self._terms.setdefault(terms.name, terms) is not terms:
            raise ValueError(f"two topics have the name {terms.name!r}; their subscribers would get both's messages")
        return self._totals.setdefault(terms.name, Totals())

    def rooms(self, terms: Terms) -> Iterator[Room]:
        """Yield the rooms of a topic."""
        return (room for channel, room in self._rooms.items() if channel.topic == terms.name)

    def attendance(self, terms: Terms, presence: Presence[Any]) -> Attendance:
        """Return the seats of a topic that has a presence."""
        self.totals(terms)
        if terms.name not in self._attendances:
            self._attendances[terms.name] = Attendance(presence, self.broker)
        return self._attendances[terms.name]

    @contextmanager
    def heard_by(self, listener: Callable[[Publication], None], channel: Channel) -> Generator[None]:
        """Have a plain call get what is published on a channel that is no topic's, for as long as the block lasts."""
        self._listeners[channel] = listener
        try:
            yield
        finally:
            del self._listeners[channel]
            self.broker.unsubscribe(channel)

    @contextmanager
    def inside(self, channel: Channel, terms: Terms, subscriber: Subscriber) -> Generator[None]:
        """Have somebody in a room for as long as the block lasts; going in and out are plain calls."""
        self.totals(terms)
        room = self._rooms.get(channel)
        if room is None:
            if not self._rooms:
                self._scope = trio.CancelScope()
                trio.lowlevel.spawn_system_task(self._fan_out, self._scope)
            room = self._rooms[channel] = Room(channel, terms)
        room.add(subscriber)
        try:
            yield
        finally:
            room.remove(subscriber)
            if not room.subscribers:
                self._close(room)

    def _close(self, room: Room) -> None:
        del self._rooms[room.channel]
        self._new.pop(room, None)
        room.emptied.wake_all()
        self.broker.unsubscribe(room.channel)
        totals = self._totals[room.channel.topic]
        totals.delivered += room.delivered
        totals.dropped += room.dropped
        if not self._rooms:
            self._scope.cancel()

    async def publish(self, channel: Channel, terms: Terms, publication: Publication) -> None:
        """Publish; wait while the fan-out is behind, and never for a subscriber."""
        self._turn += 1
        if self._turn % _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while (room := self._rooms.get(channel)) is not None and room.full:
            await room.emptied.wait()
        totals = self.totals(terms)
        await self.broker.publish(channel, publication, terms.history)
        totals.published += 1

    def _deliver(self, channel: Channel, publication: Publication) -> None:
        room = self._rooms.get(channel)
        try:
            if room is None:
                if channel in self._listeners:
                    self._listeners[channel](publication)
                return
            room.note(publication)
        except Exception:  # of `latest_by`, or about a message of another version, from another process
            _logger.exception("a message of the topic %s cannot be handed to anybody", channel.topic)
            return
        self._new[room] = None
        if self._idle:
            self._idle.wake()

    def _lose(self, channel: Channel, position: Position | None) -> None:
        room = self._rooms.get(channel)
        if room is not None:
            room.lose(position)
        self.rosters.expire(channel)

    async def _settle(self) -> None:
        for room in list(self._new):
            while room.full and self._rooms.get(room.channel) is room:
                await room.emptied.wait()
        await trio.lowlevel.checkpoint()

    async def _fan_out(self, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                if not self._new:
                    await self._idle.wait()
                end = time.perf_counter() + _FAN_OUT
                for room in list(self._new):
                    del self._new[room]
                    if not room.hand_out(end):
                        self._new[room] = None  # behind the others
                    if time.perf_counter() >= end:
                        break
                if self._new:
                    await trio.lowlevel.checkpoint()


_shared: trio.lowlevel.RunVar[Exchange | None] = trio.lowlevel.RunVar("streamrt.exchange", None)
own_exchange: ContextVar[Exchange | None] = ContextVar("streamrt.exchange", default=None)
"""That of the app that a task belongs to, if it has a broker."""


def current_exchange() -> Exchange:
    """Return the exchange of this task's app, or that of the Trio run."""
    return own_exchange.get() or shared_exchange()


def shared_exchange() -> Exchange:
    """Return the exchange of the Trio run."""
    exchange = _shared.get()
    if exchange is None:
        exchange = Exchange(MemoryBroker())
        _shared.set(exchange)
    return exchange
