"""A client's visit: how it connects, what it rolls its dice for, and what it checks."""

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import final

import trio
from attrs import define
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.uri import parse_uri

from streamrt import Client, Ended, Limits
from streamrt.api.stream import Stream
from tests.peers import CERTIFICATES, SocketPeer

from .server import Say, text_of

CUT = "cut off"
"""How a connection ends without a Close, as its client sees it."""

BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a client meets on a connection that is no more."""


@final
@define
class Visit:
    """One client's visit.

    Args:
        url: The server's.
        dice: For everything that is random.
        messages: Messages that came back, and were what they should be.
    """

    url: str
    dice: Random
    messages: int = 0

    @property
    def client(self) -> Client:
        """A typed client."""
        # Its patience is not what is looked at: both processes share the machine, and with others.
        limits = Limits(send_timeout=30, close_timeout=10)
        return Client(self.url, ssl_context=CERTIFICATES.trusting, connect_timeout=30, limits=limits)

    @asynccontextmanager
    async def connect(
        self, path: str, *, compressed: bool = False, receive_buffer: int | None = None, abrupt: bool = False
    ) -> AsyncGenerator[SocketPeer]:
        """Connect a client without types, and without manners."""
        async with self.connect_stream(receive_buffer=receive_buffer, abrupt=abrupt) as stream:
            factory = ClientPerMessageDeflateFactory(client_max_window_bits=True)
            uri = parse_uri(self.url.replace("http", "ws", 1) + path)
            peer = SocketPeer(stream, ClientProtocol(uri, extensions=[factory] if compressed else None))
            await peer.shake_hands(None, None)
            yield peer

    @asynccontextmanager
    async def connect_stream(
        self, *, receive_buffer: int | None = None, abrupt: bool = False
    ) -> AsyncGenerator[trio.SocketStream | trio.SSLStream[trio.SocketStream]]:
        """Connect without a word of HTTP.

        Args:
            receive_buffer: In bytes; with a small one the server notices soon who does not read.
            abrupt: Whether the connection ends with an RST, whenever it is left.
        """
        uri = parse_uri(self.url.replace("http", "ws", 1))
        raw = trio.socket.socket()
        with raw:
            if receive_buffer is not None:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if abrupt:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await raw.connect((uri.host, uri.port))
            tcp = trio.SocketStream(raw)
            if not uri.secure:
                yield tcp
                return
            stream = trio.SSLStream(tcp, CERTIFICATES.trusting, server_hostname=uri.host, https_compatible=True)
            await stream.do_handshake()
            yield stream

    async def pause(self, seconds: float) -> None:
        """Think for a while, of up to so many seconds."""
        await trio.sleep(self.dice.uniform(0, seconds))

    def check(self, message: Say, number: int, size: int) -> None:
        """Check that a message is the one that was to come."""
        expected = Say(number, text_of(number, size))
        assert message == expected, f"message {number}: {_brief(expected)} was to come, not {_brief(message)}"
        self.messages += 1


Kind = Callable[[Visit], Awaitable[str]]


def _brief(message: Say) -> str:
    return f"{message.number} {message.text[:20]!r} ({len(message.text)})"


def code_of(stream: Stream) -> str:
    """Say how a typed stream ended."""
    assert stream.ended is not None
    return str(stream.ended.code)


def ending_of(ended: Ended, *expected: int) -> str:
    """Say how a connection ended, which was to be in one of these ways, or in any."""
    assert not expected or ended.code in expected, f"it ended with {ended}, not {expected}"
    return CUT if ended.code == 1006 else str(ended.code)
