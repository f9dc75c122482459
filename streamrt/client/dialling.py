"""One connection of a client's stream: the headers, the connector, and what is told of it."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias, final

import attrs
import trio
from attrs import frozen

from streamrt.api.limits import Limits
from streamrt.api.request import Request, next_connection_id
from streamrt.api.stream import TopicPosition
from streamrt.errors import APIError
from streamrt.runtime.connection import Connection
from streamrt.wire.control import Drain, Notice
from streamrt.wire.dialect import RESUME, Headers, render_positions
from streamrt.wire.transport import PullTransport

from .connector import Connector, Target, header_lines
from .events import Interpreter, Tell
from .watching import WatchedTransport


@final
@frozen
class HeadersAttempt:
    """What a function for headers is told.

    Args:
        rejected: Whether the server has refused the credentials that were given last: do not give it the same again.
    """

    rejected: bool


HeadersFunction: TypeAlias = Callable[[HeadersAttempt], Awaitable[Mapping[str, str]]]


@final
@frozen(kw_only=True)
class Call:
    """What a stream is opened with.

    Args:
        target: Where, with the headers of its handshake.
        name: What the endpoint is called.
        takes_input: Whether the server may send messages at all.
        first_message_timeout: Seconds.
        silence_timeout: Seconds.
        tell: Is told what happens.
    """

    target: Target
    name: str
    takes_input: bool
    first_message_timeout: float = math.inf
    silence_timeout: float = math.inf
    tell: Tell | None = None


@final
@frozen(kw_only=True)
class Dialler:
    """What the streams of a client share.

    Args:
        connector: What connects them.
        headers: Sent with each, before those of its handshake; or what is asked for them.
        connect_timeout: Seconds for one connection, with the asking for headers.
        limits: Of this end.
    """

    connector: Connector
    headers: Headers | HeadersFunction
    connect_timeout: float
    limits: Limits

    @property
    def renews(self) -> bool:
        """Whether asking again may give other headers."""
        return callable(self.headers)

    @asynccontextmanager
    async def dial(
        self,
        call: Call,
        *,
        rejected: bool = False,
        renewed: Callable[[], None] | None = None,
        resume: Iterable[TopicPosition] = (),
        told: Callable[[Notice | Drain], None] | None = None,
        grace: float = math.inf,
    ) -> AsyncGenerator[Connection]:
        """Connect for as long as the block lasts.

        Args:
            call: What is called.
            rejected: Whether the credentials that were given last were refused.
            renewed: Is called once there are headers.
            resume: Where the stream was in topics.
            told: See `Connection`. Default: the call is told the events.
            grace: See `Connection`.

        Raises:
            APIError: The server refused, with this error; or it cannot be reached.
        """
        deadline = trio.current_time() + self.connect_timeout
        offered = {(at.topic, at.key): at.position for at in resume if at.position is not None}
        established = False
        try:
            headers = await self._ask_for_headers(HeadersAttempt(rejected), deadline)
            if renewed is not None:
                renewed()
            target = attrs.evolve(
                call.target,
                headers=[*headers, *call.target.headers, *_resuming(offered)],
                deadline=deadline,
            )
            async with self.connector.connect(target) as (transport, dialect):
                established = True
                request = Request(
                    path=target.path,
                    query_string=target.query_string,
                    headers=target.headers,
                    endpoint=call.name,
                    connection_id=next_connection_id(),
                    dialect=dialect,
                    transport=transport.name,
                )
                connection = Connection(
                    _watched(transport, call),
                    request,
                    self.limits,
                    draining=trio.Event(),
                    side="client",
                    takes_input=call.takes_input,
                    grace=grace,
                    told=told or _telling(call.tell, offered),
                )
                async with connection.open():
                    yield connection
        except trio.TooSlowError:
            if established:
                raise  # it is the block's own
            raise APIError.deadline_exceeded(
                f"no connection to {self.connector} within {self.connect_timeout:g} s"
            ) from None

    async def _ask_for_headers(self, attempt: HeadersAttempt, deadline: float) -> Headers:
        if not callable(self.headers):
            return self.headers
        with trio.fail_at(deadline):
            try:
                headers = await self.headers(attempt)
            except APIError:
                raise
            except Exception as error:
                raise APIError.unavailable(f"the headers could not be had: {error}") from error
        if headers is None:  # pyright: ignore[reportUnnecessaryComparison] # a return that is forgotten
            raise TypeError("the function for headers must return a mapping of names to values, not None")
        return header_lines(headers)


def _watched(transport: PullTransport, call: Call) -> PullTransport:
    first, silence = call.first_message_timeout, call.silence_timeout
    return transport if min(first, silence) == math.inf else WatchedTransport(transport, first=first, silence=silence)


def _resuming(offered: Mapping[tuple[str, str], str]) -> Headers:
    return [(RESUME, render_positions((*channel, at) for channel, at in offered.items()))] if offered else []


def _telling(tell: Tell | None, offered: Iterable[tuple[str, str]]) -> Callable[[Notice | Drain], None] | None:
    if tell is None:
        return None

    interpreter = Interpreter(offered)

    def told(what: Notice | Drain) -> None:
        if (event := interpreter.event(what)) is not None:
            tell(event)

    return told
