"""Fixtures of all tests: what carries a stream, and failures that read as they were raised."""

from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import attrs
import hypothesis
import pytest
import trio
from hypercorn.config import Config

import streamrt
from streamrt import App, Client, testing
from streamrt.runtime.scopes import leaves, lone_error
from tests.peers import Peer, connect_socket

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
        self, app: App, url: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Peer]: ...


def memory() -> Carrier:
    def client(app: App, *, headers: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[Client]:
        return app.client(headers=headers, private=False)

    return Carrier("memory", client, testing.connect)


def hypercorn() -> Carrier:
    @asynccontextmanager
    async def client(app: App, *, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Client]:
        async with served(app) as url:
            yield Client(url, headers=headers)

    @asynccontextmanager
    async def connect(app: App, url: str, *, headers: Mapping[str, str] | None = None) -> AsyncGenerator[Peer]:
        async with served(app) as base, connect_socket(base + url, headers=headers) as peer:
            yield peer

    return Carrier("hypercorn", client, connect)


@asynccontextmanager
async def served(app: App, **options: Any) -> AsyncGenerator[str]:
    """Serve an app on loopback; within ten seconds, whatever happens."""
    config = Config()
    config.errorlog = None
    with trio.fail_after(10), lone_error():
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
                await streamrt.serve(app, "127.0.0.1:0", config=config, task_status=task_status, **options)

            [url] = await nursery.start(serve)
            yield url
            nursery.cancel_scope.cancel()


@pytest.fixture(params=[memory, hypercorn], ids=lambda factory: factory.__name__)
def carrier(request: pytest.FixtureRequest) -> Carrier:
    factory: Callable[[], Carrier] = request.param
    return factory()
