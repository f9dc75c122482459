"""Refusals behind the upgrade: what a browser is told, and what that may cost."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from websockets.frames import Opcode

from streamrt import APIError, App, Ended, Limits
from streamrt.testing import no_tasks_left
from tests.asgi import call_websocket, websocket_scope
from tests.conftest import Carrier, asgi, served, socket
from tests.conftest import tls as over_tls
from tests.peers import SocketPeer, connect_socket, dial, frame, text
from tests.stage import AUTHORIZED, Credentials, echoing, greets, stage, waiting

pytestmark = pytest.mark.usefixtures("nothing_is_logged_as_an_error")

V1 = ["streamrt.v1", "encore-ws"]
NOT_FOUND = Ended("peer", 4404, "not_found: endpoint not found")


@pytest.fixture(params=[socket, over_tls, asgi], ids=lambda factory: factory.__name__)
def server(request: pytest.FixtureRequest) -> Carrier:
    factory: Callable[[], Carrier] = request.param
    return factory()


async def test_who_speaks_the_dialect_is_told_why_behind_the_upgrade(server: Carrier) -> None:
    async with server.connect(stage(waiting).app, "/nowhere", subprotocols=V1) as peer:
        assert isinstance(peer, SocketPeer)
        assert peer.protocol.subprotocol == "streamrt.v1"
        assert await peer.receive() == b'{"type":"error","code":"not_found","message":"endpoint not found"}'
        assert await peer.closed() == NOT_FOUND


@pytest.mark.parametrize(
    ("subprotocols", "headers"),
    [(V1, {"streamrt-refusals": "http"}), (["encore-ws"], {}), (["chat"], {"streamrt-refusals": "in-band"})],
)
async def test_all_others_are_told_in_http(server: Carrier, subprotocols: list[str], headers: dict[str, str]) -> None:
    with pytest.raises(APIError.NotFound, match="endpoint not found"):
        async with server.connect(stage(waiting).app, "/nowhere", subprotocols=subprotocols, headers=headers):
            pass


async def test_nobody_can_ask_for_http_through_the_tunnel_that_is_refused(server: Carrier) -> None:
    async with server.connect(stage(waiting).app, "/stream", subprotocols=[*V1, "encore.dev.headers.!"]) as peer:
        control = json.loads(await peer.receive())
        assert (control["code"], (await peer.closed()).code) == ("invalid_argument", 4400)


async def test_what_the_auth_handler_says_is_told_whole(server: Carrier) -> None:
    long = "x" * 200

    async def authenticate(_: Credentials) -> str:
        raise APIError.resource_exhausted(long, details={"quota": 3}, retry_after=0.5)

    async with server.connect(stage(waiting, authenticate).app, "/stream", subprotocols=V1, headers=AUTHORIZED) as peer:
        assert json.loads(await peer.receive()) == {
            "type": "error",
            "code": "resource_exhausted",
            "message": long,
            "details": {"quota": 3},
            "retry_after": 0.5,
        }
        assert (await peer.closed()).code == 4429


async def test_a_refusal_takes_no_place_among_the_streams(tls: bool) -> None:
    staged = stage(echoing)
    app = App(*staged.app.services, limits=Limits(max_streams=1, close_timeout=1000))
    async with served(app, tls=tls) as url:
        async with connect_socket(url + "/echo", subprotocols=V1) as first:
            await first.send('"x"')
            assert await first.receive() == '"x"'
            async with connect_socket(url + "/echo", subprotocols=V1) as refused:
                refused.mute = True
                assert json.loads(await refused.receive())["message"] == "the server has its 1 streams"
                assert app.host.streams == 1
                await first.close()
                await first.closed()
                await greets(url)  # although the one that was refused has not closed


async def test_who_does_not_answer_the_close_is_cut_off_in_time(tls: bool) -> None:
    async with no_tasks_left():
        app = App(*stage(echoing).app.services, limits=Limits(close_timeout=0.05))
        async with served(app, tls=tls) as url, connect_socket(url + "/nowhere", subprotocols=V1) as peer:
            peer.mute = True
            assert await peer.closed() == NOT_FOUND
            await greets(url)


async def test_what_it_sends_meanwhile_is_thrown_away(server: Carrier) -> None:
    async with server.connect(stage(waiting).app, "/nowhere", subprotocols=V1) as peer:
        assert isinstance(peer, SocketPeer)
        nonsense = [frame(Opcode.BINARY, b"nonsense"), frame(Opcode.PING), text('"x"' * 10_000), frame(Opcode.PONG)]
        await peer.stream.send_all(b"".join(nonsense * 3))
        assert json.loads(await peer.receive())["code"] == "not_found"
        assert await peer.closed() == NOT_FOUND


async def test_who_leaves_while_it_is_refused_is_let_go(tls: bool) -> None:
    async with no_tasks_left():
        app = App(*stage(echoing).app.services, limits=Limits(close_timeout=1000))
        async with served(app, tls=tls) as url:
            async with connect_socket(url + "/nowhere", subprotocols=V1) as peer:
                peer.vanish()
            async with connect_socket(url + "/nowhere", subprotocols=V1):
                pass
            await greets(url)


async def test_a_server_that_stops_does_not_wait_for_whom_it_refuses(tls: bool) -> None:
    async with no_tasks_left():
        app = App(*stage(echoing).app.services, limits=Limits(close_timeout=1000))
        async with served(app, tls=tls) as url:
            async with connect_socket(url + "/nowhere", subprotocols=V1) as peer:
                peer.mute = True
                assert json.loads(await peer.receive())["code"] == "not_found"


async def test_a_server_that_drains_says_so(server: Carrier) -> None:
    app = stage(waiting).app
    app.host.draining.set()
    async with server.connect(app, "/stream", subprotocols=V1) as peer:
        assert json.loads(await peer.receive()) == {
            "type": "error",
            "code": "unavailable",
            "message": "the server is shutting down",
            "retry_after": 1,
        }
        assert (await peer.closed()).code == 4503


async def test_a_request_that_hypercorn_has_answered_by_itself_is_not_answered_twice() -> None:
    async def authenticate(_: Credentials) -> str:
        await going_on.wait()
        raise APIError.unauthenticated("no")

    going_on = trio.Event()
    staged = stage(echoing, authenticate)
    async with served(staged.app) as url:
        async with dial(url + "/stream", subprotocols=V1) as peer:
            await peer.stream.send_all(peer.request(AUTHORIZED) + text('"too early"'))
            answer = await peer.stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 400")
            going_on.set()
            assert await peer.stream.receive_some() == b""
        await greets(url)


async def test_other_servers_are_told_to_accept_and_to_close(autojump_clock) -> None:
    said = await call_websocket(stage(waiting).app, "/nowhere", subprotocols=["streamrt.v1"])
    assert said == [
        {"type": "websocket.accept", "subprotocol": "streamrt.v1"},
        {"type": "websocket.send", "bytes": b'{"type":"error","code":"not_found","message":"endpoint not found"}'},
        {"type": "websocket.close", "code": 4404, "reason": "not_found: endpoint not found"},
    ]


@pytest.mark.parametrize("takes", [0, 1])
async def test_a_client_that_is_gone_is_refused_in_silence(takes: int) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        if len(said) == takes:
            raise OSError("gone")
        said.append(message)

    await stage(waiting).app(websocket_scope("/nowhere", subprotocols=["streamrt.v1"]), receive, send)
    assert len(said) == takes
