"""picows on uvloop: a loop over its transports with bytes that are ready, no types.

Each message goes to all before the next one does, because a publisher does not know the next one yet.
"""

from __future__ import annotations

import asyncio
import json
from importlib import import_module
from socket import socket
from typing import Any

from benchmarks.load import wire

picows: Any = import_module("picows")  # of the group bench, which is not there where types are checked
uvloop: Any = import_module("uvloop")

READY = wire.encode(wire.READY)
TICKS = [wire.encode(tick) for tick in wire.TICKS]
TEXT = picows.WSMsgType.TEXT
subscribers: list[Any] = []
bursts: asyncio.Queue[int] = asyncio.Queue()


class Subscriber(picows.WSListener):  # type: ignore[misc]
    """Hears."""

    def on_ws_connected(self, transport: Any) -> None:
        """Join the others."""
        subscribers.append(transport)
        transport.send(TEXT, READY)

    def on_ws_disconnected(self, transport: Any) -> None:
        """Leave them."""
        subscribers.remove(transport)


class Publisher(picows.WSListener):  # type: ignore[misc]
    """Publishes."""

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """Publish bursts."""
        if frame.msg_type == TEXT:
            burst = json.loads(frame.get_payload_as_bytes())
            if burst["apart"]:
                bursts.put_nowait(burst["count"])
            else:
                for tick in TICKS[: burst["count"]]:
                    broadcast(tick)


def broadcast(tick: bytes) -> None:
    """Send to all of them."""
    for subscriber in subscribers:
        subscriber.send(TEXT, tick)


async def publish_apart() -> None:
    """Publish bursts, and let others run after each message."""
    while True:
        for tick in TICKS[: await bursts.get()]:
            broadcast(tick)
            await asyncio.sleep(0)


def serve(listener: socket) -> None:
    """Serve with `ws_create_server`."""

    async def run() -> None:
        server = await picows.ws_create_server(route, sock=listener)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_apart())
            await server.serve_forever()

    uvloop.run(run())


def route(request: Any) -> Any:
    """Choose by the path."""
    return Subscriber() if request.path == b"/topic" else Publisher()
