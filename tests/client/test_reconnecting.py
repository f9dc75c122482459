"""A stream that outlives its connections: what its program sees of that, and when."""

import math
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import (
    APIError,
    App,
    Back,
    Client,
    Draining,
    Ended,
    Gap,
    HeadersAttempt,
    History,
    Limits,
    Lost,
    Reconnect,
    Recovered,
    Request,
    Service,
    StreamEvent,
    StreamIn,
    StreamInOut,
    StreamOut,
    Topic,
    TopicPosition,
    testing,
)
from streamrt.client.memory import MemoryConnector
from tests.cancelling import CancelAt
from tests.topics.test_telling import Cutting

from .world import World

SMALL = Limits(receive_messages=4)


@pytest.fixture(autouse=True)
def _pauses_are_as_long_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)


@asynccontextmanager
async def opened(
    world: World, terms: Reconnect | None = None, *, limits: Limits | None = None, **options: Any
) -> AsyncGenerator[StreamInOut[Any, Any]]:
    client = Client.over(world, limits=limits, connect_timeout=10)
    async with client.open_path("/", reconnect=Reconnect() if terms is None else terms, **options) as stream:
        yield stream


def position(text: str, messages: int, key: str = "k", **fields: Any) -> dict[str, Any]:
    return {"type": "position", "topic": "t", "key": key, "position": text, "messages": messages, **fields}


def gap(missed: int) -> dict[str, Any]:
    return {"type": "gap", "topic": "t", "key": "k", "missed": missed}


def at(text: str, **fields: Any) -> tuple[TopicPosition, ...]:
    return (TopicPosition("t", "k", text, **fields),)


# What had come.


async def test_what_had_come_is_received_before_what_comes_over_the_next_connection(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with testing.no_tasks_left(), opened(world) as stream:
        await world.server.send(1, 2, 3)
        await world.server.end()
        await trio.sleep(0.6)
        assert len(world.dialled) == 2
        await world.server.send(4)
        assert [await stream.receive() for _ in range(4)] == [1, 2, 3, 4]


async def test_a_program_that_does_not_read_is_not_connected_again_for_ever(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world, limits=SMALL) as stream:
        for number in (0, 2):
            await world.server.send(number, number + 1)
            await world.server.end()
            await trio.sleep(60)
        assert len(world.dialled) == 2  # what is left of both is as much as the receive channel holds
        assert [await stream.receive() for _ in range(2)] == [0, 1]
        await trio.sleep(60)
        assert len(world.dialled) == 3


async def test_more_than_the_receive_channel_holds_is_received_too_when_the_connection_is_lost(
    autojump_clock: MockClock,
) -> None:
    world = World(accepts=True)
    async with opened(world, limits=SMALL) as stream:
        await world.server.send(*range(40))
        await world.server.end(1012)
        received = []
        for _ in range(40):
            received.append(await stream.receive())
            await trio.sleep(1)
        assert received == list(range(40))
        assert len(world.dialled) == 2


async def test_a_call_that_waits_gets_the_last_message_and_the_next_one_the_first(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    received = []
    async with opened(world) as stream, trio.open_nursery() as nursery:

        async def read() -> None:
            async for message in stream:
                received.append(message)
                await trio.sleep(1)

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await world.server.send(1, 2)
        await world.server.end()
        await trio.sleep(0.7)
        await world.server.send(3)
        await trio.sleep(5)
        assert received == [1, 2, 3]
        nursery.cancel_scope.cancel()


async def test_of_two_calls_one_gets_what_had_come_and_the_other_what_comes(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    received: list[int] = []
    async with opened(world) as stream, trio.open_nursery() as nursery:

        async def read() -> None:
            received.append(await stream.receive())

        await world.server.send(1)
        await world.server.end()
        await trio.sleep(0.1)
        nursery.start_soon(read)
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert received == [1]
        await trio.sleep(0.5)
        await world.server.send(2)
    assert received == [1, 2]


async def test_positions_count_once_their_messages_are_received_and_events_come_between_them(
    autojump_clock: MockClock,
) -> None:
    world = World(accepts=True)
    events: list[StreamEvent] = []
    async with opened(world, on=events.append) as stream:
        await world.server.send(position("1", 0, recovered=False), position("2", 1), "a", gap(5), position("4", 1), "b")
        await wait_all_tasks_blocked()
        await world.server.end()
        await trio.sleep(0.6)
        resumed = dict(world.server.target.headers)["streamrt-resume"]
        assert resumed == '[{"topic":"t","key":"k","position":"4"}]'
        await world.server.send(position("4", 0, recovered=True), gap(1), "c")
        await wait_all_tasks_blocked()
        assert events == [Lost(events[0].error, 0.5), Back()]  # type: ignore[union-attr]
        assert stream.positions == at("1")
        assert await stream.receive() == "a"
        assert (stream.positions, events[2:]) == (at("2", missed=5), [Gap("t", "k", 5)])
        assert await stream.receive() == "b"
        assert stream.positions == at("4", missed=6, recovered=True)
        assert events[3:] == [Recovered("t", "k", True), Gap("t", "k", 1)]  # noqa: FBT003
        assert await stream.receive() == "c"


@pytest.mark.parametrize("cut", range(2, 60))
async def test_wherever_a_connection_ends_nothing_is_missed_and_nothing_comes_twice(
    cut: int, autojump_clock: MockClock
) -> None:
    numbers = Topic("numbers", int, history=History(messages=1000))
    service = Service("test")

    @service.stream_out()
    async def listen(stream: StreamOut[int]) -> None:
        async with numbers.attach(stream):
            await trio.sleep_forever()

    async def publish() -> None:
        await wait_all_tasks_blocked()
        for number in range(100):
            await numbers.publish(number)
            if number % 7 == 0:
                await trio.sleep(1)

    app = App(service)

    def on(event: StreamEvent) -> None:
        events.append(event)
        if isinstance(event, Lost):
            cutting.after += 5  # else one that ends before the first message is whole would never bring any

    got: list[int] = []
    events: list[StreamEvent] = []
    cutting = Cutting(app, cut)
    async with app.host.running(), trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        async with Client.over(cutting).open(listen, reconnect=Reconnect(), on=on) as stream:
            while len(got) < 100:
                got.append(await stream.receive())
    assert got == list(range(100))
    assert {event.recovered for event in events if isinstance(event, Recovered)} == {True}
    assert Back() in events


async def test_a_stream_goes_on_where_another_was(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    events: list[StreamEvent] = []
    async with opened(world, resume=at("7", missed=3), on=events.append) as stream:
        assert "7" in dict(world.server.target.headers)["streamrt-resume"]
        await world.server.end()  # before a word was said of it
        await trio.sleep(0.6)
        assert "7" in dict(world.server.target.headers)["streamrt-resume"]
        await world.server.send(position("7", 0, recovered=True))
        await wait_all_tasks_blocked()
        assert events[-1] == Recovered("t", "k", recovered=True)
        assert stream.positions == at("7", recovered=True)


async def test_the_newest_64_positions_are_offered(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world) as stream:
        for key in range(70):
            await world.server.send(position("1", 0, str(key)))
            await wait_all_tasks_blocked()
        await world.server.send(position("2", 0, "3"))
        await world.server.end()
        await trio.sleep(0.6)
        resumed = dict(world.server.target.headers)["streamrt-resume"]
        assert resumed.count("topic") == 64
        assert '"key":"3","position":"2"' in resumed
        assert '"key":"6"' not in resumed
        assert len(stream.positions) == 70


async def test_topics_without_a_history_take_no_place_among_the_positions(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world):
        await world.server.send(position("7", 0))
        for key in range(64):
            await world.server.send({"type": "gap", "topic": "t", "key": str(key), "missed": 1})
            await wait_all_tasks_blocked()
        await world.server.end()
        await trio.sleep(0.6)
        assert dict(world.server.target.headers)["streamrt-resume"] == '[{"topic":"t","key":"k","position":"7"}]'


# What is sent.


async def test_who_waits_for_room_when_the_connection_is_lost_is_told(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    limits = Limits(send_messages=1)
    async with opened(world, limits=limits) as stream:
        world.server.ours.stall()
        for number in range(2):
            await stream.send(number)
        async with trio.open_nursery() as nursery:

            async def lose() -> None:
                await wait_all_tasks_blocked()
                await world.server.end()

            nursery.start_soon(lose)
            with pytest.raises(APIError.Unavailable, match="has no connection now"):
                await stream.send(2)


async def test_who_waits_for_room_when_the_connection_is_lost_finds_a_place_in_the_queue(
    autojump_clock: MockClock,
) -> None:
    world = World(accepts=True)
    async with opened(world, Reconnect(queue=1), limits=Limits(send_messages=1)) as stream:
        world.server.ours.stall()
        for number in range(2):
            await stream.send(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send, 2)
            await wait_all_tasks_blocked()
            await world.server.end()
        with pytest.raises(APIError.ResourceExhausted, match="1 messages wait for one already"):
            await stream.send(3)
        await trio.sleep(0.6)
        await stream.send(4)
        assert await world.server.taken() == ([{"message": 2}, {"message": 4}], None)


async def test_a_server_that_reads_nothing_for_too_long_is_lost(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    events: list[StreamEvent] = []
    limits = Limits(send_messages=1, send_timeout=3)
    async with testing.no_tasks_left(), opened(world, Reconnect(queue=1), limits=limits, on=events.append) as stream:
        world.server.ours.stall()
        for number in range(3):
            await stream.send(number)
        assert trio.current_time() == 3
        await trio.sleep(0.6)
        assert await world.server.taken() == ([{"message": 2}], None)
        assert len(world.dialled) == 2
    [lost, back] = events
    assert isinstance(lost, Lost)
    assert lost.error.message == "the peer has not read for 3 s"
    assert back == Back()


async def test_the_end_that_is_said_during_a_pause_is_said_behind_what_waits(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world, Reconnect(queue=1)) as stream:
        await world.server.end()
        await wait_all_tasks_blocked()
        await stream.send(1)
        await stream.send_eof()
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send(2)
        await trio.sleep(0.6)
        assert await world.server.taken() == ([{"message": 1}, {"control": {"type": "end"}}], None)


async def test_a_server_that_cannot_be_told_the_end_is_not(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world) as stream:
        await stream.send_eof()
        world.accepts = False
        await world.server.end()
        await trio.sleep(0.6)
        world.server.accept("encore-ws")
        assert await world.server.taken() == ([], None)
        await world.server.send(1)
        assert await stream.receive() == 1


async def test_an_upload_that_has_found_its_server_is_as_any_other(autojump_clock: MockClock) -> None:
    service = Service("test")

    @service.stream_in()
    async def add(stream: StreamIn[int]) -> int:
        return sum([number async for number in stream])

    async with App(service).client() as client, client.open(add, reconnect=Reconnect()) as upload:
        for number in range(5):
            await upload.send(number)
        assert await upload.response() == 10


# How it ends.


async def test_who_gets_no_connection_at_all_is_told_why_at_the_entry(autojump_clock: MockClock) -> None:
    world = World()
    events: list[StreamEvent] = []
    with pytest.raises(APIError.DeadlineExceeded, match="no connection to the world within 10 s"):
        async with testing.no_tasks_left(), opened(world, Reconnect(attempts=2), on=events.append):
            pytest.fail("there is no stream")
    assert [event.pause for event in events if isinstance(event, Lost)] == [0.5, 1]
    assert len(world.dialled) == 3


async def test_who_leaves_has_what_was_sent_go_out_and_a_close(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with testing.no_tasks_left(), opened(world) as stream:
        await world.server.end()
        await trio.sleep(0.6)
        world.server.ours.stall()
        await stream.send(1)
        trio.lowlevel.current_trio_token().run_sync_soon(world.server.ours.resume)
    sent, gone = await world.server.taken()
    assert sent == [{"message": 1}]
    assert gone is not None
    assert gone.code == 1000
    assert stream.ended == Ended("handler", 1000)
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive()


@pytest.mark.parametrize("accepts", [True, False], ids=["during a pause", "while it connects"])
async def test_who_leaves_without_a_connection_leaves_at_once(accepts: bool, autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with testing.no_tasks_left(), opened(world, Reconnect(base=20)) as stream:
        world.accepts = False
        await world.server.end()
        await trio.sleep(1 if accepts else 21)
        assert len(world.dialled) == (1 if accepts else 2)
        begin = trio.current_time()
    assert trio.current_time() == begin
    assert stream.ended == Ended("handler", 1000)


async def test_an_exception_of_the_block_leaves_it_as_it_is_and_closes_with_1001(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught:
        async with testing.no_tasks_left(), opened(world):
            raise error
    assert caught.value is error
    _, gone = await world.server.taken()
    assert gone is not None
    assert gone.code == 1001


async def test_after_its_end_a_stream_says_how_it_was(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world) as stream:
        await world.server.send(1)
        await world.server.end(4404, "not_found: gone")
        await wait_all_tasks_blocked()
        assert stream.ended == Ended("peer", 4404, "not_found: gone")
        with pytest.raises(trio.BrokenResourceError, match="was ended by the peer: 4404 not_found: gone"):
            await stream.send(2)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_eof()
        assert await stream.receive() == 1
        for _ in range(2):
            with pytest.raises(APIError.NotFound, match="gone"):
                await stream.receive()


async def test_who_closes_receives_nothing_more(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with testing.no_tasks_left(), opened(world) as stream, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await world.server.end()
        await wait_all_tasks_blocked()  # it waits for the next connection
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send(1)
    assert len(world.dialled) == 1


async def test_what_the_program_throws_at_an_event_ends_the_stream_with_it(autojump_clock: MockClock) -> None:
    for index, payload in enumerate([{"type": "drain", "within": 1}, gap(1), None]):
        world = World(accepts=True)
        error = APIError.aborted(f"mine {index}")

        def throw(event: StreamEvent, error: APIError = error) -> None:
            raise error

        with pytest.raises(APIError.Aborted) as caught:
            async with testing.no_tasks_left(), opened(world, on=throw):
                await (world.server.end() if payload is None else world.server.send(payload))
                await trio.sleep(1)
        assert caught.value is error


async def test_what_it_throws_is_not_taken_for_the_end_of_a_connection_that_is_lost_then(
    autojump_clock: MockClock,
) -> None:
    world = World(accepts=True)
    error = APIError.aborted("mine")

    def throw(event: StreamEvent) -> None:
        if isinstance(event, Gap):
            raise error

    async with opened(world, on=throw) as stream, trio.open_nursery() as nursery:

        async def lose() -> None:
            await wait_all_tasks_blocked()
            await world.server.send("a", gap(1))
            await world.server.end()

        nursery.start_soon(lose)
        with pytest.raises(APIError.Aborted) as caught:
            await stream.receive()
    assert caught.value is error


async def test_the_stream_tells_of_the_connection_that_it_has(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with opened(world) as stream:
        first = stream.request.connection_id
        await world.server.send({"type": "drain", "within": 2})
        await wait_all_tasks_blocked()
        assert stream.draining.is_set()
        await world.server.end(1012)
        await trio.sleep(2.6)
        assert stream.request.connection_id != first
        assert not stream.draining.is_set()
        assert stream.round_trip_time is None


async def test_a_lost_connection_is_nothing_to_who_only_asks_for_timeouts(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with Client.over(world).open_path("/", first_message_timeout=2) as stream:
        with pytest.raises(APIError.DeadlineExceeded, match="no message came within 2 s"):
            await stream.receive()
        assert trio.current_time() == 2
        assert stream.ended == Ended("runtime", 4504, "deadline_exceeded: no message came within 2 s")
    assert len(world.dialled) == 1


async def test_who_does_not_listen_does_not_take_the_server_for_silent(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    limits = Limits(receive_messages=1)
    async with Client.over(world, limits=limits).open_path("/", silence_timeout=2) as stream:
        await world.server.send(*range(20))
        await trio.sleep(60)
        assert [await stream.receive() for _ in range(20)] == list(range(20))
        begin = trio.current_time()
        with pytest.raises(APIError.DeadlineExceeded, match="nothing was heard for 2 s"):
            await stream.receive()
        assert trio.current_time() == begin + 2


async def test_an_app_in_memory_is_held_to_the_same_times(autojump_clock: MockClock) -> None:
    service = Service("test")

    @service.stream_out()
    async def quiet(stream: StreamOut[int]) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def slow(request: Request) -> AsyncGenerator[None]:
        await trio.sleep(20)
        yield

    async with App(service).client() as client, client.open(quiet, silence_timeout=2) as stream:
        with pytest.raises(APIError.DeadlineExceeded, match="nothing was heard for 2 s"):
            await stream.receive()
    app = App(service, middleware=[slow])
    connector = MemoryConnector(app.host, private=True, auth_data=None)
    with pytest.raises(APIError.DeadlineExceeded, match="no connection to the app within 10 s"):
        async with Client.over(connector, connect_timeout=10).open(quiet):
            pass


async def test_a_watched_stream_sends_and_closes_like_another(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    async with Client.over(world).open_path("/", silence_timeout=20) as stream:
        world.server.ours.stall()
        for number in range(3):
            await stream.send(number)
        world.server.ours.resume()
        assert (await world.server.taken())[0] == [{"message": number} for number in range(3)]
    _, gone = await world.server.taken()
    assert gone is not None
    assert gone.code == 1000


class Numbers:
    """An app with a stream that breaks off again and again."""

    def __init__(self) -> None:
        self.open = 0
        service = Service("test")

        @service.stream_in_out()
        async def numbers(stream: StreamInOut[int, int]) -> None:
            self.open += 1
            try:
                await stream.send(await stream.receive() + 1)
                raise APIError.unavailable("enough", retry_after=1)
            finally:
                self.open -= 1

        self.endpoint, self.app = numbers, App(service)


async def talk(numbers: Numbers, cancel: CancelAt) -> None:
    async with numbers.app.client() as client:
        with trio.CancelScope() as scope:
            cancel.scope = scope
            async with client.open(numbers.endpoint, reconnect=Reconnect(queue=1), on=lambda event: None) as stream:
                for number in range(3):
                    await stream.send(number)
                    assert await stream.receive() == number + 1
                    await trio.sleep(0.5)
                await stream.send_eof()
                await stream.aclose()
            cancel.scope = None
        assert numbers.open == 0


def test_cancelled_at_every_checkpoint_it_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    step, completed = 0, False
    while not completed:
        step += 1
        cancel = CancelAt(step)
        trio.run(talk, Numbers(), cancel, clock=MockClock(autojump_threshold=0), instruments=[cancel])
        completed = cancel.scope is None
    assert step > 50  # the order of tasks is random, and so is how often they switch
    assert caplog.records == []


# Headers.


async def test_headers_are_asked_for_before_each_attempt(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    asked: list[HeadersAttempt] = []

    async def headers(attempt: HeadersAttempt) -> Mapping[str, str]:
        asked.append(attempt)
        return {"X-Number": str(len(asked))}

    async with Client.over(world, headers=headers).open_path("/", reconnect=Reconnect()):
        await world.server.end()
        await trio.sleep(0.6)
    assert [dict(server.target.headers)["x-number"] for server in world.dialled] == ["1", "2"]
    assert asked == [HeadersAttempt(rejected=False)] * 2


async def test_credentials_that_were_refused_are_told_so_until_there_are_others(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    asked: list[bool] = []

    async def headers(attempt: HeadersAttempt) -> Mapping[str, str]:
        asked.append(attempt.rejected)
        if len(asked) in (2, 3):
            raise OSError("nobody gives any now")
        return {"x-number": str(len(asked))}

    async with Client.over(world, headers=headers).open_path("/", reconnect=Reconnect()):
        await world.server.end(4401)
        await trio.sleep(5)
        await world.server.end()
        await trio.sleep(5)
    assert asked == [False, True, True, True, False]
    assert [dict(server.target.headers)["x-number"] for server in world.dialled] == ["1", "4", "5"]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("no token"), APIError.Unavailable),
        (APIError.permission_denied("no account"), APIError.PermissionDenied),
    ],
)
async def test_headers_that_cannot_be_had_are_an_error_of_the_stream(
    raised: Exception, expected: type[APIError], autojump_clock: MockClock
) -> None:
    async def headers(attempt: HeadersAttempt) -> Mapping[str, str]:
        raise raised

    with pytest.raises(expected, match="no "):
        async with Client.over(World(), headers=headers).open_path("/"):
            pass


async def test_headers_that_are_none_are_a_mistake_and_not_tried_again(autojump_clock: MockClock) -> None:
    async def headers(attempt: HeadersAttempt) -> Mapping[str, str]:
        return {"a b": "c"}

    with pytest.raises(ValueError, match="the header 'a b' has a character"):
        async with Client.over(World(), headers=headers).open_path("/", reconnect=Reconnect()):
            pass


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, "must return a mapping of names to values, not None"),
        ([("a", "b")], "headers must be a mapping of names to values, not list"),
        ({"a": 1}, "the header 'a' must be a text, not int"),
        ({1: "a"}, "the header 1 must be a text"),
    ],
)
async def test_headers_that_are_no_texts_by_name_are_a_mistake(
    headers: Any, expected: str, autojump_clock: MockClock
) -> None:
    async def give(attempt: HeadersAttempt) -> Mapping[str, str]:
        result: Mapping[str, str] = headers
        return result

    with pytest.raises(TypeError, match=expected):
        async with Client.over(World(accepts=True), headers=give).open_path("/", reconnect=Reconnect()):
            pass


async def test_headers_that_take_too_long_take_the_time_of_the_connection(autojump_clock: MockClock) -> None:
    async def headers(attempt: HeadersAttempt) -> Mapping[str, str]:
        await trio.sleep(6)
        return {}

    with pytest.raises(APIError.DeadlineExceeded, match="no connection to the world within 10 s"):
        async with Client.over(World(), headers=headers, connect_timeout=10).open_path("/"):
            pass
    assert trio.current_time() == 10


async def test_a_deadline_of_the_block_is_its_own(autojump_clock: MockClock) -> None:
    with pytest.raises(trio.TooSlowError):
        async with Client.over(World(accepts=True), connect_timeout=10).open_path("/"):
            with trio.fail_after(20):
                await trio.sleep_forever()


# Terms.


async def wait_for(event: StreamEvent) -> None:
    """Do what `on` must not."""


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (
            "reconect",
            Reconnect(),
            "a stream to / has no option 'reconect'; it has first_message_timeout, on, reconnect",
        ),
        ("reconnect", True, "reconnect must be a Reconnect or None, not True"),
        ("on", 3, "on must be a plain function, which does not wait, not 3"),
        ("on", wait_for, "on must be a plain function, which does not wait, not <function wait_for"),
        ("resume", None, "resume must be some TopicPosition, not None"),
        ("silence_timeout", math.nan, "silence_timeout must be a number of seconds, more than 0, not nan"),
        ("silence_timeout", True, "silence_timeout must be a number of seconds, more than 0, not True"),
        ("first_message_timeout", -1, "first_message_timeout must be a number of seconds, more than 0, not -1"),
        ("first_message_timeout", None, "first_message_timeout must be a number of seconds, more than 0, not None"),
    ],
)
async def test_an_option_that_is_none_is_refused(
    option: str, value: object, expected: str, autojump_clock: MockClock
) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        async with Client.over(World(accepts=True)).open_path("/", **{option: value}):  # type: ignore[arg-type]
            pass


async def test_an_upload_hears_no_topics_that_it_could_resume(autojump_clock: MockClock) -> None:
    service = Service("test")

    @service.stream_in()
    async def add(stream: StreamIn[int]) -> None:
        """Never run."""

    with pytest.raises(TypeError, match=r"a stream to test\.add has no option 'resume'"):
        async with App(service).client() as client, client.open(add, resume=()):  # type: ignore[call-overload]
            pass


@pytest.mark.parametrize("field", ["base", "cap", "healthy", "attempts", "bugs", "queue"])
@pytest.mark.parametrize("value", [-1, math.nan, "1", True, None])
def test_terms_are_numbers(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} of Reconnect must be a number, 0 or more, not {value!r}"):
        Reconnect(**{field: value})  # type: ignore[arg-type]


async def test_a_pause_never_grows_beyond_its_cap_however_many_attempts_there_were(autojump_clock: MockClock) -> None:
    world = World()
    pauses: list[float] = []

    def on(event: StreamEvent) -> None:
        assert isinstance(event, Lost)
        pauses.append(event.pause)

    with trio.move_on_after(400_000):
        async with Client.over(world, connect_timeout=1).open_path("/", reconnect=Reconnect(base=1e-6, cap=300), on=on):
            pass
    assert len(pauses) > 1200
    assert max(pauses) == pauses[-1] == 300


async def test_draining_is_told_to_a_stream_that_does_not_come_back(autojump_clock: MockClock) -> None:
    world = World(accepts=True)
    events: list[StreamEvent] = []
    async with Client.over(world).open_path("/", resume=at("1"), on=events.append) as stream:
        await world.server.send({"type": "drain", "within": 2}, position("1", 0, recovered=False), position("2", 1), 5)
        assert await stream.receive() == 5
        await wait_all_tasks_blocked()
    assert events == [Draining(2), Recovered("t", "k", recovered=False)]
