"""Presence against a model of it: whatever happens in whatever order, to streams, processes and their connections.

At all times a change begins where the one before it has ended: who joins was not there, who leaves was. And once all
connections are there, and nothing more happens, everyone who reads has been led to exactly those who are attached.
"""

from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import Changed, Joined, Left, Member, Presence, Present, Topic
from streamrt.runtime.exchange import Exchange
from tests.contracts.shared import Switchboard
from tests.topics.test_presence import Crowd, broker_of, inside, process, waiting

PROCESSES = 3
NAMES = ["ada", "bob", "eve"]
LEAVE_AFTER = 4.0
LEASE = 9.0

where = st.integers(0, PROCESSES - 1)
operations = st.one_of(
    st.tuples(st.just("come"), where, st.sampled_from(NAMES)),
    st.tuples(st.just("go"), where, st.sampled_from(NAMES)),
    st.tuples(st.just("read"), where, st.sampled_from([1, 2, 100])),
    st.tuples(st.just("receive"), where, st.integers(0, 3)),
    st.tuples(st.just("stop reading"), where, st.none()),
    st.tuples(st.just("cut"), where, st.none()),
    st.tuples(st.just("mend"), where, st.none()),
    st.tuples(st.just("lose one"), where, st.none()),
    st.tuples(st.just("kill"), st.just(PROCESSES - 1), st.none()),
    st.tuples(st.just("pass"), where, st.sampled_from([0.5, 2, LEAVE_AFTER, LEASE])),
)


@attrs.define(eq=False)
class Reader:
    """One who reads, and what it was led to."""

    present: Present[Any]
    stack: AsyncExitStack
    told: dict[str, Member[Any]]

    def receive(self, count: float = float("inf")) -> None:
        while count and (change := self.present._take()) is not None:
            count -= 1
            name = change.member.name
            match change:
                case Joined(member):
                    assert name not in self.told
                    self.told[name] = member
                case Changed(member, before):
                    assert self.told[name] == before != member
                    self.told[name] = member
                case Left(member):
                    assert self.told.pop(name) == member


@attrs.define(eq=False)
class World:
    """The processes, who reads in them, and how many streams of whom are there."""

    exchanges: list[Exchange]
    crowds: list[Crowd]
    readers: list[list[Reader]]
    streams: list[Counter[str]]
    losing: set[int]
    dead: set[int]
    lost: bool = False

    async def do(self, what: str, where: int, argument: Any) -> None:
        broker, readers, streams = broker_of(self.exchanges[where]), self.readers[where], self.streams[where]
        if where in self.dead:
            return
        with inside(self.exchanges[where]):
            if what == "come" and broker.is_connected:
                await self.crowds[where].comes(topic, argument)
                streams[argument] += 1
            elif what == "go" and streams[argument]:
                await self.crowds[where].goes(argument)
                streams[argument] -= 1
            elif what == "read" and broker.is_connected:
                stack = AsyncExitStack()
                present = await stack.enter_async_context(topic.presence())
                present._backlog = argument
                readers.append(Reader(present, stack, dict(present.members)))
            elif what == "receive":
                for reader in readers:
                    reader.receive(argument)
            elif what == "stop reading" and readers:
                await readers.pop().stack.aclose()
            elif what == "cut" and broker.is_connected:
                broker.cut()
            elif what == "mend" and not broker.is_connected:
                broker.mend()
            elif what == "lose one":
                self.losing.add(where)
            elif what == "kill":
                broker.kill()
                self.dead.add(where)
                for reader in readers:
                    await reader.stack.aclose()
            elif what == "pass":
                await trio.sleep(argument)

    def lossy(self, where: int) -> None:
        """Let a process miss an announcement when it is told to."""
        broker = broker_of(self.exchanges[where])
        announce = broker.announce
        assert announce is not None

        def announce_most(*change: Any) -> None:
            if where in self.losing:
                self.losing.discard(where)
                self.lost = True
            else:
                announce(*change)

        broker.announce = announce_most

    async def end(self) -> None:
        """Let all connections be there, all seats be given up, and what was lost be noticed, with the next change."""
        for where in range(PROCESSES):
            await self.do("mend", where, None)
        self.losing.clear()
        await trio.sleep(LEAVE_AFTER + LEASE + 1)
        if self.lost:
            await self.do("come", 0, "last")
        await wait_all_tasks_blocked()


topic = Topic("lobby", int, presence=Presence(leave_after=LEAVE_AFTER))


async def play(operations: list[Any]) -> None:
    switchboard = Switchboard(lease=LEASE)
    async with AsyncExitStack() as stack:
        exchanges = [await stack.enter_async_context(process(switchboard)) for _ in range(PROCESSES)]
        nursery = await stack.enter_async_context(trio.open_nursery())
        world = World(
            exchanges,
            [Crowd(nursery) for _ in exchanges],
            [[] for _ in exchanges],
            [Counter() for _ in exchanges],
            set(),
            set(),
        )
        for where in range(PROCESSES):
            world.lossy(where)
            await world.do("read", where, [1, 2, 100][where])
        for operation in operations:
            await world.do(*operation)
            await wait_all_tasks_blocked()
        await world.end()
        living = [where for where in range(PROCESSES) if where not in world.dead]
        there = sum((world.streams[where] for where in living), Counter[str]())
        expected = {name: Member(name=name, about=None, connections=count) for name, count in there.items()}
        for where in living:
            for reader in world.readers[where]:
                assert reader.present.members == expected
                reader.receive()
                assert reader.told == expected
                assert waiting(reader.present) == []
                await reader.stack.aclose()
        nursery.cancel_scope.cancel()
    for exchange in exchanges:
        assert exchange.rosters._rosters == {}


@pytest.mark.slow
@given(st.lists(operations, min_size=10, max_size=60))
@settings(max_examples=100)
def test_whoever_reads_is_led_to_those_who_are_there(operations: list[Any]) -> None:
    note(f"{operations}")
    trio.run(play, operations, clock=MockClock(autojump_threshold=0))
