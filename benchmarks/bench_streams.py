"""What it costs to move messages without sockets: through streams in memory, and through a topic to many streams.

Each tells what thousands of messages take together, so that what it takes to run trio is nothing beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from queue import Queue
from threading import Thread
from typing import Any, TypeAlias, final

import pytest
import trio
from attrs import frozen

from benchmarks.load import wire
from streamrt import App, Limits, Request, Service, StreamIn, StreamInOut, StreamOut, Topic
from streamrt.runtime.connection import Connection
from streamrt.wire.codec import codec
from streamrt.wire.transport import Frame, Receiver, Transport

Benchmark: TypeAlias = Callable[..., Any]
"""The fixture of pytest-benchmark: it calls a function many times."""

MESSAGES = 2000
"""How many go through a stream in a run of trio."""

PUBLISHED = 100
"""How many are published in a turn."""


@frozen
class Message:
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


MESSAGE = Message(**wire.flood(wire.SMALL))
service = Service("bench")
topic = Topic("bench.topic", Message)


@service.stream_in_out("/echo")
async def echo(stream: StreamInOut[Message, Message]) -> None:
    """Send every message back."""
    async for message in stream:
        await stream.send(message)


@service.stream_out("/flood")
async def flood(stream: StreamOut[Message]) -> None:
    """Send so many."""
    for _ in range(MESSAGES):
        await stream.send(MESSAGE)


@service.stream_in("/count")
async def count(stream: StreamIn[Message]) -> int:
    """Count so many."""
    messages = 0
    while messages < MESSAGES:
        await stream.receive()
        messages += 1
    return messages


app = App(service)


def test_echo(benchmark: Benchmark) -> None:
    """One message in flight: two task switches for each."""

    async def run() -> int:
        async with app.client() as client, client.open(echo) as stream:
            for _ in range(MESSAGES):
                await stream.send(MESSAGE)
                await stream.receive()
        return MESSAGES

    assert benchmark(trio.run, run) == MESSAGES


def test_stream_out(benchmark: Benchmark) -> None:
    """Messages one way."""

    async def run() -> int:
        async with app.client() as client, client.open(flood) as stream:
            return sum([1 async for _ in stream])

    assert benchmark(trio.run, run) == MESSAGES


def test_stream_in(benchmark: Benchmark) -> None:
    """Messages the other way, and a response."""

    async def run() -> int:
        async with app.client() as client, client.open(count) as stream:
            for _ in range(MESSAGES):
                await stream.send(MESSAGE)
            return await stream.response()

    assert benchmark(trio.run, run) == MESSAGES


def test_open(benchmark: Benchmark) -> None:
    """A stream that is opened, says one thing and ends; a hundred of them."""

    async def run() -> int:
        async with app.client() as client:
            for _ in range(100):
                async with client.open(echo) as stream:
                    await stream.send(MESSAGE)
                    await stream.receive()
        return 100

    assert benchmark(trio.run, run) == 100


@final
class Sink(Transport):
    """Takes everything, and counts it."""

    __slots__ = ("taken",)

    name = "sink"

    def __init__(self) -> None:
        self.taken = 0

    def attach(self, receiver: Receiver) -> None:
        """Nothing comes in; see `Transport.attach`."""

    def send_nowait(self, frame: Frame) -> bool:
        """Take one; see `Transport.send_nowait`."""
        self.taken += 1
        return True

    async def send(self, frames: Sequence[Frame]) -> None:
        """Take them; see `Transport.send`."""
        self.taken += len(frames)

    async def close(self, code: int, reason: str) -> None:
        """See `Transport.close`."""

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""

    def abort(self, code: int, reason: str) -> None:
        """See `Transport.abort`."""


async def hear(sink: Sink, number: int, task_status: trio.TaskStatus[None]) -> None:
    """Attach a stream to the topic, until it is cancelled."""
    request = Request(path="/", endpoint="bench.hear", connection_id=number, transport=sink.name)
    limits, draining = Limits(ping_interval=None), trio.Event()
    connection = Connection(sink, request, limits, draining=draining, side="server", takes_input=False)
    async with connection.open(), topic.attach(StreamOut(connection, codec(Message))):
        task_status.started()
        await trio.sleep_forever()


@pytest.fixture
def subscribed(subscribers: int) -> Generator[tuple[Sequence[Sink], trio.lowlevel.TrioToken]]:
    """Run trio in a thread, with so many streams that hear the topic."""
    sinks = [Sink() for _ in range(subscribers)]
    tokens: Queue[trio.lowlevel.TrioToken] = Queue()
    over = trio.Event()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number, sink in enumerate(sinks):
                await nursery.start(hear, sink, number)
            tokens.put(trio.lowlevel.current_trio_token())
            await over.wait()
            nursery.cancel_scope.cancel()

    thread = Thread(target=trio.run, args=(run,))
    thread.start()
    token = tokens.get()
    yield sinks, token
    trio.from_thread.run_sync(over.set, trio_token=token)
    thread.join()


@pytest.mark.parametrize("subscribers", [1, 100, 10_000])
def test_publish(benchmark: Benchmark, subscribed: tuple[Sequence[Sink], trio.lowlevel.TrioToken]) -> None:
    """Publish a hundred messages one after the other, until each of so many transports has each of them."""
    sinks, token = subscribed

    async def publish() -> int:
        before = sinks[0].taken
        for _ in range(PUBLISHED):
            await topic.publish(MESSAGE)
        while any(sink.taken < before + PUBLISHED for sink in sinks):  # noqa: ASYNC110 - an Event would be timed too
            await trio.lowlevel.checkpoint()
        return sum(sink.taken - before for sink in sinks)

    assert benchmark(trio.from_thread.run, publish, trio_token=token) == PUBLISHED * len(sinks)
