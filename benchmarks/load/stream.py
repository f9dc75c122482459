"""Connections of the load generator: frames that are made before the clock runs, and bytes that are compared.

Three things are spoken over TCP. A WebSocket is opened with an upgrade. Socket.IO opens one too, exchanges two packets
over it, and packs its messages into events. What is no server at all speaks bare frames, behind a line with the path.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TypeAlias, final

from attrs import define

from . import wire
from .meter import LoadError, Server

PATIENCE = 10.0
"""Seconds without any progress that a server is waited for; the slowest needs a tenth of one."""

PARALLEL = 20
"""Handshakes that are under way at a time while many streams are opened; more do not make it faster."""

TEXT, CLOSE, PING = 0x1, 0x8, 0x9

Opening: TypeAlias = Generator[None, None, None]
"""The steps of opening a stream: it goes on whenever more bytes have come, and ends when the stream is open."""

_MASK = bytes.fromhex("37fa213d")  # any will do but zeros; this is the one of RFC 6455, 5.7

# The key of RFC 6455, 1.3, and the answer to it: servers have to calculate it, and we have not.
_KEY, _ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

_EVENT = '42["message",%s]'  # Engine.IO's message, Socket.IO's event


class Stuck(LoadError):
    """Nothing comes any more."""


@final
@define
class Stream:
    """A connection, and what of its bytes nobody has taken yet."""

    sock: socket.socket
    server: Server
    received: bytes = b""

    def request(self, payload: bytes) -> bytes:
        """Return the bytes that send a message to this server."""
        match self.server.speech:
            case "websocket":
                return client_frame(payload)
            case "socket.io":
                return client_frame((_EVENT % payload.decode()).encode())
            case "bare":
                return wire.frame(payload)

    def check(self, frame: bytes, expected: object) -> None:
        """Parse a reply, and check that it is a message with this value.

        Raises:
            LoadError: It is not.
        """
        split = split_frame(frame)
        if split is None or split[0] != TEXT or self._parse(split[1]) != expected:
            raise LoadError(f"expected a text frame of {expected!r:.200}, got {frame[:200]!r}")

    def open(self, path: str) -> Opening:
        """Open it, step by step."""
        if self.server.speech == "bare":
            self.sock.sendall(f"{path}\n".encode())
            return
        target = "/socket.io/?EIO=4&transport=websocket" if self.server.speech == "socket.io" else path
        self.sock.sendall(
            f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self.received:
            yield
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        check_upgrade(head)
        if self.server.speech == "socket.io":
            yield from self._expect(b"0{")
            self.sock.sendall(client_frame(b"40"))
            yield from self._expect(b"40{")
            self.sock.sendall(client_frame(b"42" + json.dumps(path.split("/")[1:]).encode()))

    def fill(self) -> None:
        """Wait for more bytes."""
        try:
            chunk = self.sock.recv(1 << 18)
        except TimeoutError:
            raise Stuck(f"nothing has come for {self.sock.gettimeout():g} s") from None
        if not chunk:
            raise LoadError(f"the server closed the connection after {self.received!r:.200}")
        self.received += chunk

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

    def _expect(self, beginning: bytes) -> Opening:
        while (frame := split_frame(self.received)) is None:
            yield
        _, payload, size = frame
        if not payload.startswith(beginning):
            raise LoadError(f"expected a packet that begins with {beginning!r}, got {payload!r:.200}")
        self.received = self.received[size:]

    def _parse(self, payload: bytes) -> object:
        if self.server.speech != "socket.io":
            return json.loads(payload)
        event = json.loads(payload.removeprefix(b"42"))
        return event[1] if event[0] == "message" else None


@contextmanager
def opened(server: Server, path: str, connections: int, receive_buffer: int | None = None) -> Generator[list[Stream]]:
    """Open so many streams, and close them without a word at the end: the server is going to be killed."""
    streams: list[Stream] = []
    with ExitStack() as stack:
        while len(streams) < connections:
            streams += open_some(server, path, min(PARALLEL, connections - len(streams)), stack, receive_buffer)
        yield streams


def open_some(
    server: Server, path: str, connections: int, stack: ExitStack, receive_buffer: int | None = None
) -> list[Stream]:
    """Open so many streams side by side; they are closed with the stack."""
    streams = [
        Stream(stack.enter_context(closing(connect(server, receive_buffer))), server) for _ in range(connections)
    ]
    steps = [stream.open(path) for stream in streams]
    for step in steps:
        next(step, None)
    for stream, step in zip(streams, steps, strict=True):
        finish(stream, step)
    return streams


def finish(stream: Stream, opening: Opening) -> None:
    """Wait until a stream is open that has been begun."""
    while True:
        try:
            next(opening)
        except StopIteration:
            return
        stream.fill()


def connect(server: Server, receive_buffer: int | None = None) -> socket.socket:
    """Connect to a server.

    Args:
        server: It.
        receive_buffer: Bytes that the system takes for who does not read. Default: as the system likes.
    """
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.connect(("127.0.0.1", server.port))
    return sock


def wait(poll: select.epoll, patience: float | None = None) -> list[tuple[int, int]]:
    """Wait until something has come.

    Args:
        poll: For whom.
        patience: Seconds. Default: `PATIENCE`.

    Raises:
        Stuck: Nothing has come for so long.
    """
    seconds = PATIENCE if patience is None else patience
    events = poll.poll(seconds)
    if not events:
        raise Stuck(f"nothing has come for {seconds:g} s")
    return events


def client_frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a masked frame, as clients send it (RFC 6455, 5.2)."""
    size = len(payload)
    mask = (_MASK * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)
    return bytes([0x80 | opcode]) + _length(size, 0x80) + _MASK + masked


def _length(size: int, masked: int) -> bytes:
    if size < 126:
        return bytes([masked | size])
    return bytes([masked | 126]) + size.to_bytes(2) if size < 1 << 16 else bytes([masked | 127]) + size.to_bytes(8)


def split_frame(received: bytes) -> tuple[int, bytes, int] | None:
    """Find a server's frame at the beginning of what was received.

    Returns:
        Its opcode, its payload and its size; None when it is not there as a whole.

    Raises:
        LoadError: It is a part of a message, compressed, or masked.
    """
    if len(received) < 2:
        return None
    first, size, begin = received[0], received[1], 2
    if first & 0xF0 != 0x80 or size > 127:
        raise LoadError(f"expected a whole message, plain and unmasked, got {received[:20]!r}")
    if size > 125:
        begin = 4 if size == 126 else 10
        size = int.from_bytes(received[2:begin])
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


def compare(chunk: bytes, replies: bytes, offset: int) -> None:
    """Check that what came is what the repeated reply goes on with.

    Raises:
        LoadError: It is not, or nothing came.
    """
    if not chunk:
        raise LoadError("the server closed the connection")
    if not replies.startswith(chunk, offset):
        expected = replies[offset : offset + len(chunk)]
        right = len(os.path.commonprefix([expected, chunk]))  # noqa: RUF071 - bytes, not paths
        raise LoadError(f"after {right} bytes: expected {expected[right:][:100]!r}, got {chunk[right:][:100]!r}")


def same(frames: Sequence[bytes]) -> int:
    """Return the size of frames that all have the same.

    Raises:
        LoadError: They have not.
    """
    sizes = {len(frame) for frame in frames}
    if len(sizes) != 1:
        raise LoadError(f"expected messages of one size, got {sorted(sizes)}")
    return sizes.pop()
