"""Quart-Trio on hypercorn in Trio mode: text as it comes, no types; for the fan-out a queue for each connection.

That is the broker of Quart's documentation; its queues have no bound, and neither have the channels here.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from socket import socket
from typing import Any, TypeAlias

import trio

from benchmarks.load import wire
from benchmarks.load.servers import BURST, READY, hypercorn, ticks

Handler: TypeAlias = Callable[..., Awaitable[None]]

# Of the group bench, which is not there where types are checked.
app: Any = import_module("quart_trio").QuartTrio(__name__)
websocket: Any = import_module("quart").websocket
route: Callable[[str], Callable[[Handler], Handler]] = app.websocket

rooms: defaultdict[str, set[trio.MemorySendChannel[str]]] = defaultdict(set)


@contextmanager
def subscribed(room: str) -> Generator[trio.MemoryReceiveChannel[str]]:
    """Give what is published in a room, until the block ends."""
    queue, texts = trio.open_memory_channel[str](math.inf)
    rooms[room].add(queue)
    try:
        yield texts
    finally:
        rooms[room].remove(queue)


def broadcast(room: str, text: str) -> None:
    """Publish in a room."""
    for queue in rooms[room]:
        queue.send_nowait(text)


async def send_all(texts: trio.MemoryReceiveChannel[str]) -> None:
    """Send what is published."""
    async for text in texts:
        await websocket.send(text)


@route("/echo")
async def echo() -> None:
    """Send every text back."""
    while True:
        await websocket.send(await websocket.receive())


@route("/flood/<int:size>")
async def flood(size: int) -> None:
    """Send for as long as the client is there."""
    text = wire.encode(wire.flood(size)).decode()
    while True:
        for _ in range(BURST):
            await websocket.send(text)
        await trio.lowlevel.checkpoint()


@route("/count")
async def count() -> None:
    """Count the messages before the last."""
    messages = 0
    while json.loads(await websocket.receive())["user"]:
        messages += 1
    await websocket.send(wire.encode({"count": messages}).decode())


@route("/topic")
async def hear() -> None:
    """Hear the topic, and say so."""
    with subscribed("topic") as texts:
        await websocket.send(READY)
        await send_all(texts)


@route("/publish")
async def publish() -> None:
    """Publish as ordered."""
    while True:
        order = json.loads(await websocket.receive())
        for tick in ticks(order["size"])[order["first"] : order["first"] + order["count"]]:
            broadcast("topic", tick)
            if order["apart"]:
                await trio.lowlevel.checkpoint()


@route("/chat/<room>")
async def chat(room: str) -> None:
    """Tell everybody in the room."""
    with subscribed(room) as texts:
        await websocket.send(READY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, texts)
            while True:
                broadcast(room, await websocket.receive())


def serve(listener: socket) -> None:
    """Serve as `hypercorn` does."""
    hypercorn.serve(listener, app)
