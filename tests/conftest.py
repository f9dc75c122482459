"""Fixtures of all tests: what carries a stream, and failures that read as they were raised."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, final

import attrs
import hypothesis
import pytest
import trio
from hypercorn.config import Config
from trio.testing import wait_all_tasks_blocked

import streamrt
from streamrt import App, Client, testing
from streamrt.runtime.scopes import leaves, lone_error
from tests.brokers import servers
from tests.namespace import Namespace, namespaces
from tests.peers import CERTIFICATES, Peer, connect_socket

OFFERED = ("encore-ws",)

ERRORS = logging.getLogger("tests.hypercorn")  # its own, which no other test sets up
"""Where `caplog` sees what goes wrong in hypercorn."""
ERRORS.setLevel(logging.WARNING)

hypothesis.settings.register_profile("tests", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Take a failure out of the group that pytest-trio's own nursery wraps it into."""
    try:
        return (yield)
    except BaseExceptionGroup as group:
        ours = pyfuncitem.get_closest_marker("trio") and group.message.startswith("Exceptions from Trio nursery")
        if ours and len(group.exceptions) == 1:
            raise group.exceptions[0] from None  # noqa: ASYNC123 - it is shown as it was raised
        raise


@pytest.fixture(autouse=True)
def _assertions_of_handlers_count(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fail a test whose handler has failed an assertion: the runtime only logs it, and tells the peer."""
    yield
    for record in caplog.get_records("call"):
        error = None if record.exc_info is None else record.exc_info[1]
        for leaf in () if error is None else leaves(error):
            if isinstance(leaf, AssertionError):
                raise leaf


@attrs.frozen
class Carrier:
    """What carries the streams of a test: the same test runs over each.

    Args:
        name: Its name.
        client: Runs an app and gives a typed client to it, which is outside of it.
        connect: Runs an app and connects a peer without types to it.
    """

    name: str
    client: "OpenClient"
    connect: "Connect"


class OpenClient(Protocol):
    def __call__(
        self, app: App, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Client]: ...


class Connect(Protocol):
    def __call__(
        self, app: App, url: str, *, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = OFFERED
    ) -> AbstractAsyncContextManager[Peer]: ...


def memory() -> Carrier:
    def client(app: App, *, headers: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[Client]:
        return app.client(headers=headers, private=False)

    return Carrier("memory", client, testing.connect)


def over_server(name: str, **options: Any) -> Carrier:
    @asynccontextmanager
    async def client(app: App, *, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Client]:
        async with served(app, **options) as url:
            yield Client(url, headers=headers, ssl_context=CERTIFICATES.trusting)

    @asynccontextmanager
    async def connect(
        app: App, url: str, *, headers: Mapping[str, str] | None = None, subprotocols: Sequence[str] = OFFERED
    ) -> AsyncGenerator[Peer]:
        offered = list(subprotocols)
        async with served(app, **options) as base:
            async with connect_socket(base + url, headers=headers, subprotocols=offered) as peer:
                yield peer

    return Carrier(name, client, connect)


def socket() -> Carrier:
    return over_server("socket")


def tls() -> Carrier:
    return over_server("tls", tls=True)


def asgi() -> Carrier:
    return over_server("asgi", wrapped=True)


@final
class Wrapped:
    """An app behind something that wraps `send`, so that its streams have to run over plain ASGI."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.host = app.host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def passing(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, passing)


def configured(*, tls: bool = False, **settings: Any) -> Config:
    """Return a configuration of hypercorn: on loopback, and silent while nothing goes wrong."""
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], ERRORS
    if tls:
        config.certfile, config.keyfile = CERTIFICATES.files
    for name, value in settings.items():
        setattr(config, name, value)
    return config


@asynccontextmanager
async def served(
    app: App,
    *,
    tls: bool = False,
    wrapped: bool = False,
    config: Config | None = None,
    seconds: float = 10,
    **options: Any,
) -> AsyncGenerator[str]:
    """Serve an app, on loopback if its configuration says nothing else; within ten seconds, whatever happens."""
    config = configured(tls=tls) if config is None else config
    servable = Wrapped(app) if wrapped else app
    with trio.fail_after(seconds), lone_error():
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(streamrt.serve, servable, config=config, **options))
            await wait_all_tasks_blocked()  # every task of it is there
            yield url
            nursery.cancel_scope.cancel()


@pytest.fixture(params=[memory, socket, tls, asgi], ids=lambda factory: factory.__name__)
def carrier(request: pytest.FixtureRequest) -> Carrier:
    factory: Callable[[], Carrier] = request.param
    return factory()


@pytest.fixture(scope="session")
def valkey() -> Generator[servers.Server]:
    """A Valkey for tests that leave it as it is."""
    with servers.running("valkey") as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Generator[servers.Server]:
    """A Redis for tests that leave it as it is: the oldest that we speak to."""
    with servers.running("redis") as server:
        yield server


@pytest.fixture
def namespace() -> Generator[Namespace]:
    """Another host."""
    yield from namespaces()
