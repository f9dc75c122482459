"""streamrt over Redis, in workers of its own command; all else is as in `streamrt`."""

from __future__ import annotations

import os
from socket import socket

import trio

from benchmarks.load import wire
from benchmarks.load.servers import group
from benchmarks.load.servers.streamrt import Message, Order, ticks
from streamrt import App, Service, StreamInOut, StreamOut, Topic
from streamrt.cli import main

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


app = App(service)


def serve(listener: socket) -> None:
    """Run ``streamrt run --workers``."""
    broker, bind = os.environ[group.URL], f"fd://{listener.detach()}"
    main(["run", f"{__name__}:app", "--workers", str(wire.WORKERS), "--broker", broker, "--bind", bind])
