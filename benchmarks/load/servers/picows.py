"""picows on uvloop: bytes as they come, no types; a loop over its transports for the fan-out.

Each message goes to all before the next one does, because a publisher does not know the next one yet.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from functools import cache
from importlib import import_module
from socket import socket
from typing import Any

from benchmarks.load import wire
from benchmarks.load.servers import BURST

picows: Any = import_module("picows")  # of the group bench, which is not there where types are checked
uvloop: Any = import_module("uvloop")

READY = wire.encode(wire.READY)
TEXT, CLOSE = picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE
rooms: defaultdict[str, list[Any]] = defaultdict(list)


@cache
def ticks(size: int) -> list[bytes]:
    """Return what is published, twice, so that any order is a slice of it."""
    return [wire.encode(tick) for tick in wire.ticks(size)] * 2


class Listener(picows.WSListener):  # type: ignore[misc]
    """What the listeners have in common: they take texts, and close with who closes."""

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """Tell a text from the rest."""
        if frame.msg_type == TEXT:
            self.on_text(transport, frame.get_payload_as_bytes())
        elif frame.msg_type == CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_text(self, transport: Any, text: bytes) -> None:
        """Take a text."""


class Echo(Listener):
    """Sends every text back."""

    def on_text(self, transport: Any, text: bytes) -> None:
        """Send it back."""
        transport.send(TEXT, text)


class Flood(Listener):
    """Sends for as long as the client is there."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._writable = asyncio.Event()

    def on_ws_connected(self, transport: Any) -> None:
        """Begin."""
        self._writable.set()
        self._task = asyncio.create_task(self._flood(transport))

    def on_ws_disconnected(self, transport: Any) -> None:
        """End."""
        self._task.cancel()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._writable.set()

    async def _flood(self, transport: Any) -> None:
        while True:
            for _ in range(BURST):
                await self._writable.wait()
                transport.send(TEXT, self._text)
            await asyncio.sleep(0)


class Count(Listener):
    """Counts the messages before the last."""

    def __init__(self) -> None:
        self._messages = 0

    def on_text(self, transport: Any, text: bytes) -> None:
        """Count it."""
        if json.loads(text)["user"]:
            self._messages += 1
        else:
            transport.send(TEXT, wire.encode({"count": self._messages}))


class Chat(Listener):
    """Hears a room, and tells everybody in it."""

    def __init__(self, room: str) -> None:
        self._room = room

    def on_ws_connected(self, transport: Any) -> None:
        """Join the others."""
        rooms[self._room].append(transport)
        transport.send(TEXT, READY)

    def on_ws_disconnected(self, transport: Any) -> None:
        """Leave them."""
        rooms[self._room].remove(transport)

    def on_text(self, transport: Any, text: bytes) -> None:
        """Tell them."""
        broadcast(self._room, text)


class Publisher(Listener):
    """Publishes as ordered."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def on_ws_connected(self, transport: Any) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._publish())

    def on_ws_disconnected(self, transport: Any) -> None:
        """End."""
        self._task.cancel()

    def on_text(self, transport: Any, text: bytes) -> None:
        """Take an order."""
        self._orders.put_nowait(json.loads(text))

    async def _publish(self) -> None:
        while True:
            order = await self._orders.get()
            for tick in ticks(order["size"])[order["first"] : order["first"] + order["count"]]:
                broadcast("topic", tick)
                if order["apart"]:
                    await asyncio.sleep(0)


def broadcast(room: str, text: bytes) -> None:
    """Send a text to all of them."""
    for transport in rooms[room]:
        transport.send(TEXT, text)


def route(request: Any) -> Listener | None:
    """Choose by the path."""
    match request.path.decode().split("/")[1:]:
        case ["echo"]:
            return Echo()
        case ["flood", size]:
            return Flood(wire.encode(wire.flood(int(size))))
        case ["count"]:
            return Count()
        case ["topic" as room] | ["chat", room]:
            return Chat(room)
        case ["publish"]:
            return Publisher()
        case _:
            return None


def serve(listener: socket) -> None:
    """Serve with `ws_create_server`."""

    async def run() -> None:
        server = await picows.ws_create_server(route, sock=listener)
        await server.serve_forever()

    uvloop.run(run())
