"""The typed client: one class, over a WebSocket or in memory.

Its streams mirror the endpoint's: what the endpoint receives the client sends. They stand on the same
connection as a handler's stream, so channels, limits and endings are the same on both sides.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import iscoroutinefunction
from typing import Any, TypedDict, TypeVar, Unpack, final, overload
from urllib.parse import urlencode

from streamrt.api import context
from streamrt.api.endpoint import Endpoint, StreamInEndpoint, StreamInOutEndpoint, StreamOutEndpoint
from streamrt.api.limits import Limits
from streamrt.api.stream import Port, Stream, StreamIn, StreamInOut, StreamOutWithResponse, TopicPosition
from streamrt.runtime.host import current_host
from streamrt.wire.codec import codec
from streamrt.wire.dialect import Headers

from .connector import Connector, Target, header_lines
from .dialling import Call, Dialler, HeadersFunction
from .events import Tell
from .memory import MemoryConnector
from .reconnect import Reconnect
from .reconnecting import ReconnectingPort
from .websocket import WebSocketConnector

H = TypeVar("H")
I = TypeVar("I")  # noqa: E741 - as in api/endpoint.py
M = TypeVar("M")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")

_is_path = re.compile(r"/[!-\"$->@-~]*").fullmatch  # visible ASCII, but for # and ?


class StreamOptions(TypedDict, total=False):
    """What a stream may be opened with.

    Args:
        reconnect: How the stream comes back when its connection is lost, which it otherwise does not. An upload, to a
            stream_in endpoint, does so only until it is connected: what was sent would be missing.
        first_message_timeout: Seconds from connecting to the first message; past them the stream ends, or its
            connection is lost, with `DeadlineExceeded`. Default: any.
        silence_timeout: Seconds in which something must be heard, while this end listens; the same. Default: any; the
            heartbeat notices a server that is gone.
        on: Is called with what happens; see `StreamEvent`. It must not wait, and what it raises ends the stream.
    """

    reconnect: Reconnect | None
    first_message_timeout: float
    silence_timeout: float
    on: Tell | None


class ResumeOptions(StreamOptions, total=False):
    """What a stream that brings messages may be opened with besides.

    Args:
        resume: Where a stream before this one was in the topics that it heard, `Stream.positions`: this one goes on
            from there, where their histories still have what comes after. One that reconnects does so by itself.
    """

    resume: Iterable[TopicPosition]


@final
class Client:
    """Opens streams to the endpoints of a server.

    A client holds no connection: each stream has its own, for as long as its block lasts. So a client
    needs no closing, and may be used by any number of tasks.

    Args:
        url: Of the server: ``ws://host:port`` or ``https://host/where/it/is/mounted``.
        headers: Sent with each stream, before those of its handshake: a mapping, or an async function that is asked
            before each attempt to connect, and told in `HeadersAttempt` whether the ones before were refused.
        ssl_context: For TLS. Default: the system's authorities.
        connect_timeout: Seconds until a connection must stand, with the asking for headers. Default 10.
        limits: Of this end of its streams. Default: those of `Limits`. A server that is silent for `ping_interval` is
            sent a ping, and taken for gone when nothing comes within `ping_timeout`.

    Example:
        ```python
        client = Client("wss://example.org", headers={"authorization": "Bearer ada"})
        async with client.open(chat, Join(room="lobby")) as talk:
            await talk.send(Say("hello"))
            print(await talk.receive())
        ```
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | HeadersFunction | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10,
        limits: Limits | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        connector = WebSocketConnector(url, ssl_context=ssl_context, limits=limits)
        self._dialler = Dialler(
            connector=connector, headers=_header_source(headers), connect_timeout=connect_timeout, limits=limits
        )

    @classmethod
    def over(
        cls,
        connector: Connector,
        *,
        headers: Mapping[str, str] | HeadersFunction | None = None,
        connect_timeout: float = math.inf,
        limits: Limits | None = None,
    ) -> Client:
        """Create a client over any connector; `App.client` and tests do."""
        client = cls.__new__(cls)
        client._dialler = Dialler(
            connector=connector,
            headers=_header_source(headers),
            connect_timeout=connect_timeout,
            limits=Limits() if limits is None else limits,
        )
        return client

    @overload
    def open(
        self, endpoint: StreamInEndpoint[None, M, R], **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[StreamOutWithResponse[M, R]]: ...
    @overload
    def open(
        self, endpoint: StreamInEndpoint[H, M, R], handshake: H, **options: Unpack[StreamOptions]
    ) -> AbstractAsyncContextManager[StreamOutWithResponse[M, R]]: ...
    @overload
    def open(
        self, endpoint: StreamOutEndpoint[None, M], **options: Unpack[ResumeOptions]
    ) -> AbstractAsyncContextManager[StreamIn[M]]: ...
    @overload
    def open(
        self, endpoint: StreamOutEndpoint[H, M], handshake: H, **options: Unpack[ResumeOptions]
    ) -> AbstractAsyncContextManager[StreamIn[M]]: ...
    @overload
    def open(
        self, endpoint: StreamInOutEndpoint[None, I, O], **options: Unpack[ResumeOptions]
    ) -> AbstractAsyncContextManager[StreamInOut[O, I]]: ...
    @overload
    def open(
        self, endpoint: StreamInOutEndpoint[H, I, O], handshake: H, **options: Unpack[ResumeOptions]
    ) -> AbstractAsyncContextManager[StreamInOut[O, I]]: ...
    def open(
        self, endpoint: Endpoint, handshake: Any = None, **options: Unpack[ResumeOptions]
    ) -> AbstractAsyncContextManager[Any]:
        """Open a stream to an endpoint, for as long as the block lasts.

        Leaving the block closes the stream with 1000, after everything sent has gone out; leaving it by
        an exception closes it with 1001.

        Args:
            endpoint: The decorated handler.
            handshake: Its handshake, for an endpoint that has one.
            **options: See `StreamOptions`, and `ResumeOptions` for endpoints that send messages.

        Returns:
            The mirror of the handler's stream: `StreamOutWithResponse` for a stream_in endpoint, `StreamIn`
            for a stream_out endpoint, `StreamInOut` for a stream_in_out endpoint.

        Raises:
            APIError: The server refused, with this error; or it cannot be reached (`Unavailable`). With `reconnect`:
                and it makes no sense to try again.
            TypeError: The handshake is not one of this endpoint, or an option is none.
            ValueError: A value of the handshake cannot be sent, or a timeout is no time.

        Example:
            ```python
            async with client.open(prices, reconnect=Reconnect(), on=print) as stream:
                async for price in stream:  # over as many connections as it takes
                    show(price)
            ```
        """
        return self._open(endpoint, handshake, options)

    @asynccontextmanager
    async def _open(self, endpoint: Endpoint, handshake: Any, options: ResumeOptions) -> AsyncGenerator[Stream]:
        target = self._target(endpoint, handshake)
        uploads = isinstance(endpoint, StreamInEndpoint)
        async with self._port(
            target, endpoint.qualified_name, options, takes_input=endpoint.outgoing is not None, uploads=uploads
        ) as port:
            yield _mirror(endpoint, port)

    @asynccontextmanager
    async def open_path(
        self,
        path: str,
        *,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **options: Unpack[ResumeOptions],
    ) -> AsyncGenerator[StreamInOut[Any, Any]]:
        """Open a stream by its path, without types: any JSON goes in and out. For tools.

        Args:
            path: Percent-encoded; begins with ``/``.
            query: Keys and values; a key may come more than once.
            headers: Sent behind the client's.
            **options: As for `open`.

        Raises:
            APIError: As for `open`.
            TypeError: An option is none.
            ValueError: The path or a header cannot be sent, or a timeout is no time.
        """
        if not _is_path(path):
            raise ValueError(f"a path begins with '/' and is percent-encoded, not {path!r}")
        target = Target(path=path, query_string=urlencode(list(query)), headers=header_lines(headers))
        async with self._port(target, path, options, takes_input=True, uploads=False) as port:
            yield StreamInOut(port, codec(Any), codec(Any))

    @asynccontextmanager
    async def _port(
        self, target: Target, name: str, options: ResumeOptions, *, takes_input: bool, uploads: bool
    ) -> AsyncGenerator[Port]:
        _check(options, name, uploads=uploads)
        resume, terms = options.get("resume", ()), options.get("reconnect")
        call = Call(
            target=target,
            name=name,
            takes_input=takes_input,
            first_message_timeout=options.get("first_message_timeout", math.inf),
            silence_timeout=options.get("silence_timeout", math.inf),
            tell=options.get("on"),
        )
        if terms is None:
            async with self._dialler.dial(call, resume=resume) as connection:
                yield connection
        else:
            port = ReconnectingPort(self._dialler, call, terms, uploads=uploads, resume=resume)
            async with port.open():
                yield port

    def _target(self, endpoint: Endpoint, handshake: Any) -> Target:
        spec = endpoint.handshake
        if spec is None:
            if handshake is not None:
                raise TypeError(f"{endpoint.qualified_name} has no handshake, but was given {handshake!r}")
            return Target(path=endpoint.template.render({}))
        rendered = spec.render(handshake)
        return Target(
            path=endpoint.template.render(rendered.path),
            query_string=urlencode(rendered.query),
            headers=rendered.headers,
        )


def get_client() -> Client:
    """Return a client for the app that this stream runs in: how one service calls another.

    It needs no socket, reaches endpoints that are not exposed, and carries the caller's auth data on. A
    stream that it opens is cancelled with the scope it was opened in.

    Raises:
        LookupError: This is not called from a stream.
    """
    host = current_host.get(None)
    if host is None:
        raise LookupError("there is no running app here: get_client() is for handlers; elsewhere use app.client()")
    return Client.over(MemoryConnector(host, private=True, nested=True, auth_data=context.auth_data.get()))


def _header_source(headers: Mapping[str, str] | HeadersFunction | None) -> Headers | HeadersFunction:
    return headers if callable(headers) else header_lines(headers)


def _check(options: Mapping[str, object], name: str, *, uploads: bool) -> None:
    """Refuse options that no type checker has seen: nobody would notice that one is misspelt."""
    known = (StreamOptions if uploads else ResumeOptions).__optional_keys__
    for option, value in options.items():
        match option, value:
            case _ if option not in known:
                raise TypeError(f"a stream to {name} has no option {option!r}; it has {', '.join(sorted(known))}")
            case "reconnect", _ if not isinstance(value, Reconnect | None):
                raise TypeError(f"reconnect must be a Reconnect or None, not {value!r}")
            case "on", _ if iscoroutinefunction(value) or not (value is None or callable(value)):
                raise TypeError(f"on must be a plain function, which does not wait, not {value!r}")
            case "resume", _ if not isinstance(value, Iterable):
                raise TypeError(f"resume must be some TopicPosition, not {value!r}")
            case "first_message_timeout" | "silence_timeout", _:
                if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                    raise ValueError(f"{option} must be a number of seconds, more than 0, not {value!r}")
            case _:
                pass


def _mirror(endpoint: Endpoint, port: Port) -> Stream:
    incoming, outgoing = endpoint.incoming, endpoint.outgoing
    if isinstance(endpoint, StreamInEndpoint):
        assert incoming is not None
        return StreamOutWithResponse(port, incoming, outgoing)
    assert outgoing is not None
    if incoming is None:
        return StreamIn(port, outgoing)
    return StreamInOut(port, outgoing, incoming)
