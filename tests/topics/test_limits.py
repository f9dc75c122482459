"""What a subscriber's backlog holds at most, and how that is counted."""

import pytest
from trio.testing import wait_all_tasks_blocked

from streamrt import APIError, History, MemoryBroker, Topic
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame


async def test_replacing_does_not_make_a_backlog_larger_than_it_may_be() -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: number % 10, backlog_bytes=10)
    async with topic.subscribe() as numbers:
        for number in (1, 2, 3, 100_000_001, 100_000_002, 100_000_003):
            await topic.publish(number)
            await wait_all_tasks_blocked()
        left = topic.statistics().delivered
        heard = [await numbers.receive() for _ in range(left)]
    assert sum(len(str(number)) for number in heard) <= 10


async def test_a_replay_that_is_taken_back_is_counted_as_dropped() -> None:
    topic = Topic("numbers", int, backlog=1, history=History())
    for number in range(3):
        await topic.publish(number)
    async with topic.subscribe(since=History.OLDEST) as numbers:
        for number in range(2):
            await topic.publish(number)
            await wait_all_tasks_blocked()
        with pytest.raises(APIError.ResourceExhausted):
            await numbers.receive()
        assert (topic.statistics().delivered, topic.statistics().dropped) == (0, 5)


async def test_a_history_may_be_as_brief_as_one_likes() -> None:
    broker = MemoryBroker()
    await broker.publish(Channel("chat", "a"), Publication(Frame(b"0")), History(seconds=1e-30))
