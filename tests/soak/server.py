"""The server under load: limits so small that every path is taken, a plain listener and one with TLS.

`python -m tests.soak.server CHAIN KEY` serves on two free ports of 127.0.0.1. It writes lines of JSON: first its URLs,
then its figures for every line that it reads. When it can read no more it drains, and ends.
"""

import ctypes
import gc
import itertools
import json
import logging
import os
import re
import sys
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import final

import attrs
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer

import streamrt
from streamrt import (
    APIError,
    App,
    Attachment,
    Deflate,
    History,
    Limits,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    Topic,
)
from streamrt.api.stream import Stream
from streamrt.runtime.connection import Connection
from streamrt.runtime.room import Room
from streamrt.runtime.scopes import lone_error
from streamrt.server.heartbeat import Beat
from streamrt.server.hub import Hub
from streamrt.server.hypercorn import Adopter
from streamrt.server.line import Line
from streamrt.server.socket import SocketTransport
from streamrt.wire.frames import FrameReader

LIMITS = Limits(
    max_message_bytes=64 * 1024,
    receive_messages=8,
    receive_bytes=64 * 1024,
    send_messages=16,
    send_bytes=64 * 1024,
    send_timeout=5,
    close_timeout=5,
    ping_interval=2,
    ping_timeout=2,
    disconnect_grace=1,
)
DRAIN_TIMEOUT = 2

EARLY = 3
"""Messages after which `hasty` answers, whatever is still to come."""

FLOOD_SIZE = 4000
"""Characters of a message of `flood`."""

KEPT = (Adopter, Attachment, Beat, Connection, FrameReader, Hub, Line, Room, SocketTransport, Stream, TCPServer)
"""What a connection is made of, here and in hypercorn: when all are gone, there must be none of it."""

soak = Service("soak")


@final
@frozen
class Say:
    """A message."""

    number: int
    text: str


@final
@frozen
class Order:
    """How many messages are wanted, or announced, and of how many characters."""

    count: int
    size: int = 16


@final
@frozen
class Enter:
    """Where somebody wants to talk, under which name, and since when it wants to hear."""

    room: str
    name: str
    since: str | None = None


@final
@frozen
class Said:
    """What somebody has said."""

    by: str
    number: int
    text: str


@final
@frozen
class Receipt:
    """What has come in."""

    count: int
    checksum: int


@soak.stream_in_out("/echo", expose=True)
async def echo(stream: StreamInOut[Say, Say]) -> None:
    """Send back what comes."""
    async for message in stream:
        await stream.send(message)


@soak.stream_in_out("/deflated", expose=True, compression=Deflate(threshold=64))
async def deflated(stream: StreamInOut[Say, Say]) -> None:
    """Send back what comes, compressed."""
    async for message in stream:
        await stream.send(message)


@soak.stream_in_out("/moody", expose=True)
async def moody(stream: StreamInOut[Say, Say]) -> None:
    """Send one message back, and then fail on purpose."""
    await stream.send(await stream.receive())
    raise APIError.failed_precondition("not today")


@soak.stream_out("/ticker", expose=True)
async def ticker(order: Order, stream: StreamOut[Say]) -> None:
    """Send so many messages."""
    for number in range(order.count):
        await stream.send(Say(number, text_of(number, order.size)))


@soak.stream_out("/flood", expose=True)
async def flood(stream: StreamOut[Say]) -> None:
    """Send for as long as somebody reads."""
    for number in itertools.count():
        await stream.send(Say(number, text_of(number, FLOOD_SIZE)))


@soak.stream_in("/upload", expose=True)
async def upload(order: Order, stream: StreamIn[Say]) -> Receipt:
    """Take as many messages as were announced, and say what has come."""
    count, checksum = 0, 0
    while count < order.count:
        checksum = zlib.crc32((await stream.receive()).text.encode(), checksum)
        count += 1
    return Receipt(count, checksum)


@soak.stream_in("/hasty", expose=True)
async def hasty(stream: StreamIn[Say]) -> Receipt:
    """Answer while more is still coming."""
    for _ in range(EARLY):
        await stream.receive()
    return Receipt(EARLY, 0)


said = Topic("soak.said", Said, history=History(messages=20, seconds=5))


@soak.stream_in_out("/rooms/{room}", expose=True)
async def talk_in_room(enter: Enter, stream: StreamInOut[Say, Said]) -> None:
    """Let everyone in a room hear everyone."""
    async with said.attach(stream, key=enter.room, since=enter.since):
        async for message in stream:
            await said.publish(Said(enter.name, message.number, message.text), key=enter.room)


app = App(soak, limits=LIMITS)


def text_of(number: int, size: int) -> str:
    """Return the text of a message, which its reader knows too; it can be compressed, but not to nothing."""
    return (f"{number:x} " * (size // 2 + 1))[:size]


@final
@frozen
class Figures:
    """What the process holds at one moment.

    Args:
        streams: Open streams.
        tasks: Trio's.
        files: Open descriptors.
        rss: Resident memory, in KiB.
        peak: The most that it ever was.
        blocks: Blocks of Python's allocator.
        objects: What there is of `KEPT`, by class.
    """

    streams: int
    tasks: int
    files: int
    rss: int
    peak: int
    blocks: int
    objects: dict[str, int]

    @classmethod
    def take(cls) -> "Figures":
        """Measure this process, without its garbage, and without what the C library only keeps for later."""
        gc.collect()
        with suppress(AttributeError):  # another than GNU's
            ctypes.CDLL(None).malloc_trim(0)
        memory = dict(re.findall(r"Vm(HWM|RSS):\s*(\d+)", Path("/proc/self/status").read_text(encoding="ascii")))
        return cls(
            streams=app.host.streams,
            tasks=trio.lowlevel.current_statistics().tasks_living,
            files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            rss=int(memory["RSS"]),
            peak=int(memory["HWM"]),
            objects=dict(Counter(type(kept).__name__ for kept in gc.get_objects() if isinstance(kept, KEPT))),
            blocks=sys.getallocatedblocks(),
        )


def say(value: object) -> None:
    """Write a line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main(chain: str, key: str) -> None:
    """Serve until the standard input ends."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    config = Config()
    config.certfile, config.keyfile = chain, key
    config.insecure_bind = ["127.0.0.1:0"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.keep_alive_timeout = config.ssl_handshake_timeout = 2  # for who connects, and says nothing
    finished = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[str]]) -> None:
        await streamrt.serve(
            app,
            "127.0.0.1:0",
            config=config,
            shutdown_trigger=finished.wait,
            drain_timeout=DRAIN_TIMEOUT,
            task_status=task_status,
        )

    with lone_error():
        async with trio.open_nursery() as nursery, trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as orders:
            urls: list[str] = await nursery.start(serve)
            say(urls)
            while await orders.receive_some():  # who asks waits for the answer, so this is one line
                say(attrs.asdict(Figures.take()))
            finished.set()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
