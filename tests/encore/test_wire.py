"""What can be told of the dialect `encore-ws` from its bytes alone, on the real server.

Clients meet the rest in `test_clients.py` and `test_browser.py`. What is known of Encore's wire besides is tested

- in `tests/api/test_path.py`: templates, their priorities, the slash at the end, percent-encoding;
- in `tests/api/test_handshake.py`: the text of each type in each place, lists, absent, unknown and repeated keys,
  all faults at once, a `+` that is a space, which credentials count as present;
- in `tests/wire/test_dialect.py`: what the header tunnel may hold, and each name that it may not;
- in `tests/wire/test_codec.py`: messages: strict types, unknown keys, dates and decimals as text;
- in `tests/test_errors.py`: codes, statuses, close codes, and a reason's 123 bytes;
- in `tests/runtime/test_admission.py`: the order of the checks, auth's outcomes, Origin, what a private endpoint
  does not tell, a refusal's JSON, headers of the tunnel behind the real ones;
- in `tests/runtime/test_session.py`: how each kind of handler ends, invalid messages, 1003 and 1009, binary frames;
- in `tests/server/test_adoption.py` and `test_rude_peers.py`: what follows the 101 at once, pings, fragments;
- in `tests/server/test_closing.py`: Closes of every code and of none are echoed, and TCP ends behind them;
- in `tests/server/test_shutdown.py`: 1012 and 1001.

Where we differ from Encore on purpose, the tests there hold what `docs/wire.md` says: a bad tunnel has a JSON error,
messages that do not fit are told, streams end when their handlers do, and every end has a code.
"""

import base64
import json
from collections.abc import Sequence

import pytest
import trio
from websockets.frames import Opcode

from streamrt import App, Service, StreamOut
from tests.conftest import served
from tests.peers import dial

from .app import Stage, Word

UPGRADE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


async def ask(
    url: str, path: str, lines: Sequence[str], *, method: str = "GET", version: str = "1.1"
) -> tuple[int, list[str], bytes]:
    """Send a request line by line; return the answer's status, its header lines, and its body."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        request = "\r\n".join([f"{method} {path} HTTP/{version}", f"Host: {host}", *lines, "", ""])
        await stream.send_all(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        head, _, body = answer.partition(b"\r\n\r\n")
        start, *headers = head.decode().lower().split("\r\n")
        status = int(start.split()[1])
        length = 0 if status == 101 or method == "HEAD" else int(*values(headers, "content-length"))
        while len(body) < length:
            body += await stream.receive_some()
    return status, headers, body[:length]


def values(headers: Sequence[str], name: str) -> list[str]:
    return [value.strip() for key, _, value in (line.partition(":") for line in headers) if key == name]


def tunnel(headers: object) -> str:
    return "encore.dev.headers." + base64.urlsafe_b64encode(json.dumps(headers).encode()).rstrip(b"=").decode()


ADA = tunnel({"authorization": "ada"})
OFFERS: dict[str, tuple[list[str], list[str]]] = {
    "one line": ([f"encore-ws, {ADA}"], ["encore-ws"]),
    "one line without spaces": ([f"{ADA},encore-ws"], ["encore-ws"]),
    "the tunnel on a line of its own": (["encore-ws", ADA], ["encore-ws"]),
    "the tunnel on the line before": ([ADA, "encore-ws"], ["encore-ws"]),
    "among others": (["mqtt", f"graphql-ws, {ADA}", "wamp, encore-ws", "stomp"], ["encore-ws"]),
    "another case": ([f"Encore-WS, {ADA}"], []),
    "the tunnel alone": ([ADA], []),
}
"""What is offered on which lines, and what is answered."""


@pytest.mark.parametrize(("offered", "answered"), OFFERS.values(), ids=OFFERS)
async def test_subprotocols_are_read_on_all_lines_and_the_dialect_alone_is_answered(
    stage: Stage, offered: list[str], answered: list[str]
) -> None:
    lines = [*UPGRADE, *(f"Sec-WebSocket-Protocol: {line}" for line in offered)]
    async with served(stage.app) as url:
        status, headers, _ = await ask(url, "/members", lines)
    assert status == 101
    assert values(headers, "sec-websocket-protocol") == answered


async def test_the_upgrade_agrees_on_no_extension(stage: Stage) -> None:
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    async with served(stage.app) as url:
        status, headers, _ = await ask(url, "/quiet", [*UPGRADE, offer])
    assert status == 101
    assert values(headers, "sec-websocket-accept") == ["s3pplmbitxaq9kygzzhzrbk+xoo="]
    assert values(headers, "sec-websocket-extensions") == []


@pytest.mark.parametrize("path", ["/encore.greet", "/quiet", "/members"])
async def test_credentials_that_are_not_whole_are_a_400_everywhere(stage: Stage, path: str) -> None:
    async with served(stage.app) as url:
        status, _, body = await ask(url, f"{path}?realm=work", UPGRADE)
    assert status == 400
    assert json.loads(body)["message"] == "missing header 'authorization'"


# Requests that are no upgrade.


@pytest.fixture
def only_streams() -> App:
    """An app without a fallback, which is there to take what is no upgrade."""
    service = Service("only")

    @service.stream_out("/words", expose=True)
    async def words(stream: StreamOut[Word]) -> None:
        raise AssertionError("nobody gets here")

    @service.stream_out("/private")
    async def private(stream: StreamOut[Word]) -> None:
        raise AssertionError("nobody gets here")

    return App(service)


NO_UPGRADE: dict[str, list[str]] = {
    "a plain request": [],
    "no Connection": UPGRADE[1:],
    "another Connection": ["Connection: keep-alive", *UPGRADE[1:]],
    "no Upgrade": [UPGRADE[0], *UPGRADE[2:]],
}


@pytest.mark.parametrize("lines", NO_UPGRADE.values(), ids=NO_UPGRADE)
async def test_who_asks_for_a_stream_without_an_upgrade_is_told_so(only_streams: App, lines: list[str]) -> None:
    async with served(only_streams) as url:
        status, headers, body = await ask(url, "/words/?x=1", lines)
    assert (status, values(headers, "content-type")) == (400, ["application/json"])
    assert json.loads(body) == {
        "code": "invalid_argument",
        "message": "this is a stream, for a WebSocket: "
        "the request needs `Connection: Upgrade` and `Upgrade: websocket`",
        "details": None,
    }


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nowhere"), ("GET", "/private"), ("POST", "/words"), ("HEAD", "/words")]
)
async def test_what_could_be_no_stream_is_a_404(only_streams: App, method: str, path: str) -> None:
    async with served(only_streams) as url:
        status, _, body = await ask(url, path, ["Content-Length: 0"], method=method)
    assert status == 404
    assert body == b"" if method == "HEAD" else json.loads(body)["message"] == "endpoint not found"


IMPOSSIBLE: dict[str, tuple[list[str], str]] = {
    "no key": (UPGRADE[:3], "1.1"),
    "no version": ([*UPGRADE[:2], UPGRADE[3]], "1.1"),
    "an old version": ([*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3]], "1.1"),
    "HTTP/1.0": (UPGRADE, "1.0"),
}


@pytest.mark.parametrize(("lines", "version"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
async def test_an_upgrade_that_is_none_is_a_400_of_hypercorns_own(
    only_streams: App, lines: list[str], version: str
) -> None:
    async with served(only_streams) as url:
        status, _, body = await ask(url, "/words", lines, version=version)
    assert (status, body) == (400, b"")  # before the app is asked, and so without a JSON error


# Frames.


@pytest.mark.parametrize(
    ("path", "message", "payloads"),
    [
        ("/rows/3", None, [b'{"count":0}', b'{"count":1}', b'{"count":2}']),
        ("/upload", b'{"text":"abc","done":true}', [b'{"size":3}']),
        ("/ends/error", None, [b'{"word":"before"}']),
    ],
    ids=["StreamOut", "StreamIn", "an error"],
)
async def test_each_message_is_one_text_frame_and_nothing_else_is_sent_but_the_close(
    stage: Stage, path: str, message: bytes | None, payloads: list[bytes]
) -> None:
    async with served(stage.app) as url, dial(url + path, subprotocols=["encore-ws"]) as peer:
        await peer.stream.send_all(peer.request())
        frames = await peer.hear()  # the upgrade, and what may have come along
        if message is not None:
            await peer.send(message)
        while not frames or frames[-1].opcode is not Opcode.CLOSE:
            frames += await peer.hear()
    assert [bytes(frame.data) for frame in frames[:-1]] == payloads
    assert {(frame.opcode, frame.fin, frame.rsv1) for frame in frames[:-1]} == {(Opcode.TEXT, True, False)}
