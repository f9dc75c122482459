"""What a topic promises to those who publish, and to those who are attached or subscribed."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import (
    APIError,
    App,
    EncodeError,
    Ended,
    History,
    InvalidMessage,
    Limits,
    MemoryBroker,
    Service,
    StreamInOut,
    StreamOut,
    Topic,
    testing,
)
from streamrt.api import context
from streamrt.runtime import exchange, room
from streamrt.runtime.broker import Broker, Channel, Publication, Replay
from streamrt.wire.codec import codec
from streamrt.wire.transport import Frame
from tests.topics.stage import Ear, opened

settled = wait_all_tasks_blocked


@asynccontextmanager
async def attached(topic: Topic[int], ear: Ear, **options: Any) -> AsyncGenerator[StreamOut[int]]:
    async with opened(ear) as stream, topic.attach(stream, **options):
        yield stream


async def publish(topic: Topic[int], *messages: int, **options: Any) -> None:
    for message in messages:
        await topic.publish(message, **options)
    await settled()


def counted(topic: Topic[int]) -> tuple[int, int, int, int]:
    statistics = topic.statistics()
    return statistics.subscribers, statistics.published, statistics.delivered, statistics.dropped


# Who hears what.


async def test_who_is_attached_hears_the_key_it_is_attached_to() -> None:
    topic = Topic("numbers", int)
    ear, other = Ear(), Ear()
    async with attached(topic, ear, key="a"), attached(topic, other):
        await publish(topic, 1, key="a")
        await publish(topic, 2)
        await publish(topic, 3, key="b")
    assert (ear.heard, other.heard) == ([1], [2])


async def test_what_was_published_before_the_block_is_not_heard_and_what_was_in_it_is() -> None:
    topic = Topic("numbers", int)
    first, second = Ear(), Ear()
    async with attached(topic, first):
        await topic.publish(1)
        async with opened(second) as stream:
            async with topic.attach(stream):
                await topic.publish(2)
            await topic.publish(3)
    assert (first.heard, second.heard) == ([1, 2, 3], [2])


async def test_a_stream_hears_two_topics_and_two_keys() -> None:
    one, other = Topic("one", int), Topic("other", int)
    ear = Ear()
    async with opened(ear) as stream, one.attach(stream), other.attach(stream, key="a"), other.attach(stream, key="b"):
        await publish(one, 1)
        await publish(other, 2, key="b")
        await publish(other, 3, key="a")
    assert ear.heard == [1, 2, 3]


async def test_the_same_stream_attached_twice_hears_everything_twice() -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream):
        async with topic.attach(stream):
            await publish(topic, 1, 2)
            assert topic.statistics().subscribers == 2
        await publish(topic, 3)
    assert ear.heard == [1, 2, 1, 2, 3]


async def test_two_tabs_of_one_user_leave_by_themselves() -> None:
    topic = Topic("numbers", int)
    tabs = [Ear(), Ear()]
    async with attached(topic, tabs[0], key="ada"):
        async with attached(topic, tabs[1], key="ada"):
            await publish(topic, 1, key="ada")
        await publish(topic, 2, key="ada")
    assert [tab.heard for tab in tabs] == [[1, 2], [1]]


async def test_an_excluded_stream_hears_nothing_of_it() -> None:
    topic = Topic("numbers", int)
    ears = [Ear(), Ear()]
    async with attached(topic, ears[0]) as stream, attached(topic, ears[1]):
        await topic.publish(1)
        await topic.publish(2, exclude=stream)
        await topic.publish(3, exclude=stream)
        await settled()
        await topic.publish(4, exclude=stream)
    assert [ear.heard for ear in ears] == [[1], [1, 2, 3, 4]]
    assert counted(topic) == (0, 4, 5, 0)


async def test_who_excludes_itself_hears_all_but_what_its_own_tasks_publish(autojump_clock: MockClock) -> None:
    service = Service("test")
    topic = Topic("numbers", int)

    @service.stream_in_out("/shy", expose=True)
    async def shy(stream: StreamInOut[int, int]) -> None:
        async with topic.attach(stream, exclude_self=True), trio.open_nursery() as nursery:
            async for number in stream:
                nursery.start_soon(topic.publish, number)

    @service.stream_in_out("/bold", expose=True)
    async def bold(stream: StreamInOut[int, int]) -> None:
        async with topic.attach(stream):
            async for number in stream:
                await topic.publish(number)

    async with App(service).client() as client, client.open(shy) as one, client.open(bold) as other:
        await settled()
        await one.send(1)
        assert await other.receive() == 1
        await other.send(2)
        assert await one.receive() == 2
        assert await other.receive() == 2
    assert topic.statistics().delivered == 3


async def test_what_a_stream_sends_itself_and_what_a_topic_sends_it_are_in_one_order() -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with attached(topic, ear) as stream:
        for stalled in (False, True):
            if stalled:
                ear.stall()
            await stream.send(1)
            await topic.publish(2)
            await stream.send(3)
            await topic.publish(4)
            await topic.publish(5)
            await settled()
            await stream.send(6)
            await topic.publish(7)
        ear.resume()
    assert ear.heard == [1, 2, 3, 4, 5, 6, 7] * 2


async def test_a_message_of_another_type_is_not_published() -> None:
    topic = Topic("numbers", int)
    with pytest.raises(EncodeError, match="expected an integer"):
        await topic.publish("1")  # type: ignore[arg-type]
    assert counted(topic) == (0, 0, 0, 0)


# A task that subscribes.


async def test_a_task_hears_messages_as_a_receive_channel() -> None:
    topic = Topic("numbers", int)
    async with topic.subscribe(key="a") as numbers, topic.subscribe(key="a") as others:
        for number in range(100):
            await topic.publish(number, key="a")
        await topic.publish(7)
        assert [await numbers.receive() for _ in range(100)] == list(range(100))
        assert numbers.position is None
        async for number in others:
            if number == 99:
                break
    with pytest.raises(trio.ClosedResourceError, match="the subscription to topic numbers is over"):
        await numbers.receive()


async def test_messages_are_decoded_once_for_all_tasks() -> None:
    @attrs.frozen(eq=False)
    class Message:
        text: str

    topic = Topic("texts", Message)
    async with topic.subscribe() as one, topic.subscribe() as other:
        await topic.publish(Message("hello"))
        message = await one.receive()
        assert message.text == "hello"
        assert await other.receive() is message


async def test_a_subscription_that_is_closed_ends_who_waits_for_it_and_takes_no_more() -> None:
    topic = Topic("numbers", int)

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await numbers.receive()

    async with topic.subscribe() as numbers, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await settled()
        await numbers.aclose()
        await publish(topic, 1)
        assert counted(topic) == (1, 1, 0, 0)


async def test_receiving_lets_others_run_now_and_then_and_can_be_cancelled_every_time() -> None:
    topic = Topic("numbers", int)
    async with topic.subscribe() as numbers:
        for number in range(200):
            await topic.publish(number)
        await settled()
        ran = False

        async def run() -> None:
            nonlocal ran
            ran = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            for _ in range(128):
                await numbers.receive()
            assert ran
        with trio.CancelScope() as scope:
            scope.cancel()
            await numbers.receive()
        assert scope.cancelled_caught
        assert await numbers.receive() == 128


# The bugs that others had.


class SlowBroker(Broker):
    """A broker on whose every call others run, like one on the network; and it fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MemoryBroker()
        self.subscribed: set[Channel] = set()
        self.fails = False

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.fails = False
            raise OSError("the broker is down")
        await self.inner.publish(channel, publication, history)
        await trio.lowlevel.checkpoint()
        if channel in self.subscribed and self.deliver is not None:
            self.deliver(channel, publication)

    async def subscribe(self, channel: Channel) -> None:
        await trio.lowlevel.checkpoint()
        self.subscribed.add(channel)
        await trio.lowlevel.checkpoint()

    def unsubscribe(self, channel: Channel) -> None:
        self.subscribed.discard(channel)

    async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
        await trio.lowlevel.checkpoint()
        replay = await self.inner.replay(channel, since, history)
        await trio.lowlevel.checkpoint()
        return replay


@asynccontextmanager
async def brokered(broker: Broker) -> AsyncGenerator[None]:
    """Be in an app that has this broker."""
    token = exchange.own_exchange.set(exchange.Exchange(broker))
    try:
        yield
    finally:
        exchange.own_exchange.reset(token)


@pytest.mark.parametrize("way", ["attach", "subscribe"])
async def test_who_is_cancelled_at_any_checkpoint_leaves_no_subscriber(way: str) -> None:
    topic = Topic("numbers", int, history=History())
    broker = SlowBroker()
    async with brokered(broker):
        for number in range(20):
            await topic.publish(number)
        finished = 0
        for steps in range(60):
            async with testing.no_tasks_left():
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        async def enter() -> None:
                            nonlocal finished
                            async with AsyncExitStack() as stack:
                                if way == "attach":
                                    stream = await stack.enter_async_context(opened(Ear()))
                                    await stack.enter_async_context(topic.attach(stream, since=History.OLDEST))
                                else:
                                    await stack.enter_async_context(topic.subscribe(since=History.OLDEST))
                                finished += 1
                                await trio.sleep_forever()

                        nursery.start_soon(enter)
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()
            assert topic.statistics().subscribers == 0
            assert broker.subscribed == set()
        assert 0 < finished < 60


async def test_the_last_that_leaves_and_the_first_that_comes_do_not_disturb_each_other() -> None:
    topic = Topic("numbers", int)
    broker = SlowBroker()
    async with brokered(broker):
        for steps in range(12):
            going = trio.Event()

            async def leave(going: trio.Event) -> None:
                async with topic.subscribe():
                    await going.wait()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave, going)
                await settled()
                going.set()
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                async with topic.subscribe() as numbers:
                    await topic.publish(steps)
                    assert await numbers.receive() == steps
        assert broker.subscribed == set()


async def test_a_broker_that_fails_once_fails_one_publisher_once(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int)
    broker = SlowBroker()
    ear = Ear()
    async with brokered(broker), testing.no_tasks_left(), attached(topic, ear):
        broker.fails = True
        with pytest.raises(OSError, match="the broker is down"):
            await topic.publish(1)
        await publish(topic, 2, 3)
    assert ear.heard == [2, 3]


async def test_a_history_that_is_longer_than_the_backlog_arrives_whole() -> None:
    topic = Topic("numbers", int, backlog=2, history=History(messages=500))
    for number in range(500):
        await topic.publish(number)
    ear = Ear()
    async with attached(topic, ear, since=History.OLDEST), topic.subscribe(since=History.OLDEST) as numbers:
        await settled()
        assert ear.heard == list(range(500))
        await publish(topic, 500)
        assert [await numbers.receive() for _ in range(501)] == list(range(501))
    assert ear.heard == list(range(501))


async def test_keys_that_were_touched_once_leave_nothing_behind() -> None:
    topic = Topic("numbers", int)
    for number in range(20_000):
        await topic.publish(number, key=str(number))
    for number in range(2_000):
        async with topic.subscribe(key=str(number)):
            await topic.publish(number, key=str(number))
    shared = exchange.current_exchange()
    assert isinstance(shared.broker, MemoryBroker)
    assert not shared._rooms
    assert not shared._new
    assert not shared.broker._subscribed
    assert not shared.broker._logs
    assert counted(topic) == (0, 22_000, 0, 0)
    assert topic.statistics().keys == {}


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "latest"])
async def test_dropping_does_not_break_waiting_for_an_empty_backlog(when_full: Any, autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, when_full=when_full, backlog=2)
    ear = Ear()
    async with trio.open_nursery() as nursery:
        async with attached(topic, ear):
            ear.stall()
            await publish(topic, 0)  # is on its way out
            await publish(topic, *range(1, 10))
            nursery.start_soon(_resume_after, ear, 5)
    assert ear.heard == {"drop_oldest": [0, 8, 9], "drop_newest": [0, 1, 2], "latest": [0, 9]}[when_full]
    assert ear.ended == (1000, "")
    assert trio.current_time() == 5


async def _resume_after(ear: Ear, seconds: float) -> None:
    await trio.sleep(seconds)
    ear.resume()


async def test_one_that_is_stalled_delays_no_other(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, backlog=1000)
    ears = [Ear() for _ in range(1000)]
    stalled = ears[500]
    async with AsyncExitStack() as stack:
        for ear in ears:
            stream = await stack.enter_async_context(opened(ear))
            await stack.enter_async_context(topic.attach(stream))
        stalled.stall()
        await publish(topic, *range(300))
        assert all(ear.heard == list(range(300)) for ear in ears if ear is not stalled)
        assert stalled.heard == []
        stalled.resume()
        await settled()
        assert stalled.heard == list(range(300))


@pytest.mark.parametrize("backlog", [1, 16, 16_384])
async def test_a_burst_reaches_who_reads_whole_and_in_order(backlog: int, autojump_clock: MockClock) -> None:
    service = Service("test")
    topic = Topic("numbers", int, backlog=backlog)

    @service.stream_out("/numbers", expose=True)
    async def numbers(stream: StreamOut[int]) -> None:
        async with topic.attach(stream):
            await trio.sleep_forever()

    async with App(service).client() as client, client.open(numbers) as stream, trio.open_nursery() as nursery:
        await settled()

        async def burst() -> None:
            for number in range(10_000):
                await topic.publish(number)

        nursery.start_soon(burst)
        assert [await stream.receive() for _ in range(10_000)] == list(range(10_000))


async def test_who_leaves_amid_a_publish_hears_what_came_before_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)  # a turn for every few
    topic = Topic("numbers", int)
    ears = [Ear() for _ in range(200)]
    leaving = trio.CancelScope()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:

        async def last() -> None:
            with leaving:
                async with attached(topic, ears[-1]):
                    await trio.sleep_forever()

        for ear in ears[:-1]:
            stream = await stack.enter_async_context(opened(ear))
            await stack.enter_async_context(topic.attach(stream))
        nursery.start_soon(last)
        await settled()
        await topic.publish(1)
        while not ears[0].heard:  # noqa: ASYNC110 - the fan-out is to be met in the middle
            await trio.lowlevel.checkpoint()
        assert ears[-1].heard == []
        leaving.cancel()
        while topic.statistics().subscribers == len(ears):  # noqa: ASYNC110 - the same
            await trio.lowlevel.checkpoint()
        late = Ear()
        stream = await stack.enter_async_context(opened(late))
        await stack.enter_async_context(topic.attach(stream))
        await publish(topic, 2)
        assert ears[-1].heard == [1]
        assert late.heard == [2]
        assert all(ear.heard == [1, 2] for ear in ears[:-1])
    assert counted(topic) == (0, 2, 200 + 200, 0)


async def test_who_publishes_from_its_own_delivery_hears_that_too() -> None:
    topic = Topic("numbers", int)
    async with topic.subscribe() as numbers:
        await topic.publish(0)
        heard: list[int] = []
        async for number in numbers:
            heard.append(number)
            if number == 200:
                break
            await topic.publish(number + 1)
    assert heard == list(range(201))


async def test_coming_back_with_no_message_in_between_recovers_again_and_again() -> None:
    topic = Topic("numbers", int, history=History())
    position: str | None = None
    for visit in range(3):
        ear = Ear()
        async with opened(ear) as stream, topic.attach(stream, since=position) as attachment:
            assert attachment.recovered is (visit > 0)
            assert position in {None, attachment.position}
            position = attachment.position
        assert ear.heard == []
    await topic.publish(1)
    for _ in range(2):
        ear = Ear()
        async with opened(ear) as stream, topic.attach(stream, since=position) as attachment:
            assert attachment.recovered
        assert ear.heard == [1]


@pytest.mark.parametrize("way", ["attach", "subscribe"])
async def test_an_exception_in_the_block_is_the_one_that_leaves_it(way: str) -> None:
    topic = Topic("numbers", int, history=History())
    error = ValueError("mine")
    group = ExceptionGroup("mine too", [error])
    for raised in (error, group):
        async with opened(Ear()) as stream:
            with pytest.raises((ValueError, ExceptionGroup)) as caught:
                async with topic.attach(stream) if way == "attach" else topic.subscribe():
                    raise raised
            assert caught.value is raised


# Who is too far behind.


async def test_who_is_too_far_behind_is_disconnected_with_4429_and_the_others_are_not(
    autojump_clock: MockClock,
) -> None:
    service = Service("test")
    topic = Topic("numbers", int, backlog=10)
    endings: list[Ended | None] = []

    @service.stream_out("/numbers", expose=True)
    async def numbers(stream: StreamOut[int]) -> None:
        try:
            async with topic.attach(stream):
                await trio.sleep_forever()
        finally:
            endings.append(stream.ended)

    app = App(service)
    reason = "resource_exhausted: too far behind topic numbers"
    async with app.client() as client, client.open(numbers) as good:
        async with testing.connect(app, "/numbers", stalled=True) as bad:
            await settled()
            for number in range(100):
                await publish(topic, number)
                assert await good.receive() == number
            assert endings == [Ended("runtime", 4429, reason)]
            bad.resume()
            assert await bad.closed() == Ended("peer", 4429, reason)
        assert topic.statistics().subscribers == 1
    assert topic.statistics().dropped > 0


async def test_a_disconnected_streams_backlog_is_forgotten_and_what_it_sent_itself_goes_out() -> None:
    topic = Topic("numbers", int, backlog=3)
    ear = Ear()

    async def handler() -> None:
        async with attached(topic, ear) as stream:
            ear.stall()
            await publish(topic, 0)
            await publish(topic, 1, 2)
            await stream.send(100)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler)
        await settled()
        await publish(topic, 3)
        assert counted(topic) == (1, 4, 4, 0)
        await topic.publish(4)
        await topic.publish(5)
        await settled()
        ear.resume()
    assert ear.heard == [0, 100]
    assert ear.ended == (4429, "resource_exhausted: too far behind topic numbers")
    assert counted(topic) == (0, 6, 1, 4)


async def test_a_task_that_is_too_far_behind_is_told() -> None:
    topic = Topic("numbers", int, backlog=3)
    async with topic.subscribe() as numbers:
        await publish(topic, 0, 1, 2, 3)
        for _ in range(2):
            with pytest.raises(APIError.ResourceExhausted, match="too far behind topic numbers"):
                await numbers.receive()
        await publish(topic, 4)
        assert counted(topic) == (1, 5, 0, 4)


@pytest.mark.parametrize(
    ("when_full", "heard"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2]), ("latest", [9])]
)
async def test_a_task_that_is_behind_misses_what_the_policy_says(when_full: Any, heard: list[int]) -> None:
    topic = Topic("numbers", int, when_full=when_full, backlog=3)
    async with topic.subscribe() as numbers:
        await publish(topic, *range(10))
        assert [await numbers.receive() for _ in heard] == heard
        assert counted(topic) == (1, 10, len(heard), 10 - len(heard))


async def test_a_backlog_is_bounded_in_bytes_too_and_one_message_always_fits() -> None:
    topic = Topic("numbers", int, when_full="drop_oldest", backlog_bytes=5)
    async with topic.subscribe() as numbers:
        await publish(topic, 1, 22, 33, 44)
        assert [await numbers.receive() for _ in range(2)] == [33, 44]
        await publish(topic, 1234567)
        assert await numbers.receive() == 1234567


async def test_the_latest_of_each_name_takes_the_place_of_the_one_before() -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: number % 10, backlog=3)
    ear = Ear()
    async with attached(topic, ear) as stream:
        ear.stall()
        await publish(topic, 1)
        await publish(topic, 11, 2, 21)
        await stream.send(100)
        await publish(topic, 12, 3, 31)
        assert counted(topic) == (1, 7, 4, 3)
        await publish(topic, 4)  # a fourth name: the oldest goes
        ear.resume()
    assert ear.heard == [1, 12, 100, 3, 4]
    assert counted(topic) == (0, 8, 4, 4)


async def test_a_name_that_was_sent_has_a_new_place() -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: number % 10)
    ear = Ear()
    async with attached(topic, ear):
        for numbers in ((1, 11, 2), (12, 21)):
            ear.stall()
            await publish(topic, 0)
            await publish(topic, *numbers)
            ear.resume()
            await settled()
    assert ear.heard == [0, 11, 2, 0, 12, 21]


async def test_replacing_counts_bytes(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: number % 10, backlog_bytes=6)
    ear = Ear()
    async with opened(ear, Limits(send_bytes=10, send_timeout=3)) as stream, topic.attach(stream):
        ear.stall()
        await publish(topic, 0)
        await publish(topic, 1, 2, 12341)
        assert stream._port.writer.outbox.queued_bytes == 6  # type: ignore[attr-defined]
        await publish(topic, 3)  # no room beside it
        assert stream._port.writer.outbox.queued_bytes == 2  # type: ignore[attr-defined]
        ear.resume()
    assert ear.heard == [0, 2, 3]


async def test_a_stream_that_has_ended_takes_nothing_more(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with attached(topic, ear) as stream:
        await publish(topic, 1)
        ear.vanish()
        await publish(topic, 2)
        assert counted(topic) == (1, 2, 1, 0)
        with pytest.raises(trio.BrokenResourceError):
            async with topic.attach(stream):
                pytest.fail("it has ended")
    assert ear.heard == [1]


async def test_who_changes_topics_and_does_not_read_waits_like_who_sends(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, backlog=4)
    ear = Ear()
    async with opened(ear, Limits(send_messages=4, send_timeout=3)) as stream:
        ear.stall()
        with pytest.raises(APIError.ResourceExhausted, match="the peer has not read for 3 s"):
            for key in range(100):
                async with topic.attach(stream, key=str(key)):
                    await publish(topic, 1, 2, 3, key=str(key))
        assert key <= 3
        assert trio.current_time() == 3


# Histories.


async def test_who_comes_back_hears_what_it_missed_and_then_what_is_new() -> None:
    topic = Topic("numbers", int, history=History())
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream) as attachment:
        await publish(topic, 1, 2)
        position = attachment.position
    await publish(topic, 3, 4)
    async with opened(ear) as stream, topic.attach(stream, since=position) as attachment:
        assert attachment.recovered
        await publish(topic, 5)
        assert attachment.position != position
    assert ear.heard == [1, 2, 3, 4, 5]
    assert topic.statistics().delivered == 5


@pytest.mark.parametrize("since", ["", "nonsense", "oldest.1", "0.99", "-1", "0123.²", None])
async def test_a_position_from_nowhere_recovers_nothing(since: str | None) -> None:
    topic = Topic("numbers", int, history=History())
    await publish(topic, 1, 2)
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream, since=since) as attachment:
        assert not attachment.recovered
        await publish(topic, 3)
    assert ear.heard == [3]
    async with topic.subscribe(since=since) as numbers:
        assert not numbers.recovered
        await publish(topic, 4)
        assert await numbers.receive() == 4


async def test_nothing_is_sent_of_what_is_not_whole() -> None:
    topic = Topic("numbers", int, history=History(messages=2))
    async with topic.subscribe() as numbers:
        position = numbers.position
    await publish(topic, 1, 2)
    async with topic.subscribe(since=position) as numbers:
        assert numbers.recovered
        assert [await numbers.receive() for _ in range(2)] == [1, 2]
    await publish(topic, 3)
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream, since=position) as attachment:
        assert not attachment.recovered
        await publish(topic, 4)
    assert ear.heard == [4]


async def test_what_is_published_during_a_replay_comes_after_it(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, history=History())
    await publish(topic, *range(10))
    ear = Ear()
    ear.stall(3)
    async with opened(ear, Limits(send_messages=2, send_timeout=60)) as stream, trio.open_nursery() as nursery:

        async def attach() -> None:
            async with topic.attach(stream, since=History.OLDEST) as attachment:
                assert attachment.recovered
                await topic.publish(14)

        nursery.start_soon(attach)
        await settled()
        await publish(topic, 10, 11, 12, 13)
        assert len(ear.heard) == 3
        ear.resume()
    assert ear.heard == list(range(15))


async def test_a_replay_does_not_flood_who_reads_slowly(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, history=History())
    await publish(topic, *range(100))
    ear = Ear()
    ear.stall()
    async with opened(ear, Limits(send_messages=2, send_timeout=3)) as stream:
        with pytest.raises(APIError.ResourceExhausted):
            async with topic.attach(stream, since=History.OLDEST):
                pytest.fail("it has not read")
        assert len(stream._port.writer.outbox) <= 2  # type: ignore[attr-defined]
    assert topic.statistics().subscribers == 0


async def test_who_is_too_far_behind_during_its_replay_is_disconnected(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, backlog=3, history=History())
    await publish(topic, *range(10))
    ear = Ear()
    ear.stall()

    async def handler() -> None:
        async with opened(ear, Limits(send_messages=2, send_timeout=60)) as stream:
            with pytest.raises(trio.BrokenResourceError, match="4429 resource_exhausted: too far behind topic numbers"):
                async with topic.attach(stream, since=History.OLDEST):
                    pytest.fail("it has not read")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler)
        await settled()
        await publish(topic, 10, 11, 12, 13)
    assert topic.statistics().subscribers == 0


async def test_what_a_broker_delivers_late_is_not_heard_twice() -> None:
    topic = Topic("numbers", int, history=History())

    class Late(SlowBroker):
        async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
            replay = await super().replay(channel, since, history)
            if replay.publications:
                for publication in replay.publications[-2:]:
                    self.deliver(channel, publication)
                await settled()
            return replay

    broker = Late()
    ear = Ear()
    async with brokered(broker):
        await publish(topic, 1, 2, 3)
        async with opened(ear) as stream, topic.attach(stream, since=History.OLDEST):
            again = (await broker.inner.replay(Channel("numbers", ""), History.OLDEST, History())).publications
            for publication in again[:1]:
                broker.deliver(Channel("numbers", ""), publication)
            await settled()
            broker.deliver(Channel("numbers", ""), again[-1])
            await publish(topic, 4)
            assert ear.heard == [1, 2, 3, 4]
        async with topic.subscribe(since=History.OLDEST) as numbers:
            await publish(topic, 5)
            assert [await numbers.receive() for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_a_replay_leaves_out_what_was_not_for_the_stream() -> None:
    topic = Topic("numbers", int, history=History())
    ear = Ear()
    async with opened(ear) as stream:
        context.connection_id.set(stream.request.connection_id)
        for shy in (True, False):
            async with topic.attach(stream, exclude_self=shy) as attachment:
                position = attachment.position
                await topic.publish(1)
                await topic.publish(2, exclude=stream)
            ear.heard.clear()
            async with topic.attach(stream, since=position, exclude_self=shy) as attachment:
                assert attachment.recovered
                await settled()
            assert ear.heard == ([] if shy else [1])


async def test_a_position_is_behind_what_was_published_before_it_was_asked_for() -> None:
    topic = Topic("numbers", int, history=History())
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream) as attachment:
        await topic.publish(1)
        position = attachment.position
    assert attachment.position == position
    async with opened(ear) as stream, topic.attach(stream, since=position) as attachment:
        assert attachment.recovered
    assert ear.heard == [1]


async def test_a_position_never_goes_back() -> None:
    topic = Topic("numbers", int, history=History())
    broker = SlowBroker()
    channel = Channel("numbers", "")
    async with brokered(broker), opened(Ear()) as stream:
        await publish(topic, 1, 2, 3)
        late = (await broker.inner.replay(channel, History.OLDEST, History())).publications
        async with topic.attach(stream, since=History.OLDEST) as attachment:
            position = attachment.position
            broker.deliver(channel, late[0])  # type: ignore[misc]
            await settled()
            assert attachment.position == position
            await publish(topic, 4)
            assert attachment.position != position


async def test_a_subscriptions_position_is_behind_what_it_has_received() -> None:
    topic = Topic("numbers", int, history=History())
    await publish(topic, 1, 2, 3)
    async with topic.subscribe(since=History.OLDEST) as numbers:
        positions = [numbers.position]
        for _ in range(3):
            await numbers.receive()
            positions.append(numbers.position)
    for count, position in enumerate(positions):
        async with topic.subscribe(since=position) as numbers:
            assert numbers.recovered
            assert [await numbers.receive() for _ in range(3 - count)] == [1, 2, 3][count:]


# Who publishes.


async def test_publishing_lets_others_run_when_nobody_listens() -> None:
    topic = Topic("numbers", int)
    ran = False

    async def run() -> None:
        nonlocal ran
        ran = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        for number in range(128):
            await topic.publish(number)
        assert ran


async def test_publishing_can_be_cancelled_and_has_published_nothing_then() -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with attached(topic, ear):
        with trio.CancelScope() as scope:
            scope.cancel()
            await topic.publish(1)
        assert scope.cancelled_caught
        assert counted(topic) == (1, 0, 0, 0)
    assert ear.heard == []


async def test_who_publishes_waits_for_the_fan_out_and_can_be_cancelled_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)  # so that it takes several turns
    topic = Topic("numbers", int, backlog=1)
    ears = [Ear() for _ in range(200)]
    async with AsyncExitStack() as stack:
        for ear in ears:
            stream = await stack.enter_async_context(opened(ear))
            await stack.enter_async_context(topic.attach(stream))
        await topic.publish(1)
        [crowd] = exchange.current_exchange()._rooms.values()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(topic.publish, 2)
            while not crowd.emptied:  # noqa: ASYNC110 - until it waits there
                await trio.lowlevel.checkpoint()
            assert not ears[-1].heard
            nursery.cancel_scope.cancel()
        await publish(topic, 3)
        assert all(ear.heard == [1, 3] for ear in ears)


async def test_who_waits_for_a_room_that_goes_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)  # so that they have left before it is through
    topic = Topic("numbers", int, backlog=1)

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with attached(topic, Ear()):
            task_status.started()
            await trio.sleep_forever()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, trio.open_nursery() as listening:
            for _ in range(500):
                await listening.start(listen)
            [crowd] = exchange.current_exchange()._rooms.values()
            await topic.publish(1)
            nursery.start_soon(topic.publish, 2)
            while not crowd.emptied:  # noqa: ASYNC110 - until it waits there
                await trio.lowlevel.checkpoint()
            listening.cancel_scope.cancel()
    assert counted(topic)[:2] == (0, 2)


# The fan-out.


async def test_a_large_fan_out_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)
    topic = Topic("numbers", int)
    ears = [Ear() for _ in range(100)]
    async with AsyncExitStack() as stack:
        for ear in ears:
            stream = await stack.enter_async_context(opened(ear))
            await stack.enter_async_context(topic.attach(stream))
        await topic.publish(1)
        turns = set[int]()
        while not all(ear.heard for ear in ears):
            turns.add(sum(bool(ear.heard) for ear in ears))
            await trio.lowlevel.checkpoint()
        assert turns - {0}  # whoever else ran saw it amid its work
        assert turns <= {0, room._AT_ONCE, 2 * room._AT_ONCE, 3 * room._AT_ONCE}
        await publish(topic, 2)
        assert all(ear.heard == [1, 2] for ear in ears)


async def test_rooms_take_turns_with_a_slow_fan_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)
    topic = Topic("numbers", int)
    ears = {key: Ear() for key in "abc"}
    async with AsyncExitStack() as stack:
        for key, ear in ears.items():
            stream = await stack.enter_async_context(opened(ear))
            await stack.enter_async_context(topic.attach(stream, key=key))
        for key in ears:
            await topic.publish(1, key=key)
        await settled()
        assert [ear.heard for ear in ears.values()] == [[1]] * 3


async def test_the_fan_out_is_one_task_for_as_long_as_somebody_listens() -> None:
    topic, other = Topic("numbers", int), Topic("others", int)

    def fan_outs() -> int:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        return sum("fan_out" in task.name for nursery in root.child_nurseries for task in nursery.child_tasks)

    async with testing.no_tasks_left():
        for _ in range(2):
            async with topic.subscribe() as one, other.subscribe() as two, topic.subscribe(key="a"):
                await settled()
                assert fan_outs() == 1
                await topic.publish(1)
                await other.publish(2)
                assert (await one.receive(), await two.receive()) == (1, 2)
        await settled()
        assert fan_outs() == 0


@pytest.mark.parametrize("way", ["attach", "subscribe"])
async def test_a_fault_of_one_subscriber_is_its_own_end_only(
    way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topic("numbers", int)
    good, bad = Ear(), Ear()

    async with attached(topic, good), AsyncExitStack() as stack:
        if way == "attach":
            stream = await stack.enter_async_context(opened(bad))
            subscriber: Any = await stack.enter_async_context(topic.attach(stream))
        else:
            subscriber = await stack.enter_async_context(topic.subscribe())

        def fail(*_: object) -> None:
            raise RuntimeError("a fault")

        monkeypatch.setattr(type(subscriber), "skips", fail)
        subscriber.replayed = object()
        await publish(topic, 1)
        assert good.heard == [1]
        if way == "attach":
            assert stream.ended is not None
            assert stream.ended.code == 1011
        else:
            with pytest.raises(APIError.Internal):
                await subscriber.receive()
        subscriber.replayed = None
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "a message of the topic numbers cannot be handed to a subscriber"
    caplog.clear()


# Exchanges and brokers.


async def test_an_app_with_a_broker_of_its_own_is_by_itself(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int)
    began = trio.Event()

    class Mine(SlowBroker):
        events: list[str]

        @asynccontextmanager
        async def running(self) -> AsyncGenerator[None]:
            self.events = ["begun"]
            async with super().running():
                yield
            self.events.append("over")

    service = Service("test")

    @service.stream_out("/numbers", expose=True)
    async def numbers(stream: StreamOut[int]) -> None:
        async with topic.attach(stream):
            began.set()
            await trio.sleep_forever()

    async def background() -> None:
        await began.wait()
        await topic.publish(1)

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        nursery.start_soon(background)
        yield

    broker = Mine()
    async with App(service, broker=broker, lifespan=lifespan).client() as client, topic.subscribe() as outside:
        async with client.open(numbers) as stream:
            assert await stream.receive() == 1
            assert broker.subscribed == {Channel("numbers", "")}
            await topic.publish(2)
            assert await outside.receive() == 2
        assert broker.events == ["begun"]
    assert broker.events == ["begun", "over"]


async def test_a_fallback_and_the_end_of_a_lifespan_publish_with_the_apps_broker(autojump_clock: MockClock) -> None:
    used: list[Broker] = []

    @asynccontextmanager
    async def lifespan(_: trio.Nursery) -> AsyncGenerator[None]:
        used.append(exchange.current_exchange().broker)
        yield
        used.append(exchange.current_exchange().broker)

    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        used.append(exchange.current_exchange().broker)

    broker = MemoryBroker()
    app = App(broker=broker, lifespan=lifespan, fallback=fallback)
    async with app.client():
        await app({"type": "http"}, None, None)  # type: ignore[arg-type]
        assert exchange.current_exchange().broker is not broker
    assert used == [broker] * 3
    await app({"type": "http"}, None, None)  # type: ignore[arg-type]
    assert used[3] is exchange.current_exchange().broker


def test_what_a_broker_holds_ends_with_the_app_that_runs() -> None:
    topic = Topic("numbers", int, history=History())
    heard: list[int] = []

    @asynccontextmanager
    async def lifespan(_: trio.Nursery) -> AsyncGenerator[None]:
        async with topic.subscribe(since=History.OLDEST) as numbers:
            await topic.publish(len(heard))
            heard.append(await numbers.receive())
        yield

    app = App(broker=MemoryBroker(), lifespan=lifespan)

    async def run() -> None:
        async with app.client():
            pass

    for _ in range(3):
        trio.run(run)
    assert heard == [0, 1, 2]


async def test_a_broker_belongs_to_one_app_at_a_time() -> None:
    broker = MemoryBroker()
    one, other = App(broker=broker), App(broker=broker)
    async with one.client():
        with pytest.raises(ValueError, match="this broker belongs to another app that is running"):
            async with other.client():
                pytest.fail("it has no broker")
    async with other.client():
        pass


async def test_an_app_whose_broker_does_not_run_takes_no_streams() -> None:
    service = Service("test")

    @service.stream_out("/numbers", expose=True)
    async def numbers(stream: StreamOut[int]) -> None:
        """Do nothing."""

    app = App(service, broker=MemoryBroker())
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/numbers",
        "raw_path": b"/numbers",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 503


async def test_what_comes_from_another_process_has_its_name_there_too(caplog: pytest.LogCaptureFixture) -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: 100 // number)
    broker = SlowBroker()
    channel = Channel("numbers", "")
    async with brokered(broker), topic.subscribe() as numbers:
        assert broker.deliver is not None
        for payload in (b"60", b"0", b"70", b'"bad"', b"40"):
            broker.deliver(channel, Publication(Frame(payload)))
        broker.deliver(Channel("numbers", "nobody"), Publication(Frame(b"1")))
        await settled()
        assert [await numbers.receive() for _ in range(2)] == [70, 40]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["a message of the topic numbers cannot be handed to anybody"] * 2
    caplog.clear()


async def test_a_message_from_another_process_that_does_not_fit_is_told_to_who_receives_it() -> None:
    topic = Topic("numbers", int)
    broker = SlowBroker()
    async with brokered(broker), topic.subscribe() as numbers:
        for payload in (b'"1"', b"2"):
            broker.deliver(Channel("numbers", ""), Publication(Frame(payload)))
        with pytest.raises(InvalidMessage):
            await numbers.receive()
        assert await numbers.receive() == 2


async def test_two_topics_of_one_name_are_an_error() -> None:
    one, other = Topic("numbers", int), Topic("numbers", int)
    await one.publish(1)
    with pytest.raises(ValueError, match="two topics have the name 'numbers'"):
        await other.publish(1)


# Declaring.


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (lambda: Topic("", int), ValueError, "a topic needs a name"),
        (lambda: Topic("t", object), TypeError, "object"),
        (
            lambda: Topic("t", int, when_full="block"),  # type: ignore[arg-type]
            ValueError,
            "topic t: when_full is one of 'disconnect', 'drop_oldest', 'drop_newest', 'latest', not 'block'",
        ),
        (
            lambda: Topic("t", int, latest_by=abs),
            TypeError,
            "latest_by is for when_full='latest', not for 'disconnect'",
        ),
        (lambda: Topic("t", int, backlog=0), ValueError, "topic t: backlog must be a whole number, 1 or more, not 0"),
        (lambda: Topic("t", int, backlog_bytes=True), ValueError, "backlog_bytes must be a whole number"),
        (lambda: Topic("t", int, backlog=1.5), ValueError, "not 1.5"),  # type: ignore[arg-type]
        (lambda: History(messages=0), ValueError, "messages of a history must be more than 0, not 0"),
        (lambda: History(seconds="1"), ValueError, "seconds of a history must be more than 0, not '1'"),  # type: ignore[arg-type]
        (lambda: History(bytes=True), ValueError, "bytes of a history must be more than 0, not True"),
    ],
)
def test_a_topic_that_cannot_be_is_an_error(
    declare: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        declare()


def test_a_topic_says_its_name() -> None:
    assert repr(Topic("numbers", int)) == "<Topic numbers>"


@pytest.mark.parametrize("what", [None, "stream", StreamOut(object(), codec(int))])  # type: ignore[arg-type]
async def test_only_a_stream_that_goes_out_can_be_attached(what: Any) -> None:
    with pytest.raises(TypeError, match="takes a stream of an endpoint or of a client that messages go out on, not"):
        async with Topic("numbers", int).attach(what):
            pytest.fail("it is none")
