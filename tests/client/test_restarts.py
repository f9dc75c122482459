"""A client whose server is killed, or restarts, and comes back: over real sockets."""

import socket
import sys
from pathlib import Path

import pytest
import trio

import streamrt
from streamrt import APIError, Back, Client, Draining, Lost, Reconnect, Recovered, StreamEvent
from tests.codegen import live
from tests.codegen.live import Number, Room
from tests.conftest import configured
from tests.players import running

ROOT = Path(__file__).parents[2]
QUICK = Reconnect(base=0.05, cap=0.2)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
async def test_a_stream_comes_back_when_its_server_was_killed() -> None:
    address = free_address()
    server = [sys.executable, "-m", "streamrt.cli", "run", "tests.codegen.live:app", "--bind", address]
    tell, events = trio.open_memory_channel[StreamEvent](1000)
    client = Client(f"ws://{address}")
    opened = client.open(live.talk, Room("lobby"), reconnect=QUICK, on=tell.send_nowait)

    async def until(kind: type[StreamEvent]) -> None:
        while not isinstance(await events.receive(), kind):
            pass

    with trio.fail_after(60):
        # What it is told of the first server is nothing to the second, which has another history.
        async with running(*server, directory=ROOT) as process, opened as talk:
            await talk.send(Number(1))
            assert await talk.receive() == Number(1)
            process.kill()
            await process.wait()
            async with running(*server, directory=ROOT):
                await until(Back)
                await until(Recovered)
                await talk.send(Number(2))
                assert await talk.receive() == Number(2)
                assert [(at.key, at.recovered) for at in talk.positions] == [("lobby", False)]


async def test_a_stream_misses_nothing_when_its_server_restarts() -> None:
    config = configured()
    config.bind = [free_address()]
    events: list[StreamEvent] = []
    client = Client(f"ws://{config.bind[0]}")

    stop = trio.Event()

    async def serve_twice() -> None:
        await streamrt.serve(live.app, config=config, shutdown_trigger=stop.wait, drain_timeout=0.01)
        await live.said.publish(Number(2), key="lobby")  # while nobody is there
        await streamrt.serve(live.app, config=config)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_twice)
            async with client.open(live.talk, Room("lobby"), reconnect=QUICK, on=events.append) as talk:
                await talk.send(Number(1))
                assert await talk.receive() == Number(1)
                stop.set()
                assert await talk.receive() == Number(2)
                await talk.send(Number(3))
                assert await talk.receive() == Number(3)
                nursery.cancel_scope.cancel()
    assert events.pop() == Recovered("live.said", "lobby", recovered=True)
    assert events.pop() == Back()
    while isinstance(events[-1], Lost):  # once with the connection, and for each attempt while nobody was there
        lost = events.pop()
        assert isinstance(lost.error, APIError.Unavailable)
    assert isinstance(events[-1], Draining)
