"""The same services over a real socket, through a client that knows nothing of streamrt.

It is the `websockets` library's. What it sees is what any WebSocket client sees: text frames of JSON, a
close code with a reason, and an HTTP response where a stream is refused.
"""

import json
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from trio.testing import wait_all_tasks_blocked
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.trio.client import ClientConnection, connect

import streamrt
from services import app
from services.pages import read
from services.streaming.endpoints import MAX_UPLOAD
from services.ticker.market import SYMBOLS

Refusal = tuple[int, dict[str, Any]]


@asynccontextmanager
async def served(**options: Any) -> AsyncGenerator[str]:
    """Serve the services on a free port of loopback; within ten seconds, whatever happens."""
    config = Config()
    config.errorlog = None
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(streamrt.serve, app, "127.0.0.1:0", config=config, **options))
            yield url.replace("http://", "ws://")
            nursery.cancel_scope.cancel()


def opened(url: str, **options: Any) -> AbstractAsyncContextManager[ClientConnection]:
    return connect(url, proxy=None, **options)


async def refused(url: str, **options: Any) -> Refusal:
    """Return the status and the body of a refusal."""
    with pytest.raises(InvalidStatus) as refusal:
        async with opened(url, **options):
            pass
    response = refusal.value.response
    assert response.headers["content-type"] == "application/json"
    return response.status_code, json.loads(response.body)


async def send(socket: ClientConnection, message: object) -> None:
    await socket.send(json.dumps(message))


async def receive(socket: ClientConnection) -> Any:
    message = await socket.recv()
    assert isinstance(message, str)  # text frames only
    return json.loads(message)


async def ended(socket: ClientConnection) -> tuple[int, str]:
    """Wait for the server's Close, and return its code and reason."""
    with pytest.raises((ConnectionClosedOK, ConnectionClosedError)) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_an_upload_is_answered_and_closed() -> None:
    async with served() as url, opened(f"{url}/upload?user=ada") as socket:
        await send(socket, {"data": "a"})
        await send(socket, {"data": "b", "done": True})
        assert await receive(socket) == {"success": True}
        assert await ended(socket) == (1000, "")


async def test_a_response_reaches_a_client_that_goes_on_sending() -> None:
    async with served() as url, opened(f"{url}/upload") as socket:
        await send(socket, {"data": "a", "done": True})
        with suppress(ConnectionClosedOK):  # the server's Close may come while this client is still at it
            for _ in range(100):
                await send(socket, {"data": "b" * 1000})
        assert await receive(socket) == {"success": True}
        assert await ended(socket) == (1000, "")


async def test_a_client_that_closes_before_its_last_chunk_gets_no_response() -> None:
    async with served() as url:
        async with opened(f"{url}/upload") as socket:
            await send(socket, {"data": "a"})
        assert [message async for message in socket] == []
        assert socket.close_code == 1000


async def test_an_upload_that_is_too_large_is_ended_with_a_close() -> None:
    async with served() as url, opened(f"{url}/upload") as socket:
        with suppress(ConnectionClosedError):
            for _ in range(MAX_UPLOAD // 1_000_000 + 1):
                await send(socket, {"data": "x" * 1_000_000})
        code, reason = await ended(socket)
    assert (code, reason) == (4429, "resource_exhausted: an upload may have 64000000 characters")


async def test_a_log_comes_row_by_row_and_is_closed() -> None:
    async with served() as url, opened(f"{url}/logs?rows=2") as socket:
        assert await receive(socket) == {"message": "Log row 1"}
        assert await receive(socket) == {"message": "Log row 2"}
        assert await ended(socket) == (1000, "")


async def test_a_message_to_a_log_closes_it() -> None:
    async with served() as url, opened(f"{url}/logs?rows=100") as socket:
        await receive(socket)
        await send(socket, {})
        assert await ended(socket) == (1003, "this stream takes no messages")


async def test_an_answer_grows_until_it_is_done() -> None:
    async with served() as url, opened(f"{url}/ai-chat?model=m") as socket:
        await send(socket, {"prompt": "hello"})
        answers = [await receive(socket)]
        while not answers[-1]["done"]:
            answers.append(await receive(socket))
        lengths = [len(answer["message"]) for answer in answers]
        assert answers[-1] == {"message": "m read that backwards: olleh", "done": True}
        assert lengths == list(range(1, len(answers) + 1))


async def test_members_of_the_chat_hear_each_other() -> None:
    async with served() as url, opened(f"{url}/chat?id=1") as ada, opened(f"{url}/chat?id=2") as bob:
        await wait_all_tasks_blocked()
        await send(ada, {"username": "Ada", "msg": "grüß dich"})
        assert await receive(bob) == {"userID": "1", "username": "Ada", "msg": "grüß dich"}
        await send(bob, {"username": "Bob", "msg": "hi"})
        assert await receive(ada) == {"userID": "2", "username": "Bob", "msg": "hi"}


async def test_a_private_room_is_entered_with_a_header_or_with_the_query() -> None:
    async with (
        served() as url,
        opened(f"{url}/private-chat/ada+bob", additional_headers={"Authorization": "Bearer ada"}) as ada,
        opened(f"{url}/private-chat/bob+ada?token=bob") as bob,
    ):
        assert (await receive(bob))["kind"] == "here"
        await send(ada, {"msg": "hello", "id": "7"})
        assert await receive(bob) == {"kind": "whispered", "by": "ada", "msg": "hello", "id": "7"}


@pytest.mark.parametrize("path", ["/prices", "/prices/all"])
async def test_the_price_of_every_symbol_comes(path: str) -> None:
    # Without max_queue=None this client stops reading behind 16 messages, and would not see the answer to its Close.
    async with served() as url, opened(f"{url}{path}", max_queue=None) as socket:
        assert {(await receive(socket))["symbol"] for _ in range(200)} == set(SYMBOLS)


async def test_a_page_is_plain_http() -> None:
    async with served() as url:
        host, port = url.removeprefix("ws://").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as socket:
            await socket.send_all(b"GET /ticker HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            head, _, body = b"".join([part async for part in socket]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"cross-origin-embedder-policy: require-corp" in head
    assert body == read("ticker/page.html").body


@pytest.mark.parametrize(
    ("path", "message", "close"),
    [
        ("/upload", '{"data": 1}', (4400, "invalid_argument: $.data: expected a string, got 1")),
        ("/upload", '{"data": "' + "x" * (1 << 20) + '"}', (1009, "a message may have 1048576 bytes")),
        ("/private-chat/ada+bob?token=eve", None, (4403, "permission_denied: the room ada+bob is not for eve")),
    ],
    ids=["no string", "big message", "not invited"],
)
async def test_an_error_after_the_upgrade_is_a_close(path: str, message: str | None, close: tuple[int, str]) -> None:
    async with served() as url, opened(f"{url}{path}") as socket:
        if message is not None:
            await socket.send(message)
        code, reason = await ended(socket)
    assert code == close[0]
    assert reason.startswith(close[1])


@pytest.mark.parametrize(
    ("path", "options", "status", "code", "message"),
    [
        ("/nowhere", {}, 404, "not_found", "endpoint not found"),
        ("/logs", {}, 400, "invalid_argument", "missing query parameter 'rows'"),
        (
            "/logs?rows=x",
            {},
            400,
            "invalid_argument",
            "query parameter 'rows': expected an integer, got 'x'",
        ),
        (
            "/private-chat/ada+bob",
            {},
            401,
            "unauthenticated",
            "the request does not have valid authentication credentials",
        ),
        (
            "/private-chat/ada+bob?token=%20",
            {"additional_headers": {"Authorization": "Basic YWRhOg=="}},
            401,
            "unauthenticated",
            "a token is needed: letters and digits, as in `Bearer ada`",
        ),
        (
            "/chat?id=1",
            {"origin": "https://elsewhere.example"},
            403,
            "permission_denied",
            "pages of the origin 'https://elsewhere.example' may not connect here",
        ),
    ],
    ids=["path", "missing", "wrong", "no token", "no usable token", "origin"],
)
async def test_a_refusal_is_an_http_response_with_a_json_body(
    path: str, options: dict[str, Any], status: int, code: str, message: str
) -> None:
    async with served() as url:
        refusal_status, body = await refused(url + path, **options)
    assert refusal_status == status
    assert body["code"] == code
    assert body["message"].startswith(message)
    assert "details" in body


@pytest.mark.parametrize(
    ("offered", "answered"),
    [([], None), (["encore-ws"], "encore-ws"), (["encore-ws", "encore.dev.headers.e30"], "encore-ws")],
)
async def test_the_subprotocol_is_answered_when_it_is_offered(offered: Iterable[Any], answered: str | None) -> None:
    options = {"subprotocols": list(offered)} if offered else {}
    async with served() as url, opened(f"{url}/logs?rows=0", **options) as socket:
        assert socket.subprotocol == answered
        assert await ended(socket) == (1000, "")


async def test_a_server_that_shuts_down_tells_its_clients_that_it_restarts() -> None:
    stop = trio.Event()
    async with served(shutdown_trigger=stop.wait, drain_timeout=0) as url, opened(f"{url}/chat?id=1") as socket:
        await wait_all_tasks_blocked()
        stop.set()
        assert await ended(socket) == (1012, "the server is restarting")
