"""Peers without manners, while their stream is open: on real sockets, plain and through TLS."""

import contextlib
import ctypes
import logging
import os
import shutil
import socket
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from hypercorn.config import Config
from trio.testing import wait_all_tasks_blocked
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

import streamrt
from streamrt import APIError, App, Deflate, Ended, Service, StreamInOut
from streamrt.runtime.scopes import lone_error
from tests.conftest import served
from tests.peers import CERTIFICATES, SocketPeer, connect_socket

Stream = StreamInOut[str, str]

REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

NEVER = 1000.0  # seconds that no test takes: who waits for such a limit, hangs

# A ping that is due comes only if there was a sign of life since the one before.
HEARTBEAT = {"ping_interval": 0.05, "ping_timeout": 0.2, "disconnect_grace": 0}
LOST = Ended("peer", 1006)
NO_ANSWER = Ended("peer", 1006, "no answer to a ping within 0.2 s")


@pytest.fixture(params=[False, True], ids=["tcp", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


@attrs.define
class Stage:
    """An app with one stream that the test writes the handler of, and an echo beside it.

    Args:
        app: The app.
        began: Set when the handler runs.
        over: Set in its `finally`.
        ended: What its stream said there.
    """

    app: App
    began: trio.Event = attrs.Factory(trio.Event)
    over: trio.Event = attrs.Factory(trio.Event)
    ended: list[Ended | None] = attrs.Factory(lambda: list[Ended | None]())


def stage(handler: Callable[[Stream], Awaitable[None]], **limits: object) -> Stage:
    service = Service("test")

    @service.stream_in_out("/stream", expose=True, **limits)  # type: ignore[arg-type]
    async def stream(stream: StreamInOut[str, str]) -> None:
        staged.began.set()
        try:
            await handler(stream)
        finally:
            staged.ended.append(stream.ended)
            staged.over.set()

    @service.stream_in_out("/echo", expose=True)
    async def echo(stream: StreamInOut[str, str]) -> None:
        await echoing(stream)

    staged = Stage(App(service))
    return staged


async def echoing(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def waiting(stream: Stream) -> None:
    await trio.sleep_forever()


async def flooding(stream: Stream) -> None:
    while True:
        await stream.send("x" * 1000)


async def greets(url: str) -> None:
    """Assert that a good peer is served."""
    async with connect_socket(url + "/echo") as peer:
        for count in range(20):
            await peer.send(f'"{count}"')
            assert await peer.receive() == f'"{count}"'


def frame(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True)


def text(payload: str) -> bytes:
    return frame(Opcode.TEXT, payload.encode())


def listening(*, send_buffer: int | None = None, tls: bool = False) -> Config:
    """Listen on loopback; accepted sockets inherit the buffer of the listener."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    config = Config()
    config.errorlog = None
    if tls:
        config.certfile, config.keyfile = CERTIFICATES.files
    config.bind = [f"fd://{listener.detach()}"]
    return config


@asynccontextmanager
async def serving(app: App, config: Config) -> AsyncGenerator[str]:
    """Serve with a configuration of one's own; within 60 seconds."""
    with trio.fail_after(60), lone_error():
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(streamrt.serve, app, config=config))
            await wait_all_tasks_blocked()  # every task of it is there
            yield url
            nursery.cancel_scope.cancel()


async def hear(peer: SocketPeer) -> list[Frame]:
    """Return what comes next, and answer none of it."""
    data = await peer.stream.receive_some()
    assert data
    peer.protocol.receive_data(data)
    return [event for event in peer.protocol.events_received() if isinstance(event, Frame)]


async def dial(url: str) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect, and say nothing yet."""
    uri = parse_uri(url.replace("http", "ws"))
    stream = await trio.open_tcp_stream(uri.host, uri.port)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not uri.secure:
        return stream
    return trio.SSLStream(stream, CERTIFICATES.trusting, server_hostname=uri.host, https_compatible=True)


def stop_reading(peer: SocketPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # leaves the other end little to fill


async def expect_reset(peer: SocketPeer) -> None:
    with pytest.raises(ConnectionResetError):
        while await peer.socket.recv(65536):
            pass


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
    async with serving(staged.app, listening(send_buffer=4096)) as url, crowd(url, 1000):
        assert staged.app.host.streams == 1000
        await greets(url)
        assert left == 0
        if end == "drained":
            await staged.app.host.drain(0.1)
            assert left == 1000
    assert left == 1000


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
        for count in range(200):
            payload = b"%d" % count
            await peer.stream.send_all(frame(Opcode.PING, payload))
            assert await peer.stream.receive_some() == Frame(Opcode.PONG, payload).serialize(mask=False)


@pytest.mark.parametrize("reads", [True, False])
async def test_of_a_flood_of_pings_some_are_answered_in_order_and_the_stream_goes_on(reads: bool) -> None:
    flood = [b"%100d" % count for count in range(10_000)]
    staged = stage(echoing, send_messages=16)
    config = listening(send_buffer=None if reads else 4096)
    async with serving(staged.app, config) as url, connect_socket(url + "/stream") as peer:
        answered: list[bytes] = []

        async def read() -> None:
            while not answered or answered[-1] != b'"x"':
                answered.extend(bytes(pong.data) for pong in await hear(peer))

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


# Who is cut off.


class Namespace:
    """A network of its own, at the other end of a cable that can be pulled."""

    def __init__(self) -> None:
        self.name = f"streamrt{os.getpid()}"
        self.near, self.far = f"near{os.getpid()}", f"far{os.getpid()}"
        block, place = divmod(os.getpid() % (1 << 14), 64)
        # Set aside for such networks (RFC 2544).
        self.address, self.far_address = (f"198.18.{block}.{4 * place + host}" for host in (1, 2))

    def ip(self, command: str) -> None:
        arguments = command.format(name=self.name, near=self.near, far=self.far).split()
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def build(self) -> None:
        self.ip("netns add {name}")
        self.ip("link add {near} type veth peer name {far} netns {name}")
        self.ip(f"addr add {self.address}/30 dev {{near}}")
        self.ip("link set {near} up")
        self.ip(f"-n {{name}} addr add {self.far_address}/30 dev {{far}}")
        self.ip("-n {name} link set {far} up")

    def pull(self) -> None:
        self.ip("-n {name} link set {far} down")

    def remove(self) -> None:
        for command in ("link del {near}", "netns del {name}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ip(command)

    def socket(self) -> socket.socket:
        """Create a socket in there: where a thread is when it does so, the socket stays."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path("/run/netns", self.name).open() as file:
                assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
            made.append(socket.socket())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]


@pytest.fixture
def namespace() -> Generator[Namespace]:
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("a network namespace needs root, and iproute2")
    namespace = Namespace()
    try:
        namespace.build()
    except subprocess.CalledProcessError as error:
        namespace.remove()
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    yield namespace
    namespace.remove()


@pytest.mark.parametrize("handler", [waiting, echoing, flooding])
async def test_a_peer_whose_cable_is_pulled_is_gone(
    namespace: Namespace, handler: Callable[[Stream], Awaitable[None]]
) -> None:
    staged = stage(handler, receive_messages=1, send_timeout=NEVER, close_timeout=NEVER, **HEARTBEAT)
    config = Config()
    config.errorlog, config.bind = None, [f"{namespace.address}:0"]
    async with serving(staged.app, config) as url:
        raw = trio.socket.from_stdlib_socket(namespace.socket())
        await raw.connect((namespace.address, int(url.rpartition(":")[2])))
        async with trio.SocketStream(raw) as stream:
            peer = SocketPeer(stream, ClientProtocol(parse_uri(url.replace("http", "ws") + "/stream")))
            await peer.shake_hands(None, None)
            await peer.stream.send_all(text('"x"') * 10)
            for _ in range(10):  # for so long it lives
                for event in await hear(peer):
                    if event.opcode is Opcode.PING:
                        await stream.send_all(frame(Opcode.PONG, bytes(event.data)))
            namespace.pull()
            await staged.over.wait()
    assert staged.ended == [NO_ANSWER]


# Who takes their time, or sends what is not what it seems.


async def test_slow_handshakes_delay_nobody_and_are_given_up() -> None:
    staged = stage(echoing)
    config = listening()
    config.keep_alive_timeout = 0.5
    async with serving(staged.app, config) as url, AsyncExitStack() as stack:
        request = REQUEST.format(path="/stream").encode()
        slow = [await stack.enter_async_context(await dial(url)) for _ in range(50)]
        for start in range(0, 60, 10):
            for stream in slow:
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(request[start : start + 10])
            await greets(url)
        for stream in slow:
            with contextlib.suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
    assert not staged.began.is_set()


async def test_a_handshake_byte_by_byte_is_as_good_as_any() -> None:
    staged = stage(echoing)
    async with served(staged.app) as url:
        async with await dial(url) as stream:
            for byte in REQUEST.format(path="/stream").encode():
                await stream.send_all(bytes([byte]))
            assert (await stream.receive_some(13)) == b"HTTP/1.1 101 "
            await staged.began.wait()


@pytest.mark.slow
async def test_the_first_message_may_follow_the_first_byte_of_the_upgrade(tls: bool) -> None:
    def talk(url: str) -> bytes:
        uri = parse_uri(url.replace("http", "ws"))
        stream = socket.create_connection((uri.host, uri.port), timeout=20)
        if uri.secure:
            stream = CERTIFICATES.trusting.wrap_socket(stream, server_hostname=uri.host)
        with stream:
            stream.sendall(REQUEST.format(path="/stream").encode())
            received = stream.recv(1)
            stream.sendall(text('"x"'))
            while not received.endswith(b'"x"') and (more := stream.recv(4096)):
                received += more
        return received

    staged = stage(echoing)
    async with serving(staged.app, listening(tls=tls)) as url:
        for _ in range(100):
            received = await trio.to_thread.run_sync(talk, url)  # which does not take turns with the server
            assert received.endswith(b'\r\n\r\n\x81\x03"x"')


async def compressing(url: str) -> SocketPeer:
    protocol = ClientProtocol(parse_uri(url.replace("http", "ws")), extensions=[ClientPerMessageDeflateFactory()])
    peer = SocketPeer(await dial(url), protocol)
    await peer.shake_hands(None, None)
    return peer


async def test_messages_are_compressed_where_both_want_it() -> None:
    staged = stage(echoing, compression=Deflate(threshold=0))
    async with served(staged.app) as url:
        peer = await compressing(url + "/stream")
        async with peer.stream:
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
        peer = await compressing(url + "/stream")
        tracemalloc.start()
        try:
            async with peer.stream:
                await peer.stream.send_all(wire)
                assert await peer.closed() == Ended("peer", 1009, "a message may have 1048576 bytes")
            await staged.over.wait()
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
    assert staged.ended == [Ended("runtime", 1009, "a message may have 1048576 bytes")]
