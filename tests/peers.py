"""A peer over a real socket: the sans-I/O core of `websockets`, and no manners."""

import json
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from streamrt.errors import Ended, error_from_response


class Peer(Protocol):
    """What `streamrt.testing.Peer` and `SocketPeer` have in common."""

    ended: Ended | None

    async def send(self, payload: str | bytes) -> None: ...
    async def receive(self) -> str | bytes: ...
    async def closed(self) -> Ended: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...
    def vanish(self) -> None: ...


class SocketPeer:
    """One WebSocket over TCP, frame by frame."""

    def __init__(self, stream: trio.SocketStream, protocol: ClientProtocol) -> None:
        self.stream = stream
        self.protocol = protocol
        self.ended: Ended | None = None
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
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def shake_hands(self, headers: Mapping[str, str] | None, host: str | None) -> None:
        request = self.protocol.connect()
        request.headers.update(headers or {})
        if host is not None:
            del request.headers["Host"]
            request.headers["Host"] = host
        self.protocol.send_request(request)
        await self._flush()
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
                self._received.append(event.data.decode() if event.opcode is Opcode.TEXT else bytes(event.data))
        await self._flush()
        if not data:
            code = self.protocol.close_code or 1006
            self.ended = Ended("peer", code, self.protocol.close_reason or "")

    async def _flush(self) -> None:
        for data in self.protocol.data_to_send():
            try:
                await (self.stream.send_all(data) if data else self.stream.send_eof())
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def connect_socket(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    subprotocols: list[str] | None = None,
    host: str | None = None,
) -> AsyncGenerator[SocketPeer]:
    """Connect to ``http://host:port/path?query``; a refusal is raised as the APIError in its body."""
    uri = parse_uri(url.replace("http", "ws", 1))
    protocol = ClientProtocol(uri, subprotocols=subprotocols)  # type: ignore[arg-type]
    stream = await trio.open_tcp_stream(uri.host, uri.port)
    async with stream:
        peer = SocketPeer(stream, protocol)
        await peer.shake_hands(headers, host)
        yield peer
