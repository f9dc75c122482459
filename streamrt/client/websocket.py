"""A client's WebSocket: trio-websocket as a transport.

trio-websocket does the handshake and the framing. The socket stays ours: its client leaves it to the
garbage collector when the server closes first, and a refusal has to be read as the error it is. Refusals are asked for
in HTTP: in band, nobody could tell a refused stream from an open one before something comes.

The heartbeat is part of reading: a server that is silent is asked whether it is still there, and whatever comes is an
answer. So it costs no task, and a server that this end does not listen to is not taken for silent.
"""

from __future__ import annotations

import json
import math
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import final
from urllib.parse import urlsplit

import trio
import trio_websocket
from wsproto.events import CloseConnection, Event, Ping
from wsproto.utilities import LocalProtocolError

from streamrt.api.limits import Limits
from streamrt.errors import APIError, error_from_response
from streamrt.runtime.scopes import lone_error
from streamrt.wire.dialect import ENCORE_WS, REFUSALS, STREAMRT_V1
from streamrt.wire.transport import Disconnected, Frame, Payload, PullTransport

from .connector import Connector, Target

_QUEUE = 64
"""Messages that trio-websocket parses ahead: it asks for a number, and 1 would cost a task switch for each."""


@final
class WebSocketTransport(PullTransport):
    """A stream on a trio-websocket connection."""

    __slots__ = ("_stream", "_torn", "_websocket")

    name = "websocket"

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: _Stream) -> None:
        self._websocket = websocket
        self._stream = stream
        self._torn = False  # a send was cancelled, perhaps in the middle of a frame

    @property
    def heard(self) -> float:
        """When something has come; see `PullTransport.heard`."""
        return self._stream.heard

    async def receive(self) -> Sequence[Payload]:
        """Wait for the next message; see `Transport.receive`."""
        try:
            return (await self._websocket.get_message(),)
        except trio_websocket.ConnectionClosed as closed:
            raise self._disconnected(closed) from None

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send messages; see `Transport.send`."""
        self._torn = True
        try:
            for frame in frames:
                await self._websocket.send_message(frame.message)
        except trio_websocket.ConnectionClosed as closed:
            raise self._disconnected(closed) from None
        self._torn = False

    async def close(self, code: int, reason: str) -> None:
        """Send a Close and await the peer's; see `Transport.close`."""
        if not self._torn:
            await self._websocket.aclose(code, reason)

    async def wait_closed(self) -> None:
        """Do nothing: `close` has waited."""

    def abort(self, code: int, reason: str) -> None:
        """Close the socket; see `Transport.abort`."""
        self._stream.abort()

    def _disconnected(self, closed: trio_websocket.ConnectionClosed) -> Disconnected:
        assert closed.reason is not None  # it is None before a connection is closed
        return Disconnected(closed.reason.code, closed.reason.reason or self._stream.silence)


@final
class WebSocketConnector(Connector):
    """Connects to a server by its URL.

    Args:
        url: ``ws://``, ``wss://``, ``http://`` or ``https://``, and a path if the app is mounted under one.
        ssl_context: For ``wss`` and ``https``. Default: the system's authorities.
        limits: The largest message taken, and the times of the heartbeat.
    """

    def __init__(self, url: str, *, ssl_context: ssl.SSLContext | None, limits: Limits) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"a server's URL is like 'ws://host:port' or 'https://host/path', not {url!r}")
        self._tls = parts.scheme in ("wss", "https")
        self._host = parts.hostname
        self._netloc = parts.netloc.rpartition("@")[2]
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._ssl_context = ssl.create_default_context() if self._tls and ssl_context is None else ssl_context
        self._limits = limits

    def __str__(self) -> str:
        return self._netloc

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[PullTransport, str | None]]:
        """Connect for as long as the block lasts; see `Connector.connect`."""
        stream = await self._open_stream(target.deadline)
        try:
            with lone_error():
                async with trio.open_nursery() as nursery:
                    websocket, reading = await nursery.start(self._run, stream, target)
                    try:
                        yield WebSocketTransport(websocket, stream), websocket.subprotocol
                    finally:
                        reading.cancel()
        except Exception as error:
            if stream.established or isinstance(error, (APIError, trio.TooSlowError)):
                raise  # it is the block's own
            raise self._explain(error, stream.head) from error
        finally:
            stream.abort()

    async def _open_stream(self, deadline: float) -> _Stream:
        try:
            with trio.fail_at(deadline):
                tcp = await trio.open_tcp_stream(self._host, self._port)
        except OSError as error:
            raise APIError.unavailable(f"cannot connect to {self._netloc}: {error}") from error
        if not self._tls:
            return _Stream(tcp, tcp, self._limits)
        assert self._ssl_context is not None
        tls = trio.SSLStream(tcp, self._ssl_context, server_hostname=self._host, https_compatible=True)
        try:
            with trio.fail_at(deadline):
                await tls.do_handshake()
        except trio.BrokenResourceError as error:
            tcp.socket.close()
            reason = error.__cause__ or error
            raise APIError.unavailable(f"the TLS handshake with {self._netloc} failed: {reason}") from error
        except BaseException:
            tcp.socket.close()
            raise
        return _Stream(tls, tcp, self._limits)

    async def _run(
        self,
        stream: _Stream,
        target: Target,
        task_status: trio.TaskStatus[tuple[trio_websocket.WebSocketConnection, trio.CancelScope]],
    ) -> None:
        with trio.CancelScope() as reading, lone_error():
            async with trio.open_nursery() as nursery:
                task_status.started((await self._shake_hands(stream, target, nursery), reading))
                # A Close has an answer, also when everything around is cancelled, so the reader goes on until the
                # block is left. In this very step: the next may be too late. When it is too late already,
                # `started` has done nothing, and this task goes with the rest.
                reading.shield = trio.current_effective_deadline() > -math.inf

    async def _shake_hands(
        self, stream: _Stream, target: Target, nursery: trio.Nursery
    ) -> trio_websocket.WebSocketConnection:
        query = f"?{target.query_string}" if target.query_string else ""
        with trio.fail_at(target.deadline):
            websocket = await trio_websocket.wrap_client_stream(
                nursery,
                stream,  # type: ignore[arg-type] # it uses no more of a stream than this
                self._netloc,
                f"{self._prefix}{target.path}{query}",
                subprotocols=[STREAMRT_V1, ENCORE_WS],
                extra_headers=[
                    (name.encode(), value.encode()) for name, value in [*target.headers, (REFUSALS, "http")]
                ],
                message_queue_size=_QUEUE,
                max_message_size=self._limits.max_message_bytes,
                receive_buffer_size=65536,
            )
        _say_nothing_behind_a_close(websocket, stream)
        stream.establish(lambda: nursery.start_soon(_ping, websocket))
        return websocket

    def _explain(self, error: Exception, answer: bytes) -> APIError:
        match error:
            case trio_websocket.ConnectionRejected():
                return _refusal(error.status_code, error.body or b"", dict(error.headers or ()))
            case _LostError() if (refusal := _read_refusal(answer)) is not None:
                return refusal
            case _LostError():
                return APIError.unavailable(f"{self._netloc} closed the connection during the handshake")
            case _:
                return APIError.unavailable(f"{self._netloc} does not answer like a WebSocket server: {error}")


class _LostError(Exception):
    """The connection ended before there was a WebSocket on it."""


@final
class _Stream:
    """The byte stream, for trio-websocket: it would wait for ever when this ends during the handshake."""

    def __init__(
        self, carrier: trio.SocketStream | trio.SSLStream[trio.SocketStream], tcp: trio.SocketStream, limits: Limits
    ) -> None:
        self._carrier = carrier
        self._tcp = tcp
        self._interval = math.inf if limits.ping_interval is None else limits.ping_interval
        self._timeout = limits.ping_timeout
        self._ping: Callable[[], None] | None = None
        self._listening = trio.CancelScope()
        self._upgraded = False  # the server's answer has come, and may be followed by its end at once
        self.head: bytes = b""
        self.heard: float = -math.inf
        self.silence: str = ""  # why the server was taken for gone, if it was

    @property
    def established(self) -> bool:
        """Whether trio-websocket has seen the answer, and is content."""
        return self._ping is not None

    def establish(self, ping: Callable[[], None]) -> None:
        """Note that it is, and how the server is asked whether it is still there, without waiting."""
        self._ping = ping
        self._listening.deadline = trio.current_time() + self._interval  # the next read has begun already

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with self._telling(self._upgraded):
            data = await self._hear(max_bytes)
            self.heard = trio.current_time()
            if not self._upgraded:
                if not data:
                    raise trio.BrokenResourceError
                self.head += data
                self._upgraded = self.head.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in self.head
            return data

    async def _hear(self, max_bytes: int | None) -> bytes | bytearray:
        wait = math.inf if self._ping is None else self._interval
        with trio.move_on_after(wait) as self._listening:
            return await self._carrier.receive_some(max_bytes)
        assert self._ping is not None
        self._ping()
        with trio.move_on_after(self._timeout):
            return await self._carrier.receive_some(max_bytes)
        self.silence = f"the server was silent for {self._interval:g} s, and for {self._timeout:g} s after a ping"
        raise trio.BrokenResourceError(self.silence)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._telling(self.established):
            await self._carrier.send_all(data)

    @contextmanager
    def _telling(self, well: bool) -> Generator[None]:
        try:
            yield
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if well and (self.established or isinstance(error, trio.BrokenResourceError)):
                raise
            raise _LostError from error

    async def aclose(self) -> None:
        await self._carrier.aclose()

    def abort(self) -> None:
        """Close the socket at once, whatever is under way."""
        self._tcp.socket.close()


async def _ping(websocket: trio_websocket.WebSocketConnection) -> None:
    """Ask whether the server is there; in a task, because what it says is heard also while it takes nothing."""
    with suppress(trio_websocket.ConnectionClosed):
        await websocket._send(Ping())  # pyright: ignore[reportPrivateUsage] # its `ping` waits for the answer


def _say_nothing_behind_a_close(websocket: trio_websocket.WebSocketConnection, stream: _Stream) -> None:
    """Keep the reader alive: it has things to say behind our own Close too, and wsproto refuses that.

    Those are pings and pongs, and a Close to a server that sends too large a message: that one is not waited for.
    """
    send = websocket._send  # pyright: ignore[reportPrivateUsage]

    async def send_what_may_be_sent(event: Event) -> None:
        try:
            await send(event)
        except LocalProtocolError:
            if isinstance(event, CloseConnection):
                stream.abort()

    websocket._send = send_what_may_be_sent  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]


def _refusal(status: int, body: bytes, headers: Mapping[bytes, bytes]) -> APIError:
    retry_after = headers.get(b"retry-after", b"")
    try:
        content = json.loads(body)
    except ValueError:
        content = None
    return error_from_response(status, content, float(retry_after) if retry_after.isdigit() else None)


def _read_refusal(answer: bytes) -> APIError | None:
    """Read an answer whose body ends with the connection, which trio-websocket does not wait for."""
    head, end, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ", head)
    if not end or status is None or status[1] == b"101":
        return None
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    return _refusal(int(status[1]), body, headers)
