"""What a topic tells of who is attached, in one process and in several."""

import itertools
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import (
    App,
    Changed,
    EncodeError,
    History,
    Joined,
    Left,
    Member,
    MemoryBroker,
    Presence,
    Present,
    Service,
    StreamOut,
    Topic,
    testing,
)
from streamrt.runtime import attendance, exchange, roster
from streamrt.runtime.broker import Broker, Channel, Mark, Marks, Position
from streamrt.runtime.exchange import Exchange, current_exchange
from tests.contracts.shared import SharedBroker, Switchboard
from tests.topics.stage import Ear, opened
from tests.topics.test_topic import SlowBroker

settled = wait_all_tasks_blocked


@attrs.frozen
class Profile:
    nick: str


def rooms(**options: Any) -> Topic[int, Profile]:
    return Topic("rooms", int, presence=Presence(Profile, **options))


def lobby(**options: Any) -> Topic[int]:
    """Return a topic that tells nothing of a member but its name."""
    return Topic("lobby", int, presence=Presence(**options))


def named(name: str, connections: int = 1) -> Member:
    return Member(name=name, about=None, connections=connections)


def ada(nick: str = "Ada", connections: int = 1) -> Member[Profile]:
    return Member(name="ada", about=Profile(nick), connections=connections)


@asynccontextmanager
async def attached(topic: Topic[int, Any], member: str | None, **options: Any) -> AsyncGenerator[None]:
    async with opened(Ear()) as stream, topic.attach(stream, member=member, **options):
        yield


@attrs.define(eq=False)
class Crowd:
    """Streams that come and go in any order, unlike blocks."""

    nursery: trio.Nursery
    _there: dict[str, list[trio.CancelScope]] = attrs.Factory(lambda: defaultdict[str, list[trio.CancelScope]](list))

    async def comes(self, topic: Topic[int, Any], name: str, **options: Any) -> None:
        self._there[name].append(await self.nursery.start(partial(self._be_there, topic, name, **options)))

    async def goes(self, name: str) -> None:
        self._there[name].pop().cancel()
        await settled()

    async def _be_there(
        self, topic: Topic[int, Any], name: str, *, task_status: trio.TaskStatus[trio.CancelScope], **options: Any
    ) -> None:
        with trio.CancelScope() as scope:
            async with attached(topic, name, **options):
                task_status.started(scope)
                await trio.sleep_forever()


@pytest.fixture
async def crowd() -> AsyncGenerator[Crowd]:
    async with trio.open_nursery() as nursery:
        yield Crowd(nursery)
        nursery.cancel_scope.cancel()


def waiting(present: Present[Any]) -> list[Any]:
    """Return the changes that can be received at once."""
    changes: list[Any] = []
    while (change := present._take()) is not None:
        changes.append(change)
    return changes


async def told(present: Present[Any]) -> list[Any]:
    """Return the changes that come before everybody waits."""
    await settled()
    return waiting(present)


def nothing_is_left(of: Exchange) -> None:
    assert of.rosters._rosters == {}
    assert all(seats._seats == seats._kept == {} for seats in of._attendances.values())
    match of.broker:
        case MemoryBroker():
            assert of.broker._marked == {}
            assert of.broker._subscribed == set()
        case SharedBroker():
            assert of.broker.own == {}
            assert of.broker.subscribed == set()
        case broker:
            pytest.fail(f"what does {broker} hold?")


# Who is there.


async def test_members_are_those_whose_streams_are_attached_with_what_they_tell_and_how_many_they_are() -> None:
    topic = rooms()
    assert await topic.members(key="a") == {}
    async with attached(topic, "ada", key="a", about=Profile("Ada")), attached(topic, "bob", about=Profile("Bob")):
        async with attached(topic, "ada", key="a", about=Profile("Ada")), topic.presence(key="a") as present:
            assert present.members == await topic.members(key="a") == {"ada": ada(connections=2)}
        assert await topic.members() == {"bob": Member(name="bob", about=Profile("Bob"), connections=1)}
        assert await topic.members(key="a") == {"ada": ada()}


async def test_what_the_last_stream_tells_counts_until_it_leaves() -> None:
    topic = rooms()
    async with topic.presence() as present, attached(topic, "ada", about=Profile("Ada")):
        async with attached(topic, "ada", about=Profile("Countess")):
            assert present.members == {"ada": ada("Countess", 2)}
        assert present.members == {"ada": ada()}
    assert present.members == {"ada": ada(connections=0)}


async def test_the_members_of_one_topic_are_not_those_of_another() -> None:
    one, other = Topic("one", int, presence=Presence()), Topic("other", int, presence=Presence())
    async with attached(one, "ada"), attached(other, "bob"):
        assert set(await one.members()) == {"ada"}
        assert set(await other.members()) == {"bob"}


async def test_what_was_returned_as_members_does_not_change() -> None:
    topic = lobby()
    async with topic.presence() as present:
        before = present.members
        assert present.members is before
        async with attached(topic, "ada"):
            assert set(present.members) == {"ada"}
            assert present.members is present.members
        assert before == {}
        with pytest.raises(TypeError):
            before["eve"] = named("eve")  # type: ignore[index]


async def test_a_stream_is_the_users_if_nothing_else_is_said(autojump_clock: MockClock) -> None:
    service = Service("test")
    topic = lobby()

    @service.stream_out("/{way}", expose=True)
    async def hear(handshake: Way, stream: StreamOut[int]) -> None:
        options: dict[str, Any] = {"default": {}, "other": {"member": "eve"}, "unseen": {"unseen": True}}[handshake.way]
        async with topic.attach(stream, **options):
            await trio.sleep_forever()

    app = App(service, user=lambda name: name if name != "nobody" else None)
    async with AsyncExitStack() as stack:
        for way in ("default", "other", "unseen"):
            for caller in ("ada", "nobody", None):
                client = await stack.enter_async_context(app.client(auth_data=caller))
                await stack.enter_async_context(client.open(hear, Way(way)))
        await settled()
        assert await topic.members() == {"ada": named("ada"), "eve": named("eve", 3)}
        assert topic.statistics().subscribers == 9


@attrs.frozen
class Way:
    way: str


async def test_a_topic_without_a_presence_marks_nothing() -> None:
    topic = Topic("numbers", int)
    async with opened(Ear()) as stream, topic.attach(stream):
        pass
    assert current_exchange()._attendances == {}


# Joining and leaving.


async def test_changes_lead_from_the_members_at_first_to_those_now() -> None:
    topic = lobby(leave_after=0)
    async with attached(topic, "ada"), topic.presence() as present:
        assert set(present.members) == {"ada"}
        async with attached(topic, "bob"):
            async with attached(topic, "bob"):
                await settled()
        assert waiting(present) == [
            Joined(named("bob")),
            Changed(named("bob", 2), before=named("bob")),
            Changed(named("bob"), before=named("bob", 2)),
            Left(named("bob")),
        ]
        assert set(present.members) == {"ada"}


async def test_who_reloads_its_page_has_neither_left_nor_joined(autojump_clock: MockClock) -> None:
    topic = lobby(leave_after=5)
    async with topic.presence() as present:
        for _ in range(3):
            async with attached(topic, "ada"):
                await trio.sleep(1)
            assert present.members == {"ada": named("ada", 0)}
            await trio.sleep(4.99)
        changes = waiting(present)
        assert changes[0] == Joined(named("ada"))
        assert {type(change) for change in changes[1:]} == {Changed}
        await trio.sleep(0.02)
        assert waiting(present) == [Left(named("ada", 0))]
        assert present.members == {}


async def test_each_leaves_in_its_own_time(autojump_clock: MockClock) -> None:
    slow, quick = lobby(leave_after=10), Topic("quick", int, presence=Presence(leave_after=1))
    for topic in (slow, quick):
        for name in ("ada", "bob"):
            async with attached(topic, name):
                pass
            await trio.sleep(0.25)
    expected = [({"ada", "bob"}, {"ada", "bob"}), ({"ada", "bob"}, {"bob"}), ({"ada", "bob"}, set()), ({"bob"}, set())]
    for seconds, (in_slow, in_quick) in zip((0.25, 0.4, 0.25, 8.2), expected, strict=True):
        await trio.sleep(seconds)
        assert (set(await slow.members()), set(await quick.members())) == (in_slow, in_quick)


async def test_a_stream_that_ends_leaves_however_it_ends() -> None:
    topic = lobby(leave_after=0)
    async with topic.presence() as present:
        for end in ("returns", "raises", "vanishes", "is cancelled"):
            ear = Ear()
            with trio.CancelScope() as scope, ExitStack() as stack:
                if end == "raises":
                    stack.enter_context(pytest.raises(ZeroDivisionError))
                async with opened(ear) as stream, topic.attach(stream, member="ada"):
                    assert set(present.members) == {"ada"}
                    if end == "raises":
                        raise ZeroDivisionError
                    if end == "vanishes":
                        ear.vanish()
                        await settled()
                    if end == "is cancelled":
                        scope.cancel()
                        await trio.lowlevel.checkpoint()
            assert present.members == {}
            assert await told(present) == [Joined(named("ada")), Left(named("ada"))], end


# Reading changes.


async def test_changes_are_received_as_they_come(autojump_clock: MockClock) -> None:
    topic = lobby(leave_after=1)
    heard: list[tuple[float, Any]] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        async with topic.presence() as present:
            task_status.started()
            async for change in present:
                heard.append((trio.current_time(), change))
                if isinstance(change, Left):
                    return

    async with trio.open_nursery() as nursery:
        await nursery.start(read)
        async with attached(topic, "ada"):
            await trio.sleep(2)
    assert heard == [
        (0, Joined(named("ada"))),
        (2, Changed(named("ada", 0), before=named("ada"))),
        (3, Left(named("ada", 0))),
    ]


async def test_who_is_too_far_behind_is_told_what_has_become_of_each_member(crowd: Crowd) -> None:
    topic = lobby(leave_after=0, backlog=3)
    for name in ("stays", "goes"):
        await crowd.comes(topic, name)
    async with topic.presence() as present:
        await crowd.comes(topic, "comes")
        for _ in range(3):
            async with attached(topic, "comes and goes"), attached(topic, "stays"):
                pass
        assert present._behind is not None
        await crowd.goes("goes")
        await crowd.comes(topic, "comes")
        assert set(present.members) == {"stays", "comes"}
        assert waiting(present) == [Joined(named("comes", 2)), Left(named("goes"))]
        async with attached(topic, "comes and goes"):
            pass
        assert waiting(present) == [Joined(named("comes and goes")), Left(named("comes and goes"))]


async def test_what_happens_to_a_member_that_was_just_told_is_told_again() -> None:
    topic = lobby(leave_after=0, backlog=1)
    async with topic.presence() as present, AsyncExitStack() as stack:
        for name in ("ada", "bob"):
            await stack.enter_async_context(attached(topic, name))
        assert await present.receive() == Joined(named("ada"))
        await stack.aclose()
        assert waiting(present) == [Left(named("ada"))]  # and bob was never told of


async def test_receiving_lets_others_run_now_and_then_and_can_be_cancelled_every_time() -> None:
    topic = lobby(leave_after=0)
    async with topic.presence() as present:
        for _ in range(100):
            async with attached(topic, "ada"):
                pass
        await settled()
        ran = False

        async def run() -> None:
            nonlocal ran
            ran = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            for _ in range(128):
                await present.receive()
            assert ran
        before = len(present._changes)
        with trio.CancelScope() as scope:
            scope.cancel()
            await present.receive()
        assert scope.cancelled_caught
        assert len(present._changes) == before == 72
        while present._changes:
            await present.receive()
        with trio.CancelScope() as scope:
            scope.cancel()
            await present.receive()
        assert scope.cancelled_caught
        assert not present._filled


async def test_who_reads_after_the_block_or_after_closing_is_told_that_it_is_over() -> None:
    topic = lobby()
    async with topic.presence() as present, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError, match=r"block of topic.presence\(\) was left"):
                await present.receive()

        nursery.start_soon(read)
        await settled()
        await present.aclose()
        async with attached(topic, "ada"):
            assert set(present.members) == {"ada"}
            await read()
    async with topic.presence() as present:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await present.receive()


async def test_all_who_read_are_told_the_same_and_share_what_was_decoded() -> None:
    topic = rooms(leave_after=0)
    async with topic.presence() as one, topic.presence() as other:
        async with attached(topic, "ada", about=Profile("Ada")):
            assert one.members is other.members
        changes = waiting(one), waiting(other)
        assert changes[0] == changes[1] == [Joined(ada()), Left(ada())]
        assert changes[0][0].member is changes[1][0].member


# What is wrong.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leave_after": -1}, "leave_after of a presence must be seconds, 0 or more, not -1"),
        ({"leave_after": float("inf")}, "leave_after of a presence must be seconds, 0 or more, not inf"),
        ({"leave_after": float("nan")}, "leave_after"),
        ({"leave_after": True}, "leave_after"),
        ({"backlog": 0}, "backlog of a presence must be a whole number, 1 or more, not 0"),
        ({"backlog": 1.5}, "backlog"),
        ({"backlog": True}, "backlog"),
    ],
)
def test_a_presence_that_cannot_be_is_an_error(options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Presence(**options)


def test_what_is_told_of_a_member_is_what_a_message_can_be() -> None:
    with pytest.raises(TypeError, match="object"):
        Presence(object)


def test_the_names_of_streamrt_are_no_topics() -> None:
    with pytest.raises(ValueError, match="topic streamrt:x: names that begin with 'streamrt:' are streamrt's own"):
        Topic("streamrt:x", int)


@pytest.mark.parametrize(
    ("topic", "options", "says"),
    [
        (Topic("plain", int), {"member": "ada"}, r"topic plain has no presence: declare it with Topic\(..., presence="),
        (Topic("plain", int), {"about": Profile("Ada")}, "topic plain has no presence"),
        (lobby(), {"member": "ada", "about": Profile("Ada")}, "topic lobby: its presence tells nothing about a member"),
        (rooms(), {"member": "ada"}, r"topic rooms: its presence tells Profile of a member: attach\(..., about="),
    ],
)
async def test_a_member_that_does_not_fit_the_presence_is_an_error(
    topic: Topic[int, Any], options: Any, says: str
) -> None:
    async with opened(Ear()) as stream:
        with pytest.raises(TypeError, match=says):
            async with topic.attach(stream, **options):
                pytest.fail("it is attached")


async def test_a_member_without_a_name_is_an_error() -> None:
    async with opened(Ear()) as stream:
        with pytest.raises(ValueError, match="topic lobby: a member needs a name"):
            async with lobby().attach(stream, member=""):
                pytest.fail("it is attached")


async def test_what_is_told_of_a_member_has_to_fit_and_nobody_is_there_if_it_does_not() -> None:
    topic = rooms()
    async with opened(Ear()) as stream:
        with pytest.raises(EncodeError, match="not a valid Profile"):
            async with topic.attach(stream, member="ada", about="Ada"):  # type: ignore[arg-type]
                pytest.fail("it is attached")
    assert await topic.members() == {}
    assert topic.statistics().subscribers == 0


async def test_reading_the_presence_of_a_topic_that_has_none_is_an_error() -> None:
    with pytest.raises(TypeError, match="topic numbers has no presence"):
        await Topic("numbers", int).members()


async def test_two_topics_of_one_name_do_not_share_members() -> None:
    async with attached(lobby(), "ada"):
        with pytest.raises(ValueError, match="two topics have the name 'lobby'"):
            await lobby().members()


async def test_a_broker_that_carries_no_marks_says_so() -> None:
    topic = lobby()
    with inside(Exchange(SlowBroker())):
        with pytest.raises(NotImplementedError, match=r"SlowBroker carries no marks, which presence and App\(user="):
            await topic.members()
        async with opened(Ear()) as stream:
            with pytest.raises(NotImplementedError, match="SlowBroker carries no marks"):
                async with topic.attach(stream, member="ada"):
                    pytest.fail("it is attached")
        assert current_exchange()._attendances["lobby"]._seats == {}


# Several processes.


@contextmanager
def inside(process: Exchange) -> Generator[None]:
    """Be in another process."""
    token = exchange.own_exchange.set(process)
    try:
        yield
    finally:
        exchange.own_exchange.reset(token)


@asynccontextmanager
async def process(switchboard: Switchboard) -> AsyncGenerator[Exchange]:
    broker = SharedBroker(switchboard)
    of = Exchange(broker)
    try:
        async with broker.running():
            yield of
    finally:
        of.close()


def broker_of(process: Exchange) -> SharedBroker:
    assert isinstance(process.broker, SharedBroker)
    return process.broker


@asynccontextmanager
async def attached_in(of: Exchange, topic: Topic[int, Any], member: str, **options: Any) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        with inside(of):
            await stack.enter_async_context(attached(topic, member, **options))
        yield


@asynccontextmanager
async def presence_in(of: Exchange, topic: Topic[int, Any], **options: Any) -> AsyncGenerator[Present[Any]]:
    async with AsyncExitStack() as stack:
        with inside(of):
            present = await stack.enter_async_context(topic.presence(**options))
        yield present


@pytest.fixture
def switchboard() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def one(switchboard: Switchboard) -> AsyncGenerator[Exchange]:
    async with process(switchboard) as one:
        yield one


@pytest.fixture
async def other(switchboard: Switchboard) -> AsyncGenerator[Exchange]:
    async with process(switchboard) as other:
        yield other


async def test_a_member_is_one_in_all_processes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, one: Exchange, other: Exchange
) -> None:
    monkeypatch.setattr(attendance, "time", SimpleNamespace(time=itertools.count().__next__))
    topic = rooms(leave_after=1)
    async with presence_in(one, topic) as here, presence_in(other, topic) as there:
        async with attached_in(one, topic, "ada", about=Profile("Ada")):
            async with attached_in(other, topic, "ada", about=Profile("Countess")):
                async with attached_in(other, topic, "ada", about=Profile("Augusta")):
                    await settled()
                    assert here.members == there.members == {"ada": ada("Augusta", 3)}
                await settled()
                assert here.members == there.members == {"ada": ada("Countess", 2)}
            await settled()
            assert here.members == there.members == {"ada": ada()}
            await trio.sleep(1.5)
            assert here.members == {"ada": ada()}
        await trio.sleep(1.5)
        assert here.members == there.members == {}
        assert waiting(here) == waiting(there)


async def test_who_comes_back_to_another_process_has_neither_left_nor_joined(
    autojump_clock: MockClock, one: Exchange, other: Exchange
) -> None:
    topic = lobby()
    async with presence_in(one, topic) as present:
        for process in (one, other, one, other):
            async with attached_in(process, topic, "ada"):
                await trio.sleep(10)
            await trio.sleep(2)
        changes = waiting(present)
        assert changes[0] == Joined(named("ada"))
        assert {type(change) for change in changes[1:]} == {Changed}
        await trio.sleep(4)
        assert waiting(present) == [Left(named("ada", 0))]


async def test_the_members_of_a_process_that_is_killed_leave_within_its_lease(
    autojump_clock: MockClock, one: Exchange, other: Exchange
) -> None:
    topic = lobby()
    async with presence_in(one, topic) as present, attached_in(one, topic, "ada"):
        async with attached_in(other, topic, "ada"), attached_in(other, topic, "bob"):
            await trio.sleep(100)
            assert present.members == {"ada": named("ada", 2), "bob": named("bob")}
            broker_of(other).kill()
            waiting(present)
            with trio.fail_after(one.broker.lease):
                changes = [await present.receive() for _ in range(2)]
            assert changes == [Changed(named("ada"), before=named("ada", 2)), Left(named("bob"))]
            assert present.members == {"ada": named("ada")}


async def test_once_the_connection_is_back_the_difference_is_told(one: Exchange, other: Exchange, crowd: Crowd) -> None:
    topic = lobby(leave_after=0)
    async with presence_in(one, topic) as present:
        with inside(other):
            for name in ("stays", "grows", "goes"):
                await crowd.comes(topic, name)
            assert len(await told(present)) == 3
            broker_of(one).cut()
            for name in ("comes", "grows", "comes and goes"):
                await crowd.comes(topic, name)
            for name in ("comes and goes", "goes"):
                await crowd.goes(name)
            assert (set(present.members), waiting(present)) == ({"stays", "grows", "goes"}, [])
        broker_of(one).mend()
        changes = await told(present)
        assert sorted(changes, key=str) == [
            Changed(named("grows", 2), before=named("grows")),
            Joined(named("comes")),
            Left(named("goes")),
        ]
        assert set(present.members) == {"stays", "grows", "comes"}


async def test_a_change_that_is_lost_is_noticed_with_the_next(one: Exchange, other: Exchange) -> None:
    topic = lobby(leave_after=0)
    async with presence_in(one, topic) as present, attached_in(other, topic, "ada"):
        await settled()
        announce, broker_of(one).announce = broker_of(one).announce, None
        async with attached_in(other, topic, "bob"):
            assert [change.member.name for change in await told(present)] == ["ada"]
            broker_of(one).announce = announce
            async with attached_in(other, topic, "eve"):
                assert [change.member.name for change in await told(present)] == ["bob", "eve"]
    nothing_is_left(one)


async def test_a_change_that_comes_twice_or_late_is_applied_once(one: Exchange, other: Exchange) -> None:
    topic = lobby(leave_after=0)
    announced: list[Any] = []
    announce = broker_of(one).announce
    assert announce is not None
    broker_of(one).announce = lambda *change: (announced.append(change), announce(*change))[1]  # type: ignore[func-returns-value]
    async with presence_in(one, topic) as present:
        async with attached_in(other, topic, "ada"):
            await settled()
        await settled()
        for change in announced:
            announce(*change)
        assert await told(present) == [Joined(named("ada")), Left(named("ada"))]


async def test_marks_that_are_counted_anew_are_asked_for_anew(switchboard: Switchboard, one: Exchange) -> None:
    topic = lobby(leave_after=0)
    async with presence_in(one, topic) as present, attached_in(one, topic, "ada"):
        await settled()
        switchboard.boards.clear()  # as if it had been started again, empty, and nobody had noticed
        async with attached_in(one, topic, "bob"):
            await settled()
            assert set(present.members) == {"bob"}
            broker_of(one).mend()
            await settled()
            assert set(present.members) == {"bob"}


@attrs.define(eq=False)
class Halting:
    """Has a broker wait, with all marks in its hand, until it is told to go on; and fail as often as it is told to."""

    broker: SharedBroker
    asked: int = 0
    failures: int = 0
    halts: bool = False
    _going_on: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        ask = self.broker.marks

        async def marks(channel: Channel) -> Marks:
            self.asked += 1
            marks = await ask(channel)
            if self.halts:
                await self._going_on.wait()
            if self.failures:
                self.failures -= 1
                raise OSError("the broker is down")
            return marks

        self.broker.marks = marks  # type: ignore[method-assign]

    def go_on(self) -> None:
        self.halts = False
        self._going_on.set()


async def test_what_changes_while_all_marks_are_asked_for_is_not_missed(one: Exchange, other: Exchange) -> None:
    topic = lobby(leave_after=0)
    halting = Halting(broker_of(one), halts=True)
    seen: list[Any] = []

    async def read() -> None:
        async with presence_in(one, topic) as present:
            seen.append(set(present.members))
            seen.append(await present.receive())

    async with attached_in(other, topic, "ada"), trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await settled()
        async with attached_in(other, topic, "bob"), AsyncExitStack() as stack:
            async with attached_in(other, topic, "comes and goes"):
                await settled()
            assert seen == []
            halting.go_on()
            await settled()
            assert seen == [{"ada", "bob"}]
            await stack.enter_async_context(attached_in(other, topic, "eve"))
            await settled()
    assert seen == [{"ada", "bob"}, Joined(named("eve"))]
    assert halting.asked == 1


async def test_when_too_much_changes_while_all_marks_are_asked_for_they_are_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, one: Exchange, other: Exchange
) -> None:
    monkeypatch.setattr(roster, "_LATE", 3)
    topic = lobby(leave_after=0)
    halting = Halting(broker_of(one), halts=True)
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:

        async def read() -> None:
            assert set(await topic.members()) == {"0", "1", "2", "3"}

        with inside(one):
            nursery.start_soon(read)
        await settled()
        for name in "0123":
            await stack.enter_async_context(attached_in(other, topic, name))
            await settled()
        halting.go_on()
        await settled()
    assert halting.asked == 2


async def test_what_was_asked_for_before_the_connection_was_back_is_asked_for_again(
    one: Exchange, other: Exchange
) -> None:
    topic = lobby(leave_after=0)
    halting = Halting(broker_of(one), halts=True)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert set(await topic.members()) == {"ada"}

        with inside(one):
            nursery.start_soon(read)
        await settled()
        broker_of(one).cut()
        async with attached_in(other, topic, "ada"):
            await settled()
            broker_of(one).mend()
            halting.go_on()
            await settled()
    assert halting.asked == 2


async def test_one_asks_for_all_who_enter_and_if_it_is_cancelled_another_does(one: Exchange, other: Exchange) -> None:
    topic = lobby(leave_after=0)
    halting = Halting(broker_of(one), halts=True)
    seen: list[set[str]] = []

    async def read(scope: trio.CancelScope) -> None:
        with scope:
            seen.append(set(await topic.members()))

    scopes = [trio.CancelScope() for _ in range(3)]
    async with attached_in(other, topic, "ada"), trio.open_nursery() as nursery:
        for scope in scopes:
            with inside(one):
                nursery.start_soon(read, scope)
            await settled()
        assert halting.asked == 1
        scopes[0].cancel()
        await settled()
        assert halting.asked == 2
        halting.go_on()
    assert seen == [{"ada"}] * 2
    nothing_is_left(one)


async def test_a_broker_that_fails_those_who_enter_leaves_nothing_behind(one: Exchange) -> None:
    topic = lobby()
    Halting(broker_of(one), failures=1)
    with inside(one):
        with pytest.raises(OSError, match="the broker is down"):
            await topic.members()
        nothing_is_left(one)
        assert await topic.members() == {}


async def test_a_broker_that_fails_when_it_is_back_is_asked_once_a_second(
    autojump_clock: MockClock, one: Exchange, other: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    topic = lobby()
    halting = Halting(broker_of(one))
    async with presence_in(one, topic) as present:
        broker_of(one).cut()
        async with attached_in(other, topic, "ada"):
            halting.failures = 2
            broker_of(one).mend()
            await trio.sleep(1.5)
            assert present.members == {}
            await trio.sleep(1)
            assert set(present.members) == {"ada"}
    assert halting.asked == 4
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["the members of Channel(topic='streamrt:presence:lobby', key='') cannot be asked for"] * 2
    caplog.clear()


async def test_a_key_that_is_left_while_it_is_asked_for_anew_is_left(one: Exchange) -> None:
    topic = lobby()
    halting = Halting(broker_of(one))
    async with testing.no_tasks_left():
        async with presence_in(one, topic):
            halting.halts = True
            broker_of(one).cut()
            broker_of(one).mend()
            await settled()
        nothing_is_left(one)
        halting.go_on()
        await settled()
        nothing_is_left(one)


async def test_a_mark_that_cannot_be_read_is_left_out(one: Exchange, caplog: pytest.LogCaptureFixture) -> None:
    topic = lobby()
    channel = Channel("streamrt:presence:lobby", "")
    one.broker.mark(channel, "old", "{}")
    async with presence_in(one, topic) as present, attached_in(one, topic, "ada"):
        await settled()
        assert set(present.members) == {"ada"}
        one.broker.mark(channel, "old", '{"connections": 1, "at": 0, "about": null}')
        await settled()
        assert set(present.members) == {"ada", "old"}
        one.broker.mark(channel, "old", None)
        await settled()
        assert set(present.members) == {"ada"}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"a member of {channel} cannot be read, and is left out"]
    caplog.clear()


async def test_what_is_not_read_is_announced_to_nobody(one: Exchange) -> None:
    assert one.broker.announce is not None
    one.broker.announce(Channel("streamrt:presence:lobby", ""), Mark("x", "ada", "{}"), Position("a", 1))


# Nothing is left behind.


@pytest.mark.parametrize("way", ["attach", "presence", "members"])
async def test_who_is_cancelled_at_any_checkpoint_is_nowhere(
    way: str, autojump_clock: MockClock, one: Exchange, other: Exchange
) -> None:
    topic = Topic("lobby", int, presence=Presence(leave_after=0), history=History())
    finished = 0
    async with presence_in(other, topic) as present:
        for steps in range(60):
            async with testing.no_tasks_left():
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        async def enter() -> None:
                            nonlocal finished
                            async with AsyncExitStack() as stack:
                                if way == "attach":
                                    stream = await stack.enter_async_context(opened(Ear()))
                                    await stack.enter_async_context(topic.attach(stream, member="ada"))
                                elif way == "presence":
                                    await stack.enter_async_context(topic.presence())
                                else:
                                    await topic.members()
                                finished += 1
                                await trio.sleep_forever()

                        with inside(one):
                            nursery.start_soon(enter)
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            nothing_is_left(one)
            await settled()
            assert present.members == {}
    assert 0 < finished < 60
    assert broker_of(one).switchboard.boards[Channel("streamrt:presence:lobby", "")].values == {}


async def test_keys_and_members_that_were_there_once_leave_nothing_behind(autojump_clock: MockClock) -> None:
    topic = lobby()
    async with testing.no_tasks_left():
        for number in range(100):
            async with attached(topic, str(number), key=str(number % 10)), topic.presence(key=str(number % 10)):
                pass
        assert len(current_exchange()._attendances["lobby"]._seats) == 100
        await trio.sleep(5.01)
        nothing_is_left(current_exchange())


async def test_seats_that_are_kept_end_with_the_app_and_not_after(autojump_clock: MockClock) -> None:
    service = Service("test")
    topic = lobby(leave_after=1000)

    @service.stream_out("/hear", expose=True)
    async def hear(stream: StreamOut[int]) -> None:
        async with topic.attach(stream, member="ada"):
            pass

    broker = MemoryBroker()
    async with testing.no_tasks_left(seconds=1):
        async with App(service, broker=broker).client() as client, client.open(hear):
            pass
    assert broker._marked == {}


async def test_who_reads_when_the_app_ends_is_not_asked_for_anew_after_that(switchboard: Switchboard) -> None:
    topic = lobby()
    async with testing.no_tasks_left(seconds=1), process(switchboard) as one, presence_in(one, topic):
        Halting(broker_of(one), halts=True)
        broker_of(one).cut()
        broker_of(one).mend()
        await settled()


@pytest.mark.slow
async def test_ten_thousand_members_of_one_key_cost_ten_thousand_times_what_one_costs(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = lobby(leave_after=1)
    combined: list[int] = []
    combine = roster.combine
    monkeypatch.setattr(roster, "combine", lambda name, parts: (combined.append(len(parts)), combine(name, parts))[1])
    async with topic.presence() as present:
        assert topic._presence is not None
        seats = current_exchange().attendance(topic._terms, topic._presence)
        with ExitStack() as stack:
            for number in range(10_000):
                stack.enter_context(seats.seated(topic._marked(""), str(number), "null"))
            assert len(present.members) == 10_000
            assert len(combined) == sum(combined) == 10_000
            assert len(await topic.members()) == 10_000
            assert len(combined) == 10_000
        await trio.sleep(2)
        assert present.members == {}
        assert len(combined) == 30_000
        assert waiting(present) == []


def test_a_broker_that_has_no_marks_is_a_broker_all_the_same() -> None:
    assert SlowBroker.mark is Broker.mark
