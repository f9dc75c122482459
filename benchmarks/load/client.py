"""The load generator: raw sockets, one `select.epoll`, and frames that are made before the clock runs.

The rules of this file:

- What is counted has been verified. The first reply of a stream is parsed; all replies to one message are the
  same bytes, so from then on every byte that comes is compared with them.
- It must not be what is measured: each measurement tells what share of the time this process was at work.
- Every wait ends: after `PATIENCE` without any progress the server is given up.
"""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import final

from attrs import define, evolve, field, frozen

from benchmarks.load import wire

PATIENCE = 10.0
"""Seconds without any progress that a server is waited for; the slowest needs a tenth of one."""

PARALLEL = 20
"""Handshakes that are under way at a time while many streams are opened; more do not make it faster."""

TEXT, CLOSE, PING = 0x1, 0x8, 0x9

_CHUNK = 1 << 18  # what is read or written at once where one stream takes or gives all it can
_MASK = bytes.fromhex("37fa213d")  # any will do but zeros; this is the one of RFC 6455, 5.7
_DONE = (1000).to_bytes(2)

# The key of RFC 6455, 1.3, and the answer to it: servers have to calculate it, and we have not.
_KEY, _ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


class LoadError(Exception):
    """A server did not answer as it should, so what was measured is void."""


@final
@frozen
class Server:
    """A server that runs, and listens on loopback.

    Args:
        pid: Its process.
        port: Where it listens.
    """

    pid: int
    port: int


@final
@frozen
class Measurement:
    """What one run brought.

    Args:
        figure: In the scenario's unit.
        busy: The share of the time that the load generator was at work; near 1, the figure is its own.
        waited: The share of the time that the server, or the load generator, was kept waiting by others on its core.
        latencies: Seconds from a message to its reply; empty where that is not measured.
    """

    figure: float
    busy: float
    waited: float
    latencies: Sequence[float] = field(default=(), repr=False)

    def percentile(self, percent: int) -> float:
        """Return a percentile of the latencies, in seconds."""
        return statistics.quantiles(self.latencies, n=100)[percent - 1]


# The loads. Each takes a server, how many connections and how many seconds, and returns what it measured.


def echo(server: Server, connections: int, seconds: float, *, in_flight: int) -> Measurement:
    """Measure messages a second that go out and come back, with so many in flight on each connection."""
    with _opened(server, "/echo", connections) as streams, select.epoll() as poll:
        loops: dict[int, _Loop] = {}
        for number, stream in enumerate(streams):
            loop = _Loop.begin(stream, number, in_flight)
            loops[stream.sock.fileno()] = loop
            poll.register(stream.sock, select.EPOLLIN)
        for loop in loops.values():
            loop.sock.send(loop.requests)
            loop.sent_at = time.perf_counter()
        window = _Window(server, seconds)
        done = 0
        while not window.is_over(done):
            for descriptor, _ in _wait(poll):
                loop = loops[descriptor]
                chunk = loop.sock.recv(loop.outstanding)
                _compare(chunk, loop.replies, loop.offset)
                arrived, loop.offset = divmod(loop.offset + len(chunk), loop.reply_size)
                if arrived:
                    now = time.perf_counter()
                    window.latencies.append(now - loop.sent_at)
                    loop.sent_at = now
                    loop.sock.send(loop.requests[: arrived * loop.request_size])
                    done += arrived
        # With more in flight than one, nobody has followed which of them a reply answers.
        return evolve(window.measurement, latencies=window.latencies if in_flight == 1 else ())


def flood(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure messages a second that come over one connection, as fast as they are sent."""
    assert connections == 1
    with _opened(server, "/flood", 1) as [stream]:
        reply = stream.read_frame()
        _verify(reply, wire.FLOOD)
        size = len(reply)
        replies = reply * (_CHUNK // size + 2)
        _compare(reply + stream.received, replies, 0)
        received = len(stream.received)
        # Woken for every message, this process would have more to do than the server.
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _CHUNK // 4)
        window = _Window(server, seconds)
        while not window.is_over(received // size):
            chunk = stream.sock.recv(_CHUNK)
            _compare(chunk, replies, received % size)
            received += len(chunk)
        return window.measurement


def count(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure messages a second that a server takes from one connection, until it says how many they were."""
    assert connections == 1
    _count(server, seconds / 4)  # to warm up
    return _count(server, seconds)


def broadcast(server: Server, connections: int, seconds: float, *, burst: int, apart: bool = False) -> Measurement:
    """Measure messages a second that subscribers of one topic get, counted over all of them.

    The publisher is told when to publish the next burst: when every subscriber has all of one. Two are under way at a
    time, so that nobody idles, and nobody has to keep more than that for a subscriber. It is also told whether to let
    others run after each message, so that the messages come apart.
    """
    request = client_frame(wire.encode({"count": burst, "apart": apart}))
    with (
        _opened(server, "/topic", connections) as streams,
        _opened(server, "/publish", 1) as [publisher],
        select.epoll() as poll,
    ):
        for stream in streams:
            _verify(stream.read_frame(), wire.READY)
        publisher.sock.sendall(request)
        frames = [streams[0].read_frame() for _ in range(burst)]
        for frame, tick in zip(frames, wire.TICKS, strict=False):
            _verify(frame, tick)
        messages = b"".join(frames)
        for stream in streams[1:]:
            _compare(stream.read(len(messages)), messages, 0)
        subscribers: dict[int, _Subscriber] = {}
        for stream in streams:
            # Woken for every message, this process would have more to do than the server.
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(messages))
            stream.sock.settimeout(0)
            subscribers[stream.sock.fileno()] = _Subscriber(stream.sock)
            poll.register(stream.sock, select.EPOLLIN)
        publisher.sock.sendall(request * 2)
        bursts, missing = 0, [connections, connections]  # from how many subscribers, of this burst and of the next
        window = _Window(server, seconds)
        while not window.is_over(bursts * burst * connections):  # all have the same now
            while missing[0]:
                for descriptor, _ in _wait(poll):
                    subscriber = subscribers[descriptor]
                    if subscriber.take(messages):
                        ahead = subscriber.bursts - bursts
                        if ahead == len(missing):
                            raise LoadError("expected what was published, got more")
                        missing[ahead] -= 1
                        subscriber.bursts += 1
            bursts, missing = bursts + 1, [missing[1], connections]
            publisher.sock.sendall(request)
        return window.measurement


def idle(server: Server, connections: int, seconds: float) -> Measurement:  # noqa: ARG001 - it takes its own time
    """Measure resident bytes of the server for each connection that has nothing to say.

    Each has had one message answered, so that it is known to live. Some others are there from the beginning,
    so that what a server needs only once is not counted.
    """
    with _opened(server, "/echo", PARALLEL) as first:
        for stream in first:
            _Loop.begin(stream, 0, 1)
        before = _resident_bytes(server)
        meter = _Meter(server)
        with _opened(server, "/echo", connections) as streams:
            for number, stream in enumerate(streams):
                _Loop.begin(stream, number, 1)
            figure = (_resident_bytes(server) - before) / connections
            return evolve(meter.read(0), figure=figure, waited=0)  # it takes no less memory when it has to wait


def handshakes(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure connections a second that are opened, upgraded and closed, so many at a time side by side."""
    request, close = _upgrade(server.port, "/echo"), client_frame(_DONE, CLOSE)
    streams: dict[int, _Stream] = {}
    with select.epoll() as poll:

        def begin() -> None:
            stream = _Stream(_connect(server.port))
            streams[stream.sock.fileno()] = stream
            poll.register(stream.sock, select.EPOLLIN)
            stream.sock.sendall(request)

        try:
            for _ in range(connections):
                begin()
            window = _Window(server, seconds)
            done = 0
            while not window.is_over(done):
                for descriptor, _ in _wait(poll):
                    stream = streams[descriptor]
                    stream.fill()
                    if not stream.upgraded and stream.take_upgrade():
                        stream.sock.sendall(close)
                    if stream.upgraded and (frame := split_frame(stream.received)):
                        if frame[:2] != (CLOSE, _DONE):
                            raise LoadError(f"expected a Close with 1000, got {stream.received!r}")
                        stream.sock.close()  # which takes it out of the epoll, too
                        begin()
                        done += 1
        finally:
            for stream in streams.values():
                stream.sock.close()
    return window.measurement


# Frames.


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a masked frame, as clients send it (RFC 6455, 5.2).

    Args:
        payload: Below 64 KiB.
        opcode: What it is.
    """
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    mask = _MASK * (size // 4 + 1)
    return bytes([0x80 | opcode]) + length + _MASK + bytes(byte ^ key for byte, key in zip(payload, mask, strict=False))


def split_frame(received: bytes) -> tuple[int, bytes, int] | None:
    """Find a server's frame at the beginning of what was received.

    Returns:
        Its opcode, its payload and its size; None when it is not there as a whole.

    Raises:
        LoadError: It is a part of a message, compressed, masked, or has 64 KiB or more.
    """
    if len(received) < 2:
        return None
    first, size, begin = received[0], received[1], 2
    if first & 0xF0 != 0x80 or size > 126:
        raise LoadError(f"expected a whole message below 64 KiB, plain and unmasked, got {received[:20]!r}")
    if size == 126:
        size, begin = int.from_bytes(received[2:4]), 4
    end = begin + size
    return (first & 0x0F, received[begin:end], end) if len(received) >= max(begin, end) else None


def check_upgrade(head: bytes) -> None:
    """Check the head of the response to an upgrade.

    Raises:
        LoadError: It is no upgrade, or there are extensions, which were not offered.
    """
    status, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    accepted = status.startswith(b"HTTP/1.1 101") and headers.get(b"sec-websocket-accept") == _ACCEPT
    if not accepted or b"sec-websocket-extensions" in headers:
        raise LoadError(f"expected an upgrade without extensions, got {head!r}")


# Inside.


@final
class _Meter:
    """Measures from its creation on."""

    def __init__(self, server: Server) -> None:
        self._pids = server.pid, os.getpid()
        self._began = time.perf_counter(), time.process_time(), [_waited_seconds(pid) for pid in self._pids]

    def read(self, done: int) -> Measurement:
        """Return what was done in a second."""
        began, busy, waited = self._began
        elapsed = time.perf_counter() - began
        waits = [_waited_seconds(pid) - before for pid, before in zip(self._pids, waited, strict=True)]
        return Measurement(done / elapsed, (time.process_time() - busy) / elapsed, max(waits) / elapsed)


@final
class _Window:
    """The time that counts: it opens after a quarter as much again, to warm up, and closes by itself."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.latencies: list[float] = []  # emptied when it opens
        self._server = server
        self._seconds = seconds
        self._next = time.perf_counter() + seconds / 4
        self._meter: _Meter | None = None
        self._before = 0
        self._measurement: Measurement | None = None

    def is_over(self, done: int) -> bool:
        """Tell whether it has closed; call it at every turn, with what was done until now."""
        now = time.perf_counter()
        if now < self._next:
            return False
        if self._meter is None:
            self._meter, self._before = _Meter(self._server), done
            self._next = now + self._seconds
            self.latencies.clear()
            return False
        self._measurement = self._meter.read(done - self._before)
        return True

    @property
    def measurement(self) -> Measurement:
        """What was done in a second, when it is over."""
        assert self._measurement is not None
        return self._measurement


@final
@define
class _Stream:
    """A connection, and what of its bytes nobody has taken yet."""

    sock: socket.socket
    received: bytes = b""
    upgraded: bool = False

    def fill(self) -> None:
        """Wait for more bytes."""
        chunk = self.sock.recv(4096)
        if not chunk:
            raise LoadError(f"the server closed the connection after {self.received!r}")
        self.received += chunk

    def take_upgrade(self) -> bool:
        """Take the response to an upgrade, if it is there."""
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if end:
            check_upgrade(head)
            self.received = rest
            self.upgraded = True
        return self.upgraded

    def read(self, size: int) -> bytes:
        """Wait for so many bytes, and take them."""
        while len(self.received) < size:
            self.fill()
        raw, self.received = self.received[:size], self.received[size:]
        return raw

    def read_frame(self) -> bytes:
        """Wait for a frame that is no ping, and take it."""
        while True:
            while (frame := split_frame(self.received)) is None:
                self.fill()
            opcode, _, size = frame
            raw = self.read(size)
            if opcode != PING:
                return raw


@final
@define
class _Subscriber:
    """A stream that hears a topic."""

    sock: socket.socket
    bursts: int = 0  # which it has as a whole
    offset: int = 0  # in the next: what has come of it

    def take(self, messages: bytes) -> bool:
        """Read on in a burst; return whether it is whole."""
        chunk = self.sock.recv(len(messages) - self.offset)
        _compare(chunk, messages, self.offset)
        self.offset = (self.offset + len(chunk)) % len(messages)
        return self.offset == 0


@final
@define
class _Loop:
    """A stream whose server sends back what it gets; `requests` and `replies` are one message, repeated."""

    sock: socket.socket
    requests: bytes
    request_size: int
    replies: bytes
    reply_size: int
    outstanding: int  # bytes of replies
    offset: int = 0  # in a reply: what has come of it
    sent_at: float = 0

    @classmethod
    def begin(cls, stream: _Stream, number: int, in_flight: int) -> _Loop:
        """Send a message, and learn its reply. Each number has its own, so that none gets another's unnoticed."""
        message = wire.message(wire.user(number))
        request = client_frame(wire.encode(message))
        stream.sock.sendall(request)
        reply = stream.read_frame()
        _verify(reply, message)
        if stream.received:
            raise LoadError(f"expected one reply to one message, got also {stream.received!r}")
        stream.sock.settimeout(0)  # with a timeout, Python polls before each call
        size = len(reply)
        return cls(stream.sock, request * in_flight, len(request), reply * (in_flight + 1), size, size * in_flight)


def _count(server: Server, seconds: float) -> Measurement:
    request = client_frame(wire.encode(wire.FLOOD))
    in_block = _CHUNK // len(request)
    block = request * in_block
    sent = 0
    with _opened(server, "/count", 1) as [stream]:
        # What the system holds for a slow server would have to be waited for at the end.
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        meter, end = _Meter(server), time.perf_counter() + seconds
        while time.perf_counter() < end:
            stream.sock.sendall(block)
            sent += in_block
        stream.sock.sendall(client_frame(wire.encode(wire.LAST)))
        reply = stream.read_frame()
        measurement = meter.read(sent)
    _verify(reply, {"count": sent})
    return measurement


@contextmanager
def _opened(server: Server, path: str, connections: int) -> Generator[list[_Stream]]:
    """Open so many streams, and close them without a word at the end: the server is going to be killed."""
    request = _upgrade(server.port, path)
    streams: list[_Stream] = []
    with ExitStack() as stack:
        while len(streams) < connections:
            batch = range(min(PARALLEL, connections - len(streams)))
            opening = [_Stream(stack.enter_context(closing(_connect(server.port)))) for _ in batch]
            for stream in opening:
                stream.sock.sendall(request)
            for stream in opening:
                while not stream.take_upgrade():
                    stream.fill()
            streams += opening
        yield streams


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _upgrade(port: int, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n"
    ).encode()


def _wait(poll: select.epoll) -> list[tuple[int, int]]:
    events = poll.poll(PATIENCE)
    if not events:
        raise LoadError(f"nothing has come for {PATIENCE:g} s")
    return events


def _compare(chunk: bytes, replies: bytes, offset: int) -> None:
    """Check that what came is what the repeated reply goes on with."""
    if not chunk:
        raise LoadError("the server closed the connection")
    if not replies.startswith(chunk, offset):
        expected = replies[offset : offset + len(chunk)]
        right = len(os.path.commonprefix([expected, chunk]))  # noqa: RUF071 - bytes, not paths
        raise LoadError(f"after {right} bytes: expected {expected[right:][:100]!r}, got {chunk[right:][:100]!r}")


def _verify(frame: bytes, expected: object) -> None:
    """Parse a reply."""
    split = split_frame(frame)
    if split is None or split[0] != TEXT or json.loads(split[1]) != expected:
        raise LoadError(f"expected a text frame of {expected!r}, got {frame!r}")


def _resident_bytes(server: Server) -> int:
    """Return what a server has in memory; the second figure is resident pages, see proc(5)."""
    return int(Path(f"/proc/{server.pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _waited_seconds(pid: int) -> float:
    """Return how long a thread has been ready to run and did not; the second figure, in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
