"""A topic over everything that carries a stream: a burst arrives whole, what is sent beside it in its place."""

import pytest
import trio

from streamrt import App, Limits, Service, StreamInOut, Topic
from tests.conftest import Carrier

COUNT = 10_000


@pytest.mark.slow
async def test_a_burst_arrives_whole_and_in_order_whatever_carries_it(carrier: Carrier) -> None:
    service = Service("test")
    topic = Topic("texts", str)

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[str, str]) -> None:
        async with topic.attach(stream):
            await stream.send("ready")
            async for word in stream:
                for number in range(COUNT):
                    await topic.publish(f"{word} {number}")
                await stream.send(f"{word} is over")

    async with carrier.client(App(service)) as client, client.open(talk) as one, client.open(talk) as other:
        assert await one.receive() == await other.receive() == "ready"

        async def hear() -> None:
            assert [await other.receive() for _ in range(COUNT)] == expected

        expected = [f"a {number}" for number in range(COUNT)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await one.send("a")
            assert [await one.receive() for _ in range(COUNT)] == expected
            assert await one.receive() == "a is over"


async def test_who_does_not_read_is_disconnected_and_the_others_hear_everything(carrier: Carrier) -> None:
    service = Service("test")
    topic = Topic("texts", str, backlog_bytes=100_000)

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[str, str]) -> None:
        async with topic.attach(stream):
            await stream.send("ready")
            async for word in stream:
                await topic.publish(word)

    big = "x" * 20_000
    async with carrier.connect(App(service, limits=Limits(close_timeout=0.2)), "/talk") as peer:
        assert await peer.receive() == '"ready"'
        for _ in range(3):
            await peer.send(f'"{big}"')
            assert await peer.receive() == f'"{big}"'
        while topic.statistics().subscribers:  # what is published by others, while it reads nothing
            await topic.publish(big)
        peer.vanish()
    assert topic.statistics().dropped > 0
