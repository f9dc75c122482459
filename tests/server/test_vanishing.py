"""Peers that vanish, and others that only seem to: by silence, by a pulled cable, and by an RST at any time."""

import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from streamrt import Ended
from streamrt.testing import no_tasks_left
from tests.conftest import configured, served
from tests.namespace import Namespace
from tests.peers import SocketPeer, closing, connect_socket, dial, frame, text
from tests.stage import (
    AUTHORIZED,
    HEARTBEAT,
    LOST,
    NEVER,
    NO_ANSWER,
    Credentials,
    Handler,
    Stream,
    echoing,
    expect_reset,
    flooding,
    greets,
    returning,
    stage,
    waiting,
)

pytestmark = pytest.mark.usefixtures("nothing_is_logged_as_an_error")


# Who is there no more, or only seems so.


@asynccontextmanager
async def pings(peer: SocketPeer) -> AsyncGenerator[AsyncGenerator[bytes]]:
    """Hear pings, and answer none of them."""

    async def hearing() -> AsyncGenerator[bytes]:
        while True:
            for ping in await peer.hear():
                assert ping.opcode is Opcode.PING
                yield bytes(ping.data)

    async with contextlib.aclosing(hearing()) as heard:
        yield heard


@pytest.mark.parametrize("handler", [waiting, echoing, flooding])
async def test_who_falls_silent_after_the_handshake_is_gone(tls: bool, handler: Handler) -> None:
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
        while (await peer.hear())[-1].opcode is not Opcode.TEXT:
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
            answers += sum(answer.opcode is Opcode.TEXT for answer in await peer.hear())


async def test_without_an_interval_nobody_is_pinged_or_taken_for_gone(tls: bool) -> None:
    async def silence(stream: Stream) -> None:
        assert await stream.receive() == "still here"
        assert stream.round_trip_time is None

    watched = stage(waiting, **HEARTBEAT)
    unwatched = stage(silence, **{**HEARTBEAT, "ping_interval": None})
    async with (
        served(watched.app, tls=tls) as watched_url,
        served(unwatched.app, tls=tls) as url,
        connect_socket(url + "/stream") as peer,
        connect_socket(watched_url + "/stream"),
    ):
        await watched.over.wait()  # and for so long this one has been silent too
        await peer.stream.send_all(text('"still here"'))
        [close] = await peer.hear()
        assert close.opcode is Opcode.CLOSE
    assert (watched.ended, unwatched.ended) == ([NO_ANSWER], [None])


@pytest.mark.parametrize("handler", [waiting, echoing, flooding])
async def test_a_peer_whose_cable_is_pulled_is_gone(namespace: Namespace, handler: Handler) -> None:
    staged = stage(handler, receive_messages=1, send_timeout=NEVER, close_timeout=NEVER, **HEARTBEAT)
    async with served(staged.app, config=configured(bind=[f"{namespace.address}:0"])) as url:
        raw = trio.socket.from_stdlib_socket(namespace.socket())
        await raw.connect((namespace.address, int(url.rpartition(":")[2])))
        async with trio.SocketStream(raw) as stream:
            peer = SocketPeer(stream, ClientProtocol(parse_uri(url.replace("http", "ws") + "/stream")))
            await peer.shake_hands()
            await stream.send_all(text('"x"') * 10)
            for _ in range(10):  # for so long it lives
                for event in await peer.hear():
                    if event.opcode is Opcode.PING:
                        await stream.send_all(frame(Opcode.PONG, bytes(event.data)))
            namespace.pull()
            await staged.over.wait()
    assert staged.ended == [NO_ANSWER]


# Who cuts the connection off.


async def test_a_peer_that_only_ends_its_side_of_tcp_is_lost(tls: bool) -> None:
    staged = stage(echoing, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        peer.socket.shutdown(socket.SHUT_WR)
        assert await peer.closed() == LOST
        await staged.over.wait()
    assert staged.ended == [LOST]


async def before_a_request(url: str) -> None:
    async with dial(url) as peer:
        peer.vanish()


async def in_a_tls_handshake(url: str) -> None:
    async with dial(url.replace("https", "http")) as peer:
        await peer.stream.send_all(b"\x16\x03\x01\x02\x00\x01")
        peer.vanish()


async def in_a_request(url: str) -> None:
    async with dial(url + "/stream") as peer:
        await peer.stream.send_all(peer.request()[:50])
        peer.vanish()


async def in_the_upgrade(url: str) -> None:
    async with dial(url + "/stream") as peer:
        await peer.stream.send_all(peer.request())
        peer.vanish()


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
        await peer.stream.send_all(closing(1000, "done"))
        peer.vanish()


async def instead_of_the_answer_to_a_close(url: str) -> None:
    async with connect_socket(url + "/stream") as peer:
        assert (await peer.hear())[-1].opcode is Opcode.CLOSE
        peer.vanish()


STAGES: list[tuple[Callable[[str], Awaitable[None]], Handler, list[Ended | None]]] = [
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
    handler: Handler,
    ended: list[Ended | None],
) -> None:
    staged = stage(handler, send_timeout=NEVER, close_timeout=NEVER)
    # For so long hypercorn stays, even when nobody is there any more.
    async with served(staged.app, config=configured(tls=tls, keep_alive_timeout=0.1)) as url:
        async with no_tasks_left(20):
            await greets(url)
            await cut_off(url)
        assert staged.app.host.streams == 0
        await greets(url)
    # Of a peer that has left before the upgrade was sent, no handler hears.
    assert staged.ended == ended or (cut_off is in_the_upgrade and staged.ended == [])


async def test_an_rst_while_the_auth_handler_waits_cancels_it(tls: bool) -> None:
    asked, over = trio.Event(), trio.Event()

    async def authenticate(credentials: Credentials) -> str:
        asked.set()
        try:
            await trio.sleep_forever()
        finally:
            over.set()
        raise AssertionError

    staged = stage(echoing, authenticate, handshake_timeout=NEVER)
    config = configured(tls=tls, keep_alive_timeout=0.1)
    async with served(staged.app, config=config) as url, no_tasks_left(20), dial(url + "/stream") as peer:
        await peer.stream.send_all(peer.request(AUTHORIZED))
        await asked.wait()
        peer.vanish()
        await over.wait()
    assert not staged.began.is_set()


@pytest.mark.parametrize("way", ["closes", "cuts"])
async def test_a_client_that_leaves_the_moment_it_is_admitted_leaves_no_task(tls: bool, way: str) -> None:
    async def authenticate(credentials: Credentials) -> str:
        peer.vanish() if way == "cuts" else peer.socket.close()
        return credentials.authorization

    staged = stage(echoing, authenticate)
    config = configured(tls=tls, keep_alive_timeout=0.1)
    async with served(staged.app, config=config) as url:
        async with no_tasks_left(20), dial(url + "/stream") as peer:
            await peer.stream.send_all(peer.request(AUTHORIZED))
            await wait_all_tasks_blocked(0.01)
        await greets(url)
