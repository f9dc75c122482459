"""What is so only in clients for asyncio: blocks and cancellation, back-pressure, heartbeats, real headers and HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.http11 import Response

from streamrt.codegen import runtime_asyncio
from streamrt.codegen.runtime_asyncio import (
    Gap,
    HeadersAttempt,
    Lost,
    Reconnect,
    StreamDialer,
    StreamEnded,
    StreamError,
    StreamEvent,
    StreamIn,
    StreamInOut,
    StreamOptions,
    StreamOutWithResponse,
    StreamTarget,
    path_segment,
    path_segments,
)
from streamrt.errors import CLASSES
from tests.codegen.asyncio_world import HIGH_WATER, FakeServer, FakeWebSocket, run_in_virtual_time, settled

P = ParamSpec("P")


def virtual(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run a test in asyncio, and in virtual time."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        run_in_virtual_time(main())

    return run


@pytest.fixture(autouse=True)
def _pauses_are_as_long_as_they_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)


TARGET = StreamTarget("/x")


def make(server: FakeServer, target: StreamTarget = TARGET, **options: Any) -> StreamInOut[Any, Any]:
    return StreamInOut(StreamDialer("ws://server", connect=server.connect), target, StreamOptions(**options))  # type: ignore[typeddict-item]


@asynccontextmanager
async def connected(**options: Any) -> AsyncGenerator[tuple[StreamInOut[Any, Any], FakeWebSocket, FakeServer]]:
    """Open a stream that is connected."""
    server = FakeServer()
    async with make(server, **options) as stream:
        await settled()
        websocket = server.accept()
        await settled()
        yield stream, websocket, server
        websocket.end(1000, "")


def refusal(status: int, body: bytes, **headers: str) -> InvalidStatus:
    lines = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return InvalidStatus(Response(status, "", lines, body))


def test_the_error_codes_and_their_closes_are_those_of_the_table() -> None:
    assert vars(runtime_asyncio)["_CLOSE_CODES"] == {code: cls.close_code for code, cls in CLASSES.items()}


# The block


@virtual
async def test_a_stream_is_used_inside_of_its_block() -> None:
    stream = make(FakeServer())
    assert (stream.state, stream.ended, stream.dialect) == ("new", None, "")
    for use in (stream.send(1), stream.send_eof(), stream.ready(), stream.closed(), stream.close(), anext(stream)):
        with pytest.raises(RuntimeError, match=r"^a stream is used inside of its block"):
            await use


@virtual
async def test_a_stream_has_one_block() -> None:
    async with connected() as (stream, _, _):
        with pytest.raises(RuntimeError, match=r"^a stream is opened once"):
            async with stream:
                pass


@virtual
async def test_leaving_the_block_closes_and_waits_for_the_server() -> None:
    server = FakeServer()
    stream = make(server)

    async def program() -> None:
        async with stream:
            await stream.ready()

    task = asyncio.create_task(program())
    await settled()
    websocket = server.accept()
    await settled()
    assert websocket.closes == [(1000, "")]
    await asyncio.sleep(4.9)
    assert not task.done()
    websocket.end(1000, "")
    await task
    assert stream.ended == StreamEnded(1000, "", None)
    assert stream.state == "closed"


@virtual
async def test_an_error_leaves_the_block_as_it_is_and_at_once() -> None:
    begin = asyncio.get_running_loop().time()
    with pytest.raises(LookupError, match="mine") as raised:
        async with connected() as (stream, websocket, _):
            raise LookupError("mine")
    assert websocket.closes == [(1001, "")]
    assert stream.ended is not None
    assert stream.ended.error is not None
    assert stream.ended.error.code == "canceled"
    assert stream.ended.error.__cause__ is raised.value
    assert asyncio.get_running_loop().time() - begin < 0.1


@virtual
async def test_a_block_that_is_cancelled_while_it_closes_ends_at_once() -> None:
    server = FakeServer()

    async def program() -> None:
        async with make(server) as stream:
            await stream.ready()

    task = asyncio.create_task(program())
    await settled()
    websocket = server.accept()
    await settled()
    assert websocket.closes == [(1000, "")]  # and the server says nothing to it
    task.cancel()
    await settled()
    assert task.cancelled()


@virtual
async def test_a_block_that_is_cancelled_again_and_again_leaves_no_task() -> None:
    server = FakeServer()
    entered = asyncio.Event()

    class Slow(FakeWebSocket):
        """One whose end takes its time."""

        async def wait_closed(self) -> None:
            await super().wait_closed()
            await asyncio.sleep(1)

    async def program() -> None:
        async with make(server):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(program())
    await entered.wait()
    await settled()
    server.accept(kind=Slow)
    await settled()
    for _ in range(3):
        task.cancel()
        await settled()
    assert not task.done()
    await asyncio.sleep(1)
    assert task.cancelled()


@pytest.mark.parametrize("where", ["connecting", "headers", "pause"])
def test_a_block_can_be_cancelled_wherever_its_stream_is(where: str) -> None:
    @virtual
    async def test() -> None:
        server = FakeServer()
        waiting = asyncio.Event()

        async def headers(_: HeadersAttempt) -> dict[str, str]:
            if where == "headers":
                await waiting.wait()
            return {}

        dialer = StreamDialer("ws://server", connect=server.connect, headers=headers)
        stream = StreamIn[Any](dialer, StreamTarget("/x"), {"reconnect": Reconnect()})

        async def program() -> None:
            async with stream:
                async for _ in stream:
                    pass

        task = asyncio.create_task(program())
        await settled()
        if where == "pause":
            server.refuse(OSError("nobody is there"))
            await settled()
            assert stream.state == "waiting"
        task.cancel()
        await settled()
        assert task.cancelled()
        await asyncio.sleep(60)
        assert len(server.dialled) == (0 if where == "headers" else 1)

    test()


@virtual
async def test_a_stream_whose_task_somebody_cancels_is_over() -> None:
    async with connected() as (stream, websocket, _):
        for task in asyncio.all_tasks():
            if task.get_coro().__qualname__ == "_Session._run":  # type: ignore[union-attr]
                task.cancel()
        ended = await stream.closed()
        assert ended.error is not None
        assert ended.error.code == "canceled"
        assert websocket.closes == [(1001, "")]


# Sending and receiving


@virtual
async def test_a_message_that_is_cancelled_before_it_goes_out_does_not() -> None:
    server = FakeServer()
    async with make(server) as stream:
        tasks = [asyncio.create_task(stream.send(number)) for number in range(4)]
        await settled()
        tasks[1].cancel()
        await settled()
        tasks[2].cancel()
        websocket = server.accept()  # which the cancelled one does not know of yet
        await settled()
        assert websocket.sent == [{"message": 0}, {"message": 3}]
        websocket.end(1000, "")


@virtual
async def test_a_message_that_is_cancelled_as_it_is_to_go_out_does_not() -> None:
    async with connected() as (stream, websocket, _):
        await stream.send(0)
        task = asyncio.create_task(stream.send(1))
        await asyncio.sleep(0)
        task.cancel()
        await settled()
        assert task.cancelled()
        assert websocket.sent == [{"message": 0}]


@virtual
async def test_a_message_that_is_cancelled_as_the_stream_ends_is_cancelled() -> None:
    async with connected() as (stream, websocket, _):
        websocket.hold(HIGH_WATER + 1)
        await stream.send(0)
        task = asyncio.create_task(stream.send(1))
        await settled()
        asyncio.get_running_loop().call_later(1, websocket.end, 1000, "")
        task.cancel()
        await stream.close()  # at once, and so before the task has seen that it is cancelled
        assert task.cancelled()


@virtual
async def test_an_end_that_is_cancelled_was_not_said() -> None:
    server = FakeServer()
    async with make(server) as stream:
        task = asyncio.create_task(stream.send_eof())
        await settled()
        task.cancel()
        await settled()
        websocket = server.accept()
        await stream.send(1)
        await stream.send_eof()
        await stream.send_eof()  # which says nothing new
        await settled()
        assert websocket.sent == [{"message": 1}, {"control": {"type": "end"}}]
        websocket.end(1000, "")


@virtual
async def test_what_is_no_json_is_said_where_it_is_sent() -> None:
    async with connected() as (stream, websocket, _):
        for wrong, error in (({1, 2}, TypeError), (float("nan"), ValueError), ("\ud800", ValueError)):
            with pytest.raises(error):
                await stream.send(wrong)
        await stream.send("ü")
        assert websocket.sent == [{"message": "ü"}]


@virtual
async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    async with connected() as (stream, websocket, _):
        task = asyncio.create_task(anext(stream))
        await settled()
        websocket.deliver("1")
        task.cancel()
        await settled()
        assert await anext(stream) == 1


@virtual
async def test_several_tasks_may_receive() -> None:
    async with connected() as (stream, websocket, _):
        tasks = [asyncio.create_task(anext(stream, None)) for _ in range(3)]
        await settled()
        websocket.deliver("1")
        websocket.deliver("2")
        websocket.deliver(b'{"type":"end"}')
        assert {await task for task in tasks} == {1, 2, None}


@virtual
async def test_a_program_that_does_not_read_lets_the_server_wait() -> None:
    async with connected(silence_timeout=5) as (stream, websocket, _):
        for number in range(100):
            websocket.deliver(str(number))
        await settled()
        assert websocket.unread == 100 - 16
        await asyncio.sleep(60)  # in which nobody pings, and silence is nobody's fault
        assert (websocket.pings, stream.ended) == (0, None)
        assert [await anext(stream) for _ in range(50)] == list(range(50))
        await settled()
        assert websocket.unread == 100 - 50 - 16
        assert [await anext(stream) for _ in range(50)] == list(range(50, 100))
        await asyncio.sleep(4.9)
        assert stream.ended is None
        with pytest.raises(StreamError, match=r"^deadline_exceeded: nothing was heard for 5 s$"):
            await anext(stream)


@virtual
async def test_a_program_that_does_not_read_can_close() -> None:
    async with connected() as (stream, websocket, _):
        for number in range(100):
            websocket.deliver(str(number))
        await settled()
        closing = asyncio.create_task(stream.close(4000, "bye"))
        await settled()
        assert websocket.closes == [(4000, "bye")]
        assert websocket.unread == 0
        websocket.end(4000, "bye")
        assert await closing == await stream.close() == StreamEnded(4000, "bye", None)
        assert [message async for message in stream] == []


@virtual
async def test_only_closes_that_a_client_may_send_are_taken() -> None:
    async with connected() as (stream, _, _):
        with pytest.raises(ValueError, match=r"^a client may close with 1000 or 3000 to 4999, not with 1001$"):
            await stream.close(1001)
        with pytest.raises(ValueError, match=r"^a reason may have 123 bytes of UTF-8, not 124$"):
            await stream.close(4000, "ü" * 62)


@virtual
async def test_a_gap_is_told_behind_the_messages_before_it() -> None:
    told: list[StreamEvent] = []
    async with connected(on=told.append) as (stream, websocket, _):
        websocket.deliver("1")
        websocket.deliver(b'{"type":"gap","topic":"t","key":"k","missed":2}')
        websocket.deliver("2")
        await settled()
        assert await anext(stream) == 1
        assert told == []
        assert await anext(stream) == 2
        assert told == [Gap("t", "k", 2)]


def test_what_the_program_raises_when_it_is_told_goes_to_the_loop() -> None:
    seen: list[Any] = []

    def on(event: StreamEvent) -> None:
        raise LookupError("mine")

    @virtual
    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        async with connected(on=on) as (stream, websocket, _):
            websocket.deliver(b'{"type":"drain","within":1}')
            websocket.deliver("1")
            assert await anext(stream) == 1

    test()
    assert [(context["message"], str(context["exception"])) for context in seen] == [
        ("`on` has raised for Draining(within=1)", "mine")
    ]


@virtual
async def test_the_positions_of_64_topics_and_keys_are_kept_the_newest_ones() -> None:
    async with connected(reconnect=Reconnect()) as (_, websocket, server):
        for key in range(70):
            position = {"type": "position", "topic": "t", "key": str(key), "position": "p", "messages": 0}
            websocket.deliver(json.dumps(position).encode())
        websocket.end(1006, "")
        await asyncio.sleep(0.6)
        resume = json.loads(server.dialled[-1][1]["streamrt-resume"])
        assert [int(at["key"]) for at in resume] == list(range(6, 70))


@virtual
async def test_a_response_may_be_none() -> None:
    server = FakeServer()
    dialer = StreamDialer("ws://server", connect=server.connect)
    async with StreamOutWithResponse[Any, None](dialer, StreamTarget("/x"), {}) as upload:
        await settled()
        server.accept()
        await upload.send(1)
        responding = asyncio.create_task(upload.response())
        await settled()
        assert server.websocket.sent == [{"message": 1}, {"control": {"type": "end"}}]
        server.websocket.end(1000, "")
        await responding
        await upload.send_eof()


# Heartbeats


@virtual
async def test_a_server_that_answers_no_ping_is_noticed() -> None:
    async with connected() as (stream, websocket, _):
        websocket.answers_pings = False
        websocket.deliver("1")
        assert await anext(stream) == 1
        await asyncio.sleep(39.9)
        assert (websocket.pings, stream.ended) == (1, None)
        with pytest.raises(StreamError, match=r"^deadline_exceeded: nothing was heard for 40 s$"):
            await anext(stream)


@virtual
async def test_a_connection_that_is_over_for_two_reasons_is_over_once() -> None:
    async with connected(silence_timeout=40) as (stream, websocket, _):
        websocket.answers_pings = False
        with pytest.raises(StreamError, match=r"^deadline_exceeded: nothing was heard for 40 s$"):
            await anext(stream)


@virtual
async def test_a_server_that_answers_pings_may_be_silent_for_ever() -> None:
    async with connected() as (stream, websocket, _):
        await asyncio.sleep(1000)
        assert websocket.pings > 20
        assert stream.ended is None


@virtual
async def test_a_server_that_says_something_is_not_pinged() -> None:
    async with connected() as (stream, websocket, _):
        for _ in range(10):
            await asyncio.sleep(15)
            websocket.deliver("1")
            await anext(stream)
        assert websocket.pings == 0


@virtual
async def test_what_comes_from_a_connection_that_was_given_up_is_not_heard() -> None:
    async with connected(silence_timeout=5, reconnect=Reconnect(base=60, cap=60)) as (stream, websocket, _):
        await asyncio.sleep(5.1)
        assert stream.state == "waiting"
        websocket.deliver("1")
        assert websocket.heard is None
        await stream.close()


# What comes from the network


@virtual
async def test_what_websockets_has_closed_because_of_the_server_is_told_so() -> None:
    expected = {1009: ("resource_exhausted", 1009), 1002: ("internal", 1002), 1007: ("internal", 1002)}
    for code, (error, close_code) in expected.items():
        async with connected(reconnect=Reconnect()) as (stream, websocket, _):
            websocket.fail(code, "so it is")
            ended = await stream.closed()
            assert ended.error is not None
            assert (ended.error.code, ended.error.close_code) == (error, close_code)
            assert "so it is" in ended.error.message


@virtual
async def test_a_drain_that_is_over_is_not_waited_for() -> None:
    told: list[StreamEvent] = []
    async with connected(reconnect=Reconnect(), on=told.append) as (stream, websocket, _):
        websocket.deliver(b'{"type":"drain","within":1}')
        await asyncio.sleep(2)
        websocket.end(1012, "")
        await settled()
        assert isinstance(told[-1], Lost)
        assert told[-1].pause == 0.5
        await stream.close()


@virtual
async def test_a_connection_that_is_gone_before_the_message_keeps_it_for_the_next_one() -> None:
    async with connected(reconnect=Reconnect(queue=1)) as (stream, websocket, server):
        websocket.vanish()  # and nobody has heard of it yet
        sending = asyncio.create_task(stream.send(1))
        await settled()
        assert not sending.done()
        websocket.end(1006, "")
        await asyncio.sleep(0.6)
        again = server.accept()
        await sending
        assert again.sent == [{"message": 1}]
        again.end(1000, "")
        await stream.closed()


# HTTP


REFUSED = b'{"code":"not_found","message":"no such room","details":{"room":"x"}}'


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (refusal(404, REFUSED), ("not_found", "no such room", {"room": "x"}, None, 4404)),
        (refusal(500, b'{"code":"internal","message":"m","details":null}'), ("internal", "m", None, None, 1011)),
        (
            refusal(429, b"", retry_after="7"),
            ("resource_exhausted", "the server answered with HTTP 429", None, 7, 4429),
        ),
        (
            refusal(503, b"{", retry_after="Fri, 31"),
            ("unavailable", "the server answered with HTTP 503", None, None, 4503),
        ),
        (
            refusal(418, b'{"code":"tea","message":"m"}'),
            ("unknown", "the server answered with HTTP 418", None, None, 4418),
        ),
        (refusal(200, b"[" * 100_000), ("unknown", "the server answered with HTTP 200", None, None, 4200)),
    ],
    ids=["ours", "internal", "too many", "unavailable", "teapot", "no websocket"],
)
def test_a_refusal_in_http_is_read(refused: InvalidStatus, expected: tuple[Any, ...]) -> None:
    @virtual
    async def test() -> None:
        server = FakeServer()
        async with make(server) as stream:
            await settled()
            server.refuse(refused)
            with pytest.raises(StreamError) as raised:
                await stream.ready()
            error = raised.value
            assert (error.code, error.message, error.details, error.retry_after, error.close_code) == expected
            assert str(error) == f"{error.code}: {error.message}"
            assert stream.ended == StreamEnded(expected[-1], expected[1], error)

    test()


@virtual
async def test_a_refusal_in_http_is_followed_as_its_close_would_be() -> None:
    told: list[StreamEvent] = []
    server = FakeServer()
    async with make(server, reconnect=Reconnect(), on=told.append) as stream:
        await settled()
        server.refuse(refusal(503, b"", retry_after="3"))
        await asyncio.sleep(3.6)
        assert [(event.error.code, event.pause) for event in told if isinstance(event, Lost)] == [("unavailable", 3.5)]
        server.refuse(refusal(404, REFUSED))
        with pytest.raises(StreamError, match=r"^not_found: no such room$"):
            await anext(stream)
        assert len(server.dialled) == 2


@virtual
async def test_what_cannot_even_be_tried_is_raised_as_it_is() -> None:
    server = FakeServer()
    async with make(server, reconnect=Reconnect()) as stream:
        await settled()
        server.refuse(InvalidURI("ws://", "it is none"))
        for use in (stream.ready(), anext(stream), stream.send(1)):
            with pytest.raises(InvalidURI):
                await use
        ended = await stream.closed()
        assert ended.error is not None
        assert ended.error.code == "canceled"


# Where a stream is


def dialled(target: StreamTarget, **options: Any) -> tuple[str, dict[str, str]]:
    """Return the URL and the headers of a stream."""
    server = FakeServer()
    url = options.pop("url", "ws://server")

    @virtual
    async def test() -> None:
        dialer = StreamDialer(url, connect=server.connect, **options)
        async with StreamIn[Any](dialer, target, {}) as stream:
            await settled()
            await stream.close()

    test()
    url, headers = server.dialled[0]
    assert headers["streamrt-refusals"] == "http"
    return url, {name: value for name, value in headers.items() if name != "streamrt-refusals"}


def test_a_handshake_goes_where_the_server_looks_for_it() -> None:
    target = StreamTarget(
        "/a%20b",
        query={"id[]": [1, 2], "on": True, "ratio": 0.5, "none": None, "s": "ü&"},
        headers={"x-words": ["one", "two"], "x-none": None, "x-empty": [], "x-on": False},
        cookies={"session": "s1", "none": None, "page": 2},
    )
    assert dialled(target, headers={"Authorization": "Bearer ada"}) == (
        "ws://server/a%20b?id%5B%5D=1&id%5B%5D=2&on=true&ratio=0.5&s=%C3%BC%26",
        {"authorization": "Bearer ada", "x-words": "one, two", "x-on": "false", "cookie": "session=s1; page=2"},
    )


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("http://server:80/", "ws://server:80/x"),
        ("https://server/mounted/", "wss://server/mounted/x"),
        ("wss://server", "wss://server/x"),
    ],
)
def test_a_server_is_given_by_its_url(url: str, whole: str) -> None:
    assert dialled(StreamTarget("/x"), url=url) == (whole, {})


@pytest.mark.parametrize("url", ["ftp://server", "server", "ws:///x"])
def test_a_url_that_is_none_of_a_server_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"^a server's URL is like 'ws://host:port' or 'https://host/path', not '"):
        StreamDialer(url)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (StreamTarget("/x", headers={"x-a": "1\r\nx-b: 2"}), "the header 'x-a' has a character"),
        (StreamTarget("/x", headers={"x-a": "ü"}), "the header 'x-a' has a character"),
        (StreamTarget("/x", headers={"x-a": " 1"}), "the header 'x-a' has a character"),
        (StreamTarget("/x", headers={"x a": "1"}), "the header 'x a' has a character"),
        (StreamTarget("/x", cookies={"session": "a; other=b"}), "the cookie 'session' has a character"),
    ],
)
def test_what_cannot_be_a_header_is_never_sent(target: StreamTarget, message: str) -> None:
    @virtual
    async def test() -> None:
        server = FakeServer()
        async with make(server, target) as stream:
            with pytest.raises(ValueError, match=f"^{message}"):
                await stream.ready()
        assert server.dialled == []

    test()


def test_a_parameter_of_a_path_is_one_segment() -> None:
    assert path_segment("name", "a/ü b") == "a%2F%C3%BC%20b"
    assert [path_segment("name", value) for value in (1, 0.5, True)] == ["1", "0.5", "true"]
    assert path_segments("rest", "a b//c/") == "a%20b//c/"
    for wrong in ("", ".", ".."):
        with pytest.raises(ValueError, match=rf"^the path parameter 'name' cannot be '{wrong}'"):
            path_segment("name", wrong)
    with pytest.raises(ValueError, match=r"^the path parameter 'rest' cannot be '\.\.'"):
        path_segments("rest", "a/../b")


def test_the_runtime_stands_on_websockets_alone() -> None:
    source = Path(runtime_asyncio.__file__).read_text()
    assert "streamrt." not in "".join(line for line in source.splitlines() if "import" in line)
    assert "attrs" not in source
