"""Litestar on uvicorn with uvloop, typed both ways with msgspec; Channels in memory for the fan-out.

A listener gets plain values, whatever its annotation says: Litestar parses JSON there and does not check it. Its
way to a checked Struct is a DTO, which takes a third of the speed; `msgspec.convert` takes none that can be
measured, so that is what streamrt is compared with. Channels encode what is published once for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import cache
from importlib import import_module
from socket import socket
from typing import Any, TypeAlias

import msgspec

from benchmarks.load import wire
from benchmarks.load.servers import BURST, READY, uvicorn

Route: TypeAlias = Callable[[str], Callable[[Callable[..., Any]], Any]]

litestar: Any = import_module("litestar")  # of the group bench, which is not there where types are checked
backend: Any = import_module("litestar.channels.backends.memory").MemoryChannelsBackend()
channels: Any = import_module("litestar.channels").ChannelsPlugin(backend, arbitrary_channels_allowed=True)
listener: Route = litestar.websocket_listener
stream: Route = litestar.websocket_stream
websocket: Route = litestar.websocket


class Message(msgspec.Struct):
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


class Order(msgspec.Struct):
    """Which messages are to be published."""

    first: int
    count: int
    size: int
    apart: bool


decode = msgspec.json.Decoder(Message).decode


@cache
def ticks(size: int) -> list[Message]:
    """Return what is published, twice, so that any order is a slice of it."""
    return [Message(**tick) for tick in wire.ticks(size)] * 2


@listener("/echo")
async def echo(data: dict[str, Any]) -> Message:
    """Send every message back."""
    return msgspec.convert(data, Message)


@stream("/flood/{size:int}")
async def flood(size: int) -> AsyncGenerator[Message, None]:
    """Send for as long as the client is there."""
    message = Message(**wire.flood(size))
    while True:
        for _ in range(BURST):
            yield message
        await asyncio.sleep(0)


@listener("/count")
async def count(data: dict[str, Any], socket: Any) -> None:
    """Count the messages before the last."""
    messages = getattr(socket.state, "messages", 0)
    if msgspec.convert(data, Message).user:
        socket.state.messages = messages + 1
    else:
        await socket.send_json({"count": messages})


@websocket("/topic")
async def hear(socket: Any) -> None:
    """Do what the handlers do that Channels makes, and say when it is done."""
    await socket.accept()
    async with channels.start_subscription("topic") as subscriber:
        await socket.send_text(READY)
        async with subscriber.run_in_background(socket.send_text):
            async for _ in socket.iter_data():
                pass


@listener("/publish")
async def publish(data: dict[str, Any]) -> None:
    """Publish as ordered."""
    order = msgspec.convert(data, Order)
    for tick in ticks(order.size)[order.first : order.first + order.count]:
        channels.publish(tick, "topic")
        if order.apart:
            await asyncio.sleep(0)


@websocket("/chat/{room:str}")
async def chat(socket: Any, room: str) -> None:
    """Tell everybody in the room."""
    await socket.accept()
    async with channels.start_subscription(room) as subscriber:
        await socket.send_text(READY)
        async with subscriber.run_in_background(socket.send_text):
            async for text in socket.iter_data():
                channels.publish(decode(text), room)


def serve(listener: socket) -> None:
    """Serve as `uvicorn` does."""
    uvicorn.serve(listener, litestar.Litestar([echo, flood, count, hear, publish, chat], plugins=[channels]))
