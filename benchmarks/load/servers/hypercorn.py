"""Plain ASGI on hypercorn in Trio mode: text as it comes, no types; a loop over all connections for the fan-out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from functools import partial
from socket import socket
from typing import Any, TypeAlias

import hypercorn.trio
import trio
from hypercorn.config import Config

from benchmarks.load import wire
from benchmarks.load.servers import BURST, READY, ticks

Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]

rooms: defaultdict[str, list[Send]] = defaultdict(list)


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Do what the path says."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    match scope["path"].split("/")[1:]:
        case ["echo"]:
            async for text in texts(receive):
                await send_text(send, text)
        case ["flood", size]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood, send, wire.encode(wire.flood(int(size))).decode())
                await receive()  # that the client has gone, which `send` does not say
                nursery.cancel_scope.cancel()
        case ["count"]:
            count = 0
            async for text in texts(receive):
                if not json.loads(text)["user"]:
                    break
                count += 1
            await send_text(send, wire.encode({"count": count}).decode())
        case ["publish"]:
            async for text in texts(receive):
                order = json.loads(text)
                for tick in ticks(order["size"])[order["first"] : order["first"] + order["count"]]:
                    await broadcast("topic", tick)  # others run at each `send`
        case ["topic" as room] | ["chat", room]:
            rooms[room].append(send)
            try:
                await send_text(send, READY)
                async for text in texts(receive):
                    await broadcast(room, text)
            finally:
                rooms[room].remove(send)
        case _:
            pass


async def texts(receive: Receive) -> AsyncGenerator[str]:
    """Give what comes, until the client has gone."""
    while (event := await receive())["type"] == "websocket.receive":
        yield event["text"]


async def send_text(send: Send, text: str) -> None:
    """Send a text to one."""
    await send({"type": "websocket.send", "text": text})


async def broadcast(room: str, text: str) -> None:
    """Send a text to all, in turn."""
    for send in tuple(rooms[room]):  # meanwhile, some may go
        await send_text(send, text)


async def flood(send: Send, text: str) -> None:
    """Send a text again and again."""
    while True:
        for _ in range(BURST):
            await send_text(send, text)
        await trio.lowlevel.checkpoint()


def serve(listener: socket, app: Any = app) -> None:
    """Serve an application with `hypercorn.trio.serve`; others may use it for theirs."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    trio.run(partial(hypercorn.trio.serve, app, config))  # pyright: ignore[reportUnknownMemberType]
