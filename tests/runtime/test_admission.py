"""The checks before the upgrade, in their order, over memory and over hypercorn."""

import base64
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import attrs
import pytest
import trio

from streamrt import (
    APIError,
    App,
    Client,
    Cookie,
    Ended,
    Header,
    Limits,
    Request,
    Service,
    StreamOut,
    get_auth_data,
    testing,
)
from tests.conftest import Carrier, served
from tests.peers import connect_socket


@attrs.frozen
class Credentials:
    authorization: Annotated[str, Header()]


@attrs.frozen
class User:
    name: str


@attrs.frozen
class Rows:
    rows: int


@attrs.frozen
class Rooms:
    room: str


async def authenticate(credentials: Credentials) -> User | None:
    match credentials.authorization:
        case "nobody":
            return None
        case "wrong":
            raise APIError.unauthenticated("this token is not valid")
        case "banned":
            raise APIError.permission_denied("you are banned")
        case "bug":
            raise ZeroDivisionError("the secret")
        case "internal":
            raise APIError.internal("the secret")
        case name:
            return User(name)


def make_app(**options: object) -> App:
    service = Service("test")

    @service.stream_out("/public/{rows}", expose=True)
    async def public(handshake: Rows, stream: StreamOut[str]) -> None:
        for _ in range(handshake.rows):
            try:
                await stream.send(get_auth_data(User).name)
            except LookupError:
                await stream.send("anonymous")

    @service.stream_out("/members/{rows}", expose=True, auth=True)
    async def members(handshake: Rows, stream: StreamOut[str]) -> None:
        await stream.send(get_auth_data(User).name)

    @service.stream_out("/private/{rows}", auth=True)
    async def private(handshake: Rows, stream: StreamOut[str]) -> None:
        await stream.send("private")

    return App(service, auth_handler=authenticate, **options)  # type: ignore[arg-type]


async def refusal(carrier: Carrier, app: App, path: str, headers: dict[str, str] | None = None) -> APIError:
    with pytest.raises(APIError) as caught:
        async with carrier.client(app, headers=headers) as client, client.open_path(path):
            pass
    return caught.value


@pytest.mark.parametrize("path", ["/nowhere", "/", "/public", "/public/1/2", "/private/1", "/private/x"])
async def test_a_private_endpoint_cannot_be_told_from_none(carrier: Carrier, path: str) -> None:
    error = await refusal(carrier, make_app(), path)
    assert str(error) == "not_found: endpoint not found"
    assert error.details is None


async def test_an_anonymous_caller_is_refused_where_auth_is_needed(carrier: Carrier) -> None:
    error = await refusal(carrier, make_app(), "/members/x")
    assert str(error) == "unauthenticated: the request does not have valid authentication credentials"


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("nobody", "unauthenticated: the request does not have valid authentication credentials"),
        ("wrong", "unauthenticated: this token is not valid"),
        ("banned", "permission_denied: you are banned"),
        ("internal", "internal: an internal error occurred"),
        ("bug", "internal: an internal error occurred"),
    ],
)
async def test_the_auth_handlers_error_is_the_refusal(
    carrier: Carrier, token: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert str(await refusal(carrier, make_app(), "/members/1", {"authorization": token})) == expected
    assert ("the secret" in caplog.text) is (token in ("bug", "internal"))


@pytest.mark.parametrize(("token", "heard"), [(None, "anonymous"), ("wrong", "anonymous"), ("ada", "ada")])
async def test_an_unauthenticated_caller_is_anonymous_where_auth_is_not_needed(
    carrier: Carrier, token: str | None, heard: str
) -> None:
    headers = None if token is None else {"authorization": token}
    async with carrier.client(make_app(), headers=headers) as client, client.open_path("/public/1") as stream:
        assert await stream.receive() == heard


@pytest.mark.parametrize("token", ["banned", "bug"])
async def test_any_other_error_of_the_auth_handler_refuses_everywhere(carrier: Carrier, token: str) -> None:
    error = await refusal(carrier, make_app(), "/public/1", {"authorization": token})
    assert error.code == ("permission_denied" if token == "banned" else "internal")


async def test_a_bad_handshake_names_the_parameter_and_where_it_was_looked_for(carrier: Carrier) -> None:
    error = await refusal(carrier, make_app(), "/public/many")
    assert error.code == "invalid_argument"
    assert "path parameter 'rows'" in error.message
    assert error.details is not None
    assert error.details["faults"][0]["in"] == "path"


async def test_auth_comes_before_the_handshake(carrier: Carrier) -> None:
    assert (await refusal(carrier, make_app(), "/members/many")).code == "unauthenticated"


async def test_an_auth_handler_that_takes_too_long_is_given_up(carrier: Carrier) -> None:
    async def slow(credentials: Credentials) -> User:
        await trio.sleep(60)
        return User("late")

    service = Service("test")

    @service.stream_out("/public", expose=True)
    async def public(stream: StreamOut[str]) -> None: ...

    app = App(service, auth_handler=slow, limits=Limits(handshake_timeout=0.01))
    error = await refusal(carrier, app, "/public", {"authorization": "x"})
    assert str(error) == "deadline_exceeded: authentication took more than 0.01 s"


async def test_middleware_is_entered_in_order_after_all_other_checks_and_left_when_the_stream_is_over(
    carrier: Carrier,
) -> None:
    events: list[str] = []

    def middleware(name: str):
        @asynccontextmanager
        async def around(request: Request) -> AsyncGenerator[None]:
            events.append(f"{name} enters {request.endpoint}")
            yield
            events.append(f"{name} leaves")

        return around

    app = make_app(middleware=[middleware("one"), middleware("two")])
    assert (await refusal(carrier, app, "/public/x")).code == "invalid_argument"
    assert events == []
    async with carrier.client(app) as client, client.open_path("/public/1") as stream:
        assert await stream.receive() == "anonymous"
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()
    assert events == ["one enters test.public", "two enters test.public", "two leaves", "one leaves"]


async def test_middleware_knows_who_is_calling(carrier: Carrier) -> None:
    names: list[str] = []

    @asynccontextmanager
    async def note(request: Request) -> AsyncGenerator[None]:
        names.append(get_auth_data(User).name)
        yield

    app = make_app(middleware=[note])
    async with carrier.client(app, headers={"authorization": "ada"}) as client, client.open_path("/members/1"):
        pass
    assert names == ["ada"]


async def test_middleware_can_refuse_with_an_error(carrier: Carrier) -> None:
    @asynccontextmanager
    async def refuse(request: Request) -> AsyncGenerator[None]:
        raise APIError.resource_exhausted("come back later", retry_after=2.5, details={"quota": 3})
        yield

    error = await refusal(carrier, make_app(middleware=[refuse]), "/public/1")
    assert str(error) == "resource_exhausted: come back later"
    assert error.details == {"quota": 3}
    if carrier.name == "memory":
        assert error.retry_after == 2.5


async def test_middleware_that_fails_is_logged_and_refuses_without_its_text(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def fail(request: Request) -> AsyncGenerator[None]:
        raise ZeroDivisionError("the secret")
        yield

    error = await refusal(carrier, make_app(middleware=[fail]), "/public/1")
    assert str(error) == "internal: an internal error occurred"
    assert "the secret" in caplog.text


@pytest.mark.parametrize("error", [ZeroDivisionError("the secret"), APIError.not_found("the secret")])
async def test_middleware_that_fails_on_its_way_out_is_logged_and_the_stream_has_ended_well(
    carrier: Carrier, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def fail(request: Request) -> AsyncGenerator[None]:
        yield
        raise error

    async with carrier.connect(make_app(middleware=[fail]), "/public/1") as peer:
        assert await peer.receive() == '"anonymous"'
        assert await peer.closed() == Ended("peer", 1000)
    assert "the secret" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_app_has_no_more_streams_than_its_limit(carrier: Carrier) -> None:
    app = make_app(limits=Limits(max_streams=2))
    await check_that_a_third_stream_is_refused(carrier, app, "the server has its 2 streams")


async def test_a_peer_has_no_more_streams_than_its_limit(carrier: Carrier) -> None:
    app = make_app(limits=Limits(max_streams_per_peer=2))
    await check_that_a_third_stream_is_refused(carrier, app, "this address has its 2 streams")


async def check_that_a_third_stream_is_refused(carrier: Carrier, app: App, message: str) -> None:
    async with carrier.client(app) as client:
        # The second and the third row of each wait for a client that reads.
        async with client.open_path("/public/100000") as one, client.open_path("/public/100000"):
            with pytest.raises(APIError.ResourceExhausted) as caught:
                async with client.open_path("/public/1"):
                    pass
            assert (caught.value.message, caught.value.retry_after) == (message, 1)
            assert await one.receive() == "anonymous"
        while app.host.streams:  # noqa: ASYNC110 - over a socket the handlers end a moment later
            await trio.lowlevel.checkpoint()
        async with client.open_path("/public/1") as stream:
            assert await stream.receive() == "anonymous"


async def test_a_private_endpoint_does_not_take_requests_from_an_exposed_one(carrier: Carrier) -> None:
    service = Service("test")

    @service.stream_out("/rooms/{room}", expose=True)
    async def rooms(handshake: Rooms, stream: StreamOut[str]) -> None:
        await stream.send(handshake.room)

    @service.stream_out("/rooms/admin")
    async def admin(stream: StreamOut[str]) -> None:
        await stream.send("the private one")

    async with carrier.client(App(service)) as client, client.open_path("/rooms/admin") as stream:
        assert await stream.receive() == "admin"


async def test_a_bad_header_tunnel_does_not_tell_a_private_endpoint_from_none() -> None:
    async with served(make_app()) as url:
        for path in ("/private/1", "/nowhere"):
            with pytest.raises(APIError.NotFound):
                async with connect_socket(url + path, subprotocols=["encore.dev.headers.!!!"]):
                    pass


async def test_the_order_is_origin_then_limits_then_auth() -> None:
    async with served(make_app(limits=Limits(max_streams=1))) as url, connect_socket(url + "/public/100000"):
        for headers, expected in [
            ({"Origin": "https://evil.example", "Authorization": "banned"}, "permission_denied: pages"),
            ({"Authorization": "banned"}, "resource_exhausted: the server"),
        ]:
            with pytest.raises(APIError) as caught:
                async with connect_socket(url + "/public/1", headers=headers):
                    pass
            assert str(caught.value).startswith(expected)


async def test_an_address_that_has_left_leaves_nothing_behind(autojump_clock) -> None:
    app = make_app(limits=Limits(max_streams_per_peer=2))
    async with testing.connect(app, "/public/1") as peer:
        await peer.closed()
    assert not app.host.admission._streams_by_peer
    assert app.host.admission._streams == 0


async def test_an_error_of_the_auth_handler_counts_also_out_of_its_nursery(carrier: Carrier) -> None:
    async def in_a_nursery(credentials: Credentials) -> User:
        async with trio.open_nursery():
            raise APIError.unauthenticated("not you")

    service = Service("test")

    @service.stream_out("/public", expose=True, auth=True)
    async def public(stream: StreamOut[str]) -> None: ...

    app = App(service, auth_handler=in_a_nursery)
    assert str(await refusal(carrier, app, "/public", {"authorization": "x"})) == "unauthenticated: not you"


async def test_middleware_that_swallows_a_refusal_refuses_all_the_same(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def swallow(request: Request) -> AsyncGenerator[None]:
        with contextlib.suppress(APIError):
            yield

    @asynccontextmanager
    async def refuse(request: Request) -> AsyncGenerator[None]:
        raise APIError.not_found("nothing here")
        yield

    error = await refusal(carrier, make_app(middleware=[swallow, refuse]), "/public/1")
    assert str(error) == "internal: an internal error occurred"
    assert "the middleware kept the refusal of another" in caplog.text


async def test_an_anonymous_stream_inside_a_handler_does_not_inherit_its_caller(autojump_clock) -> None:
    service = Service("test")

    @service.stream_out("/who", expose=True)
    async def who(stream: StreamOut[str]) -> None:
        with pytest.raises(LookupError):
            get_auth_data(User)
        await stream.send("nobody")

    @service.stream_out("/outer", auth=True)
    async def outer(stream: StreamOut[str]) -> None:
        async with app.client() as client, client.open(who) as anonymous:
            await stream.send(await anonymous.receive())

    app = App(service, auth_handler=authenticate)
    async with testing.connect(app, "/outer", auth_data=User("ada")) as peer:
        assert await peer.receive() == '"nobody"'


async def test_no_two_streams_of_a_process_have_one_number(autojump_clock) -> None:
    numbers: list[int] = []

    @asynccontextmanager
    async def note(request: Request) -> AsyncGenerator[None]:
        numbers.append(request.connection_id)
        yield

    for _ in range(2):
        async with make_app(middleware=[note]).client() as client, client.open_path("/public/0") as stream:
            numbers.append(stream.request.connection_id)
    assert len(set(numbers)) == 4


# What needs a request as a browser, and only a browser, makes it.


def tunnel(headers: object) -> str:
    encoded = base64.urlsafe_b64encode(json.dumps(headers).encode()).rstrip(b"=")
    return f"encore.dev.headers.{encoded.decode()}"


async def test_the_header_tunnel_authenticates_a_browser() -> None:
    async with served(make_app()) as url:
        subprotocols = ["encore-ws", tunnel({"Authorization": "ada"})]
        async with connect_socket(url + "/members/1", subprotocols=subprotocols) as peer:
            assert peer.protocol.subprotocol == "encore-ws"
            assert await peer.receive() == '"ada"'


async def test_real_headers_come_before_those_of_the_tunnel() -> None:
    headers: list[tuple[str, str]] = []

    @asynccontextmanager
    async def spy(request: Request) -> AsyncGenerator[None]:
        headers.extend(header for header in request.headers if header[0] == "x-tag")
        assert request.header("X-Tag") == "real"
        yield

    async with served(make_app(middleware=[spy])) as url:
        subprotocols = [tunnel({"x-tag": "one"}), "encore-ws", tunnel({"x-tag": "two"})]
        async with connect_socket(url + "/public/0", headers={"X-Tag": "real"}, subprotocols=subprotocols):
            pass
    assert headers == [("x-tag", "real"), ("x-tag", "one"), ("x-tag", "two")]


async def test_a_bad_header_tunnel_is_a_400_with_a_json_error() -> None:
    async with served(make_app()) as url:
        for entry in (tunnel({"cookie": "a=b"}), "encore.dev.headers.!!!"):
            with pytest.raises(APIError.InvalidArgument, match=r"the subprotocol encore\.dev\.headers\.\.\."):
                async with connect_socket(url + "/members/1", subprotocols=["encore-ws", entry]):
                    pass


async def test_without_a_subprotocol_none_is_answered() -> None:
    async with served(make_app()) as url, connect_socket(url + "/public/1") as peer:
        assert peer.protocol.subprotocol is None
        assert await peer.receive() == '"anonymous"'


async def test_with_only_foreign_subprotocols_none_is_answered() -> None:
    async with served(make_app()) as url:
        peer = await first_answer(url, {"Sec-WebSocket-Protocol": "graphql-ws, mqtt"})
        assert b"101" in peer.split(b"\r\n")[0]
        assert b"sec-websocket-protocol" not in peer.lower()


async def first_answer(url: str, headers: dict[str, str]) -> bytes:
    """The server's answer to an upgrade, byte for byte."""
    host, _, port = url.removeprefix("http://").partition(":")
    lines = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **headers,
    }
    request = "GET /public/0 HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(request.encode())
        answer = b""
        while (head := answer.partition(b"\r\n\r\n"))[1] == b"" or len(head[2]) < body_length(head[0]):
            answer += await stream.receive_some()
        return answer


def body_length(head: bytes) -> int:
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lengths[0]) if lengths else 0


@pytest.mark.parametrize(
    ("allowed", "origin", "lets_in"),
    [
        ("same-host", None, True),
        ("same-host", "http://127.0.0.1:3000", True),
        ("same-host", "https://evil.example", False),
        ("same-host", "null", False),
        ("same-host", "http://[", False),
        ("same-host", "same-host", False),
        (["https://good.example"], "https://good.example", True),
        (["https://good.example"], "https://evil.example", False),
        (["https://good.example"], "http://127.0.0.1:3000", False),
        (["https://good.example"], None, True),
        (["*"], "https://evil.example", True),
        ([], "https://evil.example", False),
    ],
)
async def test_pages_of_other_origins_are_let_in_only_when_allowed(
    allowed: str | list[str], origin: str | None, lets_in: bool
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    async with served(make_app(limits=Limits(allowed_origins=allowed))) as url:  # type: ignore[arg-type]
        if lets_in:
            async with connect_socket(url + "/public/1", headers=headers) as peer:
                assert await peer.receive() == '"anonymous"'
        else:
            with pytest.raises(APIError.PermissionDenied, match="allowed_origins"):
                async with connect_socket(url + "/public/1", headers=headers):
                    pass


async def test_a_client_that_leaves_while_it_is_admitted_leaves_its_place_to_another() -> None:
    asked, left = trio.Event(), trio.Event()

    async def slow(credentials: Credentials) -> User:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            left.set()
        return User("late")

    service = Service("test")

    @service.stream_out("/public", expose=True)
    async def public(stream: StreamOut[str]) -> None:
        await stream.send("hello")

    app = App(service, auth_handler=slow, limits=Limits(max_streams=1, handshake_timeout=5000))
    async with served(app) as url:
        async with trio.open_nursery() as nursery:

            async def impatient() -> None:
                async with connect_socket(url + "/public", headers={"Authorization": "x"}):
                    pass

            nursery.start_soon(impatient)
            await asked.wait()
            nursery.cancel_scope.cancel()
        await left.wait()
        async with connect_socket(url + "/public") as peer:
            assert await peer.receive() == '"hello"'


async def test_a_null_origin_is_not_the_host_of_a_request_without_one() -> None:
    async with served(make_app()) as url:
        with pytest.raises(APIError.PermissionDenied):
            async with connect_socket(url + "/public/1", headers={"Origin": "null"}, host=""):
                pass


async def test_the_origin_is_checked_before_the_auth_handler_is_asked() -> None:
    async with served(make_app()) as url:
        headers = {"Origin": "https://evil.example", "Authorization": "bug"}
        with pytest.raises(APIError.PermissionDenied):
            async with connect_socket(url + "/members/1", headers=headers):
                pass


async def test_a_refusal_is_json_with_the_status_of_its_code_and_is_not_cached() -> None:
    async with served(make_app(limits=Limits(max_streams=1))) as url:
        async with connect_socket(url + "/public/100000"):
            answer = await first_answer(url, {})
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429")
        assert b"content-type: application/json" in head
        assert b"cache-control: private, no-store" in head
        assert b"retry-after: 1" in head
        assert json.loads(body) == {
            "code": "resource_exhausted",
            "message": "the server has its 1 streams",
            "details": None,
        }


async def test_cookies_are_read_from_the_cookie_header() -> None:
    @attrs.frozen
    class Session:
        session: Annotated[str, Cookie()]

    service = Service("test")

    @service.stream_out("/who", expose=True)
    async def who(handshake: Session, stream: StreamOut[str]) -> None:
        await stream.send(handshake.session)

    async with testing.connect(App(service), "/who", headers={"Cookie": "a=b; session=ada"}) as peer:
        assert await peer.receive() == '"ada"'
    async with served(App(service)) as url, Client(url).open(who, Session("bob")) as stream:
        assert await stream.receive() == "bob"


async def test_headers_that_are_not_utf8_are_read_as_latin_1() -> None:
    seen: list[str | None] = []

    @asynccontextmanager
    async def spy(request: Request) -> AsyncGenerator[None]:
        seen.append(request.header("x-name"))
        yield

    from tests.asgi import call_websocket

    await call_websocket(make_app(middleware=[spy]), "/public/0", headers=[(b"X-Name", b"caf\xe9")])
    await call_websocket(make_app(middleware=[spy]), "/public/0", headers=[(b"X-Name", "café".encode())])
    assert seen == ["café", "café"]
