"""The byte stream of a connection, plain or through TLS: what a `SocketTransport` reads from and writes to.

What has begun to go out and is not out yet is `rest`, and nothing else goes out before it: so a frame that was
interrupted is finished, or nothing follows it.

A line ends in one of two ways. `close` is for one that has said all it had to say: the kernel still delivers what it
has taken. `reset` is for one that has not: the peer gets an RST, at once.
"""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import final

import trio
from attrs import frozen

READ_BYTES = 16 * 1024
"""What one read takes: so much that bulk costs few system calls, and so little that others get their turn."""

WRITE_BYTES = 64 * 1024
"""What one write through TLS takes: after each it is seen whether the peer reads."""

LAST_READS = 16
"""Reads of what a peer has still sent, when its line is about to be closed."""

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: an RST instead of lingering
_TCP_INFO = struct.Struct("=B23xI92xQ16xI")  # tcpi_state, _unacked, _bytes_acked and _notsent_bytes of <linux/tcp.h>
_ESTABLISHED = 1
_NOTHING = memoryview(b"")  # `rest` when there is none

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What reading and writing raise when the line is no more."""


def _note_nothing() -> None: ...


@final
@frozen
class Condition:
    """What the kernel knows of a connection.

    Args:
        departed: Whether the peer has ended it, although not everything it sent has been read.
        outstanding: Whether bytes are on their way that the peer's system has not acknowledged.
        acknowledged: How many bytes it has acknowledged so far.
    """

    departed: bool
    outstanding: bool
    acknowledged: int


class Line(ABC):
    """One connection's bytes. Its calls raise `BROKEN`, except those that end it."""

    __slots__ = ("_raw", "_socket", "closed", "moved", "rest")

    def __init__(self, tcp: trio.SocketStream) -> None:
        self._socket = tcp.socket
        # The same socket again, because Trio's has no call that does not wait; `detach` gives it back.
        self._raw = socket.socket(tcp.socket.family, tcp.socket.type, tcp.socket.proto, tcp.socket.fileno())
        self._raw.setblocking(False)  # noqa: FBT003 - it takes nothing else
        self.closed: bool = False
        self.rest: memoryview = _NOTHING
        self.moved: Callable[[], None] = _note_nothing  # called when the socket has taken some of it

    @abstractmethod
    async def send(self, data: bytes | memoryview) -> None:
        """Write bytes, and wait until the socket has taken them; the `rest` must have gone before, or be among them."""

    @abstractmethod
    async def flush(self) -> None:
        """Write the `rest`."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for bytes; there are none when the peer has said that nothing more comes."""

    def condition(self) -> Condition | None:
        """Ask the kernel about the connection; None where it does not tell: outside of Linux, or not TCP."""
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
            state, unacked, acknowledged, not_sent = _TCP_INFO.unpack(info)
        except (AttributeError, OSError, struct.error):
            return None
        return Condition(state != _ESTABLISHED, unacked > 0 or not_sent > 0, acknowledged)

    def interrupt(self) -> None:
        """Wake who waits for the socket, with a `trio.ClosedResourceError`, and leave it open."""
        trio.lowlevel.notify_closing(self._socket)

    def shutdown(self) -> None:
        """Tell the peer that nothing more comes, and go on reading."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close behind what was written. Safe to repeat."""
        if not self.closed:
            self.shutdown()
            # Of bytes that were never read the kernel makes an RST, and that overtakes what was written.
            with suppress(OSError):
                for _ in range(LAST_READS):
                    if not self._raw.recv(READ_BYTES):
                        break
            self._let_go()

    def reset(self) -> None:
        """Close at once, with an RST. Safe to repeat."""
        if not self.closed:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._let_go()

    def _hold(self, rest: memoryview) -> None:
        self.rest = rest

    def _let_go(self) -> None:
        self.closed = True
        self._raw.detach()
        self._socket.close()


@final
class PlainLine(Line):
    """A TCP connection without TLS: reads and writes without a task, as long as the socket is ready."""

    __slots__ = ()

    def fileno(self) -> int:
        """Return the descriptor, for who waits for the socket to be readable."""
        return self._raw.fileno()

    def receive_nowait(self) -> bytes | None:
        """Return what can be read this instant; None when that is nothing."""
        try:
            return self._raw.recv(READ_BYTES)
        except BlockingIOError:
            return None

    def send_nowait(self, data: bytes) -> bool:
        """Write what the socket takes this instant, when there is no `rest`; return whether that was all."""
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._hold(memoryview(data)[sent:])
        return False

    async def send(self, data: bytes | memoryview) -> None:
        """Write bytes; see `Line.send`."""
        self._hold(memoryview(data))
        await self.flush()

    async def flush(self) -> None:
        """Write the `rest`; a cancellation leaves it as it is then, and it may be flushed again."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.rest:
            try:
                self._hold(self.rest[self._raw.send(self.rest) :])
                self.moved()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._raw)

    async def receive(self) -> bytes:
        """Wait for bytes; see `Line.receive`."""
        while (data := self.receive_nowait()) is None:
            await trio.lowlevel.wait_readable(self._raw)
        return data


@final
class TLSLine(Line):
    """A connection through TLS: Trio's stream does the work."""

    __slots__ = ("_stream", "_turns")

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        super().__init__(stream.transport_stream)
        self._stream = stream
        self._turns = trio.StrictFIFOLock()  # the writer's, and those of who answers a Close

    async def send(self, data: bytes | memoryview) -> None:
        """Write bytes; see `Line.send`."""
        async with self._turns:
            self._hold(memoryview(data))
            while self.rest:
                await self._stream.send_all(self.rest[:WRITE_BYTES])
                self._hold(self.rest[WRITE_BYTES:])
                self.moved()

    async def flush(self) -> None:
        """Wait for who writes; after an interruption nobody knows how much is out, and nothing can follow."""
        async with self._turns:
            interrupted = bool(self.rest)
        if interrupted:
            raise trio.BrokenResourceError("a write through TLS was interrupted")

    async def receive(self) -> bytes:
        """Wait for bytes; see `Line.receive`."""
        return bytes(await self._stream.receive_some(READ_BYTES))
