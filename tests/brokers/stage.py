"""Brokers for tests, with a heartbeat that is fifty times faster, and what stands between them and a server."""

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import attrs
import trio

from streamrt.brokers import RedisBroker
from streamrt.runtime.scopes import lone_error
from tests.brokers.process import Process

IMPATIENT = 0.3
"""Seconds of `ping_timeout` where a test waits for it, and may be told of a silence that is only ours."""

PATIENCE = 30
"""Seconds until a test gives up."""


@asynccontextmanager
async def joined(url: str, **options: Any) -> AsyncGenerator[Process]:
    """Run a broker, and be the process that it serves."""
    quick: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": 5, "max_pause": 0.05}
    broker = RedisBroker(url, **quick | options)
    with trio.fail_after(PATIENCE):
        async with broker.running():
            yield Process(broker)


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so that nobody tells of."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await trio.sleep(0.005)


@attrs.define(eq=False)
class Proxy:
    """Something between a broker and a server, which lets through what it likes.

    Args:
        port: Of the server.
        tls: What it speaks to the broker; None for what the server speaks.
    """

    port: int
    tls: ssl.SSLContext | None = None
    chance: Random | None = None
    """Decides what happens to the next bytes, while there is one."""
    is_closed: bool = False
    own_port: int = 0
    faults: int = 0
    scopes: set[trio.CancelScope] = attrs.Factory(set[trio.CancelScope])

    @property
    def url(self) -> str:
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.own_port}"

    @asynccontextmanager
    async def running(self) -> AsyncGenerator["Proxy"]:
        with lone_error():
            async with trio.open_nursery() as nursery:
                serve = partial(trio.serve_tcp, self._carry, 0, host="127.0.0.1")
                [listener] = await nursery.start(serve)
                self.own_port = listener.socket.getsockname()[1]
                yield self
                nursery.cancel_scope.cancel()

    def cut(self, *, for_now: bool = True) -> None:
        """End all connections that there are, and let others in or not."""
        self.is_closed = not for_now
        for scope in self.scopes:
            scope.cancel()

    async def _carry(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self.scopes.add(scope)
            stream: trio.abc.Stream = near
            if self.tls is not None:
                stream = trio.SSLStream(near, self.tls, server_side=True)
            if self.is_closed:
                await near.aclose()
                return
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self.port)
                async with near, far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, stream, far, nursery.cancel_scope)
                    nursery.start_soon(self._pass, far, stream, nursery.cancel_scope)
            except OSError:
                await near.aclose()
        self.scopes.discard(scope)

    async def _pass(self, source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
        try:
            while data := await source.receive_some(4096):
                part = await self._spoil(data)
                await sink.send_all(part)
                if len(part) < len(data):
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _spoil(self, data: bytes) -> bytes:
        """Return what is passed on; less than all of it is the end."""
        what = 1.0 if self.chance is None else self.chance.random()
        if self.chance is not None and what < 0.02:
            self.faults += 1
            return data[: self.chance.randrange(len(data))]
        if what < 0.03:  # nothing comes any more, and nobody is told
            self.faults += 1
            await trio.sleep_forever()
        if self.chance is not None and what < 0.2:
            await trio.sleep(self.chance.uniform(0, 0.02))
        return data
