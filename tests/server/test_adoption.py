"""Adopting hypercorn's connections: what is touched of it, when it is left alone, and what may go wrong meanwhile."""

import ast
import inspect
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, final

import hypercorn.trio
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.logging import Logger
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import Handshake, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from streamrt import App, Deflate, Ended, Service, StreamInOut, StreamOut
from streamrt.runtime.scopes import lone_error
from streamrt.server import asgi
from streamrt.server import hypercorn as adoption
from streamrt.server.hypercorn import TOUCHED, Parts, parts_of
from streamrt.server.line import PlainLine, TLSLine
from streamrt.server.socket import SocketTransport
from streamrt.wire.frames import FrameReader
from tests.conftest import Wrapped, configured
from tests.peers import connect_socket, dial, text


def make_app(ended: list[Ended | None] | None = None, **options: Any) -> App:
    service = Service("test")

    @service.stream_in_out("/echo", expose=True, receive_messages=1)
    async def echo(stream: StreamInOut[str, str]) -> None:
        try:
            async for message in stream:
                await stream.send(message)
        finally:
            if ended is not None:
                ended.append(stream.ended)

    @service.stream_in_out("/compressed", expose=True, compression=Deflate())
    async def compressed(stream: StreamInOut[str, str]) -> None:
        async for message in stream:
            await stream.send(message)

    @service.stream_out("/carrier", expose=True)
    async def carrier(stream: StreamOut[str]) -> None:
        await stream.send(stream.request.transport)

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[str]) -> None:
        await stream.send("here")
        await stream.draining.wait()
        await stream.send("draining")
        await trio.sleep_forever()

    return App(service, **options)


@asynccontextmanager
async def stock(
    app: Any, *, tls: bool = False, trigger: trio.Event | None = None, **settings: Any
) -> AsyncGenerator[str]:
    """Serve an app with hypercorn as it comes; within ten seconds, whatever happens."""
    config = configured(tls=tls, **settings)
    shutdown = None if trigger is None else trigger.wait

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown, task_status=task_status)

    with trio.fail_after(10), lone_error(), lone_error(), lone_error():  # hypercorn has two nurseries
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(serve)
            yield url
            nursery.cancel_scope.cancel()


@final
class Behind:
    """An app behind something that first has a look at what hypercorn gives it, and passes that on as it is."""

    def __init__(self, app: App, look: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self.app = app
        self.look = look
        self.left = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        receive = await self.look(receive, send) or receive
        await self.app(scope, receive, send)
        self.left.set()


def found(send: Any) -> Parts:
    parts = parts_of(send)
    assert isinstance(parts, Parts), parts
    return parts


# What is touched of hypercorn.


def missing(objects: Iterable[object]) -> list[str]:
    parts = {type(part): part for part in objects}
    return [
        f"{kind.__name__}.{name}"
        for kind, names in TOUCHED.items()
        for name in names
        if not hasattr(parts.get(kind), name)
    ]


async def test_all_that_is_touched_is_there_on_a_connection_of_the_hypercorn_that_is_installed() -> None:
    objects: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        await send({"type": "websocket.accept"})
        stream = send.__self__
        http = stream.send.__self__
        server = http.send.__self__
        objects.extend([stream, stream.handshake, http, http.connection, server, server.context, server.config])

    async with stock(app) as url, connect_socket(url) as peer:
        await peer.closed()
    assert missing(objects) == []


def test_what_is_missing_is_named_with_its_class() -> None:
    assert "Config.graceful_timeout" in missing([])
    assert "Config.graceful_timeout" not in missing([Config()])


PLACES: dict[str, type] = {
    "stream": WSStream,
    "parts.stream": WSStream,
    "parts.stream.handshake": Handshake,
    "http": H11Protocol,
    "parts.http": H11Protocol,
    "connection": H11WSConnection,
    "server": TCPServer,
    "parts.server": TCPServer,
    "parts.server.context": WorkerContext,
    "parts.server.config": Config,
}
"""The ways on which the module comes to hypercorn's objects."""


def test_all_that_is_touched_is_declared_and_nothing_else() -> None:
    touched: set[tuple[type, str]] = set()
    for node in ast.walk(ast.parse(inspect.getsource(adoption))):
        match node:
            case ast.Attribute(value=base, attr=name):
                pass
            case ast.Call(func=ast.Name("getattr"), args=[base, ast.Constant(str(name)), *_]):
                pass
            case _:
                continue
        if (place := ast.unparse(base)) in PLACES:
            touched.add((PLACES[place], name))
    assert touched == {(kind, name) for kind, names in TOUCHED.items() for name in names}


# Which connections are adopted.


async def unused(*_: object) -> None:
    raise AssertionError("nothing is sent here")


# Hypercorn's objects, of which nothing is used but what ties them together.


def websocket(send: Any) -> WSStream:
    nothing: Any = None
    stream = WSStream(nothing, Config(), nothing, nothing, False, None, None, send, 1)  # noqa: FBT003 - it is theirs
    stream.handshake = Handshake([], "1.1")
    return stream


def protocol(kind: type[H11Protocol | H2Protocol], send: Any) -> Any:
    nothing: Any = None
    made: Any = kind(nothing, Config(), WorkerContext(None), nothing, nothing, False, None, None, send)  # noqa: FBT003
    if kind is H11Protocol:
        made.connection = H11WSConnection(made.connection)  # as it does for an upgrade
    return made


def chain(carrier: Any, kind: type[H11Protocol | H2Protocol] = H11Protocol) -> tuple[WSStream, TCPServer]:
    nothing: Any = None
    server = TCPServer(nothing, Config(), WorkerContext(None), nothing, carrier)
    server.protocol = nothing
    return websocket(protocol(kind, server.protocol_send).stream_send), server


BUILT_IN_ANOTHER_WAY = "this hypercorn is built in another way"
ANOTHER_SERVER = "another server than hypercorn serves it, or something stands between"


async def test_a_send_that_is_not_hypercorns_is_not_followed() -> None:
    assert parts_of(unused) == ANOTHER_SERVER
    assert parts_of(Config().log) == ANOTHER_SERVER


async def test_an_http_2_connection_is_shared_and_left_alone() -> None:
    stream, _ = chain(trio.testing.memory_stream_pair()[0], H2Protocol)
    assert parts_of(stream.app_send) == "it shares an HTTP/2 connection with others"


async def test_a_hypercorn_that_is_built_in_another_way_is_left_alone() -> None:
    assert parts_of(websocket(unused).app_send) == BUILT_IN_ANOTHER_WAY
    assert parts_of(websocket(protocol(H11Protocol, unused).stream_send).app_send) == BUILT_IN_ANOTHER_WAY


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("WSStream", "handshake"),
        ("Handshake", "extensions"),
        ("TCPServer", "protocol"),
        ("WorkerContext", "terminated"),
    ],
)
async def test_what_a_hypercorn_lacks_is_named(part: str, name: str) -> None:
    stream, server = chain(trio.testing.memory_stream_pair()[0])
    lacking = {"WSStream": stream, "Handshake": stream.handshake, "TCPServer": server, "WorkerContext": server.context}
    delattr(lacking[part], name)
    assert parts_of(stream.app_send) == f"this hypercorn's {part} has no {name!r}"


async def test_only_a_socket_is_adopted() -> None:
    carrier, _ = trio.testing.memory_stream_pair()
    stream, _ = chain(carrier)
    assert parts_of(stream.app_send) == "its connection is a StapledStream, and not a socket"
    stream, _ = chain(trio.SSLStream(carrier, ssl.create_default_context()))
    assert parts_of(stream.app_send) == "its connection is a SSLStream, and not a socket"


@pytest.mark.parametrize(("tls", "kind"), [(False, PlainLine), (True, TLSLine)])
async def test_a_connection_of_hypercorn_is_a_line(tls: bool, kind: type) -> None:
    lines: list[object] = []

    async def look(receive: Any, send: Any) -> None:
        parts = found(send)
        assert parts.stream is send.__self__
        lines.append(getattr(parts.line, "func", None))

    async with stock(Behind(make_app(), look), tls=tls) as url:
        async with connect_socket(url + "/carrier") as peer:
            assert await peer.receive() == '"socket"'
    assert lines == [kind]


async def test_a_fallback_is_told_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    asgi._tell_fallback.cache_clear()
    async with stock(Wrapped(make_app())) as url:
        for _ in range(2):
            async with connect_socket(url + "/carrier") as peer:
                assert await peer.receive() == '"asgi"'
    reason = f"a stream is served over plain ASGI, with fewer guarantees, because {ANOTHER_SERVER}"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", reason)]


# The upgrade.

DEFLATE = ClientPerMessageDeflateFactory(client_max_window_bits=True)


@pytest.mark.parametrize(("path", "agreed"), [("/compressed", ["permessage-deflate"]), ("/echo", [])])
async def test_compression_is_agreed_on_only_where_it_is_asked_for(path: str, agreed: list[str]) -> None:
    message = '"' + "na" * 1000 + '"'
    async with stock(make_app()) as url, connect_socket(url + path, extensions=[DEFLATE]) as peer:
        assert [extension.name for extension in peer.protocol.extensions] == agreed
        await peer.send(message)
        assert await peer.receive() == message


@pytest.fixture(params=["hub", "task", "tls"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test with each way of reading; return whether it is through TLS."""
    if request.param == "task":
        monkeypatch.setattr(adoption, "current_hub", lambda: None)
    return bool(request.param == "tls")


class During101(Logger):
    """Hypercorn's log of accesses, which it writes when the 101 is out: `send` has not returned yet."""

    over: trio.Event

    async def access(self, request: Any, response: Any, request_time: float) -> None:
        await self.over.wait()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Let the sending of the 101 end when something was taken from the line, which sets the event."""
    take, event = SocketTransport.take, trio.Event()

    def note(transport: SocketTransport, data: bytes) -> None:
        take(transport, data)
        event.set()

    monkeypatch.setattr(SocketTransport, "take", note)
    monkeypatch.setattr(During101, "over", event, raising=False)
    return event


async def test_what_a_client_sends_during_the_101_is_not_lost(reading: bool, taken: trio.Event) -> None:
    async with stock(make_app(), tls=reading, logger_class=During101) as url:
        async with connect_socket(url + "/echo") as peer:
            await peer.send('"early"')
            assert await peer.receive() == '"early"'
            await peer.send('"later"')
            assert await peer.receive() == '"later"'


async def test_a_client_that_leaves_during_the_101_has_no_stream(
    taken: trio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[Ended | None] = []
    app = Behind(make_app(ended), unmoved)
    async with stock(app, logger_class=During101) as url:
        async with connect_socket(url + "/echo") as peer:
            peer.vanish()
            await app.left.wait()
        await echoes(url)
    assert ended == [Ended("peer", 1000)]  # the other one's
    assert caplog.records == []


async def unmoved(receive: Any, send: Any) -> None:
    """Only look."""


async def echoes(url: str) -> None:
    """The worker goes on."""
    async with connect_socket(url + "/echo") as peer:
        await peer.send('"hello"')
        assert await peer.receive() == '"hello"'
        await peer.close()
        await peer.closed()


@pytest.fixture
def talked(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Set when hypercorn has read what a client says behind its request."""
    receive_data, event = H11WSConnection.receive_data, trio.Event()

    def note(connection: H11WSConnection, data: bytes) -> None:
        receive_data(connection, data)
        event.set()

    monkeypatch.setattr(H11WSConnection, "receive_data", note)
    return event


async def test_who_talks_during_a_refusal_gets_it_whole_and_takes_nothing_down(talked: trio.Event) -> None:
    async def look(receive: Any, send: Any) -> None:
        carrier: Any = found(send).server.stream
        send_all = carrier.send_all

        async def send_slowly(data: bytes) -> None:
            await send_all(data)
            await talked.wait()

        carrier.send_all = send_slowly

    async with stock(Behind(make_app(), look)) as url:
        async with dial(url + "/nowhere") as peer:
            await peer.stream.send_all(peer.request())
            refusal = bytes(await peer.stream.receive_some())
            assert refusal.startswith(b"HTTP/1.1 404 ")
            await peer.stream.send_all(text('"early"'))
            while b"endpoint not found" not in refusal:
                more = await peer.stream.receive_some()
                assert more, refusal
                refusal += more
        await echoes(url)


async def test_a_client_that_the_101_does_not_reach_has_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def look(receive: Any, send: Any) -> None:
        if not app.left.is_set():
            found(send).server.stream.socket.shutdown(socket.SHUT_WR)

    ended: list[Ended | None] = []
    app = Behind(make_app(ended), look)
    async with stock(app) as url:
        async with dial(url + "/echo") as peer:
            await peer.stream.send_all(peer.request())
            await app.left.wait()
        assert ended == []
        await echoes(url)
    assert caplog.records == []


async def test_a_client_that_has_left_before_it_is_adopted_has_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    looking = trio.Event()

    async def look(receive: Any, send: Any) -> Any:
        if app.left.is_set():
            return None
        connect = await receive()
        looking.set()
        assert (await receive())["type"] == "websocket.disconnect"

        async def again() -> Any:
            return connect

        return again

    ended: list[Ended | None] = []
    app = Behind(make_app(ended), look)
    async with stock(app) as url:
        async with dial(url + "/echo") as peer:
            await peer.stream.send_all(peer.request())
            await looking.wait()
        await app.left.wait()
        assert ended == []
        await echoes(url)
    assert caplog.records == []


# The reading.


async def test_who_reads_is_paused_while_there_is_no_room(reading: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [f'"{number}"' for number in range(100)]
    async with stock(make_app(), tls=reading) as url, connect_socket(url + "/echo") as peer:
        for message in messages:
            await peer.send(message)
        assert [await peer.receive() for _ in messages] == messages
        await peer.close(4000, "bye")
        assert await peer.closed() == Ended("peer", 4000, "bye")


async def test_a_fault_in_reading_ends_its_own_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive(line: PlainLine) -> bytes:
        raise RuntimeError("a fault")

    ended: list[Ended | None] = []
    app = Behind(make_app(ended), unmoved)
    async with stock(app) as url:
        with monkeypatch.context() as broken:
            broken.setattr(adoption, "current_hub", lambda: None)
            broken.setattr(PlainLine, "receive", receive)
            async with connect_socket(url + "/echo") as peer:
                assert await peer.closed() == Ended("peer", 1011, "internal: an internal error occurred")
            await app.left.wait()
        assert len(ended) == 1
        await echoes(url)
    assert [record.getMessage() for record in caplog.records] == ["reading from a connection failed"]
    assert "a fault" in caplog.text


async def test_a_fault_during_the_101_ends_its_own_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Behind(make_app(), unmoved)
    failed = trio.Event()

    def feed(reader: FrameReader, data: bytes) -> None:
        failed.set()
        raise RuntimeError("a fault")

    monkeypatch.setattr(During101, "over", failed, raising=False)
    async with stock(app, logger_class=During101) as url:
        with monkeypatch.context() as broken:
            broken.setattr(FrameReader, "feed", feed)
            async with connect_socket(url + "/echo") as peer:
                await peer.send('"early"')
                assert (await peer.closed()).code == 1011
                await app.left.wait()
        await echoes(url)
    assert [record.getMessage() for record in caplog.records] == ["reading from a connection failed"]


async def test_after_the_end_hypercorn_may_say_what_it_likes(caplog: pytest.LogCaptureFixture) -> None:
    protocols: list[Any] = []

    async def look(receive: Any, send: Any) -> None:
        protocols.append(found(send).server)

    app = Behind(make_app(), look)
    async with stock(app) as url:
        async with connect_socket(url + "/carrier") as peer:
            assert await peer.receive() == '"socket"'
            await peer.closed()
        await app.left.wait()
        [server] = protocols
        assert isinstance(server.protocol, adoption.Adopter)
        for event in (Closed(), RawData(b"late"), RawData(b"")):
            await server.protocol.handle(event)
        await echoes(url)
    assert caplog.records == []


# The shutdown.


async def test_a_shutdown_of_hypercorn_drains_the_streams() -> None:
    trigger = trio.Event()
    async with stock(make_app(), trigger=trigger, graceful_timeout=0.1) as url:
        async with connect_socket(url + "/wait") as peer:
            assert await peer.receive() == '"here"'
            trigger.set()
            assert await peer.receive() == '"draining"'
            assert await peer.closed() == Ended("peer", 1012, "the server is restarting")
