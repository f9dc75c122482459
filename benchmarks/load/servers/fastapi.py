"""FastAPI on uvicorn with uvloop, typed both ways with pydantic; a loop over all connections for the fan-out."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from socket import socket
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.load import wire
from benchmarks.load.servers import BURST, uvicorn

Handler: TypeAlias = Callable[..., Awaitable[None]]

fastapi: Any = import_module("fastapi")  # of the group bench, which is not there where types are checked
pydantic: Any = import_module("pydantic")
if TYPE_CHECKING:
    WebSocket: TypeAlias = Any
else:
    WebSocket = fastapi.WebSocket

app = fastapi.FastAPI()
route: Callable[[str], Callable[[Handler], Handler]] = app.websocket


class Message(pydantic.BaseModel):  # type: ignore[misc]
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


class Count(pydantic.BaseModel):  # type: ignore[misc]
    """How many messages came before the last."""

    count: int


class Order(pydantic.BaseModel):  # type: ignore[misc]
    """Which messages are to be published."""

    first: int
    count: int
    size: int
    apart: bool


class ConnectionManager:
    """Who hears the same, as in FastAPI's documentation."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Take one in, and say so."""
        await websocket.accept()
        self.active_connections.append(websocket)
        await websocket.send_text(READY.model_dump_json())

    def disconnect(self, websocket: WebSocket) -> None:
        """Let one go."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: Message) -> None:
        """Send a message to all, in turn."""
        text = message.model_dump_json()
        for connection in tuple(self.active_connections):  # meanwhile, some may go
            with suppress(fastapi.WebSocketDisconnect, RuntimeError):  # of one that has gone; others go on
                await connection.send_text(text)


READY = Message(**wire.READY)
topic = ConnectionManager()
rooms: defaultdict[str, ConnectionManager] = defaultdict(ConnectionManager)


@cache
def ticks(size: int) -> list[Message]:
    """Return what is published, twice, so that any order is a slice of it."""
    return [Message(**tick) for tick in wire.ticks(size)] * 2


@route("/echo")
async def echo(websocket: WebSocket) -> None:
    """Send every message back."""
    await websocket.accept()
    async for text in websocket.iter_text():
        message = Message.model_validate_json(text)
        await websocket.send_text(message.model_dump_json())


@route("/flood/{size}")
async def flood(websocket: WebSocket, size: int) -> None:
    """Send for as long as the client is there."""
    await websocket.accept()
    message = Message(**wire.flood(size))
    with suppress(fastapi.WebSocketDisconnect):
        while True:
            for _ in range(BURST):
                await websocket.send_text(message.model_dump_json())
            await asyncio.sleep(0)


@route("/count")
async def count(websocket: WebSocket) -> None:
    """Count the messages before the last."""
    await websocket.accept()
    messages = 0
    async for text in websocket.iter_text():
        if not Message.model_validate_json(text).user:
            break
        messages += 1
    await websocket.send_text(Count(count=messages).model_dump_json())


@route("/topic")
async def hear(websocket: WebSocket) -> None:
    """Hear the topic."""
    await topic.connect(websocket)
    async for _ in websocket.iter_text():
        pass
    topic.disconnect(websocket)


@route("/publish")
async def publish(websocket: WebSocket) -> None:
    """Publish as ordered."""
    await websocket.accept()
    async for text in websocket.iter_text():
        order = Order.model_validate_json(text)
        for tick in ticks(order.size)[order.first : order.first + order.count]:
            await topic.broadcast(tick)
            if order.apart:
                await asyncio.sleep(0)


@route("/chat/{room}")
async def chat(websocket: WebSocket, room: str) -> None:
    """Tell everybody in the room."""
    connections = rooms[room]
    await connections.connect(websocket)
    async for text in websocket.iter_text():
        await connections.broadcast(Message.model_validate_json(text))
    connections.disconnect(websocket)


def serve(listener: socket) -> None:
    """Serve as `uvicorn` does."""
    uvicorn.serve(listener, app)
