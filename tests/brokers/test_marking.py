"""Marks over Redis and Valkey: what they cost, and what becomes of them when something fails.

What holds for any broker is in `tests.contracts.test_marks`, over real servers too.
"""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt import APIError
from streamrt.brokers.envelope import UnknownVersion, open_marks
from streamrt.runtime.broker import Channel, Mark, Position
from tests.brokers.process import OTHER, ROOM
from tests.brokers.servers import Server, running
from tests.brokers.stage import IMPATIENT, Proxy, joined, until
from tests.contracts.test_marks import Marker

BRIEF = 0.5
"""Seconds of a lease whose end a test waits for."""

LONG = 2.0
"""Seconds of one that must not end because this machine is late."""


@asynccontextmanager
async def marking(url: str, **options: Any) -> AsyncGenerator[Marker]:
    async with joined(url, **{"lease": BRIEF} | options) as process:
        yield Marker(process.broker)


async def read(*processes: Marker, channel: Channel = ROOM) -> None:
    """Have changes of a channel told, as who reads it does."""
    for process in processes:
        await process.broker.subscribe(channel)
        await process.broker.marks(channel)


async def has(process: Marker, *expected: tuple[Marker, str, str], channel: Channel = ROOM) -> None:
    """Wait until these are all marks of a channel, whatever their processes are called by then."""
    while True:
        marked = await process.all_marks(channel)
        if marked == {(of.broker.process, name): value for of, name, value in expected}:
            return
        await trio.sleep(0.01)


def keys(server: Server, pattern: str = "*") -> set[str]:
    return {key.rpartition("}")[2] or key for key in server.ask("KEYS", pattern)}


# What it costs.


async def test_who_has_nothing_to_do_with_marks_sends_nothing(server: Server) -> None:
    async with marking(server.url, ping_interval=60, lease=0.01) as process:
        await process.broker.subscribe(ROOM)
        await process.publishing.publish(ROOM, "1")
        await process.publishing.all_is_delivered()
        assert keys(server) == set()
        assert "cmdstat_evalsha" not in server.ask("INFO", "commandstats")


async def test_what_is_marked_at_once_is_one_step_of_the_server_for_each_channel(server: Server) -> None:
    async with marking(server.url, ping_interval=60, lease=60) as process:
        await read(process)
        await until(lambda: keys(server, "*{processes}"))
        server.ask("CONFIG", "RESETSTAT")
        for number in range(100):
            process.broker.mark(ROOM, str(number), "x")
            process.broker.mark(OTHER, str(number), "x")
        await process.told(ROOM, lambda marked: len(marked) == 100)
        stats = server.ask("INFO", "commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2
        assert stats["cmdstat_publish"]["calls"] == 2
        assert stats["cmdstat_sadd"]["calls"] == 3  # the channels of the process, and the process of each channel


async def test_very_many_marks_of_one_channel_are_several_steps(server: Server) -> None:
    async with marking(server.url) as process:
        await read(process)
        for number in range(1000):
            process.broker.mark(ROOM, str(number), "x")
        await process.told(ROOM, lambda marked: len(marked) == 1000)
        assert len(await process.all_marks(ROOM)) == 1000


async def test_what_is_cleared_before_the_server_was_told_comes_to_nothing(server: Server) -> None:
    async with marking(server.url, lease=60) as process:
        await read(process)
        process.broker.mark(OTHER, "eve", "1")
        process.broker.mark(ROOM, "ada", "1")
        process.broker.mark(ROOM, "bob", "1")
        process.broker.mark(ROOM, "bob", None)
        process.broker.mark(OTHER, "eve", None)
        assert await process.all_marks(ROOM) == {(process.broker.process, "ada"): "1"}
        assert [mark.name for mark, _ in process.announced[ROOM]] in ([], ["ada"])
        assert ":marks" not in keys(server, "*kitchen*")


async def test_nor_is_anything_left_of_what_is_cleared_while_the_server_is_told(server: Server) -> None:
    async with marking(server.url, lease=60, ping_interval=60, ping_timeout=60) as process:
        await read(process)
        await until(lambda: keys(server, "*{processes}"))
        for is_known in (False, True):
            if is_known:
                process.broker.mark(OTHER, "bob", "1")
                assert await process.all_marks(OTHER)
            server.stop()
            process.broker.mark(OTHER, "ada", "1")
            await wait_all_tasks_blocked()
            process.broker.mark(OTHER, "ada", None)
            process.broker.mark(OTHER, "bob", None)
            server.go_on()
            assert await process.all_marks(OTHER) == {}
            await until(lambda: keys(server) - {":marks:at"} == {"streamrt/0:{processes}"})


async def test_without_marks_nothing_is_left_on_the_server_but_a_position_for_a_while(server: Server) -> None:
    async with marking(server.url, lease=60) as process:
        await read(process)
        for _ in range(2):
            process.broker.mark(ROOM, "ada", "1")
            await process.told(ROOM, bool)
            assert await process.all_marks(ROOM)
            me = process.broker.process
            assert keys(server) == {":marks", f":marks:{me}", ":marks:at", "streamrt/0:{processes}", f":of:{me}"}
            [at] = server.ask("KEYS", "*:at")
            assert server.ask("PTTL", at) == -1
            process.broker.mark(ROOM, "ada", None)
            await process.told(ROOM, lambda marked: not marked)
            await until(lambda: keys(server) == {":marks:at", "streamrt/0:{processes}"})
            assert 500_000 < server.ask("PTTL", at) <= 600_000


async def test_a_position_is_kept_for_who_goes_on_from_it(server: Server) -> None:
    async with marking(server.url, lease=math.inf) as process:
        assert (await process.broker.marks(ROOM)).marks == []
        await until(lambda: keys(server) == {"streamrt/0:{processes}"})
        await process.broker.subscribe(ROOM)
        position = (await process.broker.marks(ROOM)).position
        assert (await process.broker.marks(ROOM)).position == position
        assert keys(server) == {"streamrt/0:{processes}", ":marks:at"}


async def test_names_and_values_may_be_any_text(server: Server) -> None:
    async with marking(server.url) as process:
        await read(process)
        marks = {"\ud800": "\udfff", "-": "+", "+": "-", "": ""}
        for name, value in marks.items():
            process.broker.mark(ROOM, name, value)
        expected = {(process.broker.process, name): value for name, value in marks.items()}
        assert await process.told(ROOM, lambda marked: len(marked) == 4) == expected
        assert await process.all_marks(ROOM) == expected


# Processes that end, or are taken for dead.


async def test_processes_that_have_ended_are_forgotten(server: Server) -> None:
    async with marking(server.url) as process:
        await read(process)
        for _ in range(3):
            async with marking(server.url) as other:
                for number in range(100):
                    other.broker.mark(Channel("chat", str(number)), "ada", "1")
                other.broker.mark(ROOM, "ada", "1")
        await process.told(ROOM, lambda marked: not marked and len(process.announced[ROOM]) == 6)
        await until(lambda: server.ask("KEYS", "*:of:*") == server.ask("KEYS", "*:ended") == [])
        assert server.ask("ZCARD", "streamrt/0:{processes}") == 1
        assert not server.ask("KEYS", "*:marks")


async def test_what_one_process_has_begun_to_clear_another_finishes(server: Server) -> None:
    async with marking(server.url) as process:
        await read(process)
        async with marking(server.url) as other:
            other.broker.mark(ROOM, "ada", "1")
        # Somebody has taken it on, for as long as that may take, and was killed over it.
        seconds, _ = server.ask("TIME")
        server.ask("ZREM", "streamrt/0:{processes}", other.broker.process)
        server.ask("ZADD", "streamrt/0:{processes}:ended", (seconds + 1) * 1000, other.broker.process)
        await process.told(ROOM, lambda marked: not marked and bool(process.announced[ROOM]))


@pytest.mark.parametrize("is_cleared", [False, True])
async def test_who_was_taken_for_dead_marks_everything_under_another_name(server: Server, is_cleared: bool) -> None:
    async with marking(server.url, lease=LONG) as process, marking(server.url, lease=LONG) as other:
        await read(process, other)
        process.broker.mark(ROOM, "ada", "1")
        other.broker.mark(ROOM, "bob", "1")
        await process.told(ROOM, lambda marked: len(marked) == 2)
        before = other.broker.process
        server.ask("ZREM", "streamrt/0:{processes}", before)
        if is_cleared:
            server.ask("DEL", f"streamrt/0:{{processes}}:of:{before}")
        else:
            server.ask("ZADD", "streamrt/0:{processes}:ended", 0, before)
        other.broker.mark(ROOM, "eve", "1")  # which goes out under the old name, or the new one
        await until(lambda: other.broker.process != before)
        await has(process, (process, "ada", "1"), (other, "bob", "1"), (other, "eve", "1"))
        await other.told_of_a_loss(ROOM)
        await until(lambda: not server.ask("KEYS", f"*{before}*") and not server.ask("KEYS", "*:ended"))
        assert process.lost == []


@pytest.mark.slow
async def test_a_server_that_was_away_takes_nobody_for_dead(server: Server) -> None:
    async with marking(server.url, lease=LONG) as process, marking(server.url, lease=LONG) as other:
        await read(process)
        other.broker.mark(ROOM, "ada", "1")
        await process.told(ROOM, bool)
        names = [each.broker.process for each in (process, other)]
        server.stop()
        await trio.sleep(LONG)
        server.go_on()
        await trio.sleep(LONG / 2)  # in which each has looked after the other
        assert len(process.announced[ROOM]) == 1
        assert [each.broker.process for each in (process, other)] == names


# What the server does.


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_server_that_is_flushed_is_told_everything_again_and_readers_are_told(kind: str) -> None:
    with running(kind) as server:
        async with marking(server.url) as process, marking(server.url) as other:
            await read(process, other)
            process.broker.mark(ROOM, "ada", "1")
            other.broker.mark(ROOM, "bob", "1")
            await process.told(ROOM, lambda marked: len(marked) == 2)
            server.ask("FLUSHALL")
            await has(process, (process, "ada", "1"), (other, "bob", "1"))
            for each in (process, other):
                await each.told_of_a_loss(ROOM)
            await until(lambda: server.ask("ZCARD", "streamrt/0:{processes}") == 2)
            # And those that only read are told that marks have ended, which nobody is there to clear.
            other.broker.mark(ROOM, "bob", None)
            await has(process, (process, "ada", "1"))
            other.lost.clear()
            server.ask("FLUSHALL")
            await other.told_of_a_loss(ROOM)
            await has(other, (process, "ada", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
async def test_a_server_that_comes_back_is_told_everything_again(server: Server, kept: bool) -> None:
    server.options = ["--appendonly", "yes", "--appendfsync", "always"]
    server.kill()
    server.start()
    async with marking(server.url, lease=LONG) as process, marking(server.url, lease=LONG) as other:
        await read(process)
        process.broker.mark(ROOM, "ada", "1")
        other.broker.mark(ROOM, "bob", "1")
        await process.told(ROOM, lambda marked: len(marked) == 2)
        position = (await process.broker.marks(ROOM)).position
        server.kill()
        if not kept:
            server.forget()
        process.broker.mark(ROOM, "eve", "1")
        process.broker.mark(ROOM, "ada", "2")
        server.start()
        await process.told_of_a_loss(ROOM)
        await has(process, (process, "ada", "2"), (other, "bob", "1"), (process, "eve", "1"))
        assert (await process.broker.marks(ROOM)).position.epoch != position.epoch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_on_a_full_server_nobody_dies_who_leaves_leaves_and_who_comes_is_there_once_there_is_room(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(kind) as server:
        async with marking(server.url, lease=LONG) as process, marking(server.url, lease=LONG) as other:
            await read(process)
            for name in ("ada", "bob"):
                other.broker.mark(ROOM, name, "1")
            async with marking(server.url, lease=LONG) as gone:
                gone.broker.mark(ROOM, "joe", "1")
            await process.told(ROOM, lambda marked: len(marked) == 3)
            server.ask("CONFIG", "SET", "maxmemory", "1")
            other.broker.mark(ROOM, "ada", None)
            await process.told(ROOM, lambda marked: len(marked) == 2)
            other.broker.mark(ROOM, "eve", "1")
            other.broker.mark(OTHER, "eve", "1")
            await other.broker.marks(ROOM)
            await process.told(ROOM, lambda marked: len(marked) == 1)  # and so have leases been renewed, and ended
            await has(process, (other, "bob", "1"))
            assert caplog.text.count("who comes and goes here is not known to others for now") == 1
            server.ask("CONFIG", "SET", "maxmemory", "0")
            await has(process, (other, "bob", "1"), (other, "eve", "1"))
            await has(process, (other, "eve", "1"), channel=OTHER)


@pytest.mark.parametrize("command", ["zadd", "sadd", "hset"])
async def test_what_the_server_refuses_is_tried_again_and_said_once(
    server: Server, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    async with marking(server.url) as process:
        await process.publishing.publish(ROOM, "1")
        me = process.broker.process
        server.ask("ACL", "SETUSER", "default", f"-{command}")
        process.broker.mark(ROOM, "ada", "1")
        process.broker.mark(ROOM, "joe", "1")
        assert await process.all_marks(ROOM) == {}
        process.broker.mark(ROOM, "joe", None)
        for _ in range(3):
            assert await process.all_marks(ROOM) == {}
            await trio.sleep(BRIEF / 5)  # which is when it is tried again
        assert caplog.text.count("who comes and goes here is not known to others for now") == 1
        process.broker.mark(ROOM, "bob", "1")
        server.ask("ACL", "SETUSER", "default", f"+{command}")
        await has(process, (process, "ada", "1"), (process, "bob", "1"))
        assert process.broker.process == me
        await until(lambda: not process.broker._marking._has_complained)  # type: ignore[attr-defined]
        server.ask("ACL", "SETUSER", "default", "-hset")
        process.broker.mark(ROOM, "eve", "1")
        await until(lambda: caplog.text.count("who comes and goes here is not known to others for now") == 2)


async def test_marks_that_cannot_be_read_are_an_error(server: Server) -> None:
    async with marking(server.url) as process:
        server.ask("ACL", "SETUSER", "default", "-smembers")
        with pytest.raises(APIError.Unavailable, match="it cannot be read now who is there"):
            await process.broker.marks(ROOM)


async def test_clearing_that_is_refused_is_tried_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with marking(server.url) as process:
        await read(process)
        async with marking(server.url) as other:
            other.broker.mark(ROOM, "ada", "1")
        server.ask("ACL", "SETUSER", "default", "-hkeys")
        await until(lambda: "the marks of a process that has ended cannot be cleared" in caplog.text)
        assert await process.all_marks(ROOM) == {(other.broker.process, "ada"): "1"}
        server.ask("ACL", "SETUSER", "default", "+hkeys")
        await process.told(ROOM, lambda marked: not marked)


# The connection.


async def test_who_asks_while_the_connection_is_lost_is_answered_by_the_next(server: Server) -> None:
    async with Proxy(server.port).running() as proxy, marking(proxy.url, ping_timeout=60) as process:
        await read(process)
        await trio.sleep(1.05)  # from here on, what is lost is connected again at once
        server.stop()
        process.broker.mark(OTHER, "ada", "1")
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert await process.all_marks(OTHER) == {(process.broker.process, "ada"): "1"}

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            proxy.cut()
            server.go_on()


async def test_without_a_connection_nobody_knows_who_is_there(server: Server) -> None:
    async with Proxy(server.port).running() as proxy, marking(proxy.url) as process:
        process.broker.mark(ROOM, "ada", "1")
        assert await process.all_marks(ROOM)
        proxy.cut(for_now=False)
        await until(lambda: not process.publishing.statistics.connected)
        with pytest.raises(APIError.Unavailable, match="messages cannot be exchanged now"):
            await process.broker.marks(ROOM)
        for number in range(10):  # who comes and goes meanwhile is nobody who has to be told of
            process.broker.mark(OTHER, str(number), "1")
            process.broker.mark(OTHER, str(number), None)
        assert OTHER not in process.broker._marking._unsent  # type: ignore[attr-defined]


async def test_what_was_cleared_on_a_connection_that_has_not_carried_it_is_cleared_by_the_next(server: Server) -> None:
    async with Proxy(server.port).running() as proxy, marking(server.url, lease=60) as other:
        async with marking(proxy.url, lease=60, ping_interval=60) as process:
            await read(other)
            process.broker.mark(ROOM, "ada", "1")
            await other.told(ROOM, bool)
            proxy.chance = SimpleNamespace(random=lambda: 0.025)  # type: ignore[assignment]  # nothing gets through
            process.broker.mark(ROOM, "ada", None)
            await wait_all_tasks_blocked()
            proxy.chance = None
            proxy.cut()
            await other.told(ROOM, lambda marked: not marked)


async def test_or_only_who_is_here(server: Server) -> None:
    async with Proxy(server.port).running() as proxy:
        async with marking(proxy.url, when_down="deliver_locally") as process, marking(server.url) as other:
            other.broker.mark(ROOM, "bob", "1")
            process.broker.mark(ROOM, "ada", "1")
            await has(process, (process, "ada", "1"), (other, "bob", "1"))
            proxy.cut(for_now=False)
            await until(lambda: not process.publishing.statistics.connected)
            process.broker.mark(ROOM, "eve", "1")
            await process.broker.subscribe(ROOM)
            before = await process.broker.marks(ROOM)
            assert [mark.name for mark in before.marks] == ["ada", "eve"]
            assert (await process.broker.marks(ROOM)).position.epoch != before.position.epoch
            proxy.is_closed = False
            await process.told_of_a_loss(ROOM)
            await has(process, (process, "ada", "1"), (process, "eve", "1"), (other, "bob", "1"))


async def test_a_broker_that_ends_waits_for_the_server_only_so_long(server: Server) -> None:
    async with marking(server.url, ping_interval=60, ping_timeout=IMPATIENT) as process:
        await read(process)
        server.stop()
        process.broker.mark(ROOM, "ada", "1")
    server.go_on()


async def test_without_an_app_marks_are_announced_to_nobody(server: Server) -> None:
    async with marking(server.url) as process, marking(server.url) as other:
        await read(process, other)
        process.broker.announce = None
        process.broker.mark(ROOM, "ada", "1")
        await other.told(ROOM, bool)
        assert await process.all_marks(ROOM)


# What is on the wire.


def test_an_announcement_is_read_as_it_was_written() -> None:
    payload = b"1 marks aa.7 me 3\n\0\0\0\1\0\0\0\2ax\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\0b"
    marks = [Mark("me", "a", "x"), Mark("me", "", ""), Mark("me", "b", None)]
    assert open_marks(payload) == [(mark, Position("aa", 7 + count)) for count, mark in enumerate(marks)]


@pytest.mark.parametrize(
    "payload",
    [
        b"1 marks",
        b"1 marks aa.7 me 0",
        b"1 marks aa me 0\n",
        b"1 marks aa.7 me x\n",
        b"1 marks aa.7 me 1\n",
        b"1 marks aa.7 me 1\n\0\0\0\1\0\0\0\0",
        b"1 marks aa.7 me 1\n\0\0\0\0\0\0\0\3x",
        b"1 marks aa.7 me 1\n\0\0\0\1\0\0\0\0\xff",
        b"1 marks aa.7 me 1\n\0\0\0\1\0\0\0\0ab",
        b"1 marks aa.7 me 1\n\0\0\0\1\0\0\0\0" + b"a" * 10,
        b"1 marks " + b"a" * 1000,
    ],
)
def test_what_is_no_announcement_is_told(payload: bytes) -> None:
    with pytest.raises(UnknownVersion):
        open_marks(payload)
