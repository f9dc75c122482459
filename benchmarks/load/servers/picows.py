"""picows on uvloop: a loop over its transports with bytes that are ready, no types.

Each message goes to all before the next one does, because a publisher does not know the next one yet.
"""

from __future__ import annotations

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
        """Send to all of them."""
        if frame.msg_type == TEXT:
            for tick in TICKS[: json.loads(frame.get_payload_as_bytes())["count"]]:
                for subscriber in subscribers:
                    subscriber.send(TEXT, tick)


def serve(listener: socket) -> None:
    """Serve with `ws_create_server`."""

    async def run() -> None:
        server = await picows.ws_create_server(route, sock=listener)
        await server.serve_forever()

    uvloop.run(run())


def route(request: Any) -> Any:
    """Choose by the path."""
    return Subscriber() if request.path == b"/topic" else Publisher()
