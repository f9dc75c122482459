"""A way to a server that can be slow, and can break."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import final

import trio


@final
class Relay:
    """Passes on what comes, to a server and back.

    Args:
        host: The server's.
        port: The server's.
    """

    def __init__(self, host: str, port: int) -> None:
        self.url = ""
        self.holds = trio.Event()
        """Set when something for the server waits here."""
        self._server = (host, port)
        self._left: float = float("inf")
        self._lines: list[trio.CancelScope] = []

    def hold(self, after: int) -> None:
        """Pass so many more bytes to the server, and keep what comes behind them."""
        self._left = after

    def cut(self) -> None:
        """End all connections, with what is on its way; for the next one the way is open again."""
        for line in self._lines:
            line.cancel()
        self._lines, self._left, self.holds = [], float("inf"), trio.Event()

    async def carry(self, client: trio.SocketStream) -> None:
        """Be one connection."""
        async with client, await trio.open_tcp_stream(*self._server) as server, trio.open_nursery() as nursery:
            self._lines.append(nursery.cancel_scope)
            nursery.start_soon(self._ask, client, server)
            with suppress(trio.BrokenResourceError):
                async for data in server:
                    await client.send_all(data)
            nursery.cancel_scope.cancel()

    async def _ask(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            async for data in client:
                if len(data) > self._left:
                    await server.send_all(data[: int(self._left)])
                    self.holds.set()
                    await trio.sleep_forever()
                self._left -= len(data)
                await server.send_all(data)
            await server.send_eof()


@asynccontextmanager
async def relayed(url: str) -> AsyncGenerator[Relay]:
    """Run a relay to a server, for as long as the block lasts."""
    host, _, port = url.rpartition("//")[2].partition(":")
    relay = Relay(host, int(port))
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, relay.carry, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        relay.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        yield relay
        nursery.cancel_scope.cancel()
