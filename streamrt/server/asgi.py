"""Streams over plain ASGI: any server, and the fallback under hypercorn.

What ASGI cannot do, a stream here cannot have: a `send` that hangs in the server cannot be cut short, the
peer's close code is what the server says it was, and there is no abort.
"""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, final
from urllib.parse import quote

import trio

from streamrt.errors import APIError, CloseCode
from streamrt.runtime.admission import Admitted, Incoming
from streamrt.runtime.host import Host
from streamrt.runtime.scopes import lone_error
from streamrt.wire.dialect import STREAMRT_V1, Headers
from streamrt.wire.transport import Disconnected, Frame, Payload, PullTransport, Transport

from .hypercorn import Parts, Upgrade, adopt, claim_answer, hang_up, parts_of
from .refusal import is_in_band, refuse
from .socket import SocketTransport

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_logger = logging.getLogger("streamrt")


@final
class ASGITransport(PullTransport):
    """A stream on the `receive` and `send` of a WebSocket scope, once it is accepted."""

    __slots__ = ("_closed", "_disconnected", "_receive", "_send")

    name = "asgi"

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._closed = False
        self._disconnected: Disconnected | None = None

    async def receive(self) -> Sequence[Payload]:
        """Wait for the next message: ASGI knows no batches; see `Transport.receive`."""
        if self._disconnected is None:
            event = await self._receive()
            if event["type"] == "websocket.receive":
                text = event.get("text")
                return (event["bytes"] if text is None else text,)
            self._disconnected = Disconnected(event.get("code", CloseCode.NO_STATUS), event.get("reason") or "")
        raise self._disconnected

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send messages; see `Transport.send`."""
        for frame in frames:
            if self._disconnected is not None:
                raise self._disconnected
            kind = "text" if isinstance(frame.message, str) else "bytes"
            await self.call({"type": "websocket.send", kind: frame.message})

    async def close(self, code: int, reason: str) -> None:
        """Send a Close; see `Transport.close`."""
        if not self._closed and self._disconnected is None:
            self._closed = True
            with suppress(Disconnected):
                await self.call({"type": "websocket.close", "code": code, "reason": reason})

    async def wait_closed(self) -> None:
        """Read on until the server says that the peer has disconnected; see `Transport.wait_closed`."""
        try:
            while True:
                await self.receive()
        except Disconnected:
            pass

    def abort(self, code: int, reason: str) -> None:
        """Do nothing: ASGI servers let go when the application returns."""

    async def call(self, message: Message) -> None:
        """Say something to the server.

        Raises:
            Disconnected: The client is gone, which ASGI says with an `OSError`.
        """
        try:
            await self._send(message)
        except OSError as error:
            self._disconnected = Disconnected(CloseCode.ABNORMAL)
            raise self._disconnected from error


async def serve_websocket(host: Host, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one WebSocket scope: on hypercorn's connection, or else over ASGI's messages.

    A client that leaves while it is being admitted is let go at once, with its place among the streams.
    """
    parts = parts_of(send)
    watching = trio.CancelScope()
    adopted: SocketTransport | None = None

    async def watch(admission: trio.CancelScope) -> None:
        with watching:
            await receive()  # before the upgrade there is nothing to come but websocket.disconnect
            admission.cancel()

    async def accept(admitted: Admitted) -> Transport:
        watching.cancel()
        if isinstance(parts, str):
            _tell_fallback(parts)
        request = admitted.request
        offers = [value for name, value in request.headers if name == "sec-websocket-extensions"]
        return await upgrade(Upgrade(admitted.limits, request.dialect, offers))

    async def upgrade(answer: Upgrade) -> Transport:
        nonlocal adopted
        if isinstance(parts, Parts):
            adopted = await adopt(parts, answer, send, host)
            return adopted
        transport = ASGITransport(receive, send)
        await transport.call({"type": "websocket.accept", "subprotocol": answer.dialect})
        return transport

    await receive()  # websocket.connect
    for _ in range(2):  # what has come with the request is seen by hypercorn first
        await trio.lowlevel.checkpoint()
    incoming = _incoming(scope, SocketTransport.name if isinstance(parts, Parts) else ASGITransport.name)
    try:
        if not host.admission.waits:
            await host.handle(incoming, accept)
            return
        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, nursery.cancel_scope)
                await host.handle(incoming, accept)
                watching.cancel()
    except APIError as error:
        if is_in_band(incoming):
            limits = host.admission.app_limits
            with suppress(Disconnected):
                await refuse(await upgrade(Upgrade(limits, STREAMRT_V1)), error, limits.close_timeout)
        elif isinstance(parts, Parts) and not claim_answer(parts):
            await hang_up(parts)
        else:
            with suppress(OSError):  # the client is gone
                await _refuse(error, scope, send)
    finally:
        if adopted is not None:
            adopted.abort(CloseCode.ABNORMAL, "")  # which its session has closed, if it came to that


@functools.cache
def _tell_fallback(reason: str) -> None:
    _logger.warning("a stream is served over plain ASGI, with fewer guarantees, because %s", reason)


async def serve_lifespan(host: Host, receive: Receive, send: Send) -> None:
    """Serve the lifespan scope: the app's resources are held from startup to shutdown."""
    await receive()  # lifespan.startup
    started = False
    try:
        async with host.running():
            started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
    except Exception as error:
        _logger.exception("the app's lifespan failed")
        if started:
            raise
        await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
    else:
        await send({"type": "lifespan.shutdown.complete"})


async def serve_plain(host: Host, scope: Scope, send: Send) -> None:
    """Answer an HTTP request that asks for no upgrade: there is nothing for it, though it may have meant a stream."""
    error = APIError.not_found("endpoint not found")
    if scope["method"] == "GET" and host.admission.exposed.match(_path(scope)) is not None:
        error = APIError.invalid_argument(
            "this is a stream, for a WebSocket: the request needs `Connection: Upgrade` and `Upgrade: websocket`"
        )
    await _respond(error, "http.response", send)


def _incoming(scope: Scope, transport: str) -> Incoming:
    headers = [(name.decode("latin-1").lower(), _decode(value)) for name, value in scope["headers"]]
    client = scope.get("client")
    # Over ASGI the answer has to be from the server's own list, in which hypercorn has the last of several lines.
    adopted = transport == SocketTransport.name
    return Incoming(
        path=_path(scope),
        query_string=scope["query_string"].decode("latin-1"),
        headers=headers,
        subprotocols=_offered(headers) if adopted else scope["subprotocols"],
        peer=None if client is None else (client[0], client[1]),
        transport=transport,
    )


def _path(scope: Scope) -> str:
    raw_path = scope.get("raw_path")
    path: str = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    return path.removeprefix(quote(scope.get("root_path", ""))) or "/"


def _offered(headers: Headers) -> list[str]:
    """Read the subprotocols that a client offers, on however many lines (RFC 6455, 11.3.4)."""
    lines = [value for name, value in headers if name == "sec-websocket-protocol"]
    return [offer.strip() for line in lines for offer in line.split(",")]


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _refuse(error: APIError, scope: Scope, send: Send) -> None:
    if "websocket.http.response" in scope.get("extensions", {}):
        await _respond(error, "websocket.http.response", send)
    else:
        await send({"type": "websocket.close", "code": error.close_code, "reason": error.reason()})


async def _respond(error: APIError, kind: str, send: Send) -> None:
    body = json.dumps(error.to_json(), ensure_ascii=False, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"private, no-store"),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after)))
    await send({"type": f"{kind}.start", "status": error.http_status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
