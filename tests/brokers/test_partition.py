"""Two hosts, and a network between them that breaks and heals."""

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.brokers.process import HISTORY, ROOM
from tests.brokers.servers import running
from tests.brokers.stage import joined
from tests.namespace import Namespace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@attrs.define
class Far:
    """The broker on the other host."""

    process: trio.Process
    rest: bytes = b""

    async def publish(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{text}\n".encode())

    async def tells(self) -> str:
        """Return the next that it tells."""
        assert self.process.stdout is not None
        while b"\n" not in self.rest:
            data = await self.process.stdout.receive_some()
            assert data, "it has ended"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def on_the_other_host(namespace: Namespace, url: str) -> AsyncGenerator[Far]:
    command = ["ip", "netns", "exec", namespace.name, sys.executable, "-m", "tests.brokers.far", url]
    pipe = subprocess.PIPE
    process = await trio.lowlevel.open_process(command, cwd=ROOT, stdin=pipe, stdout=pipe)
    try:
        yield Far(process)
    finally:
        process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.CancelScope(shield=True):  # it is dead: this takes no time
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def test_two_hosts_that_were_parted_hear_all_that_was_published_meanwhile(namespace: Namespace) -> None:
    own = ("--bind", "127.0.0.1", namespace.address, "--protected-mode", "no")
    with running("valkey", *own) as server:
        url = server.url.replace("127.0.0.1", namespace.address)
        async with joined(url) as near, on_the_other_host(namespace, url) as far:
            await near.broker.subscribe(ROOM)
            await near.keep()
            assert await far.tells() == "ready"
            await near.publish(ROOM, "1", history=HISTORY)
            assert await far.tells() == "heard 1"
            await far.publish("2")
            assert await far.tells() == "heard 2"
            namespace.pull()
            await near.publish(ROOM, "3", history=HISTORY)
            assert await far.tells() == "down"  # it has noticed, although it has published nothing
            await far.publish("nobody hears this")
            assert await far.tells() == "refused unavailable"
            await near.publish(ROOM, "4", history=HISTORY)
            namespace.plug()
            told = [await far.tells() for _ in range(3)]
            told.remove("up")  # which is looked for now and then only
            assert told == ["heard 3", "heard 4"]
            await far.publish("5")
            assert await far.tells() == "heard 5"
            assert await near.heard(ROOM, 5) == ["1", "2", "3", "4", "5"]
            assert not near.lost[ROOM]
