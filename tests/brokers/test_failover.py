"""What is behind a URL that names no server, but who knows of one: sentinels, or a cluster; and TLS."""

from binascii import crc_hqx
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import valkey

from streamrt import APIError, History
from streamrt.brokers import BrokerError
from streamrt.runtime.broker import Channel
from tests.brokers.process import HISTORY, OTHER, ROOM
from tests.brokers.servers import Server, free_port, running
from tests.brokers.stage import Proxy, joined, until
from tests.contracts.test_marks import Marker
from tests.peers import CERTIFICATES

pytestmark = pytest.mark.slow


@contextmanager
def watched(kind: str, primary: Server) -> Iterator[Server]:
    """Have a sentinel watch a primary, which is called "main", and give it up after 0.3 s."""
    with TemporaryDirectory() as directory:
        config = Path(directory) / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 300\n"
            "sentinel failover-timeout main 2000\n"
        )
        sentinel = Server(kind, Path(directory), ["--sentinel"], ready="+monitor", config=config)
        sentinel.start()
        try:
            yield sentinel
        finally:
            sentinel.kill()


def role(server: Server) -> str | None:
    try:
        return str(server.ask("ROLE")[0])
    except valkey.exceptions.ConnectionError:  # sentinels have a server cut off all clients when its role changes
        return None


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_when_a_replica_takes_over_one_goes_on_there_and_old_positions_are_none(kind: str) -> None:
    with (
        running(kind) as primary,
        running(kind, "--replicaof", "127.0.0.1", str(primary.port)) as replica,
        watched(kind, primary) as sentinel,
    ):
        nobody = f"127.0.0.1:{free_port()}"  # the first that is asked may be gone
        url = f"redis+sentinel://{nobody},127.0.0.1:{sentinel.port}/main"
        async with joined(url) as one, joined(url) as other:
            for process in (one, other):
                for channel in (ROOM, OTHER):
                    await process.broker.subscribe(channel)
            position = await one.keep("first")
            await other.broker.replay(ROOM, None, HISTORY)
            await until(lambda: replica.ask("ROLE")[3] == "connected")
            await until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"))
            primary.kill()
            await until(lambda: role(replica) == "master")
            for process in (one, other):
                await until(lambda process=process: process.statistics.connected)
                await process.told_of_a_loss(OTHER)
                await process.told_of_a_loss(ROOM)
            await one.keep("second")
            assert await other.heard(ROOM, 2) == ["first", "second"]
            assert await one.missed(position) == ([], False)
            assert (await one.missed(History.OLDEST))[0][-1] == "second"


async def test_a_name_that_the_sentinels_do_not_know_is_an_error(server: Server) -> None:
    with watched("valkey", server) as sentinel:
        with pytest.raises(BrokerError, match="the sentinels know of no primary that is named 'mine'"):
            async with joined(f"redis+sentinel://127.0.0.1:{sentinel.port}/mine"):
                pytest.fail("it is connected")


@contextmanager
def cluster() -> Iterator[tuple[Server, Server]]:
    """Run a cluster of two primaries, which have half of the slots each."""
    ports = [(free_port(), free_port()) for _ in range(2)]
    options = [("--cluster-enabled", "yes", "--cluster-port", str(bus)) for _, bus in ports]
    with (
        running("valkey", *options[0], port=ports[0][0]) as one,
        running("valkey", *options[1], port=ports[1][0]) as two,
    ):
        one.ask("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        two.ask("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        one.ask("CLUSTER", "MEET", "127.0.0.1", *map(str, ports[1]))
        yield one, two


async def is_whole(*nodes: Server) -> None:
    for node in nodes:
        await until(lambda node=node: node.ask("CLUSTER INFO")["cluster_state"] == "ok")


async def test_in_a_cluster_each_channel_has_its_place_and_all_are_heard_everywhere() -> None:
    channels = [Channel("chat", str(number)) for number in range(50)]
    with cluster() as (one, two):
        await is_whole(one, two)
        url, other = (f"redis+cluster://127.0.0.1:{port}" for port in (f"{free_port()},127.0.0.1:{one.port}", two.port))
        async with joined(url, ping_timeout=2) as here, joined(other, ping_timeout=2) as there:
            for channel in channels:
                for process in (here, there):
                    await process.broker.subscribe(channel)
            for channel in channels:
                await here.publish(channel, "first", history=HISTORY)
                await there.publish(channel, "second")
            for channel in channels:
                for process in (here, there):
                    assert sorted(await process.heard(channel, 2)) == ["first", "second"]
                assert await there.missed(History.OLDEST, channel=channel) == (["first"], True)
            assert one.ask("DBSIZE") > 0
            assert two.ask("DBSIZE") > 0
            # A slot moves: it is noticed by the first message for it, which is sent again.
            moved = Channel("moved", "")
            slot = crc_hqx(b"5:moved:", 0) % 16384
            old, new = (one, two) if slot < 8192 else (two, one)
            target = new.ask("CLUSTER MYID")
            for node in (new, old):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target)
            await trio.sleep(1.05)
            await here.publish(moved, "third", history=HISTORY)
            assert await there.missed(History.OLDEST, channel=moved) == (["third"], True)
            assert here.statistics.reconnects == 1


async def test_in_a_cluster_marks_are_where_their_channels_are_and_those_of_the_dead_are_found_everywhere() -> None:
    channels = [Channel("chat", str(number)) for number in range(50)]
    with cluster() as (one, two):
        await is_whole(one, two)
        async with joined(f"redis+cluster://127.0.0.1:{one.port}", lease=1) as process:
            here = Marker(process.broker)
            for channel in channels:
                await here.broker.subscribe(channel)
                await here.broker.marks(channel)
            async with joined(f"redis+cluster://127.0.0.1:{two.port}", lease=1) as gone:
                there = Marker(gone.broker)
                for channel in channels:
                    there.broker.mark(channel, "ada", channel.key)
                for channel in channels:
                    await here.told(channel, lambda marked: len(marked) == 1)
                    assert await here.all_marks(channel) == {(there.broker.process, "ada"): channel.key}
            for node in (one, two):
                assert node.ask("KEYS", "*:marks")
            for channel in channels:
                await here.told(channel, lambda marked: not marked)
            await until(lambda: not [key for node in (one, two) for key in node.ask("KEYS", "*:marks")])


async def test_a_node_that_dies_takes_its_part_of_the_cluster_down_and_is_told() -> None:
    with cluster() as (one, two):
        await is_whole(one, two)
        async with joined(f"redis+cluster://127.0.0.1:{one.port}", ping_timeout=2) as process:
            await process.broker.subscribe(ROOM)
            two.kill()
            await until(lambda: not process.statistics.connected)
            await until(lambda: not process.broker._is_trying)  # type: ignore[attr-defined]
            with pytest.raises(APIError.Unavailable):
                await process.publish(ROOM, "lost")
            two.start()
            await until(lambda: process.statistics.connected)
            await process.told_of_a_loss(ROOM)


async def test_a_cluster_that_lacks_slots_is_an_error() -> None:
    with running("valkey", "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as node:
        node.ask("CLUSTER", "ADDSLOTSRANGE", 0, 383)
        with pytest.raises(BrokerError, match="the cluster has no node for 16000 of its slots"):
            async with joined(f"redis+cluster://127.0.0.1:{node.port}"):
                pytest.fail("it is connected")


async def test_a_server_that_is_no_cluster_is_an_error(server: Server) -> None:
    with pytest.raises(BrokerError, match="cluster support disabled"):
        async with joined(f"redis+cluster://127.0.0.1:{server.port}"):
            pytest.fail("it is connected")


async def test_over_tls_all_is_the_same_and_a_certificate_that_nobody_vouches_for_is_an_error(server: Server) -> None:
    async with Proxy(server.port, tls=CERTIFICATES.serving).running() as proxy:
        async with joined(proxy.url, ssl_context=CERTIFICATES.trusting, ping_timeout=2) as process:
            await process.broker.subscribe(ROOM)
            await process.keep("first")
            assert await process.heard(ROOM, 1) == ["first"]
        with pytest.raises(BrokerError, match=r"rediss://127.0.0.1:\d+: .*certificate"):
            async with joined(proxy.url, ping_timeout=2):
                pytest.fail("it is connected")
