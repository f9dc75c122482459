"""The checks before the upgrade, in an order that tells nobody more than they may know.

    0. draining       503  the server shuts down
    1. route          404  there is no such endpoint
    2. expose         404  the same answer: from outside, a private endpoint is none
    3. header tunnel  400  headers among the subprotocols
    4. Origin         403  a page of another site
    5. limits         429  too many streams
    6. auth handler        its own error, except unauthenticated, which leaves the caller anonymous
    7. auth=True      401  anonymous callers
    8. handshake      400  naming the parameter and where it was looked for
    9. middleware          its own error

Until the last of them nothing of the stream exists but a slot among the app's streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, TypeAlias, cast, final
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen

from streamrt.api import context
from streamrt.api.endpoint import Endpoint
from streamrt.api.handshake import HandshakeSpec
from streamrt.api.limits import Limits
from streamrt.api.path import Router
from streamrt.api.request import Request, next_connection_id
from streamrt.errors import APIError
from streamrt.wire.dialect import Headers, select_subprotocol, tunnelled_headers

from .scopes import lone_error

Middleware: TypeAlias = Callable[[Request], AbstractAsyncContextManager[object]]
"""An async context manager around each stream: entered as the last check, left when the stream is over."""

UserOf: TypeAlias = Callable[[Any], str | None]
"""Tells from the auth data which user a caller is; None when it is none."""


@final
@frozen(eq=False, kw_only=True)
class Incoming:
    """A request for a stream, as a server or an in-memory client has it.

    Args:
        path: Still percent-encoded.
        query_string: What followed the ``?``, still percent-encoded.
        headers: Header lines, names in lower case.
        subprotocols: What the client offers, in order.
        peer: Address and port of the other end.
        transport: What will carry the stream.
        private: Whether it comes from inside the process: private endpoints are there for it, and an Origin
            means nothing.
        nested: Whether a handler of the app is calling: then it ends with its caller, takes no place of its
            own among the streams that are counted, and may begin while the app drains.
        auth_data: The caller, already known; None for whoever the auth handler finds.
    """

    path: str
    query_string: str
    headers: Headers
    subprotocols: Sequence[str]
    peer: tuple[str, int] | None
    transport: str
    private: bool = False
    nested: bool = False
    auth_data: object = None


@final
@frozen(eq=False, kw_only=True)
class Admitted:
    """A stream that may begin.

    Args:
        endpoint: What was asked for.
        limits: The limits of its streams.
        handshake: The typed handshake; None for an endpoint without one.
        auth_data: What the auth handler returned; None for an anonymous caller.
        user: The user that the caller is, if the app tells.
        request: The request.
    """

    endpoint: Endpoint
    limits: Limits
    handshake: Any
    auth_data: object
    user: str | None
    request: Request


@final
@frozen(eq=False)
class AuthHandler:
    """The app's auth handler.

    Args:
        credentials: How its argument is read from a request.
        authenticate: The function, from credentials to auth data.
    """

    credentials: HandshakeSpec[Any]
    authenticate: Callable[[Any], Awaitable[object]]


@final
@define(eq=False, kw_only=True)
class Admission:
    """The checks of one app.

    Args:
        router: The endpoints by path.
        exposed: Those that are exposed. A router of their own, because a private endpoint must not even be
            noticed by the requests of others that it takes away.
        limits: The limits of each endpoint's streams.
        app_limits: The limits of the app as a whole.
        auth_handler: Who tells callers apart; None when nobody does.
        middleware: Entered in this order.
        user: What user the auth data are of; None when the app does not tell.
    """

    router: Router[Endpoint]
    exposed: Router[Endpoint]
    limits: Mapping[Endpoint, Limits]
    app_limits: Limits
    auth_handler: AuthHandler | None
    middleware: Sequence[Middleware]
    user: UserOf | None = None
    _streams: int = field(default=0, init=False)
    _streams_by_peer: Counter[str] = field(factory=lambda: Counter[str](), init=False)

    @property
    def waits(self) -> bool:
        """Whether it may take time to admit a stream."""
        return self.auth_handler is not None or bool(self.middleware)

    async def admit(self, incoming: Incoming, stack: AsyncExitStack) -> Admitted:
        """Check one request.

        Args:
            incoming: The request.
            stack: Left when the stream is over; holds its slot and its middleware.

        Raises:
            APIError: The request is refused.
        """
        found = (self.router if incoming.private else self.exposed).match(incoming.path)
        if found is None:
            raise APIError.not_found("endpoint not found")
        endpoint, path = found
        limits = self.limits[endpoint]
        headers = (*incoming.headers, *tunnelled_headers(incoming.subprotocols))
        request = Request(
            path=incoming.path,
            query_string=incoming.query_string,
            headers=headers,
            peer=incoming.peer,
            endpoint=endpoint.qualified_name,
            connection_id=next_connection_id(),
            dialect=select_subprotocol(incoming.subprotocols),
            transport=incoming.transport,
        )
        if not incoming.private:
            _check_origin(request, limits.allowed_origins)
        if not incoming.nested:
            stack.enter_context(self._slot(incoming.peer))
        auth_data = incoming.auth_data
        if auth_data is None:
            auth_data = await self._authenticate(request, endpoint, limits.handshake_timeout)
        user = self._user_of(auth_data)
        context.auth_data.set(auth_data)
        context.user.set(user)
        handshake = None
        if endpoint.handshake is not None:
            handshake = endpoint.handshake.parse(path=path, query_string=request.query_string, headers=headers)
        for middleware in self.middleware:
            await stack.enter_async_context(middleware(request))
        return Admitted(
            endpoint=endpoint, limits=limits, handshake=handshake, auth_data=auth_data, user=user, request=request
        )

    def _user_of(self, auth_data: object) -> str | None:
        if self.user is None or auth_data is None:
            return None
        user = cast("object", self.user(auth_data))
        if user is None or (isinstance(user, str) and user):
            return user
        raise TypeError(f"App(user=...) is to return the name of a user, or None, and returned {user!r}")

    @contextmanager
    def _slot(self, peer: tuple[str, int] | None) -> Generator[None]:
        address = "" if peer is None else peer[0]
        most, most_per_peer = self.app_limits.max_streams, self.app_limits.max_streams_per_peer
        if most is not None and self._streams >= most:
            raise APIError.resource_exhausted(f"the server has its {most} streams", retry_after=1)
        if most_per_peer is not None and self._streams_by_peer[address] >= most_per_peer:
            raise APIError.resource_exhausted(f"this address has its {most_per_peer} streams", retry_after=1)
        self._streams += 1
        self._streams_by_peer[address] += 1
        try:
            yield
        finally:
            self._streams -= 1
            self._streams_by_peer[address] -= 1
            if not self._streams_by_peer[address]:
                del self._streams_by_peer[address]

    async def _authenticate(self, request: Request, endpoint: Endpoint, timeout: float) -> object:
        handler = self.auth_handler
        refusal = APIError.unauthenticated()
        auth_data = None
        if handler is not None and handler.credentials.present(
            query_string=request.query_string, headers=request.headers
        ):
            credentials = handler.credentials.parse(path={}, query_string=request.query_string, headers=request.headers)
            with trio.move_on_after(timeout) as patience:
                try:
                    with lone_error():
                        auth_data = await handler.authenticate(credentials)
                except APIError.Unauthenticated as error:
                    refusal = error
            if patience.cancelled_caught:
                raise APIError.deadline_exceeded(f"authentication took more than {timeout:g} s")
        if endpoint.auth and auth_data is None:
            raise refusal
        return auth_data


def _check_origin(request: Request, allowed: str | Sequence[str]) -> None:
    origin = request.header("origin")
    if origin is None or "*" in allowed or (origin in allowed and allowed != "same-host"):
        return
    if allowed == "same-host":
        name = _host_name(origin)
        if name is not None and name == _host_name("//" + (request.header("host") or "")):
            return
    raise APIError.permission_denied(
        f"pages of the origin {origin!r} may not connect here; the limit allowed_origins names those that may"
    )


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
