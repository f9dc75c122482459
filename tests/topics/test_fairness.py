"""Who shares something with others, and must not starve them: a stream's queue, a room, the fan-out, the loop."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import Limits, Topic
from streamrt.runtime import exchange
from streamrt.wire.transport import Frame
from tests.topics.stage import Ear, opened


class SlowReader(Ear):
    """Reads one message in a while, and is never through."""

    def send_nowait(self, frame: Frame) -> bool:
        return False

    async def send(self, frames: object) -> None:
        for frame in frames:  # type: ignore[attr-defined]
            await trio.sleep(0.01)
            assert self.receiver is not None
            self.receiver.moved()
            self.heard.append(int(frame.message))


async def test_a_slow_reader_of_a_topic_that_never_rests_is_sent_other_things_too(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int, when_full="drop_oldest", backlog=200)
    other = Topic("others", int)
    ear = SlowReader()

    async def publish() -> None:
        while True:
            for _ in range(20):  # twice as many as are read
                await topic.publish(1)
            await trio.sleep(0.1)

    limits = Limits(send_messages=4, close_timeout=1, send_timeout=30)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        async with opened(ear, limits) as stream, topic.attach(stream):
            await trio.sleep(100)
            with trio.fail_after(10):
                for number in range(2, 8):
                    await stream.send(number)
                async with other.attach(stream):
                    await other.publish(8)
            with trio.fail_after(10):
                await stream.aclose()
        nursery.cancel_scope.cancel()
    assert [number for number in ear.heard if number > 1] == [2, 3, 4, 5, 6, 7, 8]


async def test_a_ping_is_answered_before_what_a_topic_has_queued(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with opened(ear, Limits(send_messages=4)) as stream, topic.attach(stream):
        ear.stall()
        await topic.publish(0)
        await wait_all_tasks_blocked()
        for number in range(1, 100):
            await topic.publish(number)
        await wait_all_tasks_blocked()
        assert ear.receiver is not None
        for pong in (b"-1", b"-2", b"-3", b"-4"):
            assert ear.receiver.answer(Frame.ready(pong))
        assert not ear.receiver.answer(Frame.ready(b"-5"))  # of these there is no end
        ear.resume()
    assert ear.heard == [0, 1, -1, -2, -3, -4, *range(2, 100)]


async def test_who_closes_a_stream_has_sent_what_was_published_before_and_nothing_after(
    autojump_clock: MockClock,
) -> None:
    topic = Topic("numbers", int)
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream):
        await topic.publish(1)
        await stream.aclose()
        await topic.publish(2)
        await wait_all_tasks_blocked()
    assert ear.heard == [1]
    assert topic.statistics().delivered == 1


async def test_what_is_published_to_a_stream_that_is_being_left_is_no_fault(autojump_clock: MockClock) -> None:
    topic = Topic("numbers", int)
    ear = Ear()

    async def listen(task_status: trio.TaskStatus[None]) -> None:
        async with topic.attach(stream):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with opened(ear) as stream:
                ear.stall()
                await nursery.start(listen)
                await topic.publish(1)
                raise KeyError
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ear.ended == (1001, "")


async def test_a_large_room_takes_turns_with_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)
    topic = Topic("numbers", int)
    ear = Ear()
    async with trio.open_nursery() as nursery:

        async def listen(ear: Ear, key: str, task_status: trio.TaskStatus[None]) -> None:
            async with opened(ear) as stream, topic.attach(stream, key=key):
                task_status.started()
                await trio.sleep_forever()

        async def publish() -> None:
            while True:
                await topic.publish(1, key="large")

        for _ in range(200):
            await nursery.start(listen, Ear(), "large")
        await nursery.start(listen, ear, "small")
        nursery.start_soon(publish)
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        await topic.publish(7, key="small")
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert ear.heard == [7]
        nursery.cancel_scope.cancel()


async def test_of_much_less_is_handed_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FAN_OUT", 0)

    class Large(Ear):
        def send_nowait(self, frame: Frame) -> bool:
            self.heard.append(len(frame))
            return True

    topic = Topic("texts", str)
    ears = [Large() for _ in range(40)]
    async with trio.open_nursery() as nursery:

        async def listen(ear: Ear, task_status: trio.TaskStatus[None]) -> None:
            async with opened(ear) as stream, topic.attach(stream):
                task_status.started()
                await trio.sleep_forever()

        for ear in ears:
            await nursery.start(listen, ear)
        for _ in range(4):
            await topic.publish("x" * 4094)  # 16 KiB together, for which there is a turn of eight
        turns = set[int]()
        while not all(ear.heard for ear in ears):
            turns.add(sum(bool(ear.heard) for ear in ears))
            await trio.lowlevel.checkpoint()
        assert turns - {0}
        assert turns <= {0, 8, 16, 24, 32}
        nursery.cancel_scope.cancel()


async def test_all_who_publish_to_a_full_room_get_their_share() -> None:
    topic = Topic("numbers", int, when_full="drop_oldest", backlog=8)
    published = [0, 0, 0]

    async def flood(number: int) -> None:
        while sum(published) < 3000:
            await topic.publish(1)
            published[number] += 1

    async with topic.subscribe(), trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(flood, number)
    assert min(published) > 500


async def test_a_small_limit_in_bytes_is_a_limit_and_no_dead_end() -> None:
    for backlog_bytes in (1, 2, 3):
        topic = Topic(f"numbers {backlog_bytes}", int, backlog_bytes=backlog_bytes)
        async with topic.subscribe() as numbers:
            await topic.publish(1)
            assert await numbers.receive() == 1


async def test_a_name_that_cannot_be_one_is_the_fault_of_who_publishes() -> None:
    topic = Topic("numbers", int, when_full="latest", latest_by=lambda number: [number])  # type: ignore[arg-type,return-value]
    async with topic.subscribe():
        with pytest.raises(TypeError, match="unhashable"):
            await topic.publish(1)
