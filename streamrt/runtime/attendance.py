"""Who is attached to a topic in this process, and how the others are told: a mark for each member of each key.

Sitting down and getting up are plain calls, however a stream ends. A member without a stream keeps its seat for
`leave_after`, with 0 connections, and its mark is cleared by a task that is there for as long as a seat is kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, final

import trio
from attrs import define, field

from .broker import Broker, Channel
from .presence import Presence, encode_part


@final
@define(eq=False)
class _Seat:
    """A member of one key."""

    channel: Channel
    name: str
    streams: dict[object, tuple[float, str]] = field(factory=lambda: dict[object, tuple[float, str]]())
    at: float = 0.0
    about: str = ""

    def write(self) -> str:
        if self.streams:
            self.at, self.about = next(reversed(self.streams.values()))
        return encode_part(len(self.streams), self.at, self.about)


@final
class Attendance:
    """The seats of one topic.

    Args:
        presence: How the topic declares it.
        broker: Where members are marked.
    """

    def __init__(self, presence: Presence[Any], broker: Broker) -> None:
        self._presence = presence
        self._broker = broker
        self._seats: dict[tuple[Channel, str], _Seat] = {}
        self._kept: OrderedDict[_Seat, float] = OrderedDict()  # those without a stream, and until when
        self._scope: trio.CancelScope | None = None  # around the task

    @contextmanager
    def seated(self, channel: Channel, name: str, about: str) -> Generator[None]:
        """Count a stream for as long as the block lasts.

        Args:
            channel: Where its key is marked.
            name: The member that it is of.
            about: What it tells about that, as JSON.
        """
        seat = self._seats.get((channel, name)) or _Seat(channel, name)
        stream = object()
        seat.streams[stream] = (time.time(), about)
        self._broker.mark(channel, name, seat.write())
        self._seats[channel, name] = seat
        self._kept.pop(seat, None)
        try:
            yield
        finally:
            del seat.streams[stream]
            if seat.streams:
                self._broker.mark(channel, name, seat.write())
            elif self._presence.leave_after:
                self._keep(seat)
            else:
                self._clear(seat)

    def close(self) -> None:
        """Let the marks be: they end with the broker, or with its lease."""
        if self._scope is not None:
            self._scope.cancel()

    def _keep(self, seat: _Seat) -> None:
        self._kept[seat] = trio.current_time() + self._presence.leave_after
        self._broker.mark(seat.channel, seat.name, seat.write())
        if self._scope is None:
            self._scope = trio.CancelScope()
            trio.lowlevel.spawn_system_task(self._clear_in_time, self._scope)

    def _clear(self, seat: _Seat) -> None:
        del self._seats[seat.channel, seat.name]
        self._broker.mark(seat.channel, seat.name, None)

    async def _clear_in_time(self, scope: trio.CancelScope) -> None:
        with scope:
            while self._kept:
                seat, until = next(iter(self._kept.items()))
                await trio.sleep_until(until)
                if self._kept.get(seat) == until:  # it has not come back meanwhile
                    del self._kept[seat]
                    self._clear(seat)
        self._scope = None
