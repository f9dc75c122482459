"""What a `RedisBroker` takes to publish, measured beside coredis by hand, with pipelines.

`python -m benchmarks.publishing` prints a table in Markdown. By hand, one task publishes a pipeline of messages after
the other. With the broker as many tasks as a pipeline has messages each publish one after the other, which is how
handlers do it: all to one channel, or each to its own. The messages are the same bytes, already encoded, and nobody
hears them. The rounds are interleaved, and a ratio is taken in each. The server is asked how many bytes have come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from statistics import median

import coredis
import trio

from benchmarks.load import wire
from benchmarks.load.family import kill
from benchmarks.load.harness import pinned
from benchmarks.load.servers.group import start_valkey
from streamrt.brokers import RedisBroker
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame

ROUNDS = 9
AT_ONCE = 64
"""Messages in a pipeline, and tasks that publish with the broker."""

EACH = 100
"""Pipelines, and messages of each task, in a round."""

GOAL = 0.7
"""How many times of what is done by hand the broker should do, or more."""

_PAYLOAD = wire.encode(wire.flood(wire.SMALL))


async def by_hand(client: coredis.Redis[bytes]) -> None:
    """Publish pipeline after pipeline."""
    for _ in range(EACH):
        async with client.pipeline(transaction=False) as pipeline:
            heard = [pipeline.publish("bench", _PAYLOAD) for _ in range(AT_ONCE)]
        assert [await answer for answer in heard] == [0] * AT_ONCE


async def by_broker(broker: RedisBroker, channels: int) -> None:
    """Publish with many tasks, to so many channels."""

    async def publish(channel: Channel) -> None:
        for _ in range(EACH):
            await broker.publish(channel, Publication(Frame(_PAYLOAD)), None)

    before = broker.statistics().published
    async with trio.open_nursery() as nursery:
        for task in range(AT_ONCE):
            nursery.start_soon(publish, Channel("bench", str(task % channels)))
    assert broker.statistics().published == before + AT_ONCE * EACH


async def timed(publish: Callable[[], Awaitable[None]], client: coredis.Redis[bytes]) -> float:
    """Return how many messages a second were published, when all have come to the server."""
    before = await _bytes_in(client)
    begin = time.perf_counter()
    await publish()
    elapsed = time.perf_counter() - begin
    assert await _bytes_in(client) >= before + AT_ONCE * EACH * len(_PAYLOAD)
    return AT_ONCE * EACH / elapsed


async def _bytes_in(client: coredis.Redis[bytes]) -> int:
    return int(str((await client.info("stats"))["total_net_input_bytes"]))


async def measure(url: str) -> Mapping[str, list[float]]:
    """Return the figures of all rounds, after one that does not count."""
    broker = RedisBroker(url)
    async with coredis.Redis.from_url(url) as client, broker.running():
        ways = {
            "coredis, by hand": partial(by_hand, client),
            "RedisBroker, one channel": partial(by_broker, broker, 1),
            f"RedisBroker, {AT_ONCE} channels": partial(by_broker, broker, AT_ONCE),
        }
        figures: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(1 + ROUNDS):
            for way, publish in ways.items():
                figures[way].append(await timed(publish, client))
    return {way: found[1:] for way, found in figures.items()}


def main() -> None:
    """Measure, with the server on a core of its own, and print the table."""
    with pinned() as cores:
        pid, url = start_valkey()
        try:
            os.sched_setaffinity(pid, cores)
            figures = trio.run(measure, url)
        finally:
            kill(pid)
            os.waitpid(pid, 0)
    hand = figures["coredis, by hand"]
    print("| | messages/s | least - most | times by hand | least - most | goal |\n|---|---:|---:|---:|---:|---|")
    for way, found in figures.items():
        ratios = [one / other for one, other in zip(found, hand, strict=True)]
        goal = "" if found is hand else f"{GOAL}, {'met' if median(ratios) >= GOAL else 'missed'}"
        spread = f"{min(found):,.0f} - {max(found):,.0f}"
        print(
            f"| {way} | {median(found):,.0f} | {spread} | {median(ratios):.2f} "
            f"| {min(ratios):.2f} - {max(ratios):.2f} | {goal} |"
        )


if __name__ == "__main__":
    main()
