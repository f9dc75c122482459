"""The dialect `streamrt.v1`: every row of the tables in docs/protocol.md, with peers of all manners."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt import (
    APIError,
    App,
    Client,
    Ended,
    Limits,
    Request,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    Topic,
    get_client,
    testing,
)
from streamrt.client.connector import Connector, Target
from streamrt.runtime.connection import Connection
from streamrt.wire.transport import Transport, memory_transports
from tests.conftest import Carrier

V1 = ("streamrt.v1", "encore-ws")
END = b'{"type":"end"}'
AFTER_END = Ended("peer", 1002, "'end' must be the last, and a message came behind it")
NO_MESSAGES = Ended("peer", 1003, "this stream takes no messages")
END_TWICE = Ended("peer", 1002, "'end' must be the last, and came twice")

Talk: TypeAlias = StreamInOut[str, str]


@attrs.frozen
class Number:
    value: int


def talking(handler: Callable[[Talk], Awaitable[None]], **limits: Any) -> tuple[App, Any]:
    service = Service("test")

    @service.stream_in_out("/talk", expose=True, **limits)
    async def talk(stream: StreamInOut[str, str]) -> None:
        await handler(stream)

    return App(service), talk


def summing() -> tuple[App, Any]:
    service = Service("test")

    @service.stream_in("/sum", expose=True)
    async def total(stream: StreamIn[Number]) -> Number:
        return Number(sum([number.value async for number in stream]))

    return App(service), total


async def answering(stream: Talk) -> None:
    """Answer when everything has come."""
    await stream.send(" ".join([word async for word in stream]))


# `end` of the client.


async def test_an_upload_is_ended_by_its_client_and_answered(carrier: Carrier) -> None:
    async with carrier.connect(summing()[0], "/sum", subprotocols=V1) as peer:
        for value in (1, 2, 3):
            await peer.send(f'{{"value":{value}}}')
        await peer.send(END)
        assert await peer.receive() == '{"value":6}'
        assert await peer.closed() == Ended("peer", 1000)


async def test_waiting_for_a_response_ends_the_upload(carrier: Carrier) -> None:
    app, total = summing()
    async with carrier.client(app) as client, client.open(total) as stream:
        assert stream.request.dialect == "streamrt.v1"
        for value in (1, 2, 3):
            await stream.send(Number(value))
        assert await stream.response() == Number(6)


async def test_an_upload_may_be_ended_before_its_response_is_waited_for(carrier: Carrier) -> None:
    app, total = summing()
    async with carrier.client(app) as client, client.open(total) as stream:
        await stream.send(Number(1))
        await stream.send_eof()
        await stream.send_eof()
        assert await stream.response() == Number(1)


async def test_the_response_of_an_upload_that_has_failed_is_its_error(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_in("/sum", expose=True)
    async def total(stream: StreamIn[Number]) -> Number:
        raise APIError.aborted("no")

    async with carrier.client(App(service)) as client, client.open(total) as stream:
        while stream.ended is None:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()  # so that the end cannot be sent any more
        with pytest.raises(APIError.Aborted, match="no"):
            await stream.response()


async def test_what_was_sent_before_the_end_comes_before_it_and_the_handler_may_go_on(carrier: Carrier) -> None:
    async with carrier.connect(talking(answering)[0], "/talk", subprotocols=V1) as peer:
        words = [str(number) for number in range(100)]
        for word in words:
            await peer.send(f'"{word}"')
        await peer.send(END)
        assert await peer.receive() == f'"{" ".join(words)}"'
        assert await peer.closed() == Ended("peer", 1000)


async def test_an_end_is_not_a_leaving_and_begins_no_grace(autojump_clock) -> None:
    async def patient(stream: Talk) -> None:
        assert [word async for word in stream] == []
        await trio.sleep(1000)
        assert stream.ended is None
        await stream.send("done")

    async with testing.connect(talking(patient)[0], "/talk", subprotocols=V1) as peer:
        await peer.send(END)
        assert await peer.receive() == '"done"'


async def test_receiving_goes_on_to_say_that_nothing_more_comes(carrier: Carrier) -> None:
    async def insisting(stream: Talk) -> None:
        for _ in range(3):
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()
        await stream.send("done")

    async with carrier.connect(talking(insisting)[0], "/talk", subprotocols=V1) as peer:
        await peer.send(END)
        assert await peer.receive() == '"done"'


# `end` of the server.


async def test_a_handler_ends_its_direction_and_still_hears(carrier: Carrier) -> None:
    heard = []

    async def ending(stream: Talk) -> None:
        await stream.send("last")
        await stream.send_eof()
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError, match="was closed on this side"):
            await stream.send("more")
        heard.extend([word async for word in stream])

    app, talk = talking(ending)
    async with carrier.client(app) as client, client.open(talk) as stream:
        assert [word async for word in stream] == ["last"]
        assert stream.ended is None
        await stream.send("a")
        await stream.send("b")
        await stream.send_eof()
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()
        while stream.ended is None:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        assert stream.ended == Ended("peer", 1000)
    assert heard == ["a", "b"]


async def test_closing_comes_after_an_end_and_closes(carrier: Carrier) -> None:
    async def closing(stream: Talk) -> None:
        await stream.send_eof()
        await stream.aclose()
        await stream.aclose()
        assert stream.ended == Ended("handler", 1000)
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()

    async with carrier.connect(talking(closing)[0], "/talk", subprotocols=V1) as peer:
        assert await peer.receive() == END
        assert await peer.closed() == Ended("peer", 1000)


async def test_an_end_after_the_end_of_the_stream_is_an_error(carrier: Carrier) -> None:
    async def closed(stream: Talk) -> None:
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_eof()

    async with carrier.connect(talking(closed)[0], "/talk", subprotocols=V1) as peer:
        assert await peer.closed() == Ended("peer", 1000)

    async def left(stream: Talk) -> None:
        assert [word async for word in stream] == []
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_eof()

    async with carrier.connect(talking(left)[0], "/talk", subprotocols=V1) as peer:
        await peer.close()
        await peer.closed()


async def test_an_error_after_the_end_of_its_direction_is_still_told(carrier: Carrier) -> None:
    async def failing(stream: Talk) -> None:
        await stream.send_eof()
        await stream.receive()
        raise APIError.aborted("but")

    app, talk = talking(failing)
    async with carrier.client(app) as client, client.open(talk) as stream:
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()
        await stream.send("x")
        while stream.ended is None:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        with pytest.raises(APIError.Aborted, match="but"):
            await stream.receive()


async def test_what_waits_for_room_when_the_end_is_sent_is_not_sent(autojump_clock) -> None:
    async def hurrying(stream: Talk) -> None:
        async def send_late() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send("late")

        await stream.send("under way")
        await stream.send("queued")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_late)
            await wait_all_tasks_blocked()
            await stream.send_eof()

    app, _ = talking(hurrying, send_messages=1)
    async with testing.connect(app, "/talk", subprotocols=V1, stalled=True) as peer:
        await wait_all_tasks_blocked(0.01)
        peer.resume()
        assert [await peer.receive() for _ in range(3)] == ['"under way"', '"queued"', END]
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_topic_sends_nothing_behind_the_end(autojump_clock) -> None:
    topic = Topic("test.topic", str)

    async def ending(stream: Talk) -> None:
        async with topic.attach(stream):
            await topic.publish("heard")
            await stream.send_eof()
            await topic.publish("not heard")
            await stream.receive()

    async with testing.connect(talking(ending)[0], "/talk", subprotocols=V1) as peer:
        assert [await peer.receive(), await peer.receive()] == ['"heard"', END]
        await peer.send('"go on"')
        assert await peer.closed() == Ended("peer", 1000)


# Where the other end cannot be told.


async def test_over_encore_ws_no_direction_ends_alone(carrier: Carrier) -> None:
    async def ending(stream: Talk) -> None:
        with pytest.raises(APIError.FailedPrecondition, match="the other end speaks encore-ws"):
            await stream.send_eof()
        await stream.send(await stream.receive())

    async with carrier.connect(talking(ending)[0], "/talk") as peer:
        await peer.send(b'"binary is a message"')
        assert await peer.receive() == '"binary is a message"'
        assert await peer.closed() == Ended("peer", 1000)


async def test_over_encore_ws_an_error_is_in_the_close_alone(carrier: Carrier) -> None:
    async def failing(stream: Talk) -> None:
        raise APIError.aborted("no", details={"a": 1})

    async with carrier.connect(talking(failing)[0], "/talk") as peer:
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
        assert peer.ended == Ended("peer", 4409, "aborted: no")


async def test_messages_are_the_same_bytes_in_both_dialects(carrier: Carrier) -> None:
    async def varied(stream: Talk) -> None:
        for size in (0, 125, 126, 70_000):
            await stream.send("é" * (size // 2))

    app, _ = talking(varied)
    heard = []
    for subprotocols in (V1, V1[1:]):
        async with carrier.connect(app, "/talk", subprotocols=subprotocols) as peer:
            heard.append([await peer.receive() for _ in range(4)])
            assert await peer.closed() == Ended("peer", 1000)
    assert heard[0] == heard[1]


# `error`.


async def test_an_error_is_told_whole_right_before_the_close(carrier: Carrier) -> None:
    long = "é" * 200

    async def failing(stream: Talk) -> None:
        await stream.send("before")
        raise APIError.resource_exhausted(long, details={"quota": 3}, retry_after=30)

    app, talk = talking(failing)
    async with carrier.connect(app, "/talk", subprotocols=V1) as peer:
        assert await peer.receive() == '"before"'
        control = await peer.receive()
        assert json.loads(control) == {
            "type": "error",
            "code": "resource_exhausted",
            "message": long,
            "details": {"quota": 3},
            "retry_after": 30,
        }
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
        assert peer.ended is not None
        assert (peer.ended.code, peer.ended.reason[:20]) == (4429, "resource_exhausted: ")
    async with carrier.client(app) as client, client.open(talk) as stream:
        assert await stream.receive() == "before"
        for _ in range(2):
            with pytest.raises(APIError.ResourceExhausted) as caught:
                await stream.receive()
            assert (caught.value.message, caught.value.details, caught.value.retry_after) == (long, {"quota": 3}, 30)


async def test_a_fault_of_ours_is_told_without_its_text(carrier: Carrier) -> None:
    async def failing(stream: Talk) -> None:
        raise APIError.internal("the secret", details={"secret": 1})

    async with carrier.connect(talking(failing)[0], "/talk", subprotocols=V1) as peer:
        assert await peer.receive() == b'{"type":"error","code":"internal","message":"an internal error occurred"}'
        assert await peer.closed() == Ended("peer", 1011, "internal: an internal error occurred")


async def test_a_message_that_does_not_fit_is_told_with_its_place(carrier: Carrier) -> None:
    async with carrier.connect(summing()[0], "/sum", subprotocols=V1) as peer:
        await peer.send('{"value":"x"}')
        control = json.loads(await peer.receive())
        assert control["code"] == "invalid_argument"
        assert [fault["path"] for fault in control["details"]["faults"]] == ["$.value"]
        assert (await peer.closed()).code == 4400


async def test_who_is_too_far_behind_a_topic_is_told_so(autojump_clock) -> None:
    topic = Topic("test.topic", str, backlog=4)

    async def listening(stream: Talk) -> None:
        async with topic.attach(stream):
            await stream.send("ready")
            await trio.sleep_forever()

    async with testing.connect(talking(listening)[0], "/talk", subprotocols=V1) as peer:
        assert await peer.receive() == '"ready"'
        peer.stall()
        while topic.statistics().subscribers:
            await topic.publish("x")
        peer.resume()
        heard = [await peer.receive()]
        while heard[-1] == '"x"':
            heard.append(await peer.receive())
        assert json.loads(heard[-1])["message"] == "too far behind topic test.topic"
        assert await peer.closed() == Ended("peer", 4429, "resource_exhausted: too far behind topic test.topic")


async def test_only_the_first_of_two_errors_is_told(autojump_clock) -> None:
    ours, theirs = memory_transports()
    request = Request(path="/", endpoint="test.test", connection_id=0, dialect="streamrt.v1", transport="memory")
    connection = Connection(ours, request, Limits(), draining=trio.Event(), side="server", takes_input=True)
    peer = testing.Peer(theirs)
    async with trio.open_nursery() as nursery:
        async with connection.open():
            connection.fail_with(APIError.aborted("first"))
            connection.fail_with(APIError.aborted("second"))
            assert await peer.receive() == b'{"type":"error","code":"aborted","message":"first"}'
            nursery.start_soon(peer.closed)
    assert peer.ended == Ended("peer", 4409, "aborted: first")


async def test_what_a_client_says_of_errors_and_drains_and_positions_is_nothing(carrier: Carrier) -> None:
    async with carrier.connect(talking(answering)[0], "/talk", subprotocols=V1) as peer:
        for kind in ("error", "drain", "position", "gap", "later"):
            await peer.send(json.dumps({"type": kind, "code": 5}).encode())
        await peer.send('"heard"')
        await peer.send(END)
        assert await peer.receive() == '"heard"'
        assert await peer.closed() == Ended("peer", 1000)


# `drain`.


async def test_a_client_is_told_of_a_drain(carrier: Carrier) -> None:
    async def waiting(stream: Talk) -> None:
        await stream.send("ready")
        await stream.draining.wait()
        assert await stream.receive() == "I know"

    app, talk = talking(waiting)
    async with carrier.client(app) as client, client.open(talk) as stream:
        assert await stream.receive() == "ready"
        assert not stream.draining.is_set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.host.drain, 10)
            await stream.draining.wait()
            await stream.send("I know")
            with pytest.raises(trio.EndOfChannel):
                await stream.receive()


async def test_each_is_told_its_own_share_of_the_time(autojump_clock) -> None:
    async def waiting(stream: Talk) -> None:
        await stream.send("ready")
        await trio.sleep_forever()

    app, talk = talking(waiting)
    service = Service("outer")

    @service.stream_out("/nested")
    async def nested(stream: StreamOut[str]) -> None:
        async with get_client().open(talk) as inner:
            await stream.send(await inner.receive())
            await inner.draining.wait()
            await stream.send("the nested one knows")
            await trio.sleep_forever()

    app = App(*app.services, service)
    async with (
        testing.connect(app, "/talk", subprotocols=V1) as first,
        testing.connect(app, "/talk", subprotocols=V1) as second,
        testing.connect(app, "/talk") as encore,
        testing.connect(app, "/nested", subprotocols=V1) as outer,
    ):
        peers = (first, second, encore, outer)
        assert [await peer.receive() for peer in peers] == ['"ready"'] * 4
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.host.drain, 12)
            said = [json.loads(await peer.receive()) for peer in (first, second, outer)]
            assert said == [{"type": "drain", "within": within} for within in (3, 6, 12)]
            assert await outer.receive() == '"the nested one knows"'
            for count, peer in enumerate(peers, 1):
                assert (await peer.closed()).code == 1012
                assert trio.current_time() == pytest.approx(3 * count)


async def test_who_has_ended_is_told_of_no_drain(autojump_clock) -> None:
    async def lingering(stream: Talk) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    app, _ = talking(lingering)
    async with testing.connect(app, "/talk", subprotocols=V1) as peer:
        await peer.close()
        await trio.sleep(1)
        assert app.host.streams == 1
        await app.host.drain(1)
        assert (await peer.closed()).code == 1000


# What breaks the protocol.


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "a binary frame must be a JSON object in UTF-8 with a text 'type'"),
        (b'"hello"', "a binary frame must be a JSON object in UTF-8 with a text 'type'"),
        (b'{"type":7}', "a binary frame must be a JSON object in UTF-8 with a text 'type'"),
        (b'{"type":"end","x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "a binary frame must be a JSON object"),
    ],
    ids=["nothing", "a message", "a number", "deep"],
)
@pytest.mark.parametrize("path", ["/talk", "/count"])
async def test_what_is_no_control_closes_with_1002(carrier: Carrier, path: str, payload: bytes, reason: str) -> None:
    app, _ = talking(answering)
    service = Service("out")

    @service.stream_out("/count", expose=True)
    async def count(stream: StreamOut[Number]) -> None:
        await trio.sleep_forever()

    async with carrier.connect(App(*app.services, service), path, subprotocols=V1) as peer:
        await peer.send(payload)
        ended = await peer.closed()
        assert ended.code == 1002
        assert ended.reason.startswith(reason)


@pytest.mark.parametrize("ahead", [0, 3])
async def test_a_message_after_the_end_closes_with_1002(carrier: Carrier, ahead: int) -> None:
    async def waiting(stream: Talk) -> None:
        assert len([word async for word in stream]) == ahead
        await trio.sleep_forever()

    async with carrier.connect(talking(waiting)[0], "/talk", subprotocols=V1) as peer:
        for payload in ['"x"'] * ahead + [END, '"x"']:
            await peer.send(payload)
        assert await peer.closed() == AFTER_END


async def test_a_second_end_closes_with_1002(carrier: Carrier) -> None:
    async def waiting(stream: Talk) -> None:
        await trio.sleep_forever()

    async with carrier.connect(talking(waiting)[0], "/talk", subprotocols=V1) as peer:
        await peer.send(END)
        await peer.send(b'{"type":"later"}')
        await peer.send(END)
        assert await peer.closed() == END_TWICE


@pytest.mark.parametrize(
    ("payloads", "ended"),
    [
        ([b'{"type":"later"}', END, b'{"type":"later"}'], None),
        ([END, END], END_TWICE),
        ([END, '"x"'], NO_MESSAGES),
        (['"x"'], NO_MESSAGES),
    ],
    ids=["controls", "two ends", "end and message", "message"],
)
async def test_a_stream_out_takes_controls_and_no_messages(
    carrier: Carrier, payloads: list[str | bytes], ended: Ended | None
) -> None:
    service = Service("test")
    going_on = trio.Event()

    @service.stream_out("/count", expose=True)
    async def count(stream: StreamOut[Number]) -> None:
        await going_on.wait()
        await stream.send(Number(1))

    async with carrier.connect(App(service), "/count", subprotocols=V1) as peer:
        for payload in payloads:
            await peer.send(payload)
        if ended is not None:
            assert await peer.closed() == ended
        else:
            going_on.set()
            assert await peer.receive() == '{"value":1}'
            assert await peer.closed() == Ended("peer", 1000)


async def test_a_control_may_be_as_big_as_a_message(carrier: Carrier) -> None:
    def control(size: int) -> bytes:
        return b'{"type":"later","x":"%s"}' % (b"x" * (size - 23))

    app, _ = talking(answering, max_message_bytes=10_000)
    async with carrier.connect(app, "/talk", subprotocols=V1) as peer:
        await peer.send(control(10_000))
        await peer.send(control(10_001))
        assert await peer.closed() == Ended("peer", 1009, "a message may have 10000 bytes")


async def test_a_flood_of_controls_is_taken_and_nothing_of_it_kept(carrier: Carrier) -> None:
    async with carrier.connect(talking(answering)[0], "/talk", subprotocols=V1) as peer:
        for _ in range(2_000):
            await peer.send(b'{"type":"later"}')
        await peer.send('"heard"')
        await peer.send(END)
        assert await peer.receive() == '"heard"'


async def test_controls_between_messages_keep_to_the_bounds_of_the_receive_channel(carrier: Carrier) -> None:
    async def slow(stream: Talk) -> None:
        for number in range(200):
            assert await stream.receive() == str(number)
            if not number % 20:
                await trio.lowlevel.checkpoint()
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()
        await stream.send("all")

    app, _ = talking(slow, receive_messages=4)
    async with carrier.connect(app, "/talk", subprotocols=V1) as peer:
        for number in range(200):
            await peer.send(b'{"type":"later"}')
            await peer.send(f'"{number}"')
        await peer.send(END)
        assert await peer.receive() == '"all"'


async def test_behind_a_handler_that_has_returned_no_rule_is_broken_any_more(autojump_clock) -> None:
    async def sending(stream: Talk) -> None:
        for number in range(100):
            await stream.send(str(number))

    async with testing.connect(talking(sending)[0], "/talk", subprotocols=V1, stalled=True) as peer:
        await wait_all_tasks_blocked()  # it has returned, and what it has sent is on its way
        for payload in ('"x"', END, END, b"nonsense", '"x"'):
            await peer.send(payload)
        await wait_all_tasks_blocked()
        peer.resume()
        assert [await peer.receive() for _ in range(100)] == [f'"{number}"' for number in range(100)]
        assert await peer.closed() == Ended("peer", 1000)


async def test_nor_behind_one_that_has_returned_after_the_end(autojump_clock) -> None:
    async def sending(stream: Talk) -> None:
        assert [word async for word in stream] == []
        for number in range(100):
            await stream.send(str(number))

    async with testing.connect(talking(sending)[0], "/talk", subprotocols=V1, stalled=True) as peer:
        await peer.send(END)
        await wait_all_tasks_blocked()
        await peer.send('"x"')
        await wait_all_tasks_blocked()
        peer.resume()
        assert [await peer.receive() for _ in range(100)] == [f'"{number}"' for number in range(100)]
        assert await peer.closed() == Ended("peer", 1000)


# A client, and a server that the test plays.


class Scripted(Connector):
    """Connects to a peer that the test commands."""

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[Transport, str | None]]:
        ours, theirs = memory_transports()
        self.peer = testing.Peer(theirs)
        yield ours, "streamrt.v1"


@asynccontextmanager
async def scripted(*payloads: str | bytes) -> AsyncGenerator[tuple[StreamInOut[Any, Any], testing.Peer]]:
    connector = Scripted()
    async with Client.over(connector).open_path("/") as stream:
        for payload in payloads:
            await connector.peer.send(payload)
        yield stream, connector.peer


@pytest.mark.parametrize(
    ("payloads", "reason"),
    [
        ([b'{"type":"drain"}'], "'drain' is wrong"),
        ([b"nonsense"], "a binary frame must be a JSON object"),
        ([END, END], "'end' must be the last, and came twice"),
        ([END, '"x"'], "'end' must be the last, and a message came behind it"),
    ],
)
async def test_a_server_that_breaks_the_protocol_is_left_with_1002(payloads, reason: str, autojump_clock) -> None:
    async with scripted(*payloads) as (stream, peer):
        await wait_all_tasks_blocked()
        assert stream.ended is not None
        assert (stream.ended.by, stream.ended.code) == ("runtime", 1002)
        assert reason in stream.ended.reason
        with pytest.raises(APIError.Internal):
            await stream.receive()
    assert (await peer.closed()).code == 1002


async def test_an_error_is_raised_when_the_close_has_come_and_messages_before_it(autojump_clock) -> None:
    error = b'{"type":"error","code":"teapot","message":"short"}'
    async with scripted('"a"', error, '"b"') as (stream, peer):
        assert [await stream.receive(), await stream.receive()] == ["a", "b"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.close, 4418, "cut")
            with pytest.raises(APIError.Unknown, match="short"):
                await stream.receive()


async def test_an_error_counts_although_no_close_comes_behind_it(autojump_clock) -> None:
    async with scripted(b'{"type":"error","code":"aborted","message":"no"}') as (stream, peer):
        await wait_all_tasks_blocked()
        peer.vanish()
        with pytest.raises(APIError.Aborted, match="no"):
            await stream.receive()


async def test_a_client_that_has_closed_hears_no_more_of_the_server(autojump_clock) -> None:
    async with scripted() as (stream, peer):
        peer.stall()
        await stream.send("x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            await wait_all_tasks_blocked()
            await peer.send(b"nonsense")
            await wait_all_tasks_blocked()
            peer.resume()
            assert (await peer.closed()).code == 1000
