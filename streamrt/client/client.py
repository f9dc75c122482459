"""The typed client: one class, over a WebSocket or in memory.

Its streams mirror the endpoint's: what the endpoint receives the client sends. They stand on the same
connection as a handler's stream, so channels, limits and endings are the same on both sides.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, final, overload
from urllib.parse import urlencode

import attrs
import trio

from streamrt.api import context
from streamrt.api.endpoint import Endpoint, StreamInEndpoint, StreamInOutEndpoint, StreamOutEndpoint
from streamrt.api.limits import Limits
from streamrt.api.request import Request, next_connection_id
from streamrt.api.stream import Stream, StreamIn, StreamInOut, StreamOutWithResponse, TopicPosition
from streamrt.runtime.connection import Connection
from streamrt.runtime.host import current_host
from streamrt.wire.codec import codec
from streamrt.wire.dialect import RESUME, render_positions

from .connector import Connector, Target, header_lines
from .memory import MemoryConnector
from .websocket import WebSocketConnector

H = TypeVar("H")
I = TypeVar("I")  # noqa: E741 - as in api/endpoint.py
M = TypeVar("M")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")

_is_path = re.compile(r"/[!-\"$->@-~]*").fullmatch  # visible ASCII, but for # and ?


@final
class Client:
    """Opens streams to the endpoints of a server.

    A client holds no connection: each stream has its own, for as long as its block lasts. So a client
    needs no closing, and may be used by any number of tasks.

    Args:
        url: Of the server: ``ws://host:port`` or ``https://host/where/it/is/mounted``.
        headers: Sent with each stream, before those of its handshake.
        ssl_context: For TLS. Default: the system's authorities.
        connect_timeout: Seconds until a connection must stand. Default 10.
        limits: Of this end of its streams. Default: those of `Limits`.

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
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        connect_timeout: float = 10,
        limits: Limits | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        self._set_up(
            WebSocketConnector(
                url,
                ssl_context=ssl_context,
                connect_timeout=connect_timeout,
                max_message_bytes=limits.max_message_bytes,
            ),
            headers,
            limits,
        )

    @classmethod
    def over(
        cls, connector: Connector, *, headers: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> Client:
        """Create a client over any connector; `App.client` and tests do."""
        client = cls.__new__(cls)
        client._set_up(connector, headers, Limits() if limits is None else limits)
        return client

    def _set_up(self, connector: Connector, headers: Mapping[str, str] | None, limits: Limits) -> None:
        self._headers = header_lines(headers)
        self._connector = connector
        self._limits = limits

    @overload
    def open(
        self, endpoint: StreamInEndpoint[None, M, R]
    ) -> AbstractAsyncContextManager[StreamOutWithResponse[M, R]]: ...
    @overload
    def open(
        self, endpoint: StreamInEndpoint[H, M, R], handshake: H
    ) -> AbstractAsyncContextManager[StreamOutWithResponse[M, R]]: ...
    @overload
    def open(
        self, endpoint: StreamOutEndpoint[None, M], *, resume: Iterable[TopicPosition] = ()
    ) -> AbstractAsyncContextManager[StreamIn[M]]: ...
    @overload
    def open(
        self, endpoint: StreamOutEndpoint[H, M], handshake: H, *, resume: Iterable[TopicPosition] = ()
    ) -> AbstractAsyncContextManager[StreamIn[M]]: ...
    @overload
    def open(
        self, endpoint: StreamInOutEndpoint[None, I, O], *, resume: Iterable[TopicPosition] = ()
    ) -> AbstractAsyncContextManager[StreamInOut[O, I]]: ...
    @overload
    def open(
        self, endpoint: StreamInOutEndpoint[H, I, O], handshake: H, *, resume: Iterable[TopicPosition] = ()
    ) -> AbstractAsyncContextManager[StreamInOut[O, I]]: ...
    def open(
        self, endpoint: Endpoint, handshake: Any = None, *, resume: Iterable[TopicPosition] = ()
    ) -> AbstractAsyncContextManager[Any]:
        """Open a stream to an endpoint, for as long as the block lasts.

        Leaving the block closes the stream with 1000, after everything sent has gone out; leaving it by
        an exception closes it with 1001.

        Args:
            endpoint: The decorated handler.
            handshake: Its handshake, for an endpoint that has one.
            resume: Where a stream before this one was in the topics that it heard, `Stream.positions`: this one goes on
                from there, where their histories still have what comes after.

        Returns:
            The mirror of the handler's stream: `StreamOutWithResponse` for a stream_in endpoint, `StreamIn`
            for a stream_out endpoint, `StreamInOut` for a stream_in_out endpoint.

        Raises:
            APIError: The server refused, with this error; or it cannot be reached (`Unavailable`).
            TypeError: The handshake is not one of this endpoint.
            ValueError: A value of the handshake cannot be sent.
        """
        return self._open(endpoint, handshake, resume)

    @asynccontextmanager
    async def _open(
        self, endpoint: Endpoint, handshake: Any, resume: Iterable[TopicPosition]
    ) -> AsyncGenerator[Stream]:
        target = _resuming(self._target(endpoint, handshake), resume)
        async with self._connection(target, endpoint.qualified_name, endpoint.outgoing is not None) as connection:
            yield _mirror(endpoint, connection)

    @asynccontextmanager
    async def open_path(
        self, path: str, *, query: Iterable[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[StreamInOut[Any, Any]]:
        """Open a stream by its path, without types: any JSON goes in and out. For tools.

        Args:
            path: Percent-encoded; begins with ``/``.
            query: Keys and values; a key may come more than once.
            headers: Sent behind the client's.

        Raises:
            APIError: As for `open`.
            ValueError: The path or a header cannot be sent.
        """
        if not _is_path(path):
            raise ValueError(f"a path begins with '/' and is percent-encoded, not {path!r}")
        lines = [*self._headers, *header_lines(headers)]
        target = Target(path=path, query_string=urlencode(list(query)), headers=lines)
        async with self._connection(target, path, takes_input=True) as connection:
            yield StreamInOut(connection, codec(Any), codec(Any))

    @asynccontextmanager
    async def _connection(self, target: Target, name: str, takes_input: bool) -> AsyncGenerator[Connection]:
        async with self._connector.connect(target) as (transport, dialect):
            request = Request(
                path=target.path,
                query_string=target.query_string,
                headers=target.headers,
                endpoint=name,
                connection_id=next_connection_id(),
                dialect=dialect,
                transport=transport.name,
            )
            connection = Connection(
                transport, request, self._limits, draining=trio.Event(), side="client", takes_input=takes_input
            )
            async with connection.open():
                yield connection

    def _target(self, endpoint: Endpoint, handshake: Any) -> Target:
        spec = endpoint.handshake
        if spec is None:
            if handshake is not None:
                raise TypeError(f"{endpoint.qualified_name} has no handshake, but was given {handshake!r}")
            return Target(path=endpoint.template.render({}), headers=self._headers)
        rendered = spec.render(handshake)
        return Target(
            path=endpoint.template.render(rendered.path),
            query_string=urlencode(rendered.query),
            headers=[*self._headers, *rendered.headers],
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


def _resuming(target: Target, resume: Iterable[TopicPosition]) -> Target:
    known = [(at.topic, at.key, at.position) for at in resume if at.position is not None]
    if not known:
        return target
    return attrs.evolve(target, headers=[*target.headers, (RESUME, render_positions(known))])


def _mirror(endpoint: Endpoint, connection: Connection) -> Stream:
    incoming, outgoing = endpoint.incoming, endpoint.outgoing
    if isinstance(endpoint, StreamInEndpoint):
        assert incoming is not None
        return StreamOutWithResponse(connection, incoming, outgoing)
    assert outgoing is not None
    if incoming is None:
        return StreamIn(connection, outgoing)
    return StreamInOut(connection, outgoing, incoming)
