"""The app as an ASGI application, under servers that do less than hypercorn, or other things."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

from streamrt import App, Ended, Service, StreamInOut, StreamOut
from streamrt.server.asgi import ASGITransport
from streamrt.wire.transport import Disconnected, Frame
from tests.asgi import call_websocket, websocket_scope


@attrs.frozen
class Name:
    name: str


def echo_app(ended: list[Ended | None] | None = None, **options: Any) -> App:
    service = Service("test")

    @service.stream_in_out("/echo/{name}", expose=True)
    async def echo(handshake: Name, stream: StreamInOut[Any, Any]) -> None:
        try:
            await stream.send(handshake.name)
            async for message in stream:
                await stream.send(message)
        finally:
            if ended is not None:
                ended.append(stream.ended)

    @service.stream_out("/", expose=True)
    async def root(stream: StreamOut[str]) -> None:
        await stream.send("the root")

    return App(service, **options)


def texts(said: list[dict[str, Any]]) -> list[str]:
    return [message["text"] for message in said if message["type"] == "websocket.send"]


async def test_text_and_bytes_come_in_and_text_goes_out(autojump_clock) -> None:
    events = [
        {"type": "websocket.receive", "text": "1"},
        {"type": "websocket.receive", "bytes": b"2"},
        {"type": "websocket.receive", "text": None, "bytes": b"3"},
    ]
    said = await call_websocket(echo_app(), "/echo/x", events)
    assert said[0] == {"type": "websocket.accept", "subprotocol": None}
    assert texts(said) == ['"x"', "1", "2", "3"]


async def test_nothing_is_sent_once_the_server_has_said_that_the_peer_is_gone() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": 4001, "reason": "bye"}

    async def send(message: Any) -> None:
        pytest.fail(f"nobody is there for {message}")

    transport = ASGITransport(receive, send)
    for call in (transport.receive, partial(transport.send, [Frame(b"1")])):
        with pytest.raises(Disconnected) as caught:
            await call()
        assert (caught.value.code, caught.value.reason) == (4001, "bye")
    await transport.close(1000, "")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"code": 4001, "reason": "bye"}, Ended("peer", 4001, "bye")),
        ({"code": 1001, "reason": None}, Ended("peer", 1001)),
        ({}, Ended("peer", 1005)),
    ],
)
async def test_the_servers_word_on_how_the_client_closed_is_taken(event: dict[str, Any], expected: Ended) -> None:
    ended: list[Ended | None] = []
    await call_websocket(echo_app(ended), "/echo/x", [{"type": "websocket.disconnect", **event}])
    assert ended == [expected]


async def test_a_server_without_refusals_gets_a_close_instead() -> None:
    said = await call_websocket(echo_app(), "/nowhere", extensions={})
    assert said == [{"type": "websocket.close", "code": 4404, "reason": "not_found: endpoint not found"}]


async def test_a_server_that_does_not_know_extensions_gets_a_close_too() -> None:
    scope = websocket_scope("/nowhere")
    del scope["extensions"]
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    await echo_app()(scope, receive, send)
    assert [message["type"] for message in said] == ["websocket.close"]


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ({"path": "/echo/a b"}, "a b"),
        ({"path": "/echo/a/b", "raw_path": b"/echo/a%2Fb"}, "a/b"),
        ({"path": "/mounted/echo/x", "root_path": "/mounted"}, "x"),
        ({"path": "/mounted/echo/x", "raw_path": b"/mounted/echo/x", "root_path": "/mounted"}, "x"),
        ({"path": "/echo/caf\u00e9"}, "caf\u00e9"),
        ({"path": "/mounted", "root_path": "/mounted"}, "the root"),
    ],
)
async def test_the_path_is_found_however_the_server_gives_it(scope: dict[str, Any], name: str) -> None:
    said = await call_websocket(echo_app(), scope.pop("path"), [{"type": "websocket.receive", "text": "1"}], **scope)
    assert texts(said)[0] == f'"{name}"'


async def test_a_client_that_is_gone_when_something_is_sent_has_disconnected(autojump_clock) -> None:
    ended: list[Ended | None] = []
    calls = 0

    async def receive() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls > 1:
            await trio.sleep_forever()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise OSError("the client is gone")

    await echo_app(ended)(websocket_scope("/echo/x"), receive, send)
    assert ended == [Ended("peer", 1006)]
    assert trio.current_time() == 5  # the grace; this server never says that the client has disconnected


async def test_nothing_is_sent_after_the_client_has_disconnected(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/flood", expose=True, send_messages=1)
    async def flood(stream: StreamOut[int]) -> None:
        while True:
            await stream.send(1)

    said = await call_websocket(App(service), "/flood", [{"type": "websocket.disconnect", "code": 1001}])
    assert "websocket.close" not in [message["type"] for message in said]


async def test_a_server_that_fails_is_logged_and_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise RuntimeError("the server is broken")

    await echo_app()(websocket_scope("/echo/x"), receive, send)
    assert "the server is broken" in caplog.text


@pytest.mark.parametrize("path", ["/echo/x", "/nowhere"])
async def test_a_client_that_is_gone_before_it_is_answered_is_no_error(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    await echo_app()(websocket_scope(path), receive, send)
    assert [record for record in caplog.records if record.levelname != "WARNING"] == []  # that it is plain ASGI


async def test_closing_a_stream_whose_client_is_gone_is_no_error(autojump_clock) -> None:
    service = Service("test")
    closed = trio.Event()

    @service.stream_out("/close", expose=True)
    async def close(stream: StreamOut[int]) -> None:
        await stream.aclose()
        closed.set()

    async def receive() -> dict[str, Any]:
        if not connecting:
            await trio.sleep_forever()
        return connecting.pop()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            raise OSError("the client is gone")

    connecting = [{"type": "websocket.connect"}]
    await App(service)(websocket_scope("/close"), receive, send)
    assert closed.is_set()


async def call_lifespan(app: App, at_startup: Any = None) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> dict[str, Any]:
        if len(events) == 1 and at_startup is not None:
            await at_startup()
        return events.pop(0)

    async def send(message: Any) -> None:
        said.append(dict(message))

    await app({"type": "lifespan"}, receive, send)
    return said


async def test_the_lifespan_scope_holds_the_resources_from_startup_to_shutdown() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        events.append("entered")
        yield
        events.append("left")

    async def at_startup() -> None:
        assert events == ["entered"]

    said = await call_lifespan(App(lifespan=lifespan), at_startup)
    assert said == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
    assert events == ["entered", "left"]


async def test_a_lifespan_that_fails_to_start_is_said_to_the_server(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        raise RuntimeError("no database")
        yield

    [message] = await call_lifespan(App(lifespan=lifespan))
    assert message == {"type": "lifespan.startup.failed", "message": "RuntimeError: no database"}


async def test_a_lifespan_that_fails_later_fails_the_scope(caplog: pytest.LogCaptureFixture) -> None:
    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        async def fail() -> None:
            raise RuntimeError("the feed is gone")

        nursery.start_soon(fail)
        yield

    with pytest.raises(RuntimeError, match="the feed is gone"):
        await call_lifespan(App(lifespan=lifespan), trio.sleep_forever)


async def call_http(app: App) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        said.append(dict(message))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return said


async def test_plain_http_is_a_404_with_a_json_error() -> None:
    start, body = await call_http(App())
    assert (start["type"], start["status"]) == ("http.response.start", 404)
    assert (b"content-type", b"application/json") in start["headers"]
    assert body == {
        "type": "http.response.body",
        "body": b'{"code":"not_found","message":"endpoint not found","details":null}',
    }


async def test_plain_http_goes_to_the_fallback() -> None:
    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "the fallback saw", "path": scope["path"]})

    assert await call_http(App(fallback=fallback)) == [{"type": "the fallback saw", "path": "/"}]
