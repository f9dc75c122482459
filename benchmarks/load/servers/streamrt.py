"""streamrt, typed both ways: each message is decoded into an attrs class, and encoded from one."""

from __future__ import annotations

from functools import partial
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
class Burst:
    """How many messages are to be published, and whether others run after each."""

    count: int
    apart: bool


FLOOD, READY = Message(**wire.FLOOD), Message(**wire.READY)
TICKS = [Message(**tick) for tick in wire.TICKS]
service = Service("load")
ticks = Topic("bench.ticks", Message)


@service.stream_in_out("/echo", expose=True)
async def echo(stream: StreamInOut[Message, Message]) -> None:
    """Send every message back."""
    async for message in stream:
        await stream.send(message)


@service.stream_out("/flood", expose=True)
async def flood(stream: StreamOut[Message]) -> None:
    """Send for as long as the client is there."""
    while True:
        await stream.send(FLOOD)


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
    async with ticks.attach(stream):
        await stream.send(READY)
        await trio.sleep_forever()


@service.stream_in("/publish", expose=True)
async def publish(stream: StreamIn[Burst]) -> None:
    """Publish bursts."""
    async for burst in stream:
        for tick in TICKS[: burst.count]:
            await ticks.publish(tick)
            if burst.apart:
                for _ in range(2):  # so that the fan-out has run, whichever of both runs first
                    await trio.lowlevel.checkpoint()


app = App(service)


def serve(listener: socket) -> None:
    """Serve with `streamrt.serve`."""
    trio.run(partial(streamrt.serve, app, f"fd://{listener.detach()}"))
