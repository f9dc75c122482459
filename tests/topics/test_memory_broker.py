"""The broker for one process lets go of what it keeps. What every broker promises is in `tests.contracts`."""

from trio.testing import MockClock

from streamrt import History, MemoryBroker
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame

HISTORY = History(seconds=100)


async def publish(broker: MemoryBroker, key: str, history: History | None = HISTORY) -> None:
    await broker.publish(Channel("chat", key), Publication(Frame(b"0")), history)


async def position(broker: MemoryBroker, key: str) -> str:
    return str((await broker.replay(Channel("chat", key), None, HISTORY)).position)


async def recovers(broker: MemoryBroker, key: str, since: str) -> bool:
    return (await broker.replay(Channel("chat", key), since, HISTORY)).recovered


def kept(broker: MemoryBroker) -> set[str]:
    return {channel.key for logs in broker._logs.values() for channel in logs}


async def test_a_history_lasts_while_somebody_is_subscribed_and_its_time_after_that(mock_clock: MockClock) -> None:
    broker = MemoryBroker()
    await broker.subscribe(Channel("chat", "a"))
    await publish(broker, "a")
    since = await position(broker, "a")
    for _ in range(3):
        mock_clock.jump(150)
        await publish(broker, "b")
        assert kept(broker) == {"a", "b"}
    mock_clock.jump(90)
    broker.unsubscribe(Channel("chat", "a"))
    mock_clock.jump(99)
    await publish(broker, "c")
    assert kept(broker) == {"a", "c"}
    assert await recovers(broker, "a", since)
    mock_clock.jump(100)
    await publish(broker, "c")
    assert kept(broker) == {"c"}
    assert not await recovers(broker, "a", since)


async def test_what_is_touched_last_is_forgotten_last(mock_clock: MockClock) -> None:
    broker = MemoryBroker()
    for key in "abc":
        await publish(broker, key)
        mock_clock.jump(1)
    await publish(broker, "a")
    mock_clock.jump(98)  # 100 seconds after b
    await position(broker, "d")
    assert kept(broker) == {"a", "c", "d"}


async def test_nobody_pays_for_all_that_is_forgotten(mock_clock: MockClock) -> None:
    broker = MemoryBroker()
    for number in range(100):
        await publish(broker, str(number))
    mock_clock.jump(101)
    for count in range(1, 4):
        before = len(kept(broker))
        await publish(broker, "a")
        assert 1 < before - len(kept(broker)) < 10, count
    for _ in range(100):
        await publish(broker, "a")
    assert kept(broker) == {"a"}


async def test_a_hundred_thousand_keys_leave_nothing_behind(mock_clock: MockClock) -> None:
    broker = MemoryBroker()
    for number in range(100_000):
        key = str(number)
        channel = Channel("chat", key)
        await broker.subscribe(channel)
        await publish(broker, key)
        broker.unsubscribe(channel)
        mock_clock.jump(1)
    assert kept(broker) == {str(number) for number in range(100_000 - 100, 100_000)}
    assert not broker._subscribed


async def test_where_no_history_is_kept_nothing_is(mock_clock: MockClock) -> None:
    broker = MemoryBroker()
    for number in range(1000):
        await publish(broker, str(number), history=None)
    assert kept(broker) == set()
    broker.unsubscribe(Channel("chat", "0"))
    assert kept(broker) == set()
