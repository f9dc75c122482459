"""Peers without manners: who does not read, and who says too much, too early or too slowly."""

import contextlib
import socket
import tracemalloc
import zlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from streamrt import APIError, Deflate, Ended
from streamrt.testing import no_tasks_left
from tests.conftest import configured, served
from tests.peers import CERTIFICATES, connect_socket, dial, frame, text
from tests.stage import (
    AUTHORIZED,
    NEVER,
    Credentials,
    Stream,
    echoing,
    expect_reset,
    flooding,
    greets,
    listening,
    stage,
    stop_reading,
    waiting,
)

pytestmark = pytest.mark.usefixtures("nothing_is_logged_as_an_error")


# Who stops reading.


async def test_a_send_to_a_peer_that_does_not_read_can_be_cancelled_and_the_stream_goes_on(tls: bool) -> None:
    sent = 0
    given_up, going_on = trio.Event(), trio.Event()

    async def handler(stream: Stream) -> None:
        nonlocal sent
        with trio.move_on_after(0.3):
            while True:
                await stream.send(f"{sent}" + "x" * 60_000)
                sent += 1
        given_up.set()
        await going_on.wait()
        await stream.send("last")

    staged = stage(handler, send_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await given_up.wait()
        going_on.set()
        for count in range(sent):
            assert await peer.receive() == f'"{count}' + "x" * 60_000 + '"'
        assert await peer.receive() == '"last"'
        assert await peer.closed() == Ended("peer", 1000)
    assert staged.ended == [None]


async def test_a_peer_that_does_not_read_is_cut_off_with_an_rst(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        with pytest.raises(APIError.ResourceExhausted, match=r"the peer has not read for 0\.2 s"):
            await flooding(stream)

    staged = stage(handler, send_timeout=0.2, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        stop_reading(peer)
        await staged.over.wait()
        await expect_reset(peer)
        await greets(url)
    assert staged.ended == [Ended("runtime", 4429, "resource_exhausted: the peer has not read for 0.2 s")]


@asynccontextmanager
async def crowd(url: str, size: int) -> AsyncGenerator[None]:
    """Connect many peers that do not read."""
    async with AsyncExitStack() as stack:
        for _ in range(size):
            stop_reading(await stack.enter_async_context(connect_socket(url + "/stream")))
        await wait_all_tasks_blocked(0.05)  # every one of them has filled what there is to fill
        yield


@pytest.mark.slow
@pytest.mark.parametrize("end", ["cancelled", "drained"])
async def test_a_thousand_peers_that_do_not_read_delay_neither_a_neighbour_nor_the_end(end: str) -> None:
    left = 0

    async def handler(stream: Stream) -> None:
        nonlocal left
        try:
            await flooding(stream)
        finally:
            left += 1

    # Only a drain waits for who does not read: as long as for a closing handshake.
    patience = NEVER if end == "cancelled" else 0.5
    staged = stage(handler, send_timeout=NEVER, close_timeout=patience, send_messages=4)
    async with served(staged.app, config=listening(send_buffer=4096), seconds=60) as url, crowd(url, 1000):
        assert staged.app.host.streams == 1000
        await greets(url)
        assert left == 0
        if end == "drained":
            await staged.app.host.drain(0.1)
            assert left == 1000
    assert left == 1000


@pytest.mark.slow
async def test_a_peer_that_reads_slowly_is_waited_for_although_a_message_takes_longer(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        while True:
            await stream.send("x" * (4 << 20))

    staged = stage(handler, send_timeout=0.5)
    config = listening(send_buffer=1 << 17, tls=tls)
    async with served(staged.app, config=config) as url, connect_socket(url + "/stream") as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        for _ in range(40):
            received = 0
            while received < 1 << 16:
                received += len(await peer.stream.receive_some(1 << 16))
            await trio.sleep(0.05)  # this is how slowly it reads
            assert not staged.over.is_set()


# Who sends too much.


async def test_a_handler_that_does_not_receive_stops_the_peer_and_loses_nothing(tls: bool) -> None:
    total = 1000
    received: list[str] = []
    going_on = trio.Event()

    async def handler(stream: Stream) -> None:
        await going_on.wait()
        received.extend([message.rstrip("x") async for message in stream])

    staged = stage(handler)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for count in range(total):
                await peer.send(f'"{count}' + "x" * 60_000 + '"')
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.1)
            assert 0 < sent < total
            going_on.set()
        await peer.close()
        assert await peer.closed() == Ended("peer", 1000)
    assert received == [str(count) for count in range(total)]


async def test_each_ping_of_a_peer_that_waits_for_its_answer_is_answered(tls: bool) -> None:
    staged = stage(waiting)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        for size in range(126):
            payload = bytes(range(size))
            await peer.stream.send_all(frame(Opcode.PING, payload))
            assert await peer.stream.receive_some() == Frame(Opcode.PONG, payload).serialize(mask=False)


async def test_pings_between_fragments_are_answered_and_the_message_is_whole(tls: bool) -> None:
    staged = stage(echoing)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(frame(Opcode.TEXT, b'"', fin=False))
        for count in range(10):
            ping = frame(Opcode.PING, b"%d" % count)
            await peer.stream.send_all(ping + frame(Opcode.CONT, b"%d" % count, fin=False))
        await peer.stream.send_all(frame(Opcode.CONT, b'"'))
        heard: list[bytes] = []
        while b'"0123456789"' not in heard:
            heard += [bytes(event.data) for event in await peer.hear()]
    assert heard == [*(b"%d" % count for count in range(10)), b'"0123456789"']


async def test_pings_are_answered_while_the_server_sends(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        while True:
            await stream.send("x" * 100_000)

    staged = stage(handler)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        for count in range(10):
            await peer.stream.send_all(frame(Opcode.PING, b"%d" % count))
            pongs: list[bytes] = []
            while not pongs:
                pongs = [bytes(event.data) for event in await peer.hear() if event.opcode is Opcode.PONG]
            assert pongs == [b"%d" % count]


@pytest.mark.parametrize("reads", [True, False])
async def test_of_a_flood_of_pings_some_are_answered_in_order_and_the_stream_goes_on(reads: bool) -> None:
    flood = [b"%100d" % count for count in range(10_000)]
    staged = stage(echoing, send_messages=16)
    config = configured() if reads else listening(send_buffer=4096)
    async with served(staged.app, config=config, seconds=60) as url, connect_socket(url + "/stream") as peer:
        answered: list[bytes] = []

        async def read() -> None:
            while not answered or answered[-1] != b'"x"':
                answered.extend(bytes(pong.data) for pong in await peer.hear())

        async with trio.open_nursery() as nursery:
            if reads:
                nursery.start_soon(read)
            await peer.stream.send_all(b"".join(frame(Opcode.PING, payload) for payload in flood) + text('"x"'))
            if not reads:
                await wait_all_tasks_blocked(0.05)
                nursery.start_soon(read)
    pings = iter(flood)
    assert all(payload in pings for payload in answered[:-1])  # which looks only behind the one before
    assert len(answered) > 10
    assert reads or len(answered) < len(flood)


async def test_a_flood_of_messages_leaves_the_others_their_turn(tls: bool) -> None:
    async def flood(url: str) -> None:
        async with connect_socket(url + "/stream") as peer, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                while await peer.stream.receive_some():
                    pass

            while True:
                await peer.stream.send_all(text('"x"') * 10_000)

    staged = stage(echoing)
    async with served(staged.app, tls=tls) as url, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(flood, url)
        await staged.began.wait()
        for _ in range(5):
            await greets(url)
        nursery.cancel_scope.cancel()


# Who speaks before there is a stream.


@pytest.mark.parametrize("path", ["/stream", "/nowhere"])
async def test_who_talks_behind_its_request_is_answered_400_and_let_go(tls: bool, path: str) -> None:
    staged = stage(echoing)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20):
        for _ in range(20):  # whose turn it is, hypercorn's reader's or the app's, is up to Trio's dice
            async with dial(url + path) as peer:
                await peer.stream.send_all(peer.request() + text('"early"'))
                assert (await peer.stream.receive_some()).startswith(b"HTTP/1.1 400 ")
                assert await peer.stream.receive_some() == b""
        await greets(url)
    assert not staged.began.is_set()


@pytest.mark.parametrize("admitted", [True, False], ids=["admitted", "refused"])
@pytest.mark.parametrize("when", ["while it is answered", "when that is over"])
async def test_who_talks_while_the_auth_handler_waits_is_answered_400_and_let_go(
    tls: bool, when: str, admitted: bool
) -> None:
    asked, going_on = trio.Event(), trio.Event()

    async def authenticate(credentials: Credentials) -> str:
        asked.set()
        await going_on.wait()
        if not admitted:
            raise APIError.permission_denied("not you")
        return credentials.authorization

    staged = stage(echoing, authenticate)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20):
        async with dial(url + "/stream") as peer:
            await peer.stream.send_all(peer.request(AUTHORIZED))
            await asked.wait()
            await peer.stream.send_all(text('"early"'))
            assert (await peer.stream.receive_some()).startswith(b"HTTP/1.1 400 ")
            if when == "when that is over":
                await wait_all_tasks_blocked(0.01)
            going_on.set()
            assert await peer.stream.receive_some() == b""
        await greets(url)
    assert not staged.began.is_set()


# Who takes their time.


async def test_slow_handshakes_delay_nobody_and_are_given_up(tls: bool) -> None:
    staged = stage(echoing)
    config = configured(tls=tls, keep_alive_timeout=0.5)
    async with served(staged.app, config=config, seconds=60) as url, no_tasks_left(20), AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(dial(url + "/stream")) for _ in range(50)]
        for start in range(0, 60, 10):
            for peer in slow:
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.stream.send_all(peer.request()[start : start + 10])
            await greets(url)
        for peer in slow:
            with contextlib.suppress(trio.BrokenResourceError):
                assert await peer.stream.receive_some() == b""
    assert not staged.began.is_set()


async def test_tls_handshakes_that_never_end_delay_nobody_and_are_given_up() -> None:
    staged = stage(echoing)
    config = configured(tls=True, ssl_handshake_timeout=0.2)
    async with served(staged.app, config=config) as url, no_tasks_left(20):
        below = url.replace("https", "http")
        async with dial(below) as silent, dial(below) as slow:
            await slow.stream.send_all(b"\x16\x03\x01")
            await greets(url)
            for peer in (silent, slow):
                assert await peer.stream.receive_some() == b""


async def test_a_client_that_stays_although_it_was_refused_is_let_go(tls: bool) -> None:
    config = configured(tls=tls, keep_alive_timeout=0.2)
    async with served(stage(echoing).app, config=config) as url, no_tasks_left(20), dial(url + "/nowhere") as peer:
        with pytest.raises(APIError.NotFound):
            await peer.shake_hands()
        assert await peer.stream.receive_some() == b""


async def test_a_handshake_byte_by_byte_is_as_good_as_any() -> None:
    staged = stage(echoing)
    async with served(staged.app) as url, dial(url + "/stream") as peer:
        for byte in peer.request():
            await peer.stream.send_all(bytes([byte]))
        assert await peer.stream.receive_some(13) == b"HTTP/1.1 101 "
        await staged.began.wait()


@pytest.mark.slow
async def test_the_first_message_may_follow_the_first_byte_of_the_upgrade(tls: bool) -> None:
    def talk(url: str) -> bytes:
        uri = parse_uri(url.replace("http", "ws"))
        protocol = ClientProtocol(uri)
        protocol.send_request(protocol.connect())
        stream = socket.create_connection((uri.host, uri.port), timeout=20)
        if uri.secure:
            stream = CERTIFICATES.trusting.wrap_socket(stream, server_hostname=uri.host)
        with stream:
            stream.sendall(b"".join(protocol.data_to_send()))
            received = stream.recv(1)
            stream.sendall(text('"x"'))
            while not received.endswith(b'"x"') and (more := stream.recv(4096)):
                received += more
        return received

    staged = stage(echoing)
    async with served(staged.app, tls=tls, seconds=60) as url:
        for _ in range(100):
            # In a thread, which does not take turns with the server.
            received = await trio.to_thread.run_sync(talk, url + "/stream")
            assert received.endswith(b'\r\n\r\n\x81\x03"x"')


# Who compresses.

DEFLATE = ClientPerMessageDeflateFactory()


async def test_messages_are_compressed_where_both_want_it() -> None:
    staged = stage(echoing, compression=Deflate(threshold=0))
    async with served(staged.app) as url:
        async with connect_socket(url + "/stream", extensions=[DEFLATE]) as peer:
            message = '"' + "x" * 50_000 + '"'
            for _ in range(3):
                await peer.send(message)
                assert await peer.receive() == message
            peer.protocol.send_text(message.encode())
            await peer.stream.send_all(b"".join(peer.protocol.data_to_send()))
            assert len(await peer.stream.receive_some()) < 1000


async def test_32_mib_that_came_as_32_kib_are_too_big_before_they_are_there() -> None:
    deflater = zlib.compressobj(9, wbits=-12)
    bomb = deflater.compress(b'"' + b"x" * (32 << 20)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 40_000
    payload = bomb.removesuffix(b"\x00\x00\xff\xff")  # RFC 7692, 7.2.1
    wire = b"\xc1\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
    staged = stage(echoing, compression=Deflate())
    async with served(staged.app) as url:
        tracemalloc.start()
        try:
            async with connect_socket(url + "/stream", extensions=[DEFLATE]) as peer:
                await peer.stream.send_all(wire)
                assert await peer.closed() == Ended("peer", 1009, "a message may have 1048576 bytes")
            await staged.over.wait()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    assert staged.ended == [Ended("runtime", 1009, "a message may have 1048576 bytes")]
