"""The broker for Redis and Valkey while all is well: what is sent, what it costs, and what is said of it."""

import re
import secrets
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio
from coredis.connection import TCPConnection, TCPLocation
from trio.testing import wait_all_tasks_blocked

from streamrt import APIError, App, History, Service, StreamInOut, Topic
from streamrt.brokers import BrokerError, RedisBroker
from streamrt.brokers.envelope import UnknownVersion, open_envelope, read_entry
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame
from tests.brokers.process import HISTORY, OTHER, ROOM
from tests.brokers.servers import Server
from tests.brokers.stage import joined, until

DEPLOYING = Path(__file__).parents[2] / "docs" / "deploying.md"


def test_without_coredis_streamrt_works_and_the_broker_says_what_to_install() -> None:
    code = """
import sys
sys.modules["coredis"] = None
import streamrt
try:
    import streamrt.brokers
except ModuleNotFoundError as error:
    assert str(error) == "RedisBroker needs coredis: pip install 'streamrt[redis]'", error
    assert error.__suppress_context__
else:
    raise AssertionError
del sys.modules["coredis"]
sys.modules["anyio"] = None  # what is missing besides is told as it is
try:
    import streamrt.brokers
except ModuleNotFoundError as error:
    assert "anyio" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_coredis_is_as_we_know_it() -> None:
    """Name what has changed: `streamrt.brokers.connection` stands on these."""
    connection = TCPConnection(TCPLocation("localhost", 1))
    for name in (
        "_push_message_buffer_in _push_message_buffer_out _streamed_message_buffer_in _streamed_message_buffer_out "
        "_write_buffer_in _write_buffer_out _last_error statistics usable create_request_batch send_command run"
    ).split():
        assert hasattr(connection, name), name
    assert hasattr(connection._push_message_buffer_in.statistics(), "current_buffer_used")
    assert hasattr(connection.statistics, "bytes_read")
    for name in ("in", "out"):
        for kind in ("push_message", "streamed_message", "write"):
            getattr(connection, f"_{kind}_buffer_{name}").close()


async def test_a_process_has_two_connections_whatever_the_number_of_topics(server: Server) -> None:
    async with joined(server.url) as process, trio.open_nursery() as nursery:
        for number in range(2500):
            nursery.start_soon(process.broker.subscribe, Channel("chat", str(number)))
        await wait_all_tasks_blocked()
        await process.all_is_delivered()
        clients = server.ask("CLIENT", "LIST")
        assert clients.count("cmd=") == 3  # the third asks
        calls = server.ask("INFO", "commandstats")["cmdstat_subscribe"]["calls"]
        assert calls <= 5  # the heartbeat's, three of a thousand names, and that of the last message


async def test_what_many_tasks_publish_at_once_shares_a_round_trip(server: Server) -> None:
    async with joined(server.url, ping_interval=60) as process:
        await process.broker.subscribe(ROOM)
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(partial(process.publish, ROOM, str(number), history=HISTORY))
                nursery.start_soon(process.publish, OTHER, str(number))
        assert sorted(map(int, await process.heard(ROOM, 100))) == list(range(100))
        stats = server.ask("INFO", "commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2  # of 64 and 36
        assert stats["cmdstat_publish"]["calls"] == 4  # and one in each of the two
        assert process.statistics.published == 200


async def test_others_do_not_know_the_streams_of_a_publisher(valkey: Server) -> None:
    prefix = secrets.token_hex(4)
    async with joined(valkey.url, prefix=prefix) as one, joined(valkey.url, prefix=prefix) as other:
        for process in (one, other):
            await process.broker.subscribe(ROOM)
        await one.broker.publish(ROOM, Publication(Frame(b"1"), origin=0, exclude=7), HISTORY)
        for process in (one, other):
            await process.heard(ROOM, 1)
        seen = [one.delivered[ROOM][0], other.delivered[ROOM][0]]
        for process in (one, other):
            seen += (await process.broker.replay(ROOM, History.OLDEST, HISTORY)).publications
        assert [(each.origin, each.exclude) for each in seen] == [(0, 7), (None, None), (0, 7), (None, None)]


async def test_other_prefixes_and_other_databases_are_other_worlds(server: Server) -> None:
    async with joined(server.url) as one, joined(server.url + "/1") as two, joined(server.url, prefix="my") as three:
        for process in (one, two, three):
            await process.broker.subscribe(ROOM)
            await process.keep("0")
        for process in (one, two, three):
            await process.all_is_delivered()
            assert len(process.delivered[ROOM]) == 1


async def test_it_tells_how_it_is(server: Server) -> None:
    begin = time.time()
    async with joined(server.url) as process:
        await process.broker.subscribe(ROOM)
        await process.publish(ROOM, "1", "2")
        await process.heard(ROOM, 2)
        await until(lambda: process.statistics.round_trip is not None)
        statistics = process.statistics
        assert statistics.connected
        assert begin <= statistics.since <= time.time()
        assert (statistics.reconnects, statistics.published, statistics.delivered, statistics.losses) == (0, 2, 2, 0)
        assert process.broker.connected  # type: ignore[attr-defined]
    assert not process.statistics.connected
    assert process.statistics.round_trip is None
    with pytest.raises(APIError.Unavailable) as caught:
        await process.publish(ROOM, "3")
    assert "it is not running" in str(caught.value.__cause__)


async def test_the_position_of_a_quiet_topic_that_is_heard_is_kept(server: Server) -> None:
    async with joined(server.url) as process:
        await process.broker.subscribe(ROOM)
        position = await process.keep("1")
        [at] = [key for key in server.ask("KEYS", "*") if key.endswith(":at")]
        server.ask("PEXPIRE", at, 60_000)
        process.broker._hearing.ears[ROOM].touched = 0  # type: ignore[attr-defined]
        await until(lambda: server.ask("PTTL", at) > 800_000)
        assert await process.missed(position) == ([], True)


async def test_what_is_left_when_one_of_the_two_keys_is_evicted_is_not_mistaken_for_a_history(server: Server) -> None:
    async with joined(server.url) as process:
        position = await process.keep("1", "2")
        at, log = sorted(server.ask("KEYS", "*"))
        server.ask("DEL", log)
        assert await process.missed(position) == ([], True)
        assert (await process.keep("3")).split(".")[1] == "3"
        assert await process.missed(position) == (["3"], True)
        server.ask("DEL", at)
        assert await process.missed(position) == ([], False)
        assert await process.missed(History.OLDEST) == ([], True)


@pytest.mark.slow
async def test_what_is_pushed_is_not_read_before_it_can_be_handed_on(server: Server) -> None:
    gate = trio.Event()

    def published() -> int:
        calls: int = server.ask("INFO", "commandstats")["cmdstat_publish"]["calls"]
        return calls

    async with joined(server.url, ping_timeout=1) as slow, joined(server.url, ping_interval=60) as fast:
        await slow.broker.subscribe(ROOM)
        slow.broker.settle = gate.wait
        for _ in range(400):
            await fast.publish(ROOM, "x" * 60_000)
        link = slow.broker._link  # type: ignore[attr-defined]
        buffered = link._ear._wire._push_message_buffer_in.statistics().current_buffer_used
        assert buffered < 10  # of what coredis would take, which is all 24 MB
        before = published()
        await until(lambda: published() >= before + 3)  # beats, to which there is no answer
        assert slow.statistics.connected  # being busy is no silence
        assert slow.statistics.reconnects == 0
        gate.set()
        await slow.heard(ROOM, 400)


async def test_who_waits_for_an_answer_can_be_cancelled(server: Server) -> None:
    async with joined(server.url, ping_interval=60, ping_timeout=60) as process:
        await process.broker.subscribe(ROOM)
        server.stop()
        with trio.move_on_after(0.01) as scope:
            await process.broker.replay(ROOM, None, HISTORY)
        assert scope.cancelled_caught
        with trio.move_on_after(0.01) as scope:
            await process.broker.subscribe(OTHER)
        assert scope.cancelled_caught
        server.go_on()
        await process.keep("1")
        assert await process.heard(ROOM, 1) == ["1"]


async def test_a_publishing_that_is_cancelled_leaves_nothing_behind_for_the_next(valkey: Server) -> None:
    async with joined(valkey.url, prefix=secrets.token_hex(4)) as process:
        await process.broker.subscribe(ROOM)
        for number in range(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.publish, ROOM, "cancelled")
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            with trio.CancelScope() as scope:
                scope.cancel()
                await process.publish(ROOM, "cancelled too")
            await process.publish(ROOM, str(number))
        await process.all_is_delivered()
        assert [text for text in await process.heard(ROOM, 10) if text.isdigit()] == list("0123456789")


async def test_a_heartbeat_that_is_refused_is_none(server: Server) -> None:
    async with joined(server.url) as process:
        server.ask("ACL", "SETUSER", "default", "-publish")
        await until(lambda: not process.statistics.connected)
        with pytest.raises(APIError.Unavailable):
            await process.publish(ROOM, "1")
        server.ask("ACL", "SETUSER", "default", "+publish")
        await until(lambda: process.statistics.connected)


async def test_without_an_app_what_comes_is_for_nobody(valkey: Server) -> None:
    async with joined(valkey.url, prefix=secrets.token_hex(4)) as process:
        await process.broker.subscribe(ROOM)
        process.broker.deliver = process.broker.lose = None
        await process.publish(ROOM, "1")
        process.broker._lose(ROOM, None)  # type: ignore[attr-defined]
        assert process.statistics.delivered == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1",
        b"1 - 1",
        b"1 - x\n",
        b"1 - 1\n",
        b"1 - 1\n" + bytes(30),
        b"1 - 1\n" + bytes(31) + b"\5" + b"1234",
        b"2 - 0\n",
        b"1  - 0\n",
    ],
)
def test_what_is_no_envelope_is_told(payload: bytes) -> None:
    with pytest.raises(UnknownVersion):
        open_envelope(payload, bytes(8))


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"2.1", bytes(40)), (b"1.1", bytes(3)), (b"", bytes(40)), (b"1.5", bytes(31) + b"\5")],
)
def test_what_is_no_entry_is_told(field: bytes, value: bytes) -> None:
    with pytest.raises(UnknownVersion):
        read_entry(field, value, bytes(8))


async def test_topics_of_two_apps_with_a_broker_hear_each_other_and_local_ones_do_not(valkey: Server) -> None:
    prefix = secrets.token_hex(4)
    said, here = Topic("said", str, history=HISTORY), Topic("here", str, local=True)
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[str, str]) -> None:
        async with said.attach(stream), here.attach(stream):
            await stream.send("ready")
            async for text in stream:
                await here.publish(f"{text} here")
                await said.publish(f"{text} everywhere")

    apps = [App(service, broker=RedisBroker(valkey.url, prefix=prefix)) for _ in range(2)]
    with trio.fail_after(10):
        async with apps[0].client() as one, apps[1].client() as two:
            async with one.open(talk) as here_stream, two.open(talk) as there_stream:
                assert await here_stream.receive() == await there_stream.receive() == "ready"
                await here_stream.send("hello")
                heard = {await here_stream.receive(), await here_stream.receive()}
                assert heard == {"hello here", "hello everywhere"}
                # A local topic is that of the whole process; so the other app hears it too here.
                assert {await there_stream.receive(), await there_stream.receive()} == heard


async def test_the_permissions_that_the_documentation_names_are_enough(server: Server) -> None:
    [acl] = re.findall(r"An ACL needs `(.*)` on\s+`(.*)` and\s+`(.*)`\.", DEPLOYING.read_text(encoding="utf-8"))
    server.ask("ACL", "SETUSER", "app", "on", ">secret", *" ".join(acl).split())
    async with joined(f"redis://app:secret@127.0.0.1:{server.port}") as process:
        await process.broker.subscribe(ROOM)
        position = await process.keep("1")
        assert await process.missed(position) == ([], True)
        process.broker.mark(ROOM, "ada", "1")
        assert len((await process.broker.marks(ROOM)).marks) == 1
        process.broker.unsubscribe(ROOM)
        await process.all_is_delivered()
    for forbidden in ("-script", "-info"):
        server.ask("ACL", "SETUSER", "app", forbidden)
        await is_refused(server.port)


async def is_refused(port: int) -> None:
    with pytest.raises(BrokerError, match=r"(?i)permission"):
        async with joined(f"redis://app:secret@127.0.0.1:{port}"):
            pytest.fail("it is connected")
