"""The typed client: one behaviour, in memory and over a WebSocket."""

import socket
import struct
from contextlib import suppress
from functools import partial
from typing import Annotated

import attrs
import pytest
import trio
import trio.testing
import trio_websocket
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from streamrt import (
    APIError,
    App,
    Client,
    Ended,
    Header,
    InvalidMessage,
    Limits,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    get_auth_data,
    get_client,
    testing,
)
from streamrt.client.websocket import WebSocketTransport
from streamrt.wire.transport import Disconnected, Frame
from tests.conftest import Carrier, served


@attrs.frozen
class Join:
    room: str
    since: int | None = None
    tags: list[str] = attrs.Factory(list)
    language: Annotated[str, Header("accept-language")] = "en"


@attrs.frozen
class Say:
    text: str


@attrs.frozen
class Said:
    by: str
    text: str


@attrs.frozen
class Count:
    count: int


service = Service("test")


@service.stream_in_out("/rooms/{room}", expose=True)
async def chat(handshake: Join, stream: StreamInOut[Say, Said]) -> None:
    await stream.send(Said("handshake", repr(handshake)))
    async for message in stream:
        if message.text == "fail":
            raise APIError.failed_precondition("the room is closed")
        await stream.send(Said(handshake.room, message.text))


@service.stream_in("/upload", expose=True)
async def upload(stream: StreamIn[Say]) -> Count:
    count = 0
    async for message in stream:
        if message.text == "fail":
            raise APIError.data_loss("half of it is missing")
        if message.text == "close":
            await trio.sleep_forever()
        count += 1
        if message.text == "done":
            break
    return Count(count)


@service.stream_in("/quiet", expose=True)
async def quiet(stream: StreamIn[Say]) -> None:
    if (await stream.receive()).text == "fail":
        raise APIError.aborted("no")


@service.stream_out("/count/{count}", expose=True)
async def count(handshake: Count, stream: StreamOut[Count]) -> None:
    for value in range(handshake.count):
        await stream.send(Count(value))


app = App(service)


async def test_a_stream_in_out_is_mirrored(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(chat, Join("lobby")) as talk:
        assert (await talk.receive()).by == "handshake"
        for text in ("one", "two"):
            await talk.send(Say(text))
            assert await talk.receive() == Said("lobby", text)


@pytest.mark.parametrize(
    "handshake",
    [
        Join("lobby"),
        Join("a/b ?&#%é", since=3, tags=["x", "y&z"], language="fr"),
        Join("..", since=-1, tags=[""]),
    ],
)
async def test_a_handshake_arrives_as_it_was_given(carrier: Carrier, handshake: Join) -> None:
    async with carrier.client(app) as client, client.open(chat, handshake) as talk:
        assert (await talk.receive()).text == repr(handshake)


async def test_a_stream_in_is_mirrored_and_answers(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(upload) as stream:
        for text in ("one", "two", "done"):
            await stream.send(Say(text))
        assert await stream.response() == Count(3)


async def test_a_stream_out_is_mirrored(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(count, Count(200)) as stream:
        assert [message.count async for message in stream] == list(range(200))
        assert stream.ended == Ended("peer", 1000)


async def test_a_stream_in_without_a_response_says_when_it_has_ended_well(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(quiet) as stream:
        await stream.send(Say("anything"))
        assert await stream.response() is None  # type: ignore[func-returns-value]


async def test_errors_arrive_by_class_with_code_and_message(carrier: Carrier) -> None:
    async with carrier.client(app) as client:
        async with client.open(chat, Join("lobby")) as talk:
            await talk.send(Say("fail"))
            with pytest.raises(APIError.FailedPrecondition) as caught:
                async for message in talk:
                    assert message.by == "handshake"
            assert (caught.value.code, caught.value.message) == ("failed_precondition", "the room is closed")
        async with client.open(upload) as stream:
            await stream.send(Say("fail"))
            with pytest.raises(APIError.DataLoss, match="half of it is missing"):
                await stream.response()
        async with client.open(quiet) as nothing:
            await nothing.send(Say("fail"))
            with pytest.raises(APIError.Aborted):
                await nothing.response()


async def test_a_response_fails_when_the_stream_ends_without_it(carrier: Carrier) -> None:
    silent = Service("silent")

    @silent.stream_in("/silent", expose=True, disconnect_grace=0)
    async def answer(stream: StreamIn[Say]) -> Count:
        await trio.sleep_forever()
        return Count(0)

    silent_app = App(silent)
    async with carrier.client(silent_app) as client, client.open(answer) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(silent_app.host.drain, 0)
            with pytest.raises(APIError.Unavailable, match="restarting"):
                await stream.response()


async def test_a_response_that_never_comes_though_all_is_well_is_data_loss(autojump_clock) -> None:
    from streamrt.api.stream import StreamOutWithResponse
    from streamrt.runtime.connection import Connection
    from streamrt.wire.codec import codec
    from streamrt.wire.transport import memory_transports
    from tests.runtime.stage import REQUEST

    ours, theirs = memory_transports()
    connection = Connection(ours, REQUEST, Limits(), draining=trio.Event(), side="client", takes_input=True)
    async with connection.open():
        await theirs.close(1000, "")
        with pytest.raises(APIError.DataLoss, match="without its response"):
            await StreamOutWithResponse(connection, codec(Say), codec(Count)).response()


async def test_a_client_may_close_before_its_block_is_left(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(chat, Join("lobby")) as talk:
        await talk.aclose()
        assert talk.ended == Ended("handler", 1000)
        with pytest.raises(trio.ClosedResourceError):
            await talk.send(Say("hello"))
        with pytest.raises(trio.ClosedResourceError):
            await talk.receive()


async def test_an_error_in_the_block_comes_out_as_it_is(carrier: Carrier) -> None:
    async with carrier.client(app) as client:
        with pytest.raises(KeyError, match="mine"):
            async with client.open(chat, Join("lobby")):
                raise KeyError("mine")


async def test_a_message_that_does_not_fit_is_refused_where_it_is_sent(carrier: Carrier) -> None:
    async with carrier.client(app) as client, client.open(chat, Join("lobby")) as talk:
        with pytest.raises(ValueError, match=r"\$\.text: expected a string"):
            await talk.send(Say(1))  # type: ignore[arg-type]
        await talk.receive()
        await talk.send(Say("still here"))
        assert (await talk.receive()).text == "still here"


async def test_a_handshake_is_checked_where_it_is_given(carrier: Carrier) -> None:
    async with carrier.client(app) as client:
        with pytest.raises(TypeError, match="Join"):
            async with client.open(chat, Count(1)):  # type: ignore[call-overload]
                pass
        with pytest.raises(TypeError, match=r"test\.upload has no handshake"):
            async with client.open(upload, Count(1)):  # type: ignore[call-overload]
                pass
        with pytest.raises(ValueError, match="room"):
            async with client.open(chat, Join("")):
                pass


async def test_any_path_can_be_opened_without_types(carrier: Carrier) -> None:
    async with carrier.client(app) as client:
        query = [("since", "3"), ("tags", "x"), ("tags", "y")]
        async with client.open_path("/rooms/lobby", query=query, headers={"Accept-Language": "de"}) as stream:
            first = await stream.receive()
            assert first["text"] == repr(Join("lobby", 3, ["x", "y"], "de"))
            await stream.send({"text": "hello"})
            assert await stream.receive() == {"by": "lobby", "text": "hello"}


@pytest.mark.parametrize("path", ["upload", "/a b", "/caf\u00e9", "/a?b", "/a#b", ""])
async def test_a_path_that_is_none_is_refused_at_once(path: str) -> None:
    with pytest.raises(ValueError, match="a path begins with"):
        async with Client("ws://localhost").open_path(path):
            pass


async def test_a_client_sees_the_request_it_made(carrier: Carrier) -> None:
    async with carrier.client(app, headers={"X-Me": "ada"}) as client, client.open(chat, Join("lobby")) as talk:
        assert talk.request.path == "/rooms/lobby"
        assert talk.request.header("x-me") == "ada"
        assert talk.request.endpoint == "test.chat"
        assert talk.request.transport == ("memory" if carrier.name == "memory" else "websocket")
        assert not talk.draining.is_set()


# In memory: services that call each other.


@attrs.frozen
class User:
    name: str


def relay_app(events: list[str]) -> App:
    inner, outer = Service("inner"), Service("outer")

    @inner.stream_out()  # not exposed
    async def numbers(stream: StreamOut[Said]) -> None:
        name = get_auth_data(User).name
        try:
            while True:
                await stream.send(Said(name, "tick"))
                await trio.sleep(1)
        finally:
            events.append("the callee is over")

    @outer.stream_out("/relay", expose=True)
    async def relay(stream: StreamOut[Said]) -> None:
        async with get_client().open(numbers) as source:
            async for message in source:
                await stream.send(message)

    @outer.stream_out("/three", expose=True)
    async def three(stream: StreamOut[Said]) -> None:
        async with get_client().open(numbers) as source:
            for _ in range(3):
                await stream.send(await source.receive())
        events.append("the block is left")

    return App(inner, outer)


async def test_a_handler_calls_a_private_endpoint_and_its_caller_is_carried_on(autojump_clock) -> None:
    events: list[str] = []
    app = relay_app(events)
    async with app.client(auth_data=User("ada"), private=False) as client, client.open_path("/three") as stream:
        assert [message async for message in stream] == [{"by": "ada", "text": "tick"}] * 3
    assert trio.current_time() == 2
    assert events == ["the callee is over", "the block is left"]


async def test_the_callee_is_cancelled_with_its_caller(autojump_clock) -> None:
    events: list[str] = []
    async with testing.no_tasks_left():
        async with testing.connect(relay_app(events), "/relay", auth_data=User("ada")) as peer:
            await peer.receive()
            peer.vanish()
    assert events == ["the callee is over"]
    assert trio.current_time() == 0


async def test_an_error_of_the_callee_is_raised_in_the_caller_and_told_to_its_client(autojump_clock) -> None:
    inner, outer = Service("inner"), Service("outer")

    @inner.stream_out()
    async def fail(stream: StreamOut[Said]) -> None:
        raise APIError.not_found("no such feed")

    @outer.stream_out("/relay")
    async def relay(stream: StreamOut[Said]) -> None:
        async with get_client().open(fail) as source:
            async for message in source:
                await stream.send(message)

    async with testing.connect(App(inner, outer), "/relay") as peer:
        assert await peer.closed() == Ended("peer", 4404, "not_found: no such feed")


async def test_outside_of_a_stream_there_is_no_client_to_get() -> None:
    with pytest.raises(LookupError, match=r"app\.client\(\)"):
        get_client()


# Over a WebSocket: servers that are not there, or are none of ours.


@pytest.mark.parametrize("url", ["ftp://host", "ws://", "localhost:8000", "ws://host/?a=b", "ws://host/#x", ""])
async def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="a server's URL is like"):
        Client(url)


@pytest.mark.parametrize(
    "headers", [{"a b": "c"}, {"": "c"}, {"a": "b\r\nc: d"}, {"a": "b "}, {"a": "\x0b"}, {"a": "\ud800"}]
)
async def test_a_header_that_can_be_none_is_refused_at_once(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no header may have"):
        Client("ws://localhost", headers=headers)
    async with app.client() as client:
        with pytest.raises(ValueError, match="no header may have"):
            async with client.open_path("/upload", headers=headers):
                pass


async def test_a_client_that_is_cancelled_says_goodbye_and_is_gone(carrier: Carrier) -> None:
    ended: list[Ended | None] = []
    over = trio.Event()
    service = Service("test")

    @service.stream_in_out("/listen", expose=True)
    async def listen(stream: StreamInOut[Say, Say]) -> None:
        try:
            async for _ in stream:
                pass
        finally:
            ended.append(stream.ended)
            over.set()

    # With a deadline a thousand times as long, it is the goodbye that ends it, and not the deadline.
    limits = Limits(close_timeout=5000)
    async with carrier.client(App(service, limits=limits)) as client:
        client._limits = limits
        with trio.CancelScope() as scope:
            async with client.open(listen):
                scope.cancel()
                await trio.sleep_forever()
        await over.wait()
    assert scope.cancelled_caught
    # In memory the handler is inside of the scope; over a socket it hears of it.
    assert [None if how is None else how.by for how in ended] == ([None] if carrier.name == "memory" else ["peer"])


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with pytest.raises(APIError.Unavailable, match=f"cannot connect to 127.0.0.1:{port}"):
        async with Client(f"ws://127.0.0.1:{port}").open(upload):
            pass


async def with_server(answer, use) -> None:
    """Run `use(url)` against a TCP server that does `answer(stream)` with each connection."""
    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        with trio.fail_after(10):
            await use(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (b"", APIError.Unavailable, "closed the connection during the handshake"),
        (b"nonsense\r\n\r\n", APIError.Unavailable, "does not answer like a WebSocket server"),
        (b"HTTP/1.1 101 Yes\r\nupgrade: websocket\r\n", APIError.Unavailable, "during the handshake"),
        (
            b"HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n",
            APIError.Unavailable,
            "does not answer like a WebSocket server",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\n\r\nbad", APIError.Unavailable, "HTTP 502"),
        (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n", APIError.Unavailable, "HTTP 503"),
        (b"HTTP/1.1 403 No\r\nconnection: close\r\n\r\nno", APIError.PermissionDenied, "HTTP 403"),
        (
            b'HTTP/1.0 429 No\r\nRetry-After: 7\r\n\r\n{"code":"resource_exhausted","message":"later","details":null}',
            APIError.ResourceExhausted,
            "later",
        ),
        (b"HTTP/1.1 403 No\r\nconnection: clo", APIError.Unavailable, "during the handshake"),
        (b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n", APIError.Unknown, "HTTP 418"),
    ],
)
async def test_a_server_that_refuses_in_its_own_way(answer: bytes, expected: type[APIError], message: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)

    async def use(url: str) -> None:
        with pytest.raises(expected, match=message) as caught:
            async with Client(url).open(upload):
                pass
        assert caught.value.retry_after == (7 if b"retry-after" in answer.lower() else None)

    await with_server(serve, use)


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def use(url: str) -> None:
        for scheme in ("ws", "wss"):
            client = Client(url.replace("ws", scheme, 1), connect_timeout=0.01)
            with pytest.raises(APIError.DeadlineExceeded, match=r"within 0\.01 s"):
                async with client.open(upload):
                    pass

    await with_server(serve, use)


async def test_a_server_that_resets_the_connection_during_the_handshake() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async def use(url: str) -> None:
        with pytest.raises(APIError.Unavailable):
            async with Client(url).open(upload):
                pass

    await with_server(serve, use)


async def test_an_app_that_is_mounted_below_a_path_is_reached_there() -> None:
    async def mounted(scope, receive, send) -> None:
        if scope["type"] == "websocket":
            assert scope["path"] == "/api/v1/upload"
            scope["root_path"] = "/api/v1"
        await app(scope, receive, send)

    class Mounted:
        host = app.host

        async def __call__(self, scope, receive, send) -> None:
            await mounted(scope, receive, send)

    async with served(Mounted()) as url, Client(url + "/api/v1/").open(upload) as stream:  # type: ignore[arg-type]
        await stream.send(Say("done"))
        assert await stream.response() == Count(1)


async def test_a_server_that_vanishes_ends_the_stream_with_unavailable() -> None:
    async def use(url: str) -> None:
        async with Client(url).open(chat, Join("lobby")) as talk:
            with pytest.raises(APIError.Unavailable, match="the connection was lost"):
                await talk.receive()
            with pytest.raises(trio.BrokenResourceError):
                await talk.send(Say("hello"))
            assert talk.ended == Ended("peer", 1006)

    await with_server(accept_and_vanish, use)


async def accept_and_vanish(stream: trio.SocketStream) -> None:
    from websockets.server import ServerProtocol

    protocol = ServerProtocol(subprotocols=["encore-ws"])  # type: ignore[list-item]
    async with stream:
        protocol.receive_data(await stream.receive_some())
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        for data in protocol.data_to_send():
            await stream.send_all(data)


async def test_a_refusal_behind_the_upgrade_is_the_error_that_is_received() -> None:
    """As of servers that do not know that this client can read HTTP."""

    async def accept_and_refuse(stream: trio.SocketStream) -> None:
        from websockets.server import ServerProtocol

        protocol = ServerProtocol(subprotocols=["streamrt.v1"])  # type: ignore[list-item]
        async with stream:
            protocol.receive_data(await stream.receive_some())
            [request] = protocol.events_received()
            assert request.headers["streamrt-refusals"] == "http"  # type: ignore[union-attr]
            protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
            protocol.send_binary(b'{"type":"error","code":"unavailable","message":"full","retry_after":3}')
            protocol.send_close(4503, "unavailable: full")
            for data in protocol.data_to_send():
                await stream.send_all(data)
            async for _ in stream:
                pass

    async def use(url: str) -> None:
        async with Client(url).open(upload) as stream:
            assert stream.request.dialect == "streamrt.v1"
            with pytest.raises(APIError.Unavailable) as caught:
                await stream.response()
            assert (caught.value.message, caught.value.retry_after) == ("full", 3)

    await with_server(accept_and_refuse, use)


async def test_where_only_encore_ws_is_spoken_the_client_sends_no_control() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        from websockets.frames import Frame, Opcode
        from websockets.http11 import Request
        from websockets.server import ServerProtocol

        protocol = ServerProtocol(subprotocols=["encore-ws"])  # type: ignore[list-item]
        async for data in stream:
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                elif isinstance(event, Frame):
                    opcodes.append(event.opcode)
                    if event.opcode is Opcode.TEXT:
                        protocol.send_text(b'{"count":1}')
            for out in protocol.data_to_send():
                await (stream.send_all(out) if out else stream.send_eof())

    opcodes: list[int] = []

    async def use(url: str) -> None:
        async with Client(url).open(upload) as stream:
            assert stream.request.dialect == "encore-ws"
            with pytest.raises(APIError.FailedPrecondition):
                await stream.send_eof()
            await stream.send(Say("done"))
            assert await stream.response() == Count(1)

    await with_server(serve, use)
    assert opcodes == [1, 8]


async def test_a_send_that_was_cancelled_in_the_middle_is_not_followed_by_a_close() -> None:
    async def accept_and_stall(stream: trio.SocketStream) -> None:
        from websockets.server import ServerProtocol

        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        protocol = ServerProtocol(subprotocols=["encore-ws"])  # type: ignore[list-item]
        protocol.receive_data(await stream.receive_some())
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        for data in protocol.data_to_send():
            await stream.send_all(data)
        await trio.lowlevel.wait_readable(stream.socket)  # the message has begun to come
        sending.cancel()
        await stalled.wait()
        received = bytearray()
        try:
            while data := await stream.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
        # One frame (RFC 6455, 5.2: two bytes, a length of eight, a mask of four) which is not whole, and
        # nothing behind it: what is unmasked is the message, to the last byte.
        mask, payload = received[10:14], received[14:]
        assert 0 < len(payload) < 10_000_000
        unmasked = {byte ^ mask[place] for place in range(4) for byte in set(payload[place::4])}
        assert unmasked == set(b'{"text":"x')
        over.set()

    stalled, over, sending = trio.Event(), trio.Event(), trio.CancelScope()

    async def use(url: str) -> None:
        limits = Limits(send_bytes=20_000_000)
        with sending as scope:
            async with Client(url, limits=limits).open(chat, Join("lobby")) as talk:
                await talk.send(Say("x" * 10_000_000))
                await trio.sleep_forever()
        assert scope.cancelled_caught
        stalled.set()
        await over.wait()

    await with_server(accept_and_stall, use)


async def test_an_error_of_the_block_that_looks_like_a_refusal_is_left_alone() -> None:
    async with served(app) as url:
        for error in (ZeroDivisionError("mine"), trio_websocket.ConnectionRejected(404, (), None)):
            with pytest.raises(type(error)) as caught:
                async with Client(url).open(upload):
                    raise error
            assert caught.value is error


async def test_a_message_of_the_server_that_does_not_fit_is_an_invalid_message() -> None:
    liar, truth = Service("test"), Service("test")

    @liar.stream_out("/count", expose=True)
    async def lie(stream: StreamOut[Say]) -> None:
        await stream.send(Say("three"))

    @truth.stream_out("/count", expose=True)
    async def counts(stream: StreamOut[Count]) -> None: ...

    async with App(liar).client() as client, client.open(counts) as stream:
        with pytest.raises(InvalidMessage, match=r"\$\.count: required field is missing"):
            await stream.receive()


async def test_a_send_that_finds_the_connection_closed_says_how_it_was_closed() -> None:
    class Closed:
        async def send_message(self, message: str) -> None:
            raise trio_websocket.ConnectionClosed(trio_websocket.CloseReason(4404, "not_found: gone"))

    transport = WebSocketTransport(Closed(), None)  # type: ignore[arg-type]
    with pytest.raises(Disconnected) as caught:
        await transport.send([Frame(b"1")])
    assert (caught.value.code, caught.value.reason) == (4404, "not_found: gone")


@pytest.mark.parametrize(
    ("opcode", "size"), [(Opcode.PING, 1), (Opcode.TEXT, 2_000_000)], ids=["a ping", "a message that is too big"]
)
async def test_what_crosses_the_clients_close_is_let_be(opcode: Opcode, size: int) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        from websockets.http11 import Request
        from websockets.server import ServerProtocol

        protocol = ServerProtocol(subprotocols=["encore-ws"])  # type: ignore[list-item]
        async for data in stream:
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Request):
                    protocol.send_response(protocol.accept(event))
                elif isinstance(event, WireFrame) and event.opcode is Opcode.CLOSE:
                    await stream.send_all(WireFrame(opcode, b"1" * size).serialize(mask=False))
            for out in protocol.data_to_send():
                await (stream.send_all(out) if out else stream.send_eof())

    async def use(url: str) -> None:
        async with Client(url).open_path("/echo") as stream:
            pass
        assert stream.ended is not None
        assert stream.ended.code == 1000

    async def serve_until_it_is_let_go(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await serve(stream)

    await with_server(serve_until_it_is_let_go, use)
