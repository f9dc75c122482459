"""What runs an app: it admits streams, runs their sessions, holds the app's resources, and drains.

It knows nothing of sockets: a server or an in-memory client brings a request, and a function that
turns an admitted request into a transport.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeAlias, TypeVar, final

import trio
from attrs import Factory, define, field

from streamrt.api import context
from streamrt.api.endpoint import Endpoint
from streamrt.errors import APIError, CloseCode, Ended
from streamrt.wire.transport import Disconnected, Transport

from .admission import Admission, Admitted, Incoming
from .broker import Broker, MemoryBroker
from .connection import Connection
from .exchange import Exchange, own_exchange
from .scopes import lone_error
from .session import connect, run_session
from .users import Users

Lifespan: TypeAlias = Callable[[trio.Nursery], AbstractAsyncContextManager[object]]
"""Entered before the first stream, left after the last; it is given a nursery for background tasks."""

T = TypeVar("T")

_UNCOUNTED = nullcontext()
_logger = logging.getLogger("streamrt")
current_host: ContextVar[Host] = ContextVar("streamrt.host")


@final
@define(eq=False)
class _Run:
    """One time that the app runs: its resources, and how many blocks beside the first use them."""

    resources: object
    exchange: Exchange | None
    users: Users | None
    left: trio.lowlevel.ParkingLot
    guests: int = 0

    @contextmanager
    def guest(self) -> Generator[None]:
        self.guests += 1
        try:
            yield
        finally:
            self.guests -= 1
            self.left.unpark_all()


def _lone_users(host: Host) -> Users | None:
    return None if host.admission.user is None else Users(Exchange(MemoryBroker()))


@final
@define(eq=False, kw_only=True)
class Host:
    """Runs the streams of one app.

    Args:
        endpoints: All of them, in order.
        admission: The checks before the upgrade.
        lifespan: The app's resources; None when it has none.
        broker: What connects its topics with those of other processes; None when nothing does.
    """

    endpoints: Sequence[Endpoint]
    admission: Admission
    lifespan: Lifespan | None
    broker: Broker | None
    draining: trio.Event = field(factory=trio.Event, init=False)
    _servers: int = field(default=0, init=False)
    _shutdown: tuple[Callable[[], Awaitable[None]], float] | None = field(default=None, init=False)
    _expected: trio.Event = field(factory=trio.Event, init=False)  # there is a shutdown to wait for
    _run: _Run | None = field(default=None, init=False)
    _changing: trio.Event | None = field(default=None, init=False)  # while the lifespan is entered or left
    _streams: dict[Connection, bool] = field(factory=lambda: dict[Connection, bool](), init=False)  # nested?
    _left: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot, init=False)
    # Where there is no broker; such an app may take streams without running.
    _users: Users | None = field(default=Factory(_lone_users, takes_self=True), init=False)

    @property
    def users(self) -> Users:
        """The users of the app.

        Raises:
            RuntimeError: The app does not tell users apart, or is not running.
        """
        users = self._users if self._run is None else self._run.users
        if users is None:
            raise RuntimeError("this app does not tell users apart: say which one a caller is with App(user=...)")
        if self._run is None and self.broker is not None:
            raise RuntimeError("the app is not running, and so is not connected with others by its broker")
        return users

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @contextmanager
    def exchanging(self) -> Generator[None]:
        """Have what is published in the block published by the app."""
        with _set(own_exchange, None if self._run is None else self._run.exchange):
            yield

    async def handle(self, incoming: Incoming, accept: Callable[[Admitted], Awaitable[Transport]]) -> None:
        """Admit one stream and run it to its end.

        Args:
            incoming: The request.
            accept: Called once the request is admitted; sends the upgrade.

        Raises:
            APIError: The request is refused; `accept` was not called, and is not going to be.
        """
        accepted = False
        try:
            async with AsyncExitStack() as stack:
                self._check_draining(incoming)
                if self._run is None and (self.lifespan or self.broker) is not None:
                    raise APIError.unavailable("the app is not running")
                current_host.set(self)
                run = self._run
                context.resources.set(None if run is None else run.resources)
                own_exchange.set(None if run is None else run.exchange)
                admitted = await self.admission.admit(incoming, stack)
                self._check_draining(incoming)  # which may have begun meanwhile
                accepted = True
                connection = connect(admitted, await accept(admitted), self.draining)
                self._streams[connection] = incoming.nested
                users, user = self._users if run is None else run.users, admitted.user
                counted = None if users is None or user is None or incoming.nested else users.counted(user, connection)
                try:
                    with counted or _UNCOUNTED:
                        await run_session(admitted, connection)
                finally:
                    del self._streams[connection]
                    self._left.unpark_all()
        except Disconnected:
            pass  # the client has left before the upgrade
        except APIError as error:
            if not accepted:
                if isinstance(error, APIError.Internal):
                    _logger.exception("%s: refused because of an internal error", incoming.path)
                    raise error.public() from error
                raise
            _logger.exception("%s: the middleware failed", incoming.path)
        except Exception as error:
            if not accepted:
                _logger.exception("%s: refused because the auth handler or the middleware failed", incoming.path)
                raise APIError.internal() from error
            _logger.exception("%s: the transport or the middleware failed", incoming.path)
        else:
            if not accepted:
                _logger.error("%s: refused because the middleware kept the refusal of another", incoming.path)
                raise APIError.internal()

    def _check_draining(self, incoming: Incoming) -> None:
        if self.draining.is_set() and not incoming.nested:
            raise APIError.unavailable("the server is shutting down", retry_after=1)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Hold the app's resources for as long as the block lasts.

        Blocks may nest and overlap, as with an in-memory client beside a server: the first one enters
        the lifespan, and leaves it when all others are left and all streams are over. Cancelled, it waits
        for nobody, and cuts off what is still open.
        """
        while self._changing is not None:
            await self._changing.wait()
        if self._run is not None:
            with self._run.guest():
                yield
            return
        self._changing = trio.Event()
        try:
            with lone_error():
                async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                    stack.callback(nursery.cancel_scope.cancel)
                    exchange = None
                    if self.broker is not None:
                        exchange = Exchange(self.broker)
                        stack.callback(exchange.close)
                        await stack.enter_async_context(self.broker.running())
                    users = self._users
                    if exchange is not None and users is not None:
                        users = Users(exchange)
                        await stack.enter_async_context(users.running(nursery))
                    resources = None
                    if self.lifespan is not None:
                        resources = await stack.enter_async_context(_within(exchange, self.lifespan(nursery)))
                    self._run = run = _Run(resources, exchange, users, self._left)
                    nursery.start_soon(self._drain_on_shutdown)
                    self._changed()
                    try:
                        yield
                        while run.guests or self._streams:
                            await self._left.park()
                    finally:
                        self._run = None
                        self._changing = trio.Event()
                        self._cut_off_all()  # who was not waited for, because this block is cancelled
        finally:
            self.draining, self._expected, self._shutdown = trio.Event(), trio.Event(), None
            self._changed()

    def _changed(self) -> None:
        assert self._changing is not None
        self._changing.set()
        self._changing = None

    def expect_shutdown(self, begun: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Drain when the server that carries the streams begins to shut down. May be called for every stream.

        Args:
            begun: Returns when that is so.
            seconds: What is left then: half of it is for the drain, the other half for the last closing handshakes.
        """
        if not self._servers and self._shutdown is None:
            self._shutdown = begun, seconds / 2
            self._expected.set()

    async def _drain_on_shutdown(self) -> None:
        while True:
            await self._expected.wait()
            assert self._shutdown is not None
            begun, seconds = self._shutdown
            await begun()
            await self.drain(seconds)
            self._shutdown, self._expected, self.draining = None, trio.Event(), trio.Event()

    @contextmanager
    def served(self) -> Generator[None]:
        """Note for as long as the block lasts that a server takes care of draining."""
        self._servers += 1
        try:
            yield
        finally:
            self._servers -= 1
            self.draining = trio.Event()  # this server is gone, and others may go on with the app

    async def drain(self, seconds: float) -> None:
        """Refuse new streams from outside, and end the open ones over a span of time.

        `draining` is set for all at once. A stream that has not ended when its share of the time is over
        is cancelled and closed with 1012; the shares are spread evenly, because clients that are all cut
        off at once come back all at once. Returns when no stream is left.

        Args:
            seconds: The span. With 0, all are cancelled now.
        """
        self.draining.set()
        begin = trio.current_time()
        streams = [connection for connection, nested in self._streams.items() if not nested]
        for connection, nested in self._streams.items():
            if nested:
                connection.announce_drain(seconds)  # they end with those that have opened them
        for count, connection in enumerate(streams, 1):
            connection.announce_drain(seconds * count / len(streams))
        for count, connection in enumerate(streams, 1):
            with trio.move_on_at(begin + seconds * count / len(streams)):
                while self._streams:
                    await self._left.park()
            connection.cut_off(RESTART)
        while self._streams:  # those that handlers have opened end with them
            self._cut_off_all()
            await self._left.park()

    def _cut_off_all(self) -> None:
        for connection in self._streams:
            connection.cut_off(RESTART)


@asynccontextmanager
async def _within(exchange: Exchange | None, lifespan: AbstractAsyncContextManager[object]) -> AsyncGenerator[object]:
    """Enter and leave a lifespan with the app's exchange, which is not that of the block."""
    before = own_exchange.get()
    with _set(own_exchange, exchange):
        async with lifespan as resources:
            with _set(own_exchange, before):
                yield resources


@contextmanager
def _set(variable: ContextVar[T], value: T) -> Generator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


RESTART = Ended("runtime", CloseCode.SERVICE_RESTART, "the server is restarting")
