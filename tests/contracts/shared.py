"""A broker between several processes of a test, which are all in one: what it takes a real one for, in virtual time.

The server between them is a `Switchboard`. Whatever a broker asks of it takes a turn of the scheduler or two, a
process may be killed, and a connection may be cut.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import final

import attrs
import trio

from streamrt import History, MemoryBroker
from streamrt.runtime.broker import Broker, Channel, Mark, Marks, Position, Publication, Replay


@final
@attrs.define(eq=False)
class Board:
    """The marks of one channel."""

    values: dict[tuple[str, str], str] = attrs.Factory(dict[tuple[str, str], str])
    position: Position = attrs.Factory(lambda: Position(secrets.token_hex(4), 0))


@final
@attrs.define(eq=False)
class Switchboard:
    """The server."""

    lease: float = 9.0
    histories: MemoryBroker = attrs.Factory(MemoryBroker)
    connected: dict[SharedBroker, None] = attrs.Factory(lambda: dict[SharedBroker, None]())
    boards: dict[Channel, Board] = attrs.Factory(dict[Channel, Board])
    leases: dict[str, float] = attrs.Factory(dict[str, float])

    async def publish(
        self, channel: Channel, sender: SharedBroker, publication: Publication, history: History | None
    ) -> None:
        if history is not None:
            await self.histories.publish(channel, publication, history)
        for broker in list(self.connected):
            if channel in broker.subscribed and broker.deliver is not None:
                theirs = publication if broker is sender else Publication(publication.frame)
                theirs.position = publication.position
                broker.deliver(channel, theirs)

    def set(self, channel: Channel, process: str, name: str, value: str | None) -> None:
        board = self.boards.setdefault(channel, Board())
        if board.values.get((process, name)) == value:
            return
        if value is None:
            del board.values[process, name]
        else:
            board.values[process, name] = value
        board.position = attrs.evolve(board.position, offset=board.position.offset + 1)
        for broker in list(self.connected):
            if channel in broker.subscribed and broker.announce is not None:
                broker.announce(channel, Mark(process, name, value), board.position)

    def renew(self, process: str) -> bool:
        """Renew a lease; return whether it had ended."""
        ended = process not in self.leases
        self.leases[process] = trio.current_time() + self.lease * 2 / 3
        for gone in [one for one, until in self.leases.items() if until <= trio.current_time()]:
            del self.leases[gone]
            for channel, board in list(self.boards.items()):
                for owner, name in list(board.values):
                    if owner == gone:
                        self.set(channel, gone, name, None)
        return ended


@final
class SharedBroker(Broker):
    """The broker of one process."""

    def __init__(self, switchboard: Switchboard) -> None:
        super().__init__()
        self.lease = switchboard.lease
        self.switchboard = switchboard
        self.subscribed: set[Channel] = set()
        self.own: dict[Channel, dict[str, str]] = {}
        self._unsaid: OrderedDict[tuple[Channel, str], None] = OrderedDict()
        self._marking = trio.Event()

    @property
    def is_connected(self) -> bool:
        return self in self.switchboard.connected

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        self.process = secrets.token_hex(8)
        async with trio.open_nursery() as nursery:
            self.switchboard.connected[self] = None
            self.switchboard.renew(self.process)
            nursery.start_soon(self._renew)
            nursery.start_soon(self._mark)
            yield
            if self.is_connected:
                self._say_all()
                self.kill()
            nursery.cancel_scope.cancel()

    def kill(self) -> None:
        """Be gone, without a word."""
        self.switchboard.connected.pop(self, None)

    def cut(self) -> None:
        """Lose the connection."""
        del self.switchboard.connected[self]

    def mend(self) -> None:
        """Have it back."""
        self.switchboard.connected[self] = None
        self._renew_now()
        self._say_all()
        for channel in list(self.subscribed):
            if self.lose is not None:
                self.lose(channel, None)

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        await self._reach()
        await self.switchboard.publish(channel, self, publication, history)
        await trio.lowlevel.checkpoint()

    async def subscribe(self, channel: Channel) -> None:
        await self._reach()
        self.subscribed.add(channel)
        await trio.lowlevel.checkpoint()

    def unsubscribe(self, channel: Channel) -> None:
        self.subscribed.discard(channel)
        self.switchboard.histories.unsubscribe(channel)

    async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
        await self._reach()
        replay = await self.switchboard.histories.replay(channel, since, history)
        await trio.lowlevel.checkpoint()
        return replay

    def mark(self, channel: Channel, name: str, value: str | None) -> None:
        own = self.own.setdefault(channel, {})
        if value is None:
            own.pop(name, None)
        else:
            own[name] = value
        if not own:
            del self.own[channel]
        self._unsaid[channel, name] = None
        self._marking.set()

    async def marks(self, channel: Channel) -> Marks:
        await self._reach()
        self._say_all()
        board = self.switchboard.boards.get(channel, Board())
        if channel in self.subscribed:
            self.switchboard.boards[channel] = board
        marks = Marks([Mark(*place, value) for place, value in board.values.items()], board.position)
        await trio.lowlevel.checkpoint()
        return marks

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_connected:
            raise OSError("the connection is lost")

    async def _renew(self) -> None:
        while True:
            await trio.sleep(self.lease / 3)
            if self.is_connected:
                self._renew_now()

    def _renew_now(self) -> None:
        if self.switchboard.renew(self.process):
            self._unsaid.update(((channel, name), None) for channel, names in self.own.items() for name in names)
            self._marking.set()

    async def _mark(self) -> None:
        while True:
            await self._marking.wait()
            self._marking = trio.Event()
            await trio.lowlevel.checkpoint()
            if self.is_connected:
                self._say_all()

    def _say_all(self) -> None:
        while self._unsaid:
            (channel, name), _ = self._unsaid.popitem(last=False)
            self.switchboard.set(channel, self.process, name, self.own.get(channel, {}).get(name))
