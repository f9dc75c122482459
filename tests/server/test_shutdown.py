"""What the end of a server means to its streams, and to connections that are none yet.

How it ends is up to who runs it: by a cancellation, by its trigger, or as a process by a signal.
"""

import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import streamrt
from streamrt import APIError, App, Ended
from tests.conftest import configured
from tests.peers import CERTIFICATES, connect_socket, dial, text
from tests.stage import (
    AUTHORIZED,
    BIG,
    LOST,
    NEVER,
    Credentials,
    Stream,
    expect_reset,
    flooding,
    returning,
    stage,
    stop_reading,
    waiting,
)

pytestmark = pytest.mark.usefixtures("nothing_is_logged_as_an_error")

RESTART = "the server is restarting"
ENDS = {"cancelled": Ended("peer", 1001), "drained": Ended("peer", 1012, RESTART)}
"""The ways to end a server, and how that ends for who is there."""


@attrs.frozen
class Running:
    """A server, what ends it, and whether it is over."""

    url: str
    end: Callable[[], object]
    over: trio.Event


@asynccontextmanager
async def running(app: App, way: str, *, tls: bool, drain_timeout: float = 0.1) -> AsyncGenerator[Running]:
    """Serve an app, and see that the server is over when the block is; within twenty seconds."""
    config = configured(tls=tls, graceful_timeout=0.2)  # which is for connections that are no streams
    scope, trigger, over = trio.CancelScope(), trio.Event(), trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        with scope:
            await streamrt.serve(
                app,
                config=config,
                shutdown_trigger=trigger.wait,
                drain_timeout=drain_timeout,
                task_status=task_status,
            )
        over.set()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(serve)
            yield Running(url, scope.cancel if way == "cancelled" else trigger.set, over)


@pytest.fixture(params=ENDS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The streams.


async def waiting_or_flooding(stream: Stream) -> None:
    how = await stream.receive()
    await stream.send("here")
    await (flooding if how == "flood" else waiting)(stream)


async def see_the_end(server: Running, expected: Ended) -> None:
    """End a server that has a peer of every kind, and see how it ends for them."""
    opening = partial(connect_socket, server.url + "/stream")
    async with opening() as good, opening() as mute, opening() as stalled, opening() as vanished:
        for peer in (good, mute, vanished):
            await peer.send('"wait"')
            assert await peer.receive() == '"here"'
        await stalled.send('"flood"')
        assert await stalled.receive() == '"here"'
        await wait_all_tasks_blocked(0.05)  # it stands, unless it is another process
        vanished.vanish()
        server.end()
        mute.mute = True
        assert await good.closed() == await mute.closed() == expected
        await server.over.wait()
        await expect_reset(stalled)


async def test_the_end_of_the_server_ends_every_kind_of_peer(tls: bool, way: str) -> None:
    staged = stage(waiting_or_flooding, send_timeout=NEVER, close_timeout=0.3)
    async with running(staged.app, way, tls=tls) as server:
        await see_the_end(server, ENDS[way])
    assert len(staged.ended) == 4
    # The server may end before it has seen that one has vanished.
    ended = Ended("runtime", 1012, RESTART) if way == "drained" else None
    assert staged.ended.count(ended) >= 3


async def test_who_has_not_answered_a_close_does_not_hold_a_cancelled_server(tls: bool) -> None:
    staged = stage(returning, close_timeout=NEVER)
    async with running(staged.app, "cancelled", tls=tls) as server, connect_socket(server.url + "/stream") as peer:
        peer.mute = True
        await trio.lowlevel.wait_readable(peer.socket)  # its Close is here
        server.end()
        await server.over.wait()
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_peer_that_does_not_read_gets_whole_messages_or_the_end(tls: bool, way: str) -> None:
    messages = [letter * BIG for letter in "abc"]

    async def handler(stream: Stream) -> None:
        for message in messages:
            await stream.send(message)

    staged = stage(handler, send_bytes=4 * BIG, send_timeout=NEVER, close_timeout=0.1)
    async with running(staged.app, way, tls=tls) as server, connect_socket(server.url + "/stream") as peer:
        stop_reading(peer)
        await wait_all_tasks_blocked(0.01)  # nothing more goes out
        server.end()
        await server.over.wait()
        received: list[str | bytes] = []
        with pytest.raises(trio.EndOfChannel):
            while True:
                received.append(await peer.receive())
        # A Close behind half a message would have been part of it.
        assert peer.ended == LOST
    assert len(received) < len(messages)
    assert received == [f'"{message}"' for message in messages[: len(received)]]


async def test_a_peer_that_reads_again_gets_the_rest_of_a_message_and_then_the_close(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send("x" * BIG)
        await trio.sleep_forever()

    staged = stage(handler, send_bytes=2 * BIG, send_timeout=NEVER, close_timeout=NEVER)
    async with running(staged.app, "drained", tls=tls) as server, connect_socket(server.url + "/stream") as peer:
        await wait_all_tasks_blocked(0.01)  # what is written now waits for the peer
        server.end()
        await staged.over.wait()  # and the message is still on its way
        assert await peer.receive() == f'"{"x" * BIG}"'
        assert await peer.closed() == ENDS["drained"]
    assert staged.ended == [Ended("runtime", 1012, RESTART)]


async def test_a_client_that_still_sends_gets_its_answer_in_a_drain(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        count = 0
        async for _ in stream:
            count += 1
            if stream.draining.is_set():
                break
        await stream.send(f"{count}")

    app = stage(handler, close_timeout=NEVER).app
    async with (
        running(app, "drained", tls=tls, drain_timeout=NEVER) as server,
        connect_socket(server.url + "/stream") as peer,
    ):
        await peer.send('"one"')
        await wait_all_tasks_blocked(0.01)
        server.end()
        await wait_all_tasks_blocked(0.01)
        await peer.stream.send_all(text('"more"') * 1000)
        assert await peer.receive() == '"2"'
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_finally_has_the_time_that_it_takes(tls: bool, way: str) -> None:
    cleaned = False

    async def handler(stream: Stream) -> None:
        nonlocal cleaned
        try:
            await stream.send("here")
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(100):
                    await trio.lowlevel.checkpoint()
            cleaned = True

    app = stage(handler).app
    async with running(app, way, tls=tls) as server, connect_socket(server.url + "/stream") as peer:
        assert await peer.receive() == '"here"'
        server.end()
        assert await peer.closed() == ENDS[way]
    assert cleaned


# What is no stream yet.


async def test_connections_without_a_request_end_with_the_server(tls: bool, way: str) -> None:
    async with AsyncExitStack() as stack:
        async with running(stage(returning).app, way, tls=tls) as server:
            silent, slow = [await stack.enter_async_context(dial(server.url + "/stream")) for _ in range(2)]
            await slow.stream.send_all(slow.request()[:20])
            await wait_all_tasks_blocked(0.01)
            server.end()
        assert await slow.stream.receive_some() == b""
        assert await silent.socket.recv(1) == b""  # of which TLS knows nothing yet


async def test_who_is_being_admitted_when_a_drain_begins_is_refused(tls: bool) -> None:
    asked, going_on = trio.Event(), trio.Event()

    async def authenticate(credentials: Credentials) -> str:
        asked.set()
        await going_on.wait()
        return credentials.authorization

    app = stage(returning, authenticate).app
    async with running(app, "drained", tls=tls) as server, dial(server.url + "/stream") as peer:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(APIError.Unavailable, match="the server is shutting down"):
                    await peer.shake_hands(AUTHORIZED)

            await asked.wait()
            server.end()
            await wait_all_tasks_blocked(0.01)
            going_on.set()


async def test_who_is_being_admitted_when_the_server_is_cancelled_is_let_go(tls: bool) -> None:
    asked, over = trio.Event(), trio.Event()

    async def authenticate(credentials: Credentials) -> str:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            over.set()
        raise AssertionError

    app = stage(returning, authenticate).app
    async with running(app, "cancelled", tls=tls) as server, dial(server.url + "/stream") as peer:
        await peer.stream.send_all(peer.request(AUTHORIZED))
        await asked.wait()
        server.end()
        await server.over.wait()
        assert over.is_set()
        assert await peer.stream.receive_some() == b""


# The process.

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

BIND = ["--bind", "127.0.0.1:0"]
CERTFILE, KEYFILE = CERTIFICATES.files
COMMANDS = {
    "streamrt": ["streamrt.cli", "run", *BIND, "--drain", "1", "module:app"],
    "hypercorn": ["hypercorn", "--worker-class", "trio", *BIND, "module:app"],
    "hypercorn-tls": [
        *["hypercorn", "--worker-class", "trio", *BIND, "module:app"],
        *["--certfile", CERTFILE, "--keyfile", KEYFILE],
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
async def test_a_signal_drains_a_process_and_ends_it(
    tmp_path: Path, command: list[str], number: signal.Signals
) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    output = ""
    bound, over = trio.Event(), trio.Event()

    async def read(stream: trio.abc.ReceiveStream) -> None:
        nonlocal output
        async for data in stream:
            output += data.decode()
            if "Running on http" in output.rpartition("\n")[0]:
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
            await see_the_end(Running(url, partial(process.send_signal, number), over), ENDS["drained"])
    assert process.returncode == 0, output
    assert output.count("finally") == 4, output
    assert output.count("finally 1012") >= 3, output
    assert "Traceback" not in output
