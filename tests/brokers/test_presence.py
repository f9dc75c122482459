"""Who is there, and users that are sent away, over two brokers; those of several workers are in `tests.cli`."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from streamrt import APIError
from tests.brokers.servers import Server
from tests.brokers.site import Site
from tests.brokers.stage import PATIENCE, Proxy, until

LEASE = 2.0


@asynccontextmanager
async def running(url: str) -> AsyncGenerator[Site]:
    site = Site(url, {"lease": LEASE, "ping_interval": 0.1, "max_pause": 0.05})
    with trio.fail_after(PATIENCE):
        async with site.app.client(auth_data="visitor"):
            yield site


@asynccontextmanager
async def joined(site: Site, *users: str) -> AsyncGenerator[list[Any]]:
    """Be there as these users."""
    async with AsyncExitStack() as stack:
        streams: list[Any] = []
        for user in users:
            client = await stack.enter_async_context(site.app.client(auth_data=user))
            streams.append(await stack.enter_async_context(client.open(site.join)))
            await streams[-1].receive()
        yield streams


@asynccontextmanager
async def watching(site: Site) -> AsyncGenerator[Any]:
    async with site.app.client(auth_data="watcher") as client, client.open(site.watch) as stream:
        yield stream


async def sees(stream: Any, **names: int) -> list[dict[str, int]]:
    """Wait until a watcher is told that these are there; return what it was told before."""
    told: list[dict[str, int]] = []
    while not told or told[-1] != names:
        told.append((await stream.receive()).names)
    return told


async def test_who_joins_in_one_process_is_seen_in_the_other_until_the_last_stream_has_ended(server: Server) -> None:
    async with running(server.url) as one, running(server.url) as other:
        async with watching(one) as here, watching(other) as there:
            async with joined(one, "ada", "bob"):
                async with joined(other, "ada"):
                    for stream in (here, there):
                        await sees(stream, ada=2, bob=1)
                for stream in (here, there):
                    assert await sees(stream, ada=1, bob=1) == [{"ada": 1, "bob": 1}]
            for stream in (here, there):
                await sees(stream)


@pytest.mark.slow
async def test_who_is_cut_off_leaves_for_others_after_a_lease_and_comes_back_and_is_told_the_difference(
    server: Server,
) -> None:
    async with Proxy(server.port).running() as proxy:
        async with running(server.url) as one, running(proxy.url) as other:
            async with watching(one) as here, watching(other) as there, joined(other, "bob"), joined(one, "joe"):
                async with joined(one, "ada"):
                    for stream in (here, there):
                        await sees(stream, ada=1, bob=1, joe=1)
                    proxy.cut(for_now=False)
                    assert await sees(here, ada=1, joe=1) == [{"ada": 1, "joe": 1}]
                async with joined(one, "eve"):
                    await sees(here, eve=1, joe=1)
                    proxy.is_closed = False
                    await sees(here, bob=1, eve=1, joe=1)
                    told = await sees(there, bob=1, eve=1, joe=1)
                    assert all("joe" in names for names in told)


async def test_a_flushed_server_is_told_anew_and_readers_are_right_again(server: Server) -> None:
    async with running(server.url) as one, running(server.url) as other:
        async with watching(one) as here, watching(other) as there, joined(one, "ada"):
            async with joined(other, "bob"):
                for stream in (here, there):
                    await sees(stream, ada=1, bob=1)
                server.ask("FLUSHALL")
                async with joined(one, "eve"):
                    for stream in (here, there):
                        await sees(stream, ada=1, bob=1, eve=1)
            for stream in (here, there):
                await sees(stream, ada=1)
            await until(lambda: server.ask("ZCARD", "streamrt/0:{processes}") == 2)


async def test_a_user_is_sent_away_in_all_processes_and_nobody_else_is(server: Server) -> None:
    async with running(server.url) as one, running(server.url) as other:
        async with watching(one) as here, joined(one, "ada", "bob") as [first, bob], joined(other, "ada") as [second]:
            await sees(here, ada=2, bob=1)
            assert {stream.process for stream in await one.app.streams("ada")} == {
                site.app.host.broker.process  # type: ignore[union-attr]
                for site in (one, other)
            }
            async with other.app.client(auth_data="admin") as client, client.open(other.ban) as admin:
                await admin.send("ada")
                assert (await admin.receive()).count == 2
            for stream in (first, second):
                with pytest.raises(APIError.PermissionDenied, match="banned"):
                    await stream.receive()
            await sees(here, bob=1)
            assert bob.ended is None
            assert await other.app.streams("ada") == []
