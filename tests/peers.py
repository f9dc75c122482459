"""A peer over a real socket: the sans-I/O core of `websockets`, and no manners; and frames as such peers write them."""

import atexit
import json
import shutil
import socket
import ssl
import struct
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import trio
import trustme
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions import ClientExtensionFactory
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri
from websockets.utils import apply_mask

from streamrt.errors import Ended, error_from_response


class Peer(Protocol):
    """What `streamrt.testing.Peer` and `SocketPeer` have in common."""

    ended: Ended | None

    async def send(self, payload: str | bytes) -> None: ...
    async def receive(self) -> str | bytes: ...
    async def closed(self) -> Ended: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    def vanish(self) -> None: ...


class Certificates:
    """A server's certificate for loopback, and the client's trust in it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.trusting = ssl.create_default_context()
        authority.configure_trust(self.trusting)
        self._certificate = authority.issue_cert("127.0.0.1")
        self.serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._certificate.configure_cert(self.serving)

    @cached_property
    def files(self) -> tuple[str, str]:
        """The names of the certificate's and the key's file, which are deleted at the end of the process."""
        directory = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, directory)
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(b"".join(pem.bytes() for pem in self._certificate.cert_chain_pems))
        key.write_bytes(self._certificate.private_key_pem.bytes())
        return str(chain), str(key)


CERTIFICATES = Certificates()


MASK = b"mask"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """Return a frame as clients write it: masked. What is in it need not make sense."""
    first, size = fin << 7 | reserved << 4 | opcode, len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + MASK + apply_mask(payload, MASK)


def text(payload: str) -> bytes:
    return frame(Opcode.TEXT, payload.encode())


def closing(code: int = 1000, reason: str = "") -> bytes:
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


def cut_off(connection: trio.socket.SocketType) -> None:
    """End a connection with an RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


SocketOrTLS: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class SocketPeer:
    """One WebSocket over TCP or TLS, frame by frame.

    Nothing but its reading answers a Ping or a Close; and when it is `mute`, nothing does.
    """

    def __init__(self, stream: SocketOrTLS, protocol: ClientProtocol) -> None:
        self.stream = stream
        self.socket = (stream if isinstance(stream, trio.SocketStream) else stream.transport_stream).socket
        self.protocol = protocol
        self.ended: Ended | None = None
        self.mute = False
        self._received: deque[str | bytes] = deque()

    async def send(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            self.protocol.send_text(payload.encode())
        else:
            self.protocol.send_binary(payload)
        await self._flush()

    async def receive(self) -> str | bytes:
        while not self._received:
            if self.ended is not None:
                raise trio.EndOfChannel
            await self._read()
        return self._received.popleft()

    async def closed(self) -> Ended:
        while True:
            try:
                await self.receive()
            except trio.EndOfChannel:
                assert self.ended is not None
                return self.ended

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.protocol.send_close(code, reason)
        await self._flush()

    def vanish(self) -> None:
        cut_off(self.socket)

    async def hear(self) -> list[Frame]:
        """Return what comes next, and answer none of it."""
        data = await self.stream.receive_some()
        assert data
        self.protocol.receive_data(data)
        return [event for event in self.protocol.events_received() if isinstance(event, Frame)]

    def request(self, headers: Mapping[str, str] | None = None, host: str | None = None) -> bytes:
        """Return the request for the upgrade, for whoever sends it."""
        request = self.protocol.connect()
        request.headers.update(headers or {})
        if host is not None:
            del request.headers["Host"]
            request.headers["Host"] = host
        self.protocol.send_request(request)
        return b"".join(self.protocol.data_to_send())

    async def shake_hands(self, headers: Mapping[str, str] | None = None, host: str | None = None) -> None:
        await self.stream.send_all(self.request(headers, host))
        while self.protocol.state is State.CONNECTING and self.protocol.handshake_exc is None:
            await self._read()
        if isinstance(self.protocol.handshake_exc, InvalidStatus):
            response = self.protocol.handshake_exc.response
            assert response.headers["content-type"] == "application/json"
            raise error_from_response(response.status_code, json.loads(response.body))
        assert self.protocol.handshake_exc is None, self.protocol.handshake_exc

    async def _read(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._received.append(bytes(event.data).decode() if event.opcode is Opcode.TEXT else bytes(event.data))
        await self._flush()
        if not data:
            code = self.protocol.close_code or 1006
            self.ended = Ended("peer", code, self.protocol.close_reason or "")

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            try:
                if self.mute:
                    continue
                if data:
                    await self.stream.send_all(data)
                elif isinstance(self.stream, trio.SocketStream):
                    await self.stream.send_eof()
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def dial(
    url: str, *, subprotocols: list[str] | None = None, extensions: Sequence[ClientExtensionFactory] | None = None
) -> AsyncGenerator[SocketPeer]:
    """Connect to ``http://host:port/path?query``, and say nothing yet."""
    uri = parse_uri(url.replace("http", "ws", 1))
    protocol = ClientProtocol(uri, subprotocols=subprotocols, extensions=extensions, max_size=None)  # type: ignore[arg-type]
    tcp = await trio.open_tcp_stream(uri.host, uri.port)
    stream: SocketOrTLS = tcp
    if uri.secure:
        stream = trio.SSLStream(tcp, CERTIFICATES.trusting, server_hostname=uri.host, https_compatible=True)
    async with stream:
        yield SocketPeer(stream, protocol)


@asynccontextmanager
async def connect_socket(
    url: str, *, headers: Mapping[str, str] | None = None, host: str | None = None, **options: Any
) -> AsyncGenerator[SocketPeer]:
    """Connect as `dial` does, and open the WebSocket; a refusal is raised as the APIError in its body."""
    async with dial(url, **options) as peer:
        await peer.shake_hands(headers, host)
        yield peer
