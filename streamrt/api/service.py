"""A service: a named list of endpoints, filled by decorators. It runs nothing, and is no global."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, Unpack, cast, final, overload

from .endpoint import (
    Endpoint,
    EndpointOptions,
    StreamInEndpoint,
    StreamInOutEndpoint,
    StreamOutEndpoint,
    create_endpoint,
)
from .path import PathTemplate, Router
from .signature import where
from .stream import StreamIn, StreamInOut, StreamOut

H = TypeVar("H")
I = TypeVar("I")  # noqa: E741 - as in endpoint.py
M = TypeVar("M")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")


class DeclareStreamIn(Protocol):
    """What `Service.stream_in(...)` returns: the decorator of a handler that receives."""

    @overload
    def __call__(self, handler: Callable[[StreamIn[M]], Awaitable[R]], /) -> StreamInEndpoint[None, M, R]: ...
    @overload
    def __call__(self, handler: Callable[[H, StreamIn[M]], Awaitable[R]], /) -> StreamInEndpoint[H, M, R]: ...


class DeclareStreamOut(Protocol):
    """What `Service.stream_out(...)` returns: the decorator of a handler that sends."""

    @overload
    def __call__(self, handler: Callable[[StreamOut[M]], Awaitable[None]], /) -> StreamOutEndpoint[None, M]: ...
    @overload
    def __call__(self, handler: Callable[[H, StreamOut[M]], Awaitable[None]], /) -> StreamOutEndpoint[H, M]: ...


class DeclareStreamInOut(Protocol):
    """What `Service.stream_in_out(...)` returns: the decorator of a handler that does both."""

    @overload
    def __call__(
        self, handler: Callable[[StreamInOut[I, O]], Awaitable[None]], /
    ) -> StreamInOutEndpoint[None, I, O]: ...
    @overload
    def __call__(
        self, handler: Callable[[H, StreamInOut[I, O]], Awaitable[None]], /
    ) -> StreamInOutEndpoint[H, I, O]: ...


@final
class Service:
    """A named list of endpoints.

    Args:
        name: Letters, digits, ``-`` and ``_``; the first part of its endpoints' names and of their
            default paths.

    Example:
        ```python
        api = Service("chat")

        @api.stream_in_out("/chat", expose=True)
        async def chat(stream: StreamInOut[Say, Said]) -> None: ...
        ```
    """

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            raise ValueError(
                f"a service's name is letters, digits, '-' and '_', and begins with a letter, not {name!r}"
            )
        self.name = name
        self._endpoints: dict[str, Endpoint] = {}
        self._router: Router[Endpoint] = Router()

    def __repr__(self) -> str:
        return f"<Service {self.name}: {', '.join(self._endpoints) or 'no endpoints'}>"

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """The endpoints, in the order they were declared."""
        return tuple(self._endpoints.values())

    def stream_in(self, path: str | None = None, **options: Unpack[EndpointOptions]) -> DeclareStreamIn:
        """Declare an endpoint whose client sends messages, and may get one response.

        The handler is ``async def f(stream: StreamIn[Message]) -> Response``, or takes a handshake before
        the stream. It may return None, and then there is no response.

        Args:
            path: Where it is found: ``/rooms/{room}``, or ``/files/{rest:path}`` for everything below.
                Default: ``/<service>.<handler>``.
            **options: See `EndpointOptions` and `Limits`.

        Raises:
            TypeError: The handler does not fit, one of its types cannot be a message or a handshake, or
                an option is unknown.
            ValueError: The path is malformed or taken, or the name is, or a limit makes no sense.
        """
        return self._declare(StreamInEndpoint, path, options)

    def stream_out(self, path: str | None = None, **options: Unpack[EndpointOptions]) -> DeclareStreamOut:
        """Declare an endpoint that sends messages to its client.

        The handler is ``async def f(stream: StreamOut[Message]) -> None``, or takes a handshake before
        the stream. For the arguments and errors see `stream_in`.
        """
        return self._declare(StreamOutEndpoint, path, options)

    def stream_in_out(self, path: str | None = None, **options: Unpack[EndpointOptions]) -> DeclareStreamInOut:
        """Declare an endpoint that exchanges messages with its client.

        The handler is ``async def f(stream: StreamInOut[In, Out]) -> None``, or takes a handshake before
        the stream. For the arguments and errors see `stream_in`.
        """
        return self._declare(StreamInOutEndpoint, path, options)

    def _declare(
        self, endpoint_type: type[Endpoint], path: str | None, options: EndpointOptions
    ) -> Callable[[Callable[..., Any]], Any]:
        if callable(decorated := cast("object", path)):
            name = endpoint_type.decorator
            raise TypeError(
                f"{where(decorated)}: write @{name}() or @{name}(path), not @{name} without its parentheses"
            )

        def declare(handler: Callable[..., Any]) -> Endpoint:
            endpoint = create_endpoint(endpoint_type, self.name, path, options, handler)
            if endpoint.name in self._endpoints:
                raise ValueError(
                    f"{where(handler)}: the service {self.name!r} already has an endpoint {endpoint.name!r}"
                )
            add_route(self._router, endpoint, self.endpoints)
            self._endpoints[endpoint.name] = endpoint
            return endpoint

        return declare


def add_route(router: Router[Endpoint], endpoint: Endpoint, others: Iterable[Endpoint]) -> None:
    """Add an endpoint to a router.

    Args:
        router: The router.
        endpoint: The endpoint.
        others: Those that are in the router, to name the one that is in the way.

    Raises:
        ValueError: Another endpoint has the same paths.
    """
    try:
        router.add(endpoint.template, endpoint)
    except ValueError as error:
        taken = next(other for other in others if _clash(other.template, endpoint.template))
        raise ValueError(f"{where(endpoint.handler)}: {error} of {where(taken.handler)}") from None


def _clash(one: PathTemplate, other: PathTemplate) -> bool:
    router: Router[None] = Router()
    router.add(one, None)
    try:
        router.add(other, None)
    except ValueError:
        return True
    return False
