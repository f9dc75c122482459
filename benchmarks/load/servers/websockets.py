"""The server of the websockets library: text that is ready, no types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from socket import socket
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from benchmarks.load import wire

FLOOD = wire.encode(wire.FLOOD).decode()


async def handle(connection: ServerConnection) -> None:
    """Flood or echo."""
    assert connection.request is not None
    if connection.request.path == "/flood":
        while True:
            await connection.send(FLOOD)
    async for text in connection:
        await connection.send(text)


def serve(listener: socket, handle: Callable[[ServerConnection], Awaitable[None]] = handle) -> None:
    """Serve on uvloop, where there is one: it echoes twice as fast as asyncio's own loop, and floods as fast."""

    async def run() -> None:
        async with serve_websocket(handle, sock=listener, compression=None) as server:
            await server.serve_forever()

    runner: Any = import_module("uvloop" if find_spec("uvloop") else "asyncio")
    runner.run(run())
