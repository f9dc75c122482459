"""Litestar's Channels in memory, on uvicorn with uvloop: each message is encoded once, from a msgspec Struct."""

from __future__ import annotations

import asyncio
from importlib import import_module
from socket import socket
from typing import Any

from benchmarks.load import wire
from benchmarks.load.servers import uvicorn
from benchmarks.load.servers.litestar import Message, litestar

backend: Any = import_module("litestar.channels.backends.memory").MemoryChannelsBackend()
channels: Any = import_module("litestar.channels").ChannelsPlugin(backend, channels=["ticks"])

READY = wire.encode(wire.READY).decode()
TICKS = [Message(**tick) for tick in wire.TICKS]


async def hear(socket: Any) -> None:
    """Do what the handlers do that Channels makes, and say when it is done."""
    await socket.accept()
    async with channels.start_subscription("ticks") as subscriber:
        await socket.send_text(READY)
        async with subscriber.run_in_background(socket.send_text):
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass


async def publish(data: dict[str, Any]) -> None:
    """Publish to all of them."""
    for tick in TICKS[: data["count"]]:
        channels.publish(tick, "ticks")
        if data["apart"]:
            await asyncio.sleep(0)


def serve(listener: socket) -> None:
    """Serve as `litestar` does."""
    handlers = [litestar.websocket("/topic")(hear), litestar.websocket_listener("/publish")(publish)]
    uvicorn.serve(listener, litestar.Litestar(handlers, plugins=[channels]), "websockets-sansio")
