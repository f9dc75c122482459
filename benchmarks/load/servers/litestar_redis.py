"""Litestar's Channels over Redis, in workers of uvicorn; all else is as in `litestar`.

Of its two backends for Redis this is the one that keeps no history, and the faster one.
"""

from __future__ import annotations

import os
from importlib import import_module
from socket import socket
from typing import Any

import msgspec

from benchmarks.load import wire
from benchmarks.load.servers import group, here, uvicorn
from benchmarks.load.servers.litestar import Order, litestar, ticks, websocket

redis: Any = import_module("redis.asyncio")  # of the group bench, which is not there where types are checked
backends: Any = import_module("litestar.channels.backends.redis")
backend: Any = backends.RedisChannelsPubSubBackend(redis=redis.Redis.from_url(os.environ[group.URL]))
channels: Any = import_module("litestar.channels").ChannelsPlugin(backend, channels=["topic"])
decode = msgspec.json.Decoder(Order).decode


@websocket("/hear")
async def hear(socket: Any) -> None:
    """Do what the handlers do that Channels makes, and say when it is done."""
    await socket.accept()
    async with channels.start_subscription("topic") as subscriber:
        await socket.send_text(here())
        async with subscriber.run_in_background(socket.send_text):
            async for _ in socket.iter_data():
                pass


@websocket("/tell")
async def tell(socket: Any) -> None:
    """Publish as ordered."""
    await socket.accept()
    await socket.send_text(here())
    async for text in socket.iter_data():
        order = decode(text)
        for tick in ticks(order.size)[order.first : order.first + order.count]:
            channels.publish(tick, "topic")


app = litestar.Litestar([hear, tell], plugins=[channels])


def serve(listener: socket) -> None:
    """Serve as ``uvicorn --workers`` does."""
    uvicorn.serve_by_workers(listener, f"{__name__}:app", wire.WORKERS)
