"""The broadcast of the websockets library: text that is ready, no types."""

from __future__ import annotations

import asyncio
import json
from socket import socket

from websockets.asyncio.server import ServerConnection, broadcast

from benchmarks.load import wire
from benchmarks.load.servers import websockets

READY = wire.encode(wire.READY).decode()
TICKS = [wire.encode(tick).decode() for tick in wire.TICKS]
connections: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    """Hear, or publish."""
    assert connection.request is not None
    if connection.request.path == "/topic":
        connections.add(connection)
        await connection.send(READY)
        await connection.wait_closed()
        connections.remove(connection)
    else:
        async for request in connection:
            burst = json.loads(request)
            for tick in TICKS[: burst["count"]]:
                broadcast(connections, tick)
                if burst["apart"]:
                    await asyncio.sleep(0)


def serve(listener: socket) -> None:
    """Serve as `websockets` does."""
    websockets.serve(listener, handle)
