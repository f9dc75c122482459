"""Adopt a connection of hypercorn's Trio worker: the only file that knows hypercorn's insides.

Hypercorn listens, does TLS and HTTP, and calls the app with a `send`, which is a method of its stream. From there
it is two steps to the connection:

    send -> WSStream -> H11Protocol -> TCPServer -> the socket

With an upgrade the `Adopter` takes the place of the connection's protocol, as hypercorn itself puts HTTP/2 in the
place of HTTP/1.1, and hypercorn's read task, which calls it, is ours until the connection ends. Three rules:

- adopt before the upgrade is sent: sending it is a checkpoint, and hypercorn would parse what arrives meanwhile;
- nothing leaves `Adopter.handle` but a cancellation: anything else takes the whole worker down;
- whatever is not as expected is a reason to serve the stream over plain ASGI instead.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any, cast, final

import trio
from attrs import frozen
from h11 import SEND_RESPONSE
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import Handshake, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from streamrt.api.limits import Limits
from streamrt.errors import CloseCode
from streamrt.runtime.host import Host
from streamrt.wire.transport import Disconnected

from .hub import current_hub
from .line import Line, PlainLine, TLSLine
from .reading import HubReading, TaskReading
from .socket import SocketTransport

_logger = logging.getLogger("streamrt")

TOUCHED: Mapping[type, tuple[str, ...]] = {
    WSStream: ("send", "handle", "handshake", "connection", "closed"),
    Handshake: ("extensions", "subprotocols"),
    H11Protocol: ("send", "connection"),
    H11WSConnection: ("h11_connection",),
    TCPServer: ("stream", "protocol", "context", "config", "send_lock"),
    WorkerContext: ("terminated",),
    Config: ("graceful_timeout",),
}
"""All that is touched of hypercorn's insides: what of which class."""


@final
@frozen
class Parts:
    """What stands between hypercorn's `send` and a socket."""

    stream: WSStream
    http: H11Protocol
    server: TCPServer
    line: Callable[[], Line]


@final
@frozen
class Upgrade:
    """How a request is answered.

    Args:
        limits: Those of the stream.
        dialect: The subprotocol.
        extensions: Those that the client offers.
    """

    limits: Limits
    dialect: str | None
    extensions: Sequence[str] = ()


def parts_of(send: object) -> Parts | str:
    """Find the parts of the connection behind an ASGI `send`; return why it cannot be adopted if it cannot."""
    stream = getattr(send, "__self__", None)
    if not isinstance(stream, WSStream):
        return "another server than hypercorn serves it, or something stands between"
    http = getattr(getattr(stream, "send", None), "__self__", None)
    if isinstance(http, H2Protocol):
        return "it shares an HTTP/2 connection with others"
    server = getattr(getattr(http, "send", None), "__self__", None)
    if not isinstance(http, H11Protocol) or not isinstance(server, TCPServer):
        return "this hypercorn is built in another way"
    inner: list[Any] = [stream, http, getattr(http, "connection", None), server]
    inner += [getattr(stream, "handshake", None), getattr(server, "context", None)]
    for part in inner:
        kind = cast("type[object]", type(part))
        for name in TOUCHED.get(kind, ()):
            if not hasattr(part, name) and name != "connection":  # which begins with the upgrade
                return f"this hypercorn's {kind.__name__} has no {name!r}"
    # Hypercorn says that it is always an SSLStream.
    carrier: Any = server.stream
    if isinstance(carrier, trio.SocketStream):
        return Parts(stream, http, server, partial(PlainLine, carrier))
    if isinstance(carrier, trio.SSLStream) and isinstance(
        server.stream.transport_stream, cast("Any", trio.SocketStream)
    ):
        return Parts(stream, http, server, partial(TLSLine, server.stream))
    return f"its connection is a {type(carrier).__name__}, and not a socket"  # pyright: ignore[reportUnknownArgumentType]


def claim_answer(parts: Parts) -> bool:
    """Claim the answer to the request; return False when hypercorn has answered by itself, and nothing may be sent.

    It answers 400 when a client speaks before it may, and two answers, whichever comes first, would be an error in its
    read task and take the whole worker down. So from now on it hears nothing of the client.
    """
    connection = parts.http.connection
    answered = isinstance(connection, H11WSConnection) and connection.h11_connection.our_state is not SEND_RESPONSE
    if answered:
        parts.stream.closed = True
    else:
        parts.stream.handle = _ignore  # type: ignore[method-assign, assignment]
    return not answered


async def hang_up(parts: Parts) -> None:
    """End a connection on which hypercorn has answered by itself: it says that it will, and waits for the client to."""
    async with parts.server.send_lock:  # behind its answer
        await parts.http.send(Closed())


async def adopt(
    parts: Parts,
    upgrade: Upgrade,
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    host: Host,
) -> SocketTransport:
    """Send the upgrade, and take the connection over.

    Args:
        parts: The connection.
        upgrade: What is answered.
        send: ASGI's.
        host: What runs the stream: it drains when hypercorn begins to shut down.

    Raises:
        Disconnected: The client has gone.
    """
    if not claim_answer(parts):
        await hang_up(parts)
        raise Disconnected(CloseCode.ABNORMAL)
    limits = upgrade.limits
    agreed = None if limits.compression is None else limits.compression.negotiate(upgrade.extensions)
    extension, deflate = (None, None) if agreed is None else agreed
    headers = [] if extension is None else [(b"sec-websocket-extensions", extension.encode())]
    line = parts.line()
    transport = SocketTransport(line, limits, deflate)
    try:
        parts.stream.handshake.extensions = None  # hypercorn would accept every offer of compression
        dialect = upgrade.dialect
        parts.stream.handshake.subprotocols = None if dialect is None else [dialect]  # it knows the last line of offers
        adopter = Adopter(transport, line)
        parts.server.protocol = adopter  # type: ignore[assignment] # it has what is called of one
        await send({"type": "websocket.accept", "subprotocol": dialect, "headers": headers})
        if parts.stream.closed:  # the client had left, and nothing was sent
            raise Disconnected(CloseCode.ABNORMAL)
        # Hypercorn's own stream says and hears nothing any more, and need not keep what it said and heard it with.
        parts.stream.closed = True
        del parts.stream.connection
        parts.stream.send = _ignore
        adopter.take_over()
        host.expect_shutdown(parts.server.context.terminated.wait, parts.server.config.graceful_timeout)
        if transport.over.is_set():
            raise Disconnected(CloseCode.ABNORMAL)
    except BaseException:
        transport.abort(CloseCode.ABNORMAL, "")
        raise
    return transport


async def _ignore(_event: object) -> None: ...


@final
class Adopter:
    """Stands where the connection's protocol stood."""

    def __init__(self, transport: SocketTransport, line: Line) -> None:
        self._transport = transport
        self._line = line
        self._accepted = False

    def take_over(self) -> None:
        """Call hypercorn's read task in, now that the upgrade is sent.

        It waits for the client to say something. Told that the socket is about to be closed, it stops waiting,
        and calls `handle` for the last time.
        """
        self._accepted = True
        if not self._line.closed:
            self._line.interrupt()

    async def handle(self, event: Event) -> None:
        """Serve the connection until it ends, once hypercorn's read task has come with anything at all."""
        transport = self._transport
        try:
            if isinstance(event, RawData):
                transport.take(bytes(event.data))
            elif not self._accepted:
                transport.take(b"")  # the upgrade could not be sent
            if not transport.over.is_set():
                await self._read()
        except Exception:
            _logger.exception("reading from a connection failed")
            transport.give_up()

    async def _read(self) -> None:
        line, transport = self._line, self._transport
        hub = current_hub() if isinstance(line, PlainLine) else None
        if isinstance(line, PlainLine) and hub is not None:
            reading = HubReading(hub, line, transport)
            transport.read_by(reading)
            try:
                await transport.over.wait()
            finally:
                reading.stop()
        else:
            task = TaskReading(line, transport)
            transport.read_by(task)
            await task.run()
