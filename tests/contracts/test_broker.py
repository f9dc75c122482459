"""What a topic may rely on, whatever broker carries its messages: every broker passes these tests.

A broker that delivers late is given its time: a test waits for messages, and before it says that one did not come,
for another that was published after it.
"""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from streamrt import History, MemoryBroker
from streamrt.brokers import RedisBroker
from streamrt.runtime.broker import Channel, Position, Publication
from streamrt.wire.transport import Frame
from tests.brokers.process import HISTORY, OTHER, ROOM, Process, texts
from tests.brokers.servers import Server

BRIEF = History(seconds=2)


@attrs.frozen
class Kind:
    """A kind of broker.

    Args:
        opens: Gives a process whose broker is of this kind.
        rate: Of the clock of the tests: 0 where the broker goes by that clock, and 1 where it goes by another.
    """

    opens: Callable[[], AbstractAsyncContextManager[Process]]
    rate: float


@asynccontextmanager
async def memory() -> AsyncGenerator[Process]:
    broker = MemoryBroker()
    async with broker.running():
        yield Process(broker)


def over(server: Server) -> Callable[[], AbstractAsyncContextManager[Process]]:
    @asynccontextmanager
    async def opens() -> AsyncGenerator[Process]:
        broker = RedisBroker(server.url, prefix=secrets.token_hex(4))
        async with broker.running():
            yield Process(broker)

    return opens


SERVERS = ("valkey", "redis")


@pytest.fixture(params=["memory", *SERVERS])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "memory":
        return Kind(memory, rate=0)
    return Kind(over(request.getfixturevalue(request.param)), rate=1)


slow_over_servers = pytest.mark.parametrize(
    "kind", ["memory", *(pytest.param(server, marks=pytest.mark.slow) for server in SERVERS)], indirect=True
)


@pytest.fixture
def clock(kind: Kind) -> MockClock:
    """For tests in which time passes."""
    return MockClock(rate=kind.rate)


@pytest.fixture
async def process(kind: Kind) -> AsyncGenerator[Process]:
    async with kind.opens() as process:
        yield process


async def pass_time(clock: MockClock, seconds: float) -> None:
    if clock.rate:
        await trio.sleep(seconds)
    else:
        clock.jump(seconds)


# Delivering.


async def test_what_is_published_is_delivered_to_ones_own_process_once_and_as_it_was(process: Process) -> None:
    await process.broker.subscribe(ROOM)
    payload = '{"text": "Grüße, 世界 \U0001f600", "nul": "\\u0000"}'.encode()
    await process.broker.publish(ROOM, Publication(Frame(payload), origin=7, exclude=8), None)
    await process.all_is_delivered()
    [publication] = process.delivered[ROOM]
    assert (publication.frame.payload, publication.origin, publication.exclude) == (payload, 7, 8)
    assert publication.position is None


@pytest.mark.parametrize("size", [0, 1, 1 << 20])
async def test_a_message_may_have_any_size(process: Process, size: int) -> None:
    await process.broker.subscribe(ROOM)
    await process.publish(ROOM, "x" * size, history=HISTORY)
    assert await process.heard(ROOM, 1) == ["x" * size]


async def test_what_one_task_publishes_is_delivered_in_its_order(process: Process) -> None:
    await process.broker.subscribe(ROOM)

    async def publish(name: str) -> None:
        for number in range(100):
            await process.publish(ROOM, f"{name}{number}", history=HISTORY if number % 3 else None)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(publish, name)
    heard = await process.heard(ROOM, 300)
    for name in "abc":
        assert [text for text in heard if text[0] == name] == [f"{name}{number}" for number in range(100)]


async def test_what_is_delivered_and_what_is_replayed_have_one_order_and_the_same_positions(process: Process) -> None:
    await process.broker.subscribe(ROOM)

    async def publish(name: str) -> None:
        for number in range(20):
            await process.publish(ROOM, f"{name}{number}", history=HISTORY)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(publish, name)
    await process.heard(ROOM, 60)
    replay = await process.broker.replay(ROOM, History.OLDEST, HISTORY)
    placed = [
        [(publication.position, publication.frame.message) for publication in publications]
        for publications in (process.delivered[ROOM], replay.publications)
    ]
    assert placed[0] == placed[1]


# Subscribing.


async def test_once_subscribed_everything_is_delivered(process: Process) -> None:
    for number in range(50):
        channel = Channel("chat", str(number))
        await process.broker.subscribe(channel)
        await process.publish(channel, str(number))
    for number in range(50):
        assert await process.heard(Channel("chat", str(number)), 1) == [str(number)]


async def test_a_channel_is_a_topic_and_a_key_whatever_their_names_are(process: Process) -> None:
    names = ["", "a", "a:b", "b", ":", "a.b", "a*", "*", "?", "[a]", "{a}", "a\n", "a b", "ä", "A"]
    channels = [Channel(topic, key) for topic in names[1:] for key in names]
    for channel in channels:
        await process.broker.subscribe(channel)
    for number, channel in enumerate(channels):
        await process.publish(channel, str(number), history=HISTORY)
    await process.all_is_delivered()
    for number, channel in enumerate(channels):
        assert await process.heard(channel, 1) == [str(number)], channel
        assert await process.missed(History.OLDEST, channel=channel) == ([str(number)], True), channel


async def test_nothing_is_delivered_before_subscribing_nor_after_unsubscribing(process: Process) -> None:
    await process.publish(ROOM, "1")
    await process.all_is_delivered()
    assert process.delivered[ROOM] == []
    await process.broker.subscribe(ROOM)
    await process.publish(ROOM, "2")
    assert await process.heard(ROOM, 1) == ["2"]
    process.broker.unsubscribe(ROOM)
    await process.publish(ROOM, "3")
    await process.all_is_delivered()
    assert await process.heard(ROOM, 1) == ["2"]


async def test_subscribing_again_is_subscribing_once(process: Process) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(process.broker.subscribe, ROOM)
    await process.broker.subscribe(ROOM)
    await process.publish(ROOM, "1")
    await process.all_is_delivered()
    assert await process.heard(ROOM, 1) == ["1"]


async def test_unsubscribing_once_is_enough_however_often_one_has_subscribed(process: Process) -> None:
    await process.broker.subscribe(ROOM)
    await process.broker.subscribe(ROOM)
    process.broker.unsubscribe(ROOM)
    await process.publish(ROOM, "1")
    await process.all_is_delivered()
    assert process.delivered[ROOM] == []


async def test_unsubscribing_from_what_one_has_not_subscribed_to_is_nothing(process: Process) -> None:
    process.broker.unsubscribe(ROOM)
    await process.broker.subscribe(ROOM)
    process.broker.unsubscribe(OTHER)
    await process.publish(ROOM, "1")
    assert await process.heard(ROOM, 1) == ["1"]


async def test_unsubscribing_and_subscribing_again_loses_nothing_that_is_published_after_that(
    process: Process,
) -> None:
    await process.broker.subscribe(ROOM)
    for number in range(100):
        process.broker.unsubscribe(ROOM)
        if number % 2:
            await trio.lowlevel.checkpoint()  # sometimes it has begun to be carried out
        await process.broker.subscribe(ROOM)
        await process.publish(ROOM, str(number))
    assert await process.heard(ROOM, 100) == [str(number) for number in range(100)]


async def test_a_subscribing_that_was_cancelled_can_be_undone_and_done_again(process: Process) -> None:
    for number in range(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(process.broker.subscribe, ROOM)
            if number % 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        process.broker.unsubscribe(ROOM)
        await process.broker.subscribe(ROOM)
        await process.publish(ROOM, str(number))
    assert await process.heard(ROOM, 20) == [str(number) for number in range(20)]


# Histories.


async def test_positions_grow_by_one(process: Process) -> None:
    await process.broker.subscribe(ROOM)
    start = Position.parse(await process.keep())
    assert start is not None
    await process.keep(*map(str, range(10)))
    await process.heard(ROOM, 10)
    expected = [Position(start.epoch, start.offset + count) for count in range(1, 11)]
    assert [publication.position for publication in process.delivered[ROOM]] == expected


async def test_a_position_is_text_of_letters_digits_and_a_dot(process: Process) -> None:
    position = await process.keep("1")
    assert position.isascii()
    assert position.replace(".", "", 1).isalnum()  # so that it goes through a URL as it is
    assert str(Position.parse(position)) == position


async def test_what_was_published_after_a_position_is_replayed(process: Process) -> None:
    positions = [await process.keep()]
    positions += [await process.keep(str(number)) for number in range(5)]
    for count, position in enumerate(positions):
        assert await process.missed(position) == ([str(number) for number in range(count, 5)], True)


async def test_an_empty_history_has_a_position_from_which_everything_is_replayed(process: Process) -> None:
    assert await process.missed(History.OLDEST) == ([], True)
    assert await process.missed(None) == ([], False)
    start = await process.keep()
    assert await process.missed(start) == ([], True)
    await process.keep("1")
    assert await process.missed(start) == (["1"], True)


async def test_the_oldest_is_everything_that_is_kept(process: Process) -> None:
    few = History(messages=3)
    await process.keep(*"12345", history=few)
    assert await process.missed(History.OLDEST, history=few) == (["3", "4", "5"], True)


async def test_with_no_message_in_between_one_recovers_again_and_again(process: Process) -> None:
    position = await process.keep("1", "2")
    for _ in range(3):
        replay = await process.broker.replay(ROOM, position, HISTORY)
        assert (texts(replay.publications), replay.recovered) == ([], True)
        assert str(replay.position) == position
    await process.keep("3")
    assert await process.missed(position) == (["3"], True)


@pytest.mark.parametrize(
    "since",
    [
        None,
        "",
        ".",
        "1",
        ".1",
        "nonsense",
        "oldest.1",
        "OLDEST",
        "{epoch}",
        "{epoch}.",
        "{epoch}.-1",
        "{epoch}.+1",
        "{epoch}.1.",
        "{epoch}.1.0",
        "{epoch}.1e0",
        "{epoch}. 1",
        "{epoch}.1\n",
        "{epoch}.1_0",
        "{epoch}.²",
        "{epoch}.\u0661",
        "{epoch}.3",
        "{epoch}.18446744073709551617",
        "{epoch}." + "9" * 10_000,
        " {epoch}.1",
        "{epoch}0.1",
        "0.1",
        "*.1",
        "$",
        ">",
        "0-0",
        "\0",
        "\ud800",
        "x" * 100_000,
    ],
    ids=lambda since: ascii(since)[:40],
)
async def test_a_position_that_is_none_recovers_nothing_and_says_where_the_history_is(
    process: Process, since: str | None
) -> None:
    position = await process.keep("1", "2")
    epoch = position.partition(".")[0]
    wrong = None if since is None else since.replace("{epoch}", epoch)
    replay = await process.broker.replay(ROOM, wrong, HISTORY)
    assert (texts(replay.publications), replay.recovered) == ([], False)
    assert str(replay.position) == position


async def test_a_position_in_another_history_recovers_nothing(process: Process) -> None:
    position = await process.keep("1", "2", channel=OTHER)
    await process.keep("3", "4")
    assert await process.missed(position) == ([], False)
    assert await process.missed(position, channel=Channel("another", OTHER.key)) == ([], False)
    assert await process.missed(position, channel=OTHER) == ([], True)


async def test_what_is_published_without_a_history_is_in_none(process: Process) -> None:
    position = await process.keep("1")
    await process.publish(OTHER, "2")
    assert await process.missed(History.OLDEST, channel=OTHER) == ([], True)
    assert await process.missed(position) == ([], True)


async def test_a_history_is_kept_where_nobody_subscribes(process: Process) -> None:
    await process.broker.subscribe(ROOM)
    position = await process.keep("1")
    process.broker.unsubscribe(ROOM)
    await process.keep("2")
    assert await process.missed(position) == (["2"], True)


async def test_a_history_is_bounded_in_messages(process: Process) -> None:
    few = History(messages=3)
    positions = [await process.keep(history=few)]
    positions += [await process.keep(str(number), history=few) for number in range(5)]
    answers = [await process.missed(position, history=few) for position in positions]
    assert answers == [([], False)] * 2 + [(["2", "3", "4"], True), (["3", "4"], True), (["4"], True), ([], True)]


async def test_a_history_is_bounded_in_bytes_and_one_message_always_fits(process: Process) -> None:
    small = History(bytes=10)
    start = await process.keep(history=small)
    assert await process.keep("aaaa", "bbbb", "cc", history=small)
    assert await process.missed(start, history=small) == (["aaaa", "bbbb", "cc"], True)
    await process.keep("d", history=small)
    assert await process.missed(start, history=small) == ([], False)
    assert await process.missed(History.OLDEST, history=small) == (["bbbb", "cc", "d"], True)
    await process.keep("e" * 11, history=small)
    assert await process.missed(History.OLDEST, history=small) == (["e" * 11], True)
    await process.keep("f", history=small)
    assert await process.missed(History.OLDEST, history=small) == (["f"], True)


@slow_over_servers
async def test_a_history_is_bounded_in_time(process: Process, clock: MockClock) -> None:
    start = await process.keep("1", history=BRIEF)
    await pass_time(clock, 1.25)
    position = await process.keep("2", history=BRIEF)
    assert await process.missed(start, history=BRIEF) == (["2"], True)
    await pass_time(clock, 1.25)
    assert await process.missed(History.OLDEST, history=BRIEF) == (["2"], True)
    end = await process.keep("3", history=BRIEF)
    assert await process.missed(position, history=BRIEF) == (["3"], True)
    await pass_time(clock, 1.25)
    assert await process.missed(position, history=BRIEF) == (["3"], True)
    assert await process.missed(start, history=BRIEF) == ([], False)
    assert await process.missed(end, history=BRIEF) == ([], True)


@slow_over_servers
async def test_a_history_that_was_forgotten_recovers_nothing(process: Process, clock: MockClock) -> None:
    start = await process.keep(history=BRIEF)
    position = await process.keep("1", history=BRIEF)
    await process.keep("2", history=BRIEF)
    await pass_time(clock, 2.5)
    await process.keep("0", channel=OTHER, history=BRIEF)
    for since in (start, position):
        assert await process.missed(since, history=BRIEF) == ([], False)
    # The offsets that were asked for exist again.
    await process.keep("3", "4", history=BRIEF)
    for since in (start, position):
        assert await process.missed(since, history=BRIEF) == ([], False)
    assert await process.missed(History.OLDEST, history=BRIEF) == (["3", "4"], True)


@slow_over_servers
async def test_a_history_is_forgotten_by_its_own_time_and_not_by_that_of_another(
    process: Process, clock: MockClock
) -> None:
    long = Channel("archive", ROOM.key)
    await process.keep("1", history=BRIEF)
    position = await process.keep(channel=long)
    await process.keep("2", channel=long)
    await pass_time(clock, 2.5)
    await process.keep("0", channel=OTHER, history=BRIEF)
    assert await process.missed(History.OLDEST, history=BRIEF) == ([], True)
    assert await process.missed(position, channel=long) == (["2"], True)


@slow_over_servers
async def test_a_history_that_somebody_asks_for_is_not_forgotten(process: Process, clock: MockClock) -> None:
    position = await process.keep("1", history=BRIEF)
    for _ in range(3):
        await pass_time(clock, 1.25)
        await process.keep("0", channel=OTHER, history=BRIEF)
        assert await process.missed(position, history=BRIEF) == ([], True)
    await process.keep("2", history=BRIEF)
    assert await process.missed(position, history=BRIEF) == (["2"], True)


@slow_over_servers
async def test_each_of_a_thousand_keys_has_a_history_of_its_own(process: Process) -> None:
    channels = [Channel("chat", str(number)) for number in range(1000)]
    positions = [await process.keep(channel.key, "x", channel=channel) for channel in channels]
    assert len({position.partition(".")[0] for position in positions}) > 990  # 32 bits may be equal by chance
    for channel, position in zip(channels, positions, strict=True):
        assert await process.missed(History.OLDEST, channel=channel) == ([channel.key, "x"], True)
        assert await process.missed(position, channel=channel) == ([], True)
