"""An app: services put together, as one ASGI application and as in-memory clients."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, final

from streamrt.api.endpoint import Endpoint
from streamrt.api.handshake import HandshakeSpec
from streamrt.api.limits import Limits
from streamrt.api.path import Router
from streamrt.api.service import Service, add_route
from streamrt.api.signature import resolve_hints, show, show_parameters, where
from streamrt.client.client import Client
from streamrt.client.memory import MemoryConnector
from streamrt.errors import APIError
from streamrt.runtime.admission import Admission, AuthHandler, Middleware, UserOf
from streamrt.runtime.broker import Broker
from streamrt.runtime.host import Host, Lifespan
from streamrt.runtime.users import OpenStream
from streamrt.server.asgi import Receive, Scope, Send, serve_lifespan, serve_plain, serve_websocket

ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Authenticate: TypeAlias = Callable[[Any], Awaitable[object]]


@final
class App:
    """Services put together, to be served or called.

    It is an ASGI application: ``streamrt run module:app``, ``hypercorn --worker-class trio module:app``, or
    `streamrt.serve` in a nursery of your own.

    Args:
        *services: What it is made of.
        auth_handler: ``async def authenticate(credentials: Credentials) -> User``. The credentials are an
            attrs class whose fields come from headers, the query or cookies, like a handshake's. It is
            called for each stream that has any of them, and may raise: `APIError.unauthenticated` leaves
            the caller anonymous, which endpoints with ``auth=True`` refuse; any other error refuses.
        user: ``lambda user: user.id``: which user a caller is, from what the auth handler returned; None for one that
            is none. It is for `streams` and `disconnect`, and it is who is a member where a topic has a presence.
            Default: users are not told apart, and that costs nothing.
        middleware: Async context managers around each stream: called with its `Request` after all other
            checks, entered before the upgrade, left when the stream is over. Raising an `APIError` on
            entry refuses it.
        lifespan: An async context manager that is called with a nursery, entered before the first stream
            and left after the last. What it yields is there for handlers with `get_resources`; tasks
            started in the nursery are cancelled at the end, and their errors end the server.
        broker: What connects the app's topics with those of other processes, such as `streamrt.brokers.RedisBroker`.
            Default: nothing, and the topics are those of all tasks in this Trio run.
        fallback: An ASGI application that takes plain HTTP requests. Default: they get a 404.
        limits: The limits of its streams, where an endpoint has none of its own.

    Raises:
        TypeError: A service is none, or the auth handler is not what it should be.
        ValueError: Two endpoints have one path, two services one name, or an endpoint needs auth and there
            is no auth handler.
    """

    def __init__(
        self,
        *services: Service,
        auth_handler: Authenticate | None = None,
        user: UserOf | None = None,
        middleware: Sequence[Middleware] = (),
        lifespan: Lifespan | None = None,
        broker: Broker | None = None,
        fallback: ASGIApp | None = None,
        limits: Limits | None = None,
    ) -> None:
        _check_services(services)
        limits = Limits() if limits is None else limits
        endpoints = [endpoint for service in services for endpoint in service.endpoints]
        _check_auth(endpoints, auth_handler)
        self.services: tuple[Service, ...] = services
        self.host: Host = Host(
            endpoints=endpoints,
            admission=Admission(
                router=_route(endpoints),
                exposed=_route([endpoint for endpoint in endpoints if endpoint.expose]),
                limits={endpoint: endpoint.limits(limits) for endpoint in endpoints},
                app_limits=limits,
                auth_handler=None if auth_handler is None else _read_auth_handler(auth_handler),
                middleware=tuple(middleware),
                user=user,
            ),
            lifespan=lifespan,
            broker=broker,
        )
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "websocket":
                await serve_websocket(self.host, scope, receive, send)
            case "lifespan":
                await serve_lifespan(self.host, receive, send)
            case _ if self._fallback is not None:
                with self.host.exchanging():
                    await self._fallback(scope, receive, send)
            case _:
                await serve_plain(self.host, scope, send)

    @asynccontextmanager
    async def client(
        self,
        *,
        headers: Mapping[str, str] | None = None,
        auth_data: object = None,
        private: bool = True,
        limits: Limits | None = None,
    ) -> AsyncGenerator[Client]:
        """Run the app for as long as the block lasts, and give a client to it, in memory.

        Blocks and servers of one app share its lifespan. The first of them holds it, and is left only when
        the others are left and all streams are over: so begin it last, or end it last.

        Args:
            headers: Sent with each stream.
            auth_data: Who calls, instead of what the auth handler would make of the headers.
            private: Whether endpoints that are not exposed can be reached. Default True.
            limits: Of the client's end of its streams.
        """
        async with self.host.running():
            connector = MemoryConnector(self.host, private=private, auth_data=auth_data)
            yield Client.over(connector, headers=headers, limits=limits)

    async def streams(self, user: str) -> list[OpenStream]:
        """Return the open streams of a user, in all processes that the app's broker connects, oldest first.

        A stream is open until its handler has ended. Those that a handler has opened to others are not listed, for
        they end with it; nor are those of a process that is cut off from the broker.

        Args:
            user: As `App(user=...)` names it.

        Raises:
            RuntimeError: The app does not tell users apart; or it has a broker, and is not running.
        """
        return await self.host.users.streams(user)

    async def disconnect(self, user: str, error: APIError) -> int:
        """End all open streams of a user with an error, in all processes that the app's broker connects.

        The handlers are cancelled, and the peers are told. Streams that are opened later are not affected: so whoever
        must not come back has to be refused by the auth handler first.

        Args:
            user: As `App(user=...)` names it.
            error: What the peers are told.

        Returns:
            How many streams have ended. Those of a process that does not answer within the broker's `lease` are not
            among them: it is gone, or cut off from the broker.

        Raises:
            RuntimeError: The app does not tell users apart; or it has a broker, and is not running.
            TypeError: That is no `APIError`.
            EncodeError: The details of the error are no JSON; the streams of this process have ended. So they have when
                the broker fails, which raises its own error.

        Example:
            await app.disconnect(user.id, APIError.permission_denied("your account was closed"))
        """
        return await self.host.users.disconnect(user, error)


def _check_services(services: Sequence[object]) -> None:
    names: set[str] = set()
    for service in services:
        if not isinstance(service, Service):
            raise TypeError(f"an app is made of services, App(one, another), not of {service!r}")
        if service.name in names:
            raise ValueError(f"two services are named {service.name!r}")
        names.add(service.name)


def _check_auth(endpoints: Sequence[Endpoint], auth_handler: Authenticate | None) -> None:
    needy = [endpoint for endpoint in endpoints if endpoint.auth]
    if needy and auth_handler is None:
        raise ValueError(
            f"{where(needy[0].handler)} is declared with auth=True, but the app has no auth handler: "
            "give it one with App(..., auth_handler=...)"
        )


def _route(endpoints: Sequence[Endpoint]) -> Router[Endpoint]:
    router: Router[Endpoint] = Router()
    for endpoint in endpoints:
        add_route(router, endpoint, endpoints)
    return router


def _read_auth_handler(authenticate: Authenticate) -> AuthHandler:
    expected = f"{where(authenticate)}: an auth handler is `async def authenticate(credentials: Credentials) -> User`"
    if not inspect.iscoroutinefunction(authenticate):
        raise TypeError(f"{expected}, but this is not an `async def` function")
    parameters = inspect.signature(authenticate).parameters
    if len(parameters) != 1:
        raise TypeError(f"{expected}, but this takes {show_parameters(authenticate)}")
    [name] = parameters
    hints = resolve_hints(authenticate)
    if name not in hints:
        raise TypeError(f"{expected}, but the parameter {name!r} has no annotation")
    if not isinstance(hints[name], type):
        raise TypeError(f"{expected}, but the parameter {name!r} is {show(hints[name])}, which is not a class")
    try:
        return AuthHandler(HandshakeSpec[Any].of(hints[name], what="credentials"), authenticate)
    except TypeError as error:
        raise TypeError(f"{where(authenticate)}: {error}") from error
