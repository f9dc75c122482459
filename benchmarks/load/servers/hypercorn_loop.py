"""The loop over all connections that FastAPI's documentation shows, as plain ASGI on hypercorn in Trio mode."""

from __future__ import annotations

import json
from socket import socket

from benchmarks.load import wire
from benchmarks.load.servers import hypercorn
from benchmarks.load.servers.asgi import Event, Receive, Send, live

READY = wire.encode(wire.READY).decode()
TICKS = [wire.encode(tick).decode() for tick in wire.TICKS]
connections: list[Send] = []


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Hear, or publish."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/topic":
        connections.append(send)
        await send({"type": "websocket.send", "text": READY})
        await receive()
        connections.remove(send)
    else:
        while (event := await receive())["type"] == "websocket.receive":
            for tick in TICKS[: json.loads(event["text"])["count"]]:
                for connection in connections:  # others run at each `send`
                    await connection({"type": "websocket.send", "text": tick})


def serve(listener: socket) -> None:
    """Serve as `hypercorn` does."""
    hypercorn.serve(listener, app)
