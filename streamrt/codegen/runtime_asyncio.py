"""What every generated client for asyncio is built on: one stream over one WebSocket after another.

The rules of this file:

- It is written into generated files as it is, so it needs nothing but the standard library and `websockets`.
- It speaks the dialect streamrt.v1, or encore-ws where the server has no other. What it does when is said once, in
  docs/clients.md, and tried by the scenarios there.
- All tasks of a stream end with its ``async with`` block, however that is left.
- All times are in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import (
    Any,
    Final,
    Generic,
    Literal,
    NoReturn,
    NotRequired,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    final,
)
from urllib.parse import quote, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.http11 import Response as HTTPResponse
from websockets.protocol import State
from websockets.typing import Subprotocol

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Response = TypeVar("_Response")

ErrorCode: TypeAlias = Literal[
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
]
"""Why a stream was refused or ended; the same codes in all languages."""

_CLOSE_CODES: Final[dict[ErrorCode, int]] = {
    "canceled": 4499,
    "unknown": 4500,
    "invalid_argument": 4400,
    "deadline_exceeded": 4504,
    "not_found": 4404,
    "already_exists": 4409,
    "permission_denied": 4403,
    "resource_exhausted": 4429,
    "failed_precondition": 4400,
    "aborted": 4409,
    "out_of_range": 4400,
    "unimplemented": 4501,
    "internal": 1011,
    "unavailable": 4503,
    "data_loss": 4500,
    "unauthenticated": 4401,
}
"""The Close that a server sends with each code."""

_BY_CLOSE_CODE: Final[dict[int, tuple[ErrorCode, str]]] = {
    1001: ("unavailable", "the server went away"),
    1002: ("internal", "the server saw a protocol error"),
    1003: ("invalid_argument", "the server takes no data of this kind"),
    1006: ("unavailable", "the connection was lost"),
    1007: ("invalid_argument", "the server got text that is not UTF-8"),
    1008: ("permission_denied", "the server's policy forbids this"),
    1009: ("resource_exhausted", "a message was too big for the server"),
    1011: ("internal", "an internal error occurred"),
    1012: ("unavailable", "the server is restarting"),
    1013: ("unavailable", "the server is overloaded"),
    4400: ("invalid_argument", ""),
    4401: ("unauthenticated", ""),
    4403: ("permission_denied", ""),
    4404: ("not_found", ""),
    4409: ("aborted", ""),
    4429: ("resource_exhausted", ""),
    4499: ("canceled", ""),
    4500: ("unknown", ""),
    4501: ("unimplemented", ""),
    4502: ("unavailable", ""),
    4503: ("unavailable", ""),
    4504: ("deadline_exceeded", ""),
}
"""What a Close without a known code in its reason stands for."""

_V1: Final = "streamrt.v1"
_END: Final = b'{"type":"end"}'
_HIGH_WATER: Final = 1 << 20
"""Bytes that the connection may hold before `send` waits: as many as a server holds for a client."""
_INBOX: Final = 16
"""Messages that may wait to be read before no more are taken: `websockets` stops reading then, and the server waits."""
_CLOSE_TIMEOUT: Final = 5.0
"""Seconds that a server has to answer a Close."""
_PING_INTERVAL: Final = 20.0
"""Seconds of silence after which the server is asked whether it lives; it asks us as often."""
_PING_TIMEOUT: Final = 20.0
"""Seconds that it has to answer, with anything."""
_MAX_POSITIONS: Final = 64
"""Topics and keys whose position is kept; a stream hears one or two. They travel in a header, so there is a limit."""
_MAX_BATCH: Final = 64
"""Messages that one position may announce."""
_MAX_HELD: Final = 1 << 16
"""Characters that the messages of one position have together, but for the last of them."""
_MAX_DOUBLINGS: Final = 64
"""Of a pause: beyond them it has long been `cap`, and a float would have no end."""
_MAX_REASON: Final = 123
"""Bytes that the reason of a Close may have (RFC 6455, 5.5)."""


class StreamError(Exception):
    """What a stream ends with, when it does not end well.

    Args:
        code: Which error.
        message: What the server, or this side, says about it.
        details: What the server tells besides; None when it tells nothing.
        retry_after: Seconds after which it makes sense to come back; None when the server has not said.
        close_code: The code of the Close, or what it would have been for a refusal in HTTP; None when the error is of
            this side.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        close_code: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code: ErrorCode = code
        self.message = message
        self.details = details
        self.retry_after = retry_after
        self.close_code = close_code


@final
@dataclass(frozen=True)
class StreamEnded:
    """How a stream has ended.

    Args:
        code: The code of the Close; 1006 when the connection was lost.
        reason: Its reason.
        error: None when it has ended well, or this side has closed it.
    """

    code: int
    reason: str
    error: StreamError | None


@final
@dataclass(frozen=True)
class Lost:
    """The connection is lost, with this error; the next attempt is made after a pause of so many seconds."""

    error: StreamError
    pause: float


@final
@dataclass(frozen=True)
class Back:
    """There is a connection again. The handler has started afresh."""


@final
@dataclass(frozen=True)
class Recovered:
    """Whether everything follows that a topic has published meanwhile; if not, the program has a gap.

    Not so as well when the server itself may have missed some.
    """

    topic: str
    key: str
    recovered: bool


@final
@dataclass(frozen=True)
class Gap:
    """This client has read too slowly, and the topic has left out so many messages.

    0 when it is the server that may have missed some, and nobody knows how many.
    """

    topic: str
    key: str
    missed: int


@final
@dataclass(frozen=True)
class Draining:
    """The server restarts, and closes this stream within so many seconds."""

    within: float


StreamEvent: TypeAlias = Lost | Back | Recovered | Gap | Draining
"""What a program may want to know besides messages."""


@final
@dataclass(frozen=True)
class HeadersAttempt:
    """What a function for headers is told.

    Args:
        rejected: Whether the server has refused the credentials that were given last: do not give it the same again.
    """

    rejected: bool


@final
@dataclass(frozen=True, kw_only=True)
class Reconnect:
    """How a stream comes back.

    Args:
        base: The first pause is random, up to so many seconds; each further one up to twice as many.
        cap: The longest pause, in seconds.
        healthy: After so many seconds a connection counts as healthy, and pauses are short again.
        attempts: How many attempts there may be between two healthy connections. Default: any number.
        bugs: How many of them may be for bugs of the server (1011).
        queue: How many messages may wait for the connection to come back. Default 0: `send` raises meanwhile.
    """

    base: float = 0.5
    cap: float = 30
    healthy: float = 10
    attempts: int | None = None
    bugs: int = 3
    queue: int = 0


class StreamOptions(TypedDict):
    """What a stream may be opened with, besides its handshake.

    Args:
        connect_timeout: Seconds for one attempt to connect, with the asking for headers. Default 10.
        first_message_timeout: Seconds from connecting to the first message; past them the connection counts as lost.
            Default: any.
        silence_timeout: Seconds in which something must be heard; past them the connection counts as lost. Default:
            any; a server that does not answer pings is noticed without it.
        reconnect: Whether to connect again, and how. The handler then starts afresh, so it is for streams that can bear
            that. Default: not.
        on: Called with each `StreamEvent`; must not block.
    """

    connect_timeout: NotRequired[float]
    first_message_timeout: NotRequired[float | None]
    silence_timeout: NotRequired[float | None]
    reconnect: NotRequired[Reconnect | None]
    on: NotRequired[Callable[[StreamEvent], object] | None]


class WebSocketLike(Protocol):
    """What this file needs of a WebSocket that is open; see `websockets.asyncio.client.ClientConnection`."""

    heard: Callable[[], None] | None
    """Called whenever anything has come, pings too."""

    @property
    def subprotocol(self) -> str | None:
        """What the server has chosen."""

    @property
    def state(self) -> State:
        """Whether it is open."""
        ...

    async def recv(self) -> str | bytes:
        """Wait for a message; raise ConnectionClosed behind the last one."""
        ...

    async def send(self, data: bytes, /, *, text: bool | None = None) -> None:
        """Write a message, and wait until there is room for the next one."""

    async def ping(self) -> Awaitable[float]:
        """Write a ping."""
        ...

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Write a Close, and wait for the end."""

    def abort(self) -> None:
        """End it at once."""

    async def wait_closed(self) -> None:
        """Wait for the end."""


HeaderFields: TypeAlias = Mapping[str, str]


class ClientOptions(TypedDict):
    """What a client may be created with.

    Args:
        headers: Of every stream, such as ``authorization``: a mapping, or an async function that is asked before each
            attempt to connect.
        ssl: For TLS. Default: the system's authorities.
        max_message_bytes: What a message from the server may have. Default 1 MiB.
        connect: What makes a WebSocket from a URL and headers, for tests. Default: `websockets`.
    """

    headers: NotRequired[HeaderFields | Callable[[HeadersAttempt], Awaitable[HeaderFields]] | None]
    ssl: NotRequired[SSLContext | None]
    max_message_bytes: NotRequired[int]
    connect: NotRequired[Callable[[str, HeaderFields], Awaitable[WebSocketLike]]]


StreamState: TypeAlias = Literal["new", "connecting", "open", "waiting", "closed"]

FieldValue: TypeAlias = str | float | bool | Sequence[str | float | bool] | None


@final
@dataclass(frozen=True)
class StreamTarget:
    """Where a stream is.

    Args:
        path: Percent-encoded.
        query: By key; None is left out, and a list is a repeated key.
        headers: By name; None and the empty list are left out, and a list is joined with commas.
        cookies: By name; None is left out.
        responds: Whether a response comes before the end.
    """

    path: str
    query: Mapping[str, FieldValue] = field(default_factory=dict[str, FieldValue])
    headers: Mapping[str, FieldValue] = field(default_factory=dict[str, FieldValue])
    cookies: Mapping[str, FieldValue] = field(default_factory=dict[str, FieldValue])
    responds: bool = False


def path_segment(name: str, value: str | float | bool) -> str:
    """Encode a parameter of a path.

    Raises:
        ValueError: It is no segment of a path.
    """
    text = _text(value)
    if text in {"", ".", ".."}:
        raise ValueError(f"the path parameter {name!r} cannot be {text!r}, as that is no segment of a path")
    return quote(text, safe="")


def path_segments(name: str, value: str) -> str:
    """Encode a parameter that is the rest of a path, slashes and all.

    Raises:
        ValueError: A part of it is no segment of a path.
    """
    return "/".join(path_segment(name, part) if part else "" for part in value.split("/"))


def _text(value: str | float | bool) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _texts(fields: Mapping[str, FieldValue]) -> Iterator[tuple[str, list[str]]]:
    """Yield the fields that are there, with each of their texts."""
    for name, value in fields.items():
        if isinstance(value, (str, float, int)):
            yield name, [_text(value)]
        elif value is not None:
            yield name, [_text(item) for item in value]


_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
# What is beyond ASCII, one server reads as UTF-8 and the next as Latin-1; and a line break would begin another header.
_is_header_value = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?").fullmatch


def _checked(headers: HeaderFields) -> dict[str, str]:
    for name, value in headers.items():
        if not _is_header_name(name) or not _is_header_value(value):
            raise ValueError(f"the header {name!r} has a character that no header may have there")
    return {name.lower(): value for name, value in headers.items()}


_is_cookie = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*").fullmatch  # RFC 6265, 4.1.1


def _cookie(name: str, text: str) -> str:
    if not _is_cookie(text):
        raise ValueError(f"the cookie {name!r} has a character that no cookie may have")
    return text


class _WebSocket(ClientConnection):
    """A connection of `websockets` that tells when anything has come, and that can be left at once."""

    heard: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.heard is not None:
            self.heard()

    def abort(self) -> None:
        self.transport.abort()


@final
class StreamDialer:
    """What the streams of one client share.

    Raises:
        ValueError: The URL is none of a server.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        parts = urlsplit(url)
        scheme = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}.get(parts.scheme)
        if scheme is None or not parts.netloc:
            raise ValueError(f"a server's URL is like 'ws://host:port' or 'https://host/path', not {url!r}")
        self._base = f"{scheme}://{parts.netloc}{parts.path.removesuffix('/')}"
        self._headers = options.get("headers")
        self._ssl = options.get("ssl")
        self._max_message_bytes = options.get("max_message_bytes", 1 << 20)
        self._connect = options.get("connect", self._connect_websocket)

    @property
    def renews(self) -> bool:
        """Whether asking again may give other headers."""
        return callable(self._headers)

    async def headers(self, attempt: HeadersAttempt) -> HeaderFields:
        """Return the headers of every stream."""
        return await self._headers(attempt) if callable(self._headers) else self._headers or {}

    async def dial(self, target: StreamTarget, headers: HeaderFields, resume: str | None) -> WebSocketLike:
        """Connect.

        Raises:
            ValueError: A header is none.
            OSError: There is no connection.
            InvalidHandshake: The other side answers, but not as a WebSocket does.
        """
        query = [(name, text) for name, texts in _texts(target.query) for text in texts]
        own = {name: ", ".join(texts) for name, texts in _texts(target.headers) if texts}
        if cookies := [f"{name}={_cookie(name, text)}" for name, [text] in _texts(target.cookies)]:
            own["cookie"] = "; ".join(cookies)
        lines = {**_checked(headers), **_checked(own)}
        lines["streamrt-refusals"] = "http"  # so that a stream that is refused never begins
        if resume is not None:
            lines["streamrt-resume"] = resume
        return await self._connect(self._base + target.path + (f"?{urlencode(query)}" if query else ""), lines)

    async def _connect_websocket(self, url: str, headers: HeaderFields) -> WebSocketLike:
        tls: dict[str, Any] = {} if self._ssl is None else {"ssl": self._ssl}
        connection = await connect(
            url,
            subprotocols=[Subprotocol(_V1), Subprotocol("encore-ws")],
            additional_headers=headers,
            open_timeout=None,  # the timeouts are those of the stream
            close_timeout=None,
            ping_interval=None,  # its pings take a program that does not read for a server that is dead
            max_size=self._max_message_bytes,
            write_limit=_HIGH_WATER,
            create_connection=_WebSocket,
            **tls,
        )
        return cast("_WebSocket", connection)


def _error_of_close(close_code: int, reason: str) -> StreamError | None:
    """Read the error out of a Close; None when all is well."""
    if close_code in {1000, 1005}:
        return None
    name, colon, text = reason.partition(": ")
    if colon and _CLOSE_CODES.get(cast("ErrorCode", name)) == close_code:
        return StreamError(cast("ErrorCode", name), text, close_code=close_code)
    code, what = _BY_CLOSE_CODE.get(close_code, ("unknown", ""))
    return StreamError(code, reason or what or f"the server closed with {close_code}", close_code=close_code)


def _mapping(value: Any) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _refusal(response: HTTPResponse) -> StreamEnded:
    """Read why the server, or a proxy before it, has answered with HTTP, as if it had closed with that."""
    try:
        told: Any = json.loads(bytes(response.body or b""))
    except (ValueError, RecursionError):
        told = None
    code, _ = _BY_CLOSE_CODE.get(4000 + response.status_code, ("unknown", ""))
    close_code = 4000 + response.status_code
    message = f"the server answered with HTTP {response.status_code}"
    details: Mapping[str, Any] | None = None
    match told:
        case {"code": str(name), "message": str(text)} if name in _CLOSE_CODES:
            code, message, details = name, text, _mapping(cast("dict[str, Any]", told).get("details"))
            close_code = _CLOSE_CODES[code]
        case _:
            pass
    later = response.headers.get("retry-after", "")
    retry_after = float(later) if re.fullmatch(r"[0-9]{1,9}", later) else None
    error = StreamError(code, message, details=details, retry_after=retry_after, close_code=close_code)
    return StreamEnded(close_code, message, error)


def _way_back(close_code: int, retry_after: float | None) -> Literal["none", "again", "bug", "credential"]:
    """Tell what the code of a Close means for a stream that wants to come back."""
    match close_code:
        case 1011:
            return "bug"
        case 4401:
            return "credential"
        case 4429:
            return "none" if retry_after is None else "again"
        case _:
            return "again" if close_code in {1001, 1006, 1012, 1013} or 4500 <= close_code < 4600 else "none"


class _BrokenProtocolError(Exception):
    """The server has sent what the dialect does not allow."""


@final
class _Control:
    """The fields of a control, each asked for by its kind."""

    def __init__(self, data: bytes) -> None:
        try:
            parsed: Any = json.loads(data.decode())
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict) or not isinstance(cast("dict[str, Any]", parsed).get("type"), str):
            raise _BrokenProtocolError("a binary frame must be a JSON object in UTF-8 with a text 'type'")
        self._fields = cast("dict[str, Any]", parsed)
        self.type: str = self._fields["type"]

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        return value if isinstance(value, str) else self._wrong(name)

    def number(self, name: str) -> float:
        value = self._fields.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
            return value
        return self._wrong(name)

    def count(self, name: str) -> int:
        value = self.number(name)
        return int(value) if value == int(value) else self._wrong(name)

    def truth(self, name: str) -> bool:
        value = self._fields.get(name)
        return value if isinstance(value, bool) else self._wrong(name)

    def mapping(self, name: str) -> dict[str, Any]:
        value = _mapping(self._fields.get(name))
        return self._wrong(name) if value is None else value

    def _wrong(self, name: str) -> NoReturn:
        raise _BrokenProtocolError(f"the control {self.type!r} is wrong in {name!r}")


@final
@dataclass(frozen=True)
class _Whereabouts:
    topic: str
    key: str
    position: str


@final
@dataclass(frozen=True)
class _Message:
    value: Any
    size: int


@final
@dataclass(frozen=True)
class _Batch:
    """The messages that a position has announced, until the last of them is there."""

    at: _Whereabouts
    messages: int
    held: list[_Message] = field(default_factory=list[_Message])


@final
@dataclass(frozen=True, eq=False)
class _Outgoing:
    """What waits to be sent; no text is the end."""

    text: bytes | None
    taken: asyncio.Future[None]


@final
@dataclass(frozen=True)
class _Verdict:
    """Why a connection is over, and the Close that the server is owed."""

    ended: StreamEnded
    close_code: int = 1001
    reason: str = ""


_GONE: Final = _Verdict(StreamEnded(1006, "", None))


def _lost(
    code: ErrorCode, message: str, cause: BaseException | None = None, close_code: int | None = None
) -> StreamEnded:
    """Say that a connection is there no more, or of no use."""
    error = StreamError(code, message, close_code=close_code)
    error.__cause__ = cause
    return StreamEnded(1006, "", error)


async def _drop(connection: WebSocketLike, verdict: _Verdict) -> None:
    """Leave a connection, without waiting for it: a Close that can be written at once is."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await connection.close(verdict.close_code, verdict.reason)
    finally:
        connection.abort()
        await connection.wait_closed()


@final
class _Session:
    """One stream, over as many connections as it takes.

    Its runner is a task from the beginning of the stream's block to its end. Everything that ends a connection
    does so through its verdict, and everything that the program waits for is a future or an event.
    """

    def __init__(self, dialer: StreamDialer, target: StreamTarget, options: StreamOptions, *, resumes: bool) -> None:
        self.state: StreamState = "new"
        self.dialect = ""
        self.ended: StreamEnded | None = None
        self._dialer = dialer
        self._target = target
        self._connect_timeout = options.get("connect_timeout", 10)
        self._first_message_timeout = options.get("first_message_timeout")
        self._silence_timeout = options.get("silence_timeout")
        self._retry = options.get("reconnect")
        self._on = options.get("on")
        # Whether a new connection can go on where the one before was: not so for what has been uploaded.
        self._resumes = resumes
        self._runner: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._connection: WebSocketLike | None = None
        self._tasks: asyncio.TaskGroup  # of the connection
        self._verdict: asyncio.Future[_Verdict]
        self._ready = asyncio.Event()
        self._done = asyncio.Event()
        self._was_open = False
        self._is_closing = False
        # What comes in.
        self._inbox: deque[_Message | Recovered | Gap] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._is_behind = False
        self._last_heard = 0.0
        self._input_ended = False
        self._failure: Exception | None = None
        self._positions: dict[tuple[str, str], _Whereabouts] = {}
        self._asked: set[tuple[str, str]] = set()  # topics and keys whose position was offered
        self._begun: set[tuple[str, str]] = set()  # and those of which this connection has heard
        self._batch: _Batch | None = None
        self._error: StreamError | None = None
        self._drained_at: float | None = None
        # What goes out.
        self._outbox: deque[_Outgoing] = deque()
        self._work = asyncio.Event()
        self._end_asked = False
        self._end_sent = False
        # Coming back.
        self._attempts = 0
        self._bugs = 0
        self._renewed = False
        self._rejected = False  # credentials were refused, and there are none to follow them yet

    # --- What the program does ---

    def start(self) -> None:
        """Begin to connect."""
        if self._runner is not None:
            raise RuntimeError("a stream is opened once: ask the client for another")
        self.state = "connecting"
        self._runner = asyncio.create_task(self._run())

    async def ready(self) -> None:
        """Wait for the first connection."""
        self._started()
        await self._ready.wait()
        if not self._was_open:
            raise self._over()

    async def closed(self) -> StreamEnded:
        """Wait for the end."""
        self._started()
        await self._done.wait()
        assert self.ended is not None
        return self.ended

    async def receive(self) -> Any:
        """Wait for the next message.

        Raises:
            StopAsyncIteration: There are no more.
        """
        self._started()
        while True:
            while self._inbox:
                item = self._inbox.popleft()
                self._room.set()
                if isinstance(item, _Message):
                    return item.value
                self._tell(item)
            if self._failure is not None:
                raise self._failure
            if self._input_ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    async def send(self, message: object) -> None:
        """Hand over one message."""
        text = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if self._end_asked:
            raise StreamError("failed_precondition", "this side has said that it sends no more")
        await self._put(text)

    async def end(self) -> None:
        """Say that no more messages come from this side."""
        if not self._end_asked:
            self._end_asked = True
            try:
                await self._put(None)
            except BaseException:
                self._end_asked = self._end_sent  # it may not have been said
                raise

    async def close(self, code: int, reason: str) -> StreamEnded:
        """End the stream from this side."""
        runner = self._started()
        if code != 1000 and not 3000 <= code < 5000:
            raise ValueError(f"a client may close with 1000 or 3000 to 4999, not with {code}")
        if len(reason.encode()) > _MAX_REASON:
            raise ValueError(f"a reason may have {_MAX_REASON} bytes of UTF-8, not {len(reason.encode())}")
        if self.ended is None and not self._is_closing:
            self._is_closing = True
            self._stop_all()
            self._end_input(None)
            self._room.set()
            self._reject_outbox(0, StreamError("canceled", "this side has closed the stream"))
            if self._connection is not None:
                self._tasks.create_task(self._connection.close(code, reason))
                self._after("close", _CLOSE_TIMEOUT, partial(self._settle, _GONE))
            else:
                self._finish(StreamEnded(code, reason, None), None)
                runner.cancel()
        return await self.closed()

    async def leave(self, error: BaseException | None) -> None:
        """End the stream with its block."""
        try:
            if error is None:
                await self.close(1000, "")
        finally:
            runner = self._started()
            failure = StreamError("canceled", "the stream's block was left")
            failure.__cause__ = error
            self._finish(StreamEnded(1006, "", failure), failure)
            runner.cancel()
            cancelled: asyncio.CancelledError | None = None
            while not runner.done():
                try:
                    await asyncio.wait([runner])
                except asyncio.CancelledError as again:  # noqa: ASYNC103 - it is raised below
                    cancelled = again  # what is left to do waits for nobody
            if cancelled is not None:
                raise cancelled

    def _started(self) -> asyncio.Task[None]:
        if self._runner is None:
            raise RuntimeError("a stream is used inside of its block: `async with client... as stream`")
        return self._runner

    # --- Connecting ---

    async def _run(self) -> None:
        try:
            ended = await self._live()
            self._finish(ended, ended.error)
        except Exception as cause:  # noqa: BLE001 - what cannot even be tried will not be better the next time
            error = StreamError("canceled", f"this side has given up: {cause}")
            error.__cause__ = cause
            self._finish(StreamEnded(1006, "", error), cause)
        finally:
            error = StreamError("canceled", "the stream's task was cancelled")
            self._finish(StreamEnded(1006, "", error), error)

    async def _live(self) -> StreamEnded:
        """Connect, again and again as long as that makes sense, and return how the stream has ended."""
        while True:
            self.state = "connecting"
            ended = await self._attempt()
            if ended.error is None or self._is_closing:
                return StreamEnded(ended.code, ended.reason, None)
            pause = self._pause(ended, ended.error)
            if pause is None or self._retry is None:
                return ended
            self.state = "waiting"
            self._batch = None  # it comes again, from the position before it
            self._input_ended = False
            self._error = self._drained_at = None
            if self._was_open:
                self._reject_outbox(self._retry.queue, ended.error)
            self._tell(Lost(ended.error, pause))
            await asyncio.sleep(pause)
            self._rejected |= _way_back(ended.code, None) == "credential"

    async def _attempt(self) -> StreamEnded:
        """Have one connection, and return how it has ended."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._dial()
        except TimeoutError:
            return _lost("deadline_exceeded", f"there was no connection within {self._connect_timeout:g} s")
        if isinstance(connection, StreamEnded):
            return connection
        verdict: asyncio.Future[_Verdict] = asyncio.get_running_loop().create_future()
        self._verdict = verdict
        async with asyncio.TaskGroup() as self._tasks:
            self._open(connection)
            tasks = [self._tasks.create_task(work(connection)) for work in (self._read, self._pump, self._beat)]
            try:
                ended = (await verdict).ended
            finally:
                self._connection = connection.heard = None
                self._stop_all()
                for task in tasks:
                    task.cancel()
                await _drop(connection, _GONE if verdict.cancelled() else verdict.result())
        return ended

    async def _dial(self) -> WebSocketLike | StreamEnded:
        try:
            headers = await self._dialer.headers(HeadersAttempt(self._rejected))
        except Exception as cause:  # noqa: BLE001 - it is told to the program
            return _lost("unavailable", f"the headers could not be had: {cause!r}", cause)
        self._rejected = False
        self._asked, self._begun = set(self._positions), set()
        entries = [{"topic": at.topic, "key": at.key, "position": at.position} for at in self._positions.values()]
        resume = json.dumps(entries, separators=(",", ":")) if entries else None
        try:
            return await self._dialer.dial(self._target, headers, resume)
        except InvalidStatus as refused:
            return _refusal(refused.response)
        except (OSError, InvalidHandshake) as cause:
            return _lost("unavailable", f"there is no connection: {cause}", cause, 1006)

    def _open(self, connection: WebSocketLike) -> None:
        self._connection = connection
        self.state = "open"
        self.dialect = connection.subprotocol or ""
        connection.heard = self._hear
        if self._retry is not None:
            self._after("healthy", self._retry.healthy, self._recover)
        if (seconds := self._first_message_timeout) is not None:
            self._after("first", seconds, partial(self._lose, f"no message came within {seconds:g} s"))
        self._hear()
        if self._was_open:
            self._tell(Back())
        self._was_open = True
        self._ready.set()

    def _recover(self) -> None:
        self._attempts = self._bugs = 0
        self._renewed = False

    def _hear(self) -> None:
        """Note that something has come; what a program does not read says nothing about the server."""
        self._last_heard = asyncio.get_running_loop().time()
        self._stop("pong")
        if (seconds := self._silence_timeout) is not None and not self._is_behind and not self._is_closing:
            self._after("silence", seconds, partial(self._lose, f"nothing was heard for {seconds:g} s"))

    async def _beat(self, connection: WebSocketLike) -> None:
        """Ask a silent server whether it lives; whatever comes is an answer."""
        loop = asyncio.get_running_loop()
        while True:
            rest = self._last_heard + _PING_INTERVAL - loop.time()
            if rest <= 0 and not self._is_behind and connection.state is State.OPEN:
                silent = f"nothing was heard for {_PING_INTERVAL + _PING_TIMEOUT:g} s"
                self._after("pong", _PING_TIMEOUT, partial(self._lose, silent))
                with contextlib.suppress(ConnectionClosed):
                    await connection.ping()
            await asyncio.sleep(rest if rest > 0 else _PING_INTERVAL)

    # --- What comes in ---

    async def _read(self, connection: WebSocketLike) -> None:
        try:
            while True:
                self._take(await connection.recv())
                if len(self._inbox) >= _INBOX:
                    await self._wait_for_room()
        except ConnectionClosed as closed:
            self._settle(_Verdict(self._end_of(closed)))
        except _BrokenProtocolError as broken:
            message = str(broken)
            error = StreamError("internal", f"the server broke the protocol: {message}", close_code=1002)
            # As clients in browsers do, which may not close with 1002.
            self._settle(_Verdict(StreamEnded(1002, message, error), 4400, message))

    async def _wait_for_room(self) -> None:
        """Read no more until the program has: then the server has to wait, and is not to blame for any silence."""
        self._is_behind = True
        self._stop("silence")
        self._stop("pong")
        while len(self._inbox) >= _INBOX:
            self._room.clear()
            await self._room.wait()
        self._is_behind = False
        self._hear()

    def _take(self, data: str | bytes) -> None:
        if self._is_closing:
            return
        if isinstance(data, str):
            self._message(data)
        elif self.dialect == _V1:
            self._control(_Control(data))

    def _message(self, text: str) -> None:
        self._stop("first")
        if self._input_ended:
            raise _BrokenProtocolError("a message came behind the end of them")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise _BrokenProtocolError("a message is not JSON") from None
        message = _Message(value, len(text))
        if self._batch is None:
            self._deliver(message)
        else:
            self._hold(self._batch, message)

    def _control(self, control: _Control) -> None:
        if self._batch is not None:
            raise _BrokenProtocolError("a control came amid the messages of a position")
        match control.type:
            case "end":
                if self._input_ended:
                    raise _BrokenProtocolError("there was a second 'end'")
                self._end_input(None)
            case "error":
                code = control.text("code")
                self._error = StreamError(
                    code if code in _CLOSE_CODES else "unknown",
                    control.text("message"),
                    details=control.mapping("details") if control.has("details") else None,
                    retry_after=control.number("retry_after") if control.has("retry_after") else None,
                )
            case "drain":
                within = control.number("within")
                self._drained_at = asyncio.get_running_loop().time() + within
                self._tell(Draining(within))
            case "position":
                self._position(control)
            case "gap":
                self._in_line(Gap(control.text("topic"), control.text("key"), control.count("missed")))
            case _:
                pass

    def _position(self, control: _Control) -> None:
        at = _Whereabouts(control.text("topic"), control.text("key"), control.text("position"))
        messages = control.count("messages")
        if messages > _MAX_BATCH:
            raise _BrokenProtocolError(f"a position may have {_MAX_BATCH} messages, not {messages}")
        recovered = control.truth("recovered") if control.has("recovered") else None
        if messages and self._input_ended:
            raise _BrokenProtocolError("a position came behind the end of the messages")
        if recovered is not None:
            # The first says how the topic begins, which is news only to who has asked; a later one, that it broke off.
            name = (at.topic, at.key)
            is_news = not recovered if name in self._begun else name in self._asked
            self._begun.add(name)
            if is_news:
                self._in_line(Recovered(at.topic, at.key, recovered))
        if messages:
            self._batch = _Batch(at, messages)
        else:
            self._reach(at)

    def _hold(self, batch: _Batch, message: _Message) -> None:
        """Hold a message back until the last one of its position is there: so none comes twice, whenever it ends."""
        if sum(held.size for held in batch.held) >= _MAX_HELD:
            raise _BrokenProtocolError("the messages of a position must have 64 KiB together")
        batch.held.append(message)
        if len(batch.held) == batch.messages:
            self._batch = None
            self._reach(batch.at)
            for held in batch.held:
                self._deliver(held)

    def _reach(self, at: _Whereabouts) -> None:
        self._positions.pop((at.topic, at.key), None)
        self._positions[at.topic, at.key] = at
        if len(self._positions) > _MAX_POSITIONS:
            del self._positions[next(iter(self._positions))]

    def _deliver(self, item: _Message | Recovered | Gap) -> None:
        self._inbox.append(item)
        self._news.set()

    def _in_line(self, event: Recovered | Gap) -> None:
        """Tell the program something, behind the messages that came before it."""
        if self._inbox:
            self._deliver(event)
        else:
            self._tell(event)

    def _tell(self, event: StreamEvent) -> None:
        """Call the program. What it raises there is its own affair, and reported as of any callback."""
        if self._on is not None:
            try:
                self._on(event)
            except Exception as error:  # noqa: BLE001 - it is told to the loop
                context = {"message": f"`on` has raised for {event}", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    # --- What goes out ---

    async def _put(self, text: bytes | None) -> None:
        self._started()
        if self.ended is not None or self._is_closing:
            raise self._over()
        if text is not None and self._was_open and self.state != "open":
            most = 0 if self._retry is None else self._retry.queue
            if len(self._outbox) >= most:
                code: ErrorCode = "resource_exhausted" if most else "unavailable"
                why = ", and the queue is full" if most else ""
                raise StreamError(code, f"there is no connection now{why}")
        outgoing = _Outgoing(text, asyncio.get_running_loop().create_future())
        self._outbox.append(outgoing)
        self._work.set()
        try:
            await outgoing.taken
        finally:
            if outgoing in self._outbox:  # it was cancelled
                self._outbox.remove(outgoing)

    async def _pump(self, connection: WebSocketLike) -> None:
        with contextlib.suppress(ConnectionClosed):
            if self._end_sent and self.dialect == _V1:
                await connection.send(_END)  # what was said holds for the new handler too
            while True:
                while self._outbox:
                    if connection.state is not State.OPEN:
                        return  # its Close is on the way; another connection may take the rest
                    await self._hand_over(connection, self._outbox.popleft())
                self._work.clear()
                await self._work.wait()

    async def _hand_over(self, connection: WebSocketLike, outgoing: _Outgoing) -> None:
        if outgoing.taken.done():
            return  # it was cancelled
        if outgoing.text is None and self.dialect != _V1:
            why = "the server speaks encore-ws, and cannot be told that no more messages come"
            outgoing.taken.set_exception(StreamError("failed_precondition", why))
            return
        # It is the connection's from here on: what `websockets` waits for is room for the next one.
        outgoing.taken.set_result(None)
        if outgoing.text is None:
            self._end_sent = True
            await connection.send(_END)
        else:
            await connection.send(outgoing.text, text=True)

    def _reject_outbox(self, keep: int, error: Exception) -> None:
        while len(self._outbox) > keep:
            outgoing = self._outbox.pop()
            if not outgoing.taken.done():
                outgoing.taken.set_exception(error)

    # --- The end of a connection, and of the stream ---

    def _settle(self, verdict: _Verdict) -> None:
        if not self._verdict.done():
            self._verdict.set_result(verdict)

    def _lose(self, message: str) -> None:
        self._settle(_Verdict(_lost("deadline_exceeded", message)))

    def _end_of(self, closed: ConnectionClosed) -> StreamEnded:
        """Read how a connection has ended."""
        sent, received = closed.sent, closed.rcvd
        if sent is not None and not closed.rcvd_then_sent and sent.code in {1002, 1007, 1009}:
            # `websockets` has closed it, because of what the server has sent.
            if sent.code == 1009:
                ours = StreamError("resource_exhausted", f"max_message_bytes: {sent.reason}", close_code=1009)
            else:
                ours = StreamError("internal", f"the server broke the protocol: {sent.reason}", close_code=1002)
            return StreamEnded(sent.code, sent.reason, ours)
        code, reason = (1006, "") if received is None else (int(received.code), received.reason)
        error, told = _error_of_close(code, reason), self._error
        if error is not None and told is not None:
            error = StreamError(
                told.code, told.message, details=told.details, retry_after=told.retry_after, close_code=code
            )
        return StreamEnded(code, reason, error)

    def _pause(self, ended: StreamEnded, error: StreamError) -> float | None:
        """Return the seconds until the next attempt; None when there is none to make."""
        retry = self._retry
        way = _way_back(ended.code, error.retry_after)
        if (
            retry is None
            or way == "none"
            or (self._was_open and not self._resumes)
            or (retry.attempts is not None and self._attempts >= retry.attempts)
            or (way == "bug" and self._bugs >= retry.bugs)
            or (way == "credential" and (self._renewed or not self._dialer.renews))
        ):
            return None
        drained = 0.0
        if ended.code == 1012 and self._drained_at is not None:
            drained = max(0.0, self._drained_at - asyncio.get_running_loop().time())
        bound = 0 if way == "credential" else min(retry.cap, retry.base * 2 ** min(self._attempts, _MAX_DOUBLINGS))
        self._attempts += 1
        self._bugs += way == "bug"
        self._renewed |= way == "credential"
        # Random down to nothing, so that those who were lost together do not come back together.
        return (drained if error.retry_after is None else error.retry_after) + bound * random.random()

    def _finish(self, ended: StreamEnded, failure: Exception | None) -> None:
        if self.ended is not None:
            return
        self.ended = ended
        self.state = "closed"
        self._end_input(failure)
        self._reject_outbox(0, self._over())
        self._ready.set()
        self._done.set()

    def _over(self) -> Exception:
        """Return what is raised to who wants something of a stream that is over."""
        code = None if self.ended is None else self.ended.code
        return self._failure or StreamError("unavailable", "the stream is over", close_code=code)

    def _end_input(self, failure: Exception | None) -> None:
        if self._is_closing:
            self._inbox.clear()  # whoever closes wants no more
        self._input_ended = True
        self._failure = failure
        self._news.set()

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._stop(name)
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, action)

    def _stop(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def _stop_all(self) -> None:
        for name in list(self._timers):
            self._stop(name)


class _Stream:
    """What every stream has. It connects when its block is entered, and ends with it."""

    def __init__(
        self, dialer: StreamDialer, target: StreamTarget, options: StreamOptions, *, resumes: bool = True
    ) -> None:
        self._session = _Session(dialer, target, options, resumes=resumes)

    async def __aenter__(self) -> Self:
        self._session.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.leave(error)

    @property
    def state(self) -> StreamState:
        """How far it is."""
        return self._session.state

    @property
    def dialect(self) -> str:
        """What the server speaks: ``streamrt.v1`` or ``encore-ws``; empty before it is connected."""
        return self._session.dialect

    @property
    def ended(self) -> StreamEnded | None:
        """How it has ended; None before that."""
        return self._session.ended

    async def ready(self) -> None:
        """Wait until it is connected for the first time.

        Raises:
            StreamError: It never will be.
        """
        await self._session.ready()

    async def closed(self) -> StreamEnded:
        """Wait until it is over, and return how it has ended."""
        return await self._session.closed()

    async def close(self, code: int = 1000, reason: str = "") -> StreamEnded:
        """End the stream, both ways: what has come and was not read is thrown away.

        Leaving the block does the same. It returns when the server knows, or after 5 seconds.

        Args:
            code: 1000, or 3000 to 4999.
            reason: At most 123 bytes of UTF-8.
        """
        return await self._session.close(code, reason)


@final
class StreamIn(_Stream, Generic[_In]):
    """A stream of messages that come in: ``async for message in stream``."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _In:
        """Wait for the next message.

        Raises:
            StreamError: The stream has ended with this error, and everything that had come was received.
        """
        return cast("_In", await self._session.receive())


@final
class StreamInOut(_Stream, Generic[_In, _Out]):
    """A stream of messages both ways."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _In:
        """Wait for the next message; see `StreamIn`."""
        return cast("_In", await self._session.receive())

    async def send(self, message: _Out) -> None:
        """Send one message.

        It returns when the connection has taken it, and waits while that holds more than 1 MiB. Whether it has arrived,
        only the server could tell.

        Raises:
            StreamError: The stream is over, or has no connection now.
            TypeError: The message is not JSON.
            ValueError: So it is, because of a number or a text that JSON has not.
        """
        await self._session.send(message)

    async def send_eof(self) -> None:
        """Say that no more messages come from this side, and go on receiving.

        Raises:
            StreamError: The server speaks ``encore-ws``, which has no way to say so; or the stream is over.
        """
        await self._session.end()


@final
class StreamOutWithResponse(_Stream, Generic[_Out, _Response]):
    """A stream of messages that go out, and of one response."""

    def __init__(self, dialer: StreamDialer, target: StreamTarget, options: StreamOptions) -> None:
        super().__init__(dialer, target, options, resumes=False)
        self._responds = target.responds

    async def send(self, message: _Out) -> None:
        """Send one message; see `StreamInOut.send`."""
        await self._session.send(message)

    async def send_eof(self) -> None:
        """Say that no more messages come, as `response` does first; see `StreamInOut.send_eof`."""
        await self._session.end()

    async def response(self) -> _Response:
        """Say that no more messages come, and wait for the response.

        Over ``encore-ws`` the server must know from the messages when it has them all.

        Raises:
            StreamError: The stream has ended without it.
        """
        with contextlib.suppress(StreamError):  # how the stream ends says it better
            await self._session.end()
        try:
            return cast("_Response", await self._session.receive())
        except StopAsyncIteration:
            if self._responds:
                raise StreamError("data_loss", "the stream ended without its response") from None
            return cast("_Response", None)
