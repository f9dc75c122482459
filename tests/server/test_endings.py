"""How streams end on real sockets: by a Close, by an RST, by silence, and with their server."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import pytest
import trio
from attrs import frozen
from trio.testing import wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

import streamrt
from streamrt import App, Ended, Header, Service, StreamIn
from streamrt.testing import no_tasks_left
from tests.conftest import served
from tests.peers import SocketPeer, connect_socket
from tests.server.test_rude_peers import (
    HEARTBEAT,
    LOST,
    NEVER,
    NO_ANSWER,
    REQUEST,
    Stream,
    dial,
    echoing,
    expect_reset,
    flooding,
    frame,
    greets,
    hear,
    listening,
    nothing_is_logged_as_an_error,
    serving,
    stage,
    text,
    tls,
    waiting,
)

__all__ = ["nothing_is_logged_as_an_error", "tls"]  # fixtures


@frozen
class Credentials:
    authorization: Annotated[str, Header("authorization")]


# By a Close.

SENDABLE = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
UNSENDABLE = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]


@pytest.mark.parametrize("code", [*SENDABLE, 1005])
async def test_a_close_reaches_the_handler_and_is_echoed(tls: bool, code: int) -> None:
    # A Close without a code is one of 1005.
    ended = Ended("peer", code, "" if code == 1005 else "für immer")
    payload = b"" if code == 1005 else Close(code, ended.reason).serialize()
    staged = stage(echoing)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(frame(Opcode.CLOSE, payload))
        [close] = await hear(peer)
        assert (close.opcode, close.data) == (Opcode.CLOSE, payload)
        assert await peer.stream.receive_some() == b""
        await staged.over.wait()
    assert staged.ended == [ended]


BAD = [
    *[pytest.param(code.to_bytes(2, "big"), 1002, f"not {code}", id=str(code)) for code in UNSENDABLE],
    pytest.param(b"\x03", 1002, "not one byte", id="one byte"),
    pytest.param(b"\x03\xe8\xff", 1007, "UTF-8", id="a reason that is not UTF-8"),
]


@pytest.mark.parametrize(("payload", "code", "reason"), BAD)
async def test_a_bad_close_is_a_violation(tls: bool, payload: bytes, code: int, reason: str) -> None:
    staged = stage(echoing)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(frame(Opcode.CLOSE, payload))
        ended = await peer.closed()
        await staged.over.wait()
    assert (ended.code, reason in ended.reason) == (code, True)
    assert staged.ended == [Ended("runtime", code, ended.reason)]


DONE = frame(Opcode.CLOSE, Close(1000, "done").serialize())
ODD = {
    "a second Close": DONE + frame(Opcode.CLOSE, Close(4000, "again").serialize()),
    "messages": DONE + text('"late"'),
    "what is no frame": DONE + b"\xff" * 40_000,
    "the rest of a message": frame(Opcode.TEXT, b'"un', fin=False) + DONE + frame(Opcode.CONT, b'finished"'),
}


@pytest.mark.parametrize("wire", ODD.values(), ids=ODD)
async def test_what_comes_behind_a_close_does_not_count(tls: bool, wire: bytes) -> None:
    received: list[str] = []

    async def handler(stream: Stream) -> None:
        received.extend([message async for message in stream])

    staged = stage(handler)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(text('"early"') + wire)
        [close] = await hear(peer)
        assert close.data == Close(1000, "done").serialize()
        assert await peer.stream.receive_some() == b""
        await staged.over.wait()
    assert received == ["early"]
    assert staged.ended == [Ended("peer", 1000, "done")]


async def test_a_message_that_is_being_written_is_whole_before_the_answer_to_a_close(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send(await stream.receive() * (16 << 20))
        await trio.sleep_forever()

    staged = stage(handler, send_bytes=32 << 20, disconnect_grace=NEVER, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        peer.protocol.max_message_size = None
        await peer.send('"x"')
        await wait_all_tasks_blocked(0.01)
        await peer.close(4000, "enough")
        assert len(await peer.receive()) == (16 << 20) + 2
        assert await peer.closed() == Ended("peer", 4000, "enough")


@pytest.mark.slow
async def test_an_answer_arrives_though_the_client_still_sends(tls: bool) -> None:
    service = Service("test")

    @service.stream_in("/first", expose=True, close_timeout=NEVER)
    async def first(stream: StreamIn[str]) -> str:
        return (await stream.receive())[:5]

    upload = text('"first' + "x" * 10_000 + '"') * 300
    async with serving(App(service), listening(tls=tls)) as url:
        for _ in range(100):
            async with connect_socket(url + "/first") as peer:
                await peer.stream.send_all(upload)
                heard: list[Frame] = []
                while not heard or heard[-1].opcode is not Opcode.CLOSE:
                    heard += await hear(peer)
                assert [bytes(event.data) for event in heard] == [b'"first"', b"\x03\xe8"]
                await peer.stream.send_all(b"".join(peer.protocol.data_to_send()))
                assert await peer.stream.receive_some() == b""


# Who is there no more, or only seems so.


@asynccontextmanager
async def pings(peer: SocketPeer) -> AsyncGenerator[AsyncGenerator[bytes]]:
    """Hear pings, and answer none of them."""

    async def hearing() -> AsyncGenerator[bytes]:
        while True:
            for ping in await hear(peer):
                assert ping.opcode is Opcode.PING
                yield bytes(ping.data)

    async with contextlib.aclosing(hearing()) as heard:
        yield heard


@pytest.mark.parametrize("handler", [waiting, echoing, flooding])
async def test_who_falls_silent_after_the_handshake_is_gone(
    tls: bool, handler: Callable[[Stream], Awaitable[None]]
) -> None:
    staged = stage(handler, send_timeout=NEVER, close_timeout=NEVER, **HEARTBEAT)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await staged.over.wait()
        await expect_reset(peer)
        await greets(url)
    assert staged.ended == [NO_ANSWER]


async def test_who_answers_pings_lives_and_the_round_trip_is_timed(tls: bool) -> None:
    times: list[float | None] = []

    async def handler(stream: Stream) -> None:
        times.append(stream.round_trip_time)
        async for message in stream:
            times.append(stream.round_trip_time)
            await stream.send(message)

    staged = stage(handler, **HEARTBEAT)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer, pings(peer) as heard:
        for _ in range(10):
            await peer.stream.send_all(frame(Opcode.PONG, await anext(heard)))
        await peer.stream.send_all(text('"x"'))
        while (await hear(peer))[-1].opcode is not Opcode.TEXT:
            pass
    first, then = times
    assert first is None
    assert isinstance(then, float)
    assert then >= 0


async def test_who_answers_no_ping_but_sends_messages_lives(tls: bool) -> None:
    times: set[float | None] = set()

    async def handler(stream: Stream) -> None:
        async for _ in stream:
            times.add(stream.round_trip_time)

    staged = stage(handler, **HEARTBEAT)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer, pings(peer) as heard:
        for _ in range(10):
            await anext(heard)
            await peer.stream.send_all(text('"x"'))
        await anext(heard)
    assert times == {None}


@pytest.mark.parametrize("way", ["closes", "cuts"])
async def test_the_end_of_a_peer_that_is_not_read_is_noticed(tls: bool, way: str) -> None:
    staged = stage(waiting, receive_messages=1, **HEARTBEAT)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer, pings(peer) as heard:
        await peer.stream.send_all(text('"x"') * 10)
        for _ in range(2):
            await anext(heard)
        if way == "cuts":
            peer.vanish()
        else:
            peer.socket.shutdown(socket.SHUT_WR)
        await staged.over.wait()
    assert staged.ended == [LOST]


async def test_a_peer_that_is_not_read_but_well_lives(tls: bool) -> None:
    going_on = trio.Event()

    async def handler(stream: Stream) -> None:
        await going_on.wait()
        await echoing(stream)

    staged = stage(handler, receive_messages=1, **HEARTBEAT)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer, pings(peer) as heard:
        await peer.stream.send_all(text('"x"') * 10)
        for _ in range(10):
            await anext(heard)
        going_on.set()
        answers = 0
        while answers < 10:
            answers += sum(answer.opcode is Opcode.TEXT for answer in await hear(peer))


# By an RST.


async def returning(stream: Stream) -> None:
    pass


async def before_a_request(url: str) -> None:
    cut(await dial(url))


async def in_a_tls_handshake(url: str) -> None:
    stream = await dial(url.replace("https", "http"))
    await stream.send_all(b"\x16\x03\x01\x02\x00\x01")
    cut(stream)


async def in_a_request(url: str) -> None:
    stream = await dial(url)
    await stream.send_all(REQUEST.format(path="/stream").encode()[:50])
    cut(stream)


async def in_the_upgrade(url: str) -> None:
    stream = await dial(url)
    await stream.send_all(REQUEST.format(path="/stream").encode())
    cut(stream)


async def after_the_upgrade(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        peer.vanish()


async def in_a_frame(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(text('"' + "x" * 1000 + '"')[:500])
        peer.vanish()


async def while_the_server_writes(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        await peer.receive()
        peer.vanish()


async def when_the_server_can_write_no_more(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        await wait_all_tasks_blocked(0.05)
        peer.vanish()


async def behind_its_own_close(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(DONE)
        peer.vanish()


async def instead_of_the_answer_to_a_close(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        assert (await hear(peer))[-1].opcode is Opcode.CLOSE
        peer.vanish()


def cut(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
    SocketPeer(stream, ClientProtocol(parse_uri("ws://127.0.0.1/"))).vanish()


STAGES: list[tuple[Callable[[str], Awaitable[None]], Callable[[Stream], Awaitable[None]], list[Ended | None]]] = [
    (before_a_request, echoing, []),
    (in_a_tls_handshake, echoing, []),
    (in_a_request, echoing, []),
    (in_the_upgrade, echoing, [LOST]),
    (after_the_upgrade, echoing, [LOST]),
    (in_a_frame, echoing, [LOST]),
    (while_the_server_writes, flooding, [LOST]),
    (when_the_server_can_write_no_more, flooding, [LOST]),
    (behind_its_own_close, echoing, [Ended("peer", 1000, "done")]),
    (instead_of_the_answer_to_a_close, returning, [None]),
]


@pytest.mark.parametrize(("cut_off", "handler", "ended"), STAGES, ids=[stage[0].__name__ for stage in STAGES])
async def test_an_rst_at_any_time_ends_the_stream_and_nothing_else(
    tls: bool,
    cut_off: Callable[[str], Awaitable[None]],
    handler: Callable[[Stream], Awaitable[None]],
    ended: list[Ended | None],
) -> None:
    staged = stage(handler, send_timeout=NEVER, close_timeout=NEVER)
    config = listening(tls=tls)
    config.keep_alive_timeout = 0.1  # for so long hypercorn stays, even when nobody is there any more
    async with serving(staged.app, config) as url:
        async with no_tasks_left(20):
            await greets(url)
            await cut_off(url)
        assert staged.app.host.streams == 0
        await greets(url)
    # Of a peer that has left before the upgrade was sent, no handler hears.
    assert staged.ended == ended or (cut_off is in_the_upgrade and staged.ended == [])


async def test_an_rst_while_the_auth_handler_waits_cancels_it(tls: bool) -> None:
    began, over = trio.Event(), trio.Event()
    service = Service("test")

    @service.stream_in("/never", expose=True, handshake_timeout=NEVER)
    async def never(stream: StreamIn[str]) -> None:
        raise AssertionError

    async def authenticate(credentials: Credentials) -> str:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            over.set()
        raise AssertionError

    request = REQUEST.format(path="/never").replace("\r\n\r\n", "\r\nAuthorization: Bearer ada\r\n\r\n")
    config = listening(tls=tls)
    config.keep_alive_timeout = 0.1
    async with serving(App(service, auth_handler=authenticate), config) as url, no_tasks_left(20):
        stream = await dial(url)
        await stream.send_all(request.encode())
        await began.wait()
        cut(stream)
        await over.wait()


# With the server.


async def waiting_or_flooding(stream: Stream) -> None:
    how = await stream.receive()
    await stream.send("here")
    await (flooding if how == "flood" else waiting)(stream)


async def see_the_end(url: str, begin: Callable[[], None], over: trio.Event, expected: Ended) -> None:
    """End a server that has a peer of every kind, and see how it ends for them."""
    opening = partial(connect_socket, url + "/stream")
    async with opening() as good, opening() as mute, opening() as stalled, opening() as vanished:
        for peer in (good, mute, vanished):
            await peer.send('"wait"')
            assert await peer.receive() == '"here"'
        await stalled.send('"flood"')
        assert await stalled.receive() == '"here"'
        await wait_all_tasks_blocked(0.05)  # it stands, unless it is another process
        vanished.vanish()
        begin()
        assert await good.closed() == expected
        [close] = await hear(mute)
        assert close.data == Close(expected.code, expected.reason).serialize()
        await over.wait()
        await expect_reset(stalled)


@pytest.mark.parametrize("end", ["cancelled", "drained"])
async def test_the_end_of_the_server_ends_every_kind_of_peer(tls: bool, end: str) -> None:
    code, reason = (1012, "the server is restarting") if end == "drained" else (1001, "")
    staged = stage(waiting_or_flooding, send_timeout=NEVER, close_timeout=0.3)
    scope, shutdown, over = trio.CancelScope(), trio.Event(), trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        with scope:
            config = listening(tls=tls)
            await streamrt.serve(
                staged.app, config=config, shutdown_trigger=shutdown.wait, drain_timeout=0.1, task_status=task_status
            )
        over.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(serve)
            begin = shutdown.set if end == "drained" else scope.cancel
            await see_the_end(url, begin, over, Ended("peer", code, reason))
    assert len(staged.ended) == 4
    # The server may end before it has seen that one has vanished.
    assert staged.ended.count(Ended("runtime", code, reason) if end == "drained" else None) >= 3


MODULE = """
import trio
from streamrt import App, Service, StreamInOut

service = Service("test")

@service.stream_in_out("/stream", expose=True, send_timeout=1000, close_timeout=0.3)
async def stream(stream: StreamInOut[str, str]) -> None:
    try:
        how = await stream.receive()
        await stream.send("here")
        while how == "flood":
            await stream.send("x" * 1000)
        await trio.sleep_forever()
    finally:
        print("finally", stream.ended.code, flush=True)

app = App(service)
"""

COMMANDS = {
    "streamrt": ["streamrt.cli", "run", "--bind", "127.0.0.1:0", "--drain", "1", "module:app"],
    "hypercorn": ["hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0", "module:app"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_sigterm_drains_a_process(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    output = ""
    bound, over = trio.Event(), trio.Event()

    async def read(stream: trio.abc.ReceiveStream) -> None:
        nonlocal output
        async for data in stream:
            output += data.decode()
            if "Running on http://" in output.rpartition("\n")[0]:
                bound.set()
        over.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                [sys.executable, "-m", *command],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            nursery.start_soon(read, process.stdout)
            await bound.wait()
            url = output.partition("Running on ")[2].split()[0]
            await see_the_end(url, process.terminate, over, Ended("peer", 1012, "the server is restarting"))
    assert process.returncode == 0, output
    assert output.count("finally") == 4, output
    assert "Traceback" not in output
