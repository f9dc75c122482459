"""What it costs to publish through Redis or Valkey: by the broker, and by hand with coredis; over loopback.

Each tells what thousands of messages take together, connecting included.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import coredis
import pytest
import trio

from streamrt import History
from streamrt.brokers import RedisBroker
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame
from tests.brokers.servers import Server, running

Benchmark: TypeAlias = Callable[..., Any]
"""The fixture of pytest-benchmark: it calls a function many times."""

MESSAGES = 10_000
TASKS = 50
BODY = b"x" * 100


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    """A Valkey."""
    with running("valkey") as server:
        yield server


@pytest.mark.parametrize("channels", [1, TASKS])
@pytest.mark.parametrize("history", [None, History()], ids=["fleeting", "kept"])
@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_publish(benchmark: Benchmark, server: Server, channels: int, history: History | None, heard: bool) -> None:
    """Publish from fifty tasks, each of which waits for each; and where it is heard, until all is back."""

    async def run() -> tuple[int, int]:
        broker = RedisBroker(server.url, prefix=secrets.token_hex(4))
        names = [Channel("bench", str(number)) for number in range(channels)]
        back = 0

        def deliver(_channel: Channel, _publication: Publication) -> None:
            nonlocal back
            back += 1

        async def publish(channel: Channel) -> None:
            for _ in range(MESSAGES // TASKS):
                await broker.publish(channel, Publication(Frame(BODY)), history)

        broker.deliver = deliver
        async with broker.running():
            for name in names if heard else ():
                await broker.subscribe(name)
            async with trio.open_nursery() as nursery:
                for number in range(TASKS):
                    nursery.start_soon(publish, names[number % channels])
            return broker.statistics().published, back

    assert benchmark(trio.run, run) == (MESSAGES, MESSAGES if heard else 0)


def test_one_after_the_other(benchmark: Benchmark, server: Server) -> None:
    """Publish from one task, which hears it too: a round trip for each of two hundred."""

    async def run() -> int:
        broker = RedisBroker(server.url, prefix=secrets.token_hex(4))
        async with broker.running():
            await broker.subscribe(Channel("bench", ""))
            for _ in range(200):
                await broker.publish(Channel("bench", ""), Publication(Frame(BODY)), None)
        return broker.statistics().delivered

    assert benchmark(trio.run, run) == 200


def test_by_hand_in_pipelines(benchmark: Benchmark, server: Server) -> None:
    """The same without a broker: coredis's own pipelines, fifty messages on as many channels in each."""

    async def run() -> list[int]:
        heard: list[int] = []
        async with coredis.Redis(port=server.port) as client:
            for _ in range(MESSAGES // TASKS):
                async with client.pipeline(transaction=False) as pipe:
                    answers = [pipe.publish(f"bench{number}", BODY) for number in range(TASKS)]
                heard += [await answer for answer in answers]
        return heard

    assert benchmark(trio.run, run) == [0] * MESSAGES


def test_by_hand_in_tasks(benchmark: Benchmark, server: Server) -> None:
    """And with coredis from fifty tasks, each of which waits for each."""

    async def run() -> list[int]:
        heard: list[int] = []
        async with coredis.Redis(port=server.port) as client, trio.open_nursery() as nursery:

            async def publish(number: int) -> None:
                nonlocal heard
                heard += [await client.publish(f"bench{number}", BODY) for _ in range(MESSAGES // TASKS)]

            for number in range(TASKS):
                nursery.start_soon(publish, number)
        return heard

    assert benchmark(trio.run, run) == [0] * MESSAGES
