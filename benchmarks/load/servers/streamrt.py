"""streamrt, typed both ways: each message is decoded into an attrs class, and encoded from one."""

from __future__ import annotations

from functools import cache, partial
from socket import socket

import trio
from attrs import frozen

import streamrt
from benchmarks.load import wire
from streamrt import App, Service, StreamIn, StreamInOut, StreamOut, Topic


@frozen
class Message:
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


@frozen
class Count:
    """How many messages came before the last."""

    count: int


@frozen
class Order:
    """Which messages are to be published."""

    first: int
    count: int
    size: int
    apart: bool


@frozen
class Size:
    """How large the messages are to be."""

    size: int


@frozen
class Room:
    """Where to chat."""

    room: str


service = Service("load")
topic = Topic("bench.ticks", Message)
said = Topic("bench.said", Message)


@cache
def ticks(size: int) -> list[Message]:
    """Return what is published, twice, so that any order is a slice of it."""
    return [Message(**tick) for tick in wire.ticks(size)] * 2


@service.stream_in_out("/echo", expose=True)
async def echo(stream: StreamInOut[Message, Message]) -> None:
    """Send every message back."""
    async for message in stream:
        await stream.send(message)


@service.stream_out("/flood/{size}", expose=True)
async def flood(handshake: Size, stream: StreamOut[Message]) -> None:
    """Send for as long as the client is there."""
    message = Message(**wire.flood(handshake.size))
    while True:
        await stream.send(message)


@service.stream_in("/count", expose=True)
async def count(stream: StreamIn[Message]) -> Count:
    """Count the messages before the last."""
    messages = 0
    async for message in stream:
        if not message.user:
            break
        messages += 1
    return Count(messages)


@service.stream_out("/topic", expose=True)
async def hear(stream: StreamOut[Message]) -> None:
    """Hear the topic, and say so."""
    async with topic.attach(stream):
        await stream.send(Message(**wire.READY))
        await trio.sleep_forever()


@service.stream_in("/publish", expose=True)
async def publish(stream: StreamIn[Order]) -> None:
    """Publish as ordered."""
    async for order in stream:
        for tick in ticks(order.size)[order.first : order.first + order.count]:
            await topic.publish(tick)
            if order.apart:
                for _ in range(2):  # so that the fan-out has run, whichever of both runs first
                    await trio.lowlevel.checkpoint()


@service.stream_in_out("/chat/{room}", expose=True)
async def chat(handshake: Room, stream: StreamInOut[Message, Message]) -> None:
    """Tell everybody in the room."""
    async with said.attach(stream, key=handshake.room):
        await stream.send(Message(**wire.READY))
        async for message in stream:
            await said.publish(message, key=handshake.room)


app = App(service)


def serve(listener: socket) -> None:
    """Serve with `streamrt.serve`."""
    trio.run(partial(streamrt.serve, app, f"fd://{listener.detach()}"))
