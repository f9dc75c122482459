"""What publishing costs without sockets: microseconds a message, for 1, 100 and 10,000 subscribers.

`python -m benchmarks.bench_publish` publishes messages of 96 bytes one after the other, to streams whose transports
take everything at once. It ends when every transport has every message, and that is checked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import final

import trio
from attrs import frozen

from benchmarks.load import wire
from streamrt import Limits, Request, StreamOut, Topic
from streamrt.runtime.connection import Connection
from streamrt.wire.codec import codec
from streamrt.wire.transport import Frame, Receiver, Transport

DELIVERIES = 1_000_000
"""About how many are timed, whatever the number of subscribers."""


@frozen
class Tick:
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


TICK = Tick(**wire.TICKS[0])
ticks = Topic("bench.ticks", Tick)


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
    async with connection.open(), ticks.attach(StreamOut(connection, codec(Tick))):
        task_status.started()
        await trio.sleep_forever()


async def measure(subscribers: int) -> float:
    """Return the microseconds that a message takes."""
    sinks = [Sink() for _ in range(subscribers)]
    messages = min(max(DELIVERIES // subscribers, 1000), 100_000)
    async with trio.open_nursery() as nursery:
        for number, sink in enumerate(sinks):
            await nursery.start(hear, sink, number)
        begin = time.perf_counter()
        for _ in range(messages):
            await ticks.publish(TICK)
        while any(sink.taken < messages for sink in sinks):  # noqa: ASYNC110 - an Event would be timed in each send
            await trio.lowlevel.checkpoint()
        seconds = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    assert all(sink.taken == messages for sink in sinks)
    return seconds / messages * 1e6


async def main() -> None:
    """Measure all three, and print them."""
    for subscribers in (1, 100, 10_000):
        print(f"{subscribers:>6,} subscribers: {await measure(subscribers):>8,.1f} µs a message")


if __name__ == "__main__":
    trio.run(main)
