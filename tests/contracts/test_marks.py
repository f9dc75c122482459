"""What presence may rely on, whatever broker carries its marks: every broker that carries any passes these tests.

Those of several processes are for brokers that connect several. In memory there is one, whose marks end with it; so
what is played here beside it is a broker between the processes of a test (`tests.contracts.shared`).
"""

import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import History, MemoryBroker
from streamrt.brokers import RedisBroker
from streamrt.runtime.broker import Broker, Channel, Mark, Position
from tests.brokers.servers import Server
from tests.brokers.stage import Proxy, joined, until
from tests.contracts.shared import SharedBroker, Switchboard
from tests.contracts.test_broker import OTHER, ROOM, SERVERS, Process, pass_time

Marked = dict[tuple[str, str], str]
"""Values, by process and name."""


@attrs.define(eq=False)
class Marker:
    """A process that has a broker, which runs, and what was announced to it."""

    broker: Broker
    announced: defaultdict[Channel, list[tuple[Mark, Position]]] = attrs.Factory(
        lambda: defaultdict[Channel, list[tuple[Mark, Position]]](list)
    )
    lost: list[Channel] = attrs.Factory(list[Channel])
    publishing: Process = attrs.field(init=False)
    _news: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        self.publishing = Process(self.broker)
        self.broker.announce, self.broker.lose = self._announce, self._lose

    def _announce(self, channel: Channel, mark: Mark, position: Position) -> None:
        self.announced[channel].append((mark, position))
        self._tell()

    def _lose(self, channel: Channel, _position: Position | None) -> None:
        self.lost.append(channel)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def told(self, channel: Channel, holds: Callable[[Marked], bool]) -> Marked:
        """Wait until the marks of a channel, as they have been announced, are so; return them."""
        while not holds(marked := self.marked(channel)):
            await self._news.wait()
        return marked

    async def reached(self, channel: Channel, position: Position) -> None:
        """Wait until the last that was announced is at a position."""
        while not self.announced[channel] or self.announced[channel][-1][1] != position:
            await self._news.wait()

    async def told_of_a_loss(self, channel: Channel) -> None:
        while channel not in self.lost:
            await self._news.wait()

    def marked(self, channel: Channel) -> Marked:
        """Return what the announcements say that is marked, which are numbered without a gap."""
        announced = self.announced[channel]
        positions = [position for _, position in announced]
        if positions:
            first = positions[0]
            assert positions == [Position(first.epoch, first.offset + count) for count in range(len(positions))]
        return applied({}, announced)

    async def all_marks(self, channel: Channel) -> Marked:
        """Return what the broker says that is marked."""
        marks = (await self.broker.marks(channel)).marks
        marked = {(mark.process, mark.name): mark.value for mark in marks}
        assert len(marked) == len(marks)
        return {place: value for place, value in marked.items() if value is not None}


def applied(marked: Marked, changes: Iterable[tuple[Mark, Position]]) -> Marked:
    marked = dict(marked)
    for mark, _ in changes:
        if mark.value is None:
            del marked[mark.process, mark.name]
        else:
            marked[mark.process, mark.name] = mark.value
    return marked


@attrs.frozen
class Kind:
    """A kind of broker.

    Args:
        opens: Gives a process whose broker is of this kind, and is connected with the others of the same place.
        rate: Of the clock of the tests: 0 where the broker goes by that clock, and 1 where it goes by another.
        place: Makes what the processes of a test have in common: a server, or a name on it.
        kills: Ends a process without a word; None where the broker is for one process, so that its marks end with it.
        cuts: Cuts a process's connection off, for as long as the block lasts; None where there is none.
    """

    opens: Callable[[Any], AbstractAsyncContextManager[Marker]]
    rate: float
    place: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    kills: Callable[[Marker], None] | None = None
    cuts: Callable[[Marker], AbstractAsyncContextManager[None]] | None = None


@asynccontextmanager
async def memory(_: object) -> AsyncGenerator[Marker]:
    broker = MemoryBroker()
    async with broker.running():
        yield Marker(broker)


@asynccontextmanager
async def shared(switchboard: Switchboard) -> AsyncGenerator[Marker]:
    broker = SharedBroker(switchboard)
    async with switchboard.histories.running(), broker.running():
        yield Marker(broker)


def kill_shared(process: Marker) -> None:
    assert isinstance(process.broker, SharedBroker)
    process.broker.kill()


@asynccontextmanager
async def cut_shared(process: Marker) -> AsyncGenerator[None]:
    assert isinstance(process.broker, SharedBroker)
    process.broker.cut()
    yield
    process.broker.mend()


LEASE = 2.0
"""Seconds: more than the machine that runs the tests may be late."""


def over(server: Server) -> Kind:
    """Return the kind of broker over a server; there is a line between it and each process, which can be cut."""
    prefix = secrets.token_hex(4)
    lines: dict[Broker, Proxy] = {}

    @asynccontextmanager
    async def place() -> AsyncGenerator[list[Proxy]]:
        async with Proxy(server.port).running() as one, Proxy(server.port).running() as other:
            yield [one, other]

    @asynccontextmanager
    async def opens(free: list[Proxy]) -> AsyncGenerator[Marker]:
        line = free.pop()
        async with joined(line.url, prefix=prefix, lease=LEASE) as process:
            lines[process.broker] = line
            yield Marker(process.broker)

    def kill(process: Marker) -> None:
        lines[process.broker].cut(for_now=False)

    @asynccontextmanager
    async def cut(process: Marker) -> AsyncGenerator[None]:
        assert isinstance(process.broker, RedisBroker)
        kill(process)
        await until(lambda: not process.broker.connected)  # type: ignore[attr-defined]
        yield
        lines[process.broker].is_closed = False

    return Kind(opens, rate=1, place=place, kills=kill, cuts=cut)


KINDS = {
    "memory": Kind(memory, rate=0),
    "shared": Kind(shared, rate=0, place=lambda: nullcontext(Switchboard()), kills=kill_shared, cuts=cut_shared),
}
several = pytest.mark.parametrize("kind", ["shared", *SERVERS], indirect=True)
several_slow = pytest.mark.parametrize(
    "kind", ["shared", *(pytest.param(server, marks=pytest.mark.slow) for server in SERVERS)], indirect=True
)
"""For tests in which leases end."""


@pytest.fixture(params=[*KINDS, *SERVERS])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS.get(request.param) or over(request.getfixturevalue(request.param))


@pytest.fixture
def clock(kind: Kind) -> MockClock:
    """For tests in which time passes."""
    return MockClock(rate=kind.rate)


@pytest.fixture
async def place(kind: Kind) -> AsyncGenerator[Any]:
    async with kind.place() as place:
        yield place


@pytest.fixture
async def process(kind: Kind, place: Any) -> AsyncGenerator[Marker]:
    async with kind.opens(place) as process:
        yield process


@pytest.fixture
async def other(kind: Kind, place: Any) -> AsyncGenerator[Marker]:
    """A process beside the first; for tests of `several` processes, or `severable` ones."""
    async with kind.opens(place) as process:
        yield process


async def pass_lease(clock: MockClock, process: Marker, count: float = 1.0) -> None:
    """Let a lease be over, and let whoever is alive renew its own meanwhile."""
    for _ in range(12):
        await wait_all_tasks_blocked()
        await pass_time(clock, process.broker.lease * count / 12)
    await wait_all_tasks_blocked()


# Marks.


async def test_what_is_marked_is_there_at_once_and_as_it_was(process: Marker) -> None:
    me = process.broker.process
    assert await process.all_marks(ROOM) == {}
    marks = {"ada": '{"about": "Grüße, 世界 😀"}', "": "", "a:b{c}*\n": "\x00", "long": "x" * 100_000}
    for name, value in marks.items():
        process.broker.mark(ROOM, name, value)
    assert await process.all_marks(ROOM) == {(me, name): value for name, value in marks.items()}
    process.broker.mark(ROOM, "ada", "2")
    process.broker.mark(ROOM, "", None)
    assert await process.all_marks(ROOM) == {(me, name): marks[name] for name in ("a:b{c}*\n", "long")} | {
        (me, "ada"): "2"
    }


async def test_a_mark_is_on_its_own_channel_only(process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    await process.broker.subscribe(OTHER)
    process.broker.mark(ROOM, "ada", "1")
    process.broker.mark(Channel("another", ROOM.key), "ada", "2")
    await process.publishing.all_is_delivered()
    assert await process.all_marks(OTHER) == {}
    assert await process.all_marks(ROOM) == {(process.broker.process, "ada"): "1"}
    await process.told(ROOM, bool)
    assert process.announced[OTHER] == []


async def test_changes_are_announced_with_positions_that_go_on_from_those_of_all_marks(process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    process.broker.mark(ROOM, "ada", "1")
    before = await process.broker.marks(ROOM)
    await process.told(ROOM, bool)
    process.announced[ROOM].clear()
    for value in ("2", None, "3"):
        process.broker.mark(ROOM, "bob", value)
        after = await process.broker.marks(ROOM)
    await process.told(ROOM, lambda marked: marked == {(process.broker.process, "bob"): "3"})
    assert [mark.value for mark, _ in process.announced[ROOM]] == ["2", None, "3"]
    _, first = process.announced[ROOM][0]
    _, last = process.announced[ROOM][-1]
    assert first == attrs.evolve(before.position, offset=before.position.offset + 1)
    assert last == after.position


async def test_what_is_as_it_was_is_not_announced(process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    process.broker.mark(ROOM, "bob", None)
    for _ in range(3):
        process.broker.mark(ROOM, "ada", "1")
        await process.broker.marks(ROOM)
    process.broker.mark(ROOM, "last", "1")
    await process.told(ROOM, lambda marked: len(marked) == 2)
    assert [mark.name for mark, _ in process.announced[ROOM]] == ["ada", "last"]


async def test_marks_are_announced_between_subscribing_and_unsubscribing(process: Marker) -> None:
    for number, subscribed in enumerate([False, True, False, True]):
        if subscribed:
            await process.broker.subscribe(ROOM)
        process.broker.mark(ROOM, str(number), "x")
        await process.broker.marks(ROOM)
        if subscribed:
            await process.told(ROOM, lambda marked, number=number: (process.broker.process, str(number)) in marked)  # type: ignore[misc]
            assert [mark.name for mark, _ in process.announced[ROOM]] == [str(number)]
            process.announced[ROOM].clear()
            process.broker.unsubscribe(ROOM)
    assert len(await process.all_marks(ROOM)) == 4


async def test_who_subscribes_and_then_asks_for_all_marks_misses_no_change(process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    asked = [await process.broker.marks(ROOM)]

    async def change(name: str) -> None:
        for number in range(50):
            process.broker.mark(ROOM, f"{name}{number % 7}", None if number % 3 == 2 else str(number))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(change, name)
        asked += [await process.broker.marks(ROOM) for _ in range(20)]
    await process.reached(ROOM, (await process.broker.marks(ROOM)).position)
    for marks in asked:
        before = {(mark.process, mark.name): mark.value or "" for mark in marks.marks}
        changes = [change for change in process.announced[ROOM] if change[1].offset > marks.position.offset]
        assert applied(before, changes) == await process.all_marks(ROOM)


async def test_marks_have_nothing_to_do_with_a_history(process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    position = await process.publishing.keep("1")
    process.broker.mark(ROOM, "ada", "1")
    await process.told(ROOM, bool)
    assert await process.publishing.keep() == position
    await process.publishing.keep("2")
    assert await process.publishing.missed(History.OLDEST) == (["1", "2"], True)
    process.broker.mark(ROOM, "ada", None)
    await process.told(ROOM, lambda marked: not marked)  # which sees that no position is missing


async def test_a_thousand_marks_of_a_thousand_channels(process: Marker) -> None:
    me = process.broker.process
    for number in range(1000):
        process.broker.mark(ROOM, str(number), str(number))
        process.broker.mark(Channel("chat", str(number)), "ada", str(number))
    assert await process.all_marks(ROOM) == {(me, str(number)): str(number) for number in range(1000)}
    assert await process.all_marks(Channel("chat", "999")) == {(me, "ada"): "999"}


# Marks of several processes.


@several
async def test_processes_see_each_others_marks(process: Marker, other: Marker) -> None:
    for one in (process, other):
        await one.broker.subscribe(ROOM)
        one.broker.mark(ROOM, "ada", one.broker.process)
    expected = {(one.broker.process, "ada"): one.broker.process for one in (process, other)}
    assert len(expected) == 2
    for one in (process, other):
        await one.told(ROOM, lambda marked: len(marked) == 2)
    for one in (process, other):
        assert one.marked(ROOM) == await one.all_marks(ROOM) == expected
    process.broker.mark(ROOM, "ada", None)
    expected.pop((process.broker.process, "ada"))
    for one in (process, other):
        assert await one.told(ROOM, lambda marked: len(marked) == 1) == expected
    assert process.announced == other.announced


@several
async def test_a_broker_that_runs_again_is_another_process(kind: Kind, place: Any) -> None:
    async with kind.opens(place) as process:
        before = process.broker.process
    async with process.broker.running():
        assert process.broker.process != before


@several_slow
async def test_the_marks_of_a_process_that_is_killed_end_with_its_lease_and_that_is_announced(
    kind: Kind, process: Marker, other: Marker, clock: MockClock
) -> None:
    assert kind.kills is not None
    for channel in (ROOM, OTHER):
        await process.broker.subscribe(channel)
        process.broker.mark(channel, "ada", "1")
        for name in ("ada", "bob"):
            other.broker.mark(channel, name, "2")
        await process.told(channel, lambda marked: len(marked) == 3)
    kind.kills(other)
    await pass_lease(clock, process)
    for channel in (ROOM, OTHER):
        mine = {(process.broker.process, "ada"): "1"}
        assert await process.told(channel, lambda marked: len(marked) == 1) == mine
        assert await process.all_marks(channel) == mine


@several_slow
async def test_the_marks_of_a_process_that_lives_outlast_its_lease(
    process: Marker, other: Marker, clock: MockClock
) -> None:
    await process.broker.subscribe(ROOM)
    other.broker.mark(ROOM, "ada", "1")
    await process.told(ROOM, bool)
    await pass_lease(clock, process, 3)
    assert len(process.announced[ROOM]) == 1
    assert await process.all_marks(ROOM) == {(other.broker.process, "ada"): "1"}


@several_slow
async def test_a_process_that_has_ended_leaves_no_mark_behind(
    kind: Kind, place: Any, process: Marker, clock: MockClock
) -> None:
    await process.broker.subscribe(ROOM)
    async with kind.opens(place) as other:
        other.broker.mark(ROOM, "ada", "1")
        await process.told(ROOM, bool)
    await pass_lease(clock, process)
    assert await process.told(ROOM, lambda marked: not marked) == await process.all_marks(ROOM) == {}


@several
async def test_a_process_that_ends_has_told_what_it_has_cleared(kind: Kind, place: Any, process: Marker) -> None:
    await process.broker.subscribe(ROOM)
    async with kind.opens(place) as other:
        other.broker.mark(ROOM, "ada", "1")
        await process.told(ROOM, bool)
        other.broker.mark(ROOM, "ada", None)
    await process.told(ROOM, lambda marked: not marked)


@several
async def test_what_is_marked_without_a_connection_is_there_once_there_is_one_again(
    kind: Kind, process: Marker, other: Marker
) -> None:
    assert kind.cuts is not None
    await other.broker.subscribe(ROOM)
    await process.broker.subscribe(ROOM)
    process.broker.mark(ROOM, "ada", "1")
    process.broker.mark(ROOM, "bob", "1")
    await other.told(ROOM, lambda marked: len(marked) == 2)
    async with kind.cuts(process):
        process.broker.mark(ROOM, "ada", None)
        process.broker.mark(ROOM, "eve", "2")
    me = process.broker.process
    assert await other.told(ROOM, lambda marked: (me, "eve") in marked and (me, "ada") not in marked) == {
        (me, "bob"): "1",
        (me, "eve"): "2",
    }
    await process.told_of_a_loss(ROOM)
    assert await process.all_marks(ROOM) == other.marked(ROOM)


@several_slow
async def test_a_process_that_comes_back_after_its_lease_has_its_marks_again(
    kind: Kind, process: Marker, other: Marker, clock: MockClock
) -> None:
    assert kind.cuts is not None
    await other.broker.subscribe(ROOM)
    process.broker.mark(ROOM, "ada", "1")
    await other.told(ROOM, bool)
    async with kind.cuts(process):
        await pass_lease(clock, other)
        await other.told(ROOM, lambda marked: not marked)
    await other.told(ROOM, bool)
    assert await process.all_marks(ROOM) == other.marked(ROOM) == {(process.broker.process, "ada"): "1"}
