"""streamrt over Redis, in several workers; all else is as in `streamrt`."""

from __future__ import annotations

import os
from functools import partial
from socket import socket

import trio
from streamrt.brokers import RedisBroker

import streamrt
from benchmarks.load import wire
from benchmarks.load.servers import group
from benchmarks.load.servers.streamrt import Message, Order, ticks
from streamrt import App, Service, StreamInOut, StreamOut, Topic

service = Service("load")
topic = Topic("bench.ticks", Message)


@service.stream_out("/hear", expose=True)
async def hear(stream: StreamOut[Message]) -> None:
    """Hear the topic, and say so."""
    async with topic.attach(stream):
        await stream.send(Message(**wire.worker(os.getpid())))
        await trio.sleep_forever()


@service.stream_in_out("/tell", expose=True)
async def tell(stream: StreamInOut[Order, Message]) -> None:
    """Publish as ordered."""
    await stream.send(Message(**wire.worker(os.getpid())))
    async for order in stream:
        for tick in ticks(order.size)[order.first : order.first + order.count]:
            await topic.publish(tick)


app = App(service, broker=RedisBroker(os.environ[group.URL]))


def serve(listener: socket) -> None:
    """Serve."""
    for _ in range(wire.WORKERS - 1):
        if os.fork() == 0:
            break
    trio.run(partial(streamrt.serve, app, f"fd://{listener.detach()}"))
