"""What becomes of messages when a server, or the way to it, fails: each is delivered, or recovered, or told as lost.

The table in `docs/design/brokers.md` names a test of this file, or of its neighbours, in each row.
"""

import logging
from functools import partial
from random import Random

import pytest
import trio
import trio.testing

from streamrt import APIError, App, History, Service, StreamInOut, Topic
from streamrt.brokers import BrokerError, RedisBroker
from streamrt.brokers.hearing import Hearing
from streamrt.runtime.broker import Channel, Publication
from streamrt.wire.transport import Frame
from tests.brokers.process import HISTORY, OTHER, ROOM, Process, texts
from tests.brokers.servers import Server, free_port, running
from tests.brokers.stage import IMPATIENT, Proxy, joined, until

pytestmark = pytest.mark.slow

KEPT, FLEETING = ROOM, OTHER
"""A channel that has a history, and one that has none."""


async def begin(*processes: Process) -> str:
    """Have both channels heard everywhere, with one message on each; return the position behind it."""
    for process in processes:
        for channel in (KEPT, FLEETING):
            await process.broker.subscribe(channel)
        await process.broker.replay(KEPT, None, HISTORY)
    await processes[0].publish(KEPT, "first", history=HISTORY)
    await processes[0].publish(FLEETING, "first")
    for process in processes:
        assert await process.heard(KEPT, 1) == await process.heard(FLEETING, 1) == ["first"]
    # From here on, what is lost is connected again at once.
    await trio.sleep(1.05)
    return str((await processes[0].broker.replay(KEPT, None, HISTORY)).position)


async def back(process: Process, reconnects: int = 1) -> None:
    await until(lambda: process.statistics.reconnects >= reconnects and process.statistics.connected)


@pytest.mark.parametrize("which", ["pubsub", "normal"])
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_killed_connection_loses_nothing_that_has_a_history_and_tells_of_what_has_none(
    request: pytest.FixtureRequest, kind: str, which: str
) -> None:
    with running(kind) as server:
        async with joined(server.url) as one, joined(server.url) as other:
            await begin(one, other)
            for number in range(10):
                # Both connections of both are there, and the server knows them for what they are.
                await until(lambda: server.ask("CLIENT", "LIST").count("cmd=subscribe") == 2)
                server.ask("CLIENT", "KILL", "TYPE", which)
                try:
                    await other.publish(KEPT, str(number), history=HISTORY)
                except APIError:
                    await back(other, number + 1)
                    await other.publish(KEPT, str(number), history=HISTORY)
                for process in (one, other):
                    await back(process, number + 1)
            await one.publish(KEPT, "last", history=HISTORY)
            expected = ["first", *map(str, range(10)), "last"]
            for process in (one, other):
                await until(lambda process=process: texts(process.delivered[KEPT])[-1] == "last")
                assert list(dict.fromkeys(texts(process.delivered[KEPT]))) == expected
                assert not process.lost[KEPT]
                await process.told_of_a_loss(FLEETING)
                # One that is lost before it is subscribed anew adds no other loss.
                assert len(process.lost[FLEETING]) <= process.statistics.reconnects
                assert set(process.lost[FLEETING]) == {None}


async def test_a_server_that_comes_back_without_its_data_has_begun_anew_and_says_so(server: Server) -> None:
    async with joined(server.url) as process:
        position = await begin(process)
        server.kill()
        server.forget()
        server.start()
        await back(process)
        await process.told_of_a_loss(FLEETING)
        await process.told_of_a_loss(KEPT)
        assert await process.missed(position) == ([], False)
        assert await process.missed(History.OLDEST) == ([], True)
        new = await process.keep("second")
        assert await process.heard(KEPT, 2) == ["first", "second"]
        assert process.lost[KEPT] == [process.delivered[KEPT][1].position.__class__.parse(new.split(".")[0] + ".0")]


async def test_a_server_that_comes_back_with_its_data_still_has_it_but_none_of_its_positions_is_good(
    server: Server,
) -> None:
    server.options = ["--appendonly", "yes", "--appendfsync", "always"]
    server.kill()
    server.start()
    async with joined(server.url) as process:
        position = await begin(process)
        server.kill()
        server.start()
        await back(process)
        await process.told_of_a_loss(KEPT)  # for who knows whether what was written last is there
        assert await process.missed(position) == ([], False)
        assert await process.missed(History.OLDEST) == (["first"], True)
        assert (await process.keep("second")).endswith(".2")
        assert await process.missed(History.OLDEST) == (["first", "second"], True)


async def test_a_server_that_stands_still_is_given_up_and_nothing_is_lost_when_it_goes_on(server: Server) -> None:
    async with (
        joined(server.url, ping_timeout=IMPATIENT) as process,
        joined(server.url, ping_interval=60) as patient,
    ):
        await begin(process, patient)
        server.stop()
        with pytest.raises(APIError.Unavailable, match="not known whether") as caught:
            await process.publish(KEPT, "perhaps", history=HISTORY)
        assert "nothing came for 0.3 s" in str(caught.value.__cause__)
        await until(lambda: not process.statistics.connected)
        with pytest.raises(APIError.Unavailable, match="cannot be exchanged"):
            await process.publish(KEPT, "no", history=HISTORY)
        with pytest.raises(APIError.Unavailable, match="cannot be exchanged"):
            await process.broker.subscribe(Channel("chat", "new"))
        with pytest.raises(APIError.Unavailable, match="cannot be exchanged"):
            await process.broker.replay(KEPT, None, HISTORY)
        server.go_on()
        await patient.publish(KEPT, "second", history=HISTORY)
        await back(process)
        await patient.publish(KEPT, "third", history=HISTORY)
        for each in (process, patient):
            await until(lambda each=each: texts(each.delivered[KEPT])[-1] == "third")
        heard = texts(patient.delivered[KEPT])
        assert [text for text in heard if text != "perhaps"] == ["first", "second", "third"]
        assert texts(process.delivered[KEPT]) == heard
        assert not process.lost[KEPT]


async def test_what_was_not_sent_waits_for_the_first_attempt_to_connect_again(server: Server) -> None:
    async with Proxy(server.port).running() as proxy, joined(proxy.url) as process:
        await begin(process)
        for number in range(3):
            await trio.sleep(1.05)
            proxy.cut()
            await until(lambda: not process.statistics.connected)
            await process.publish(KEPT, str(number), history=HISTORY)
        assert await process.heard(KEPT, 4) == ["first", "0", "1", "2"]


async def test_who_does_not_read_fast_enough_is_cut_off_by_the_server_and_catches_up(server: Server) -> None:
    server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 256kb 0 0")
    gate = trio.Event()
    history = History(messages=10_000, bytes=1 << 30)
    async with joined(server.url, ping_timeout=10) as slow, joined(server.url) as fast:
        await begin(slow, fast)
        await slow.broker.replay(KEPT, None, history)
        slow.broker.settle = gate.wait
        big = "x" * 60_000
        count = 0
        while server.ask("CLIENT", "LIST").count("cmd=subscribe") == 2:  # the system may hold many megabytes for it
            for number in range(count, count + 50):
                await fast.publish(KEPT, f"{number}{big}", history=history)
                await fast.publish(FLEETING, f"{number}{big}")
            count += 50
        assert len(slow.delivered[KEPT]) <= count
        gate.set()
        slow.broker.settle = None
        heard = await slow.heard(KEPT, 1 + count)
        assert [text.rstrip("x") for text in heard[1:]] == [str(number) for number in range(count)]
        await slow.told_of_a_loss(FLEETING)
        assert not slow.lost[KEPT]
        assert slow.statistics.reconnects > 0


async def test_a_history_that_has_less_than_was_missed_is_a_loss_and_is_told_with_its_position(server: Server) -> None:
    few = History(messages=3)
    async with Proxy(server.port).running() as proxy, joined(proxy.url) as process, joined(server.url) as other:
        await process.broker.subscribe(KEPT)
        await process.broker.replay(KEPT, None, few)
        proxy.cut(for_now=False)
        await until(lambda: not process.statistics.connected)
        end = await other.keep(*map(str, range(10)), history=few)
        proxy.is_closed = False
        await back(process)
        await process.told_of_a_loss(KEPT)
        await other.keep("last", history=few)
        await until(lambda: "last" in texts(process.delivered[KEPT]))
        lost = process.lost[KEPT][-1]
        assert lost is not None
        behind = [publication.position for publication in process.delivered[KEPT]]
        assert [position.offset for position in behind if position is not None] == list(
            range(lost.offset + 1, int(end.split(".")[1]) + 2)
        )


async def test_a_full_server_takes_no_history_and_says_so_and_the_rest_goes_on(server: Server) -> None:
    async with joined(server.url) as process:
        await begin(process)
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(APIError.Unavailable, match="the message cannot be published now") as caught:
            await process.publish(KEPT, "second", history=HISTORY)
        assert "OOM" in str(caught.value.__cause__) or "maxmemory" in str(caught.value.__cause__)
        with pytest.raises(APIError.Unavailable, match="the history cannot be read now"):
            await process.broker.replay(Channel("chat", "new"), None, HISTORY)
        await process.publish(FLEETING, "second")
        assert await process.missed(History.OLDEST) == (["first"], True)
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await process.publish(KEPT, "third", history=HISTORY)
        assert await process.heard(KEPT, 2) == ["first", "third"]
        assert await process.heard(FLEETING, 2) == ["first", "second"]
        assert process.statistics.connected
        assert process.statistics.reconnects == 0


@pytest.mark.parametrize(("command", "told"), [("FLUSHALL", [0]), ("SCRIPT FLUSH", [])])
async def test_what_is_flushed_is_noticed_with_the_next_message(server: Server, command: str, told: list[int]) -> None:
    async with joined(server.url) as one, joined(server.url) as other:
        position = await begin(one, other)
        server.ask(*command.split())
        end = await one.keep("second")
        for process in (one, other):
            assert await process.heard(KEPT, 2) == ["first", "second"]
            assert [place.offset for place in process.lost[KEPT] if place is not None] == told
        assert await one.missed(position) == ((["second"], True) if not told else ([], False))
        assert (position.partition(".")[0] == end.partition(".")[0]) is not bool(told)


async def test_a_wrong_password_is_an_error_at_the_start(server: Server) -> None:
    server.ask("CONFIG", "SET", "requirepass", "right")
    for password in ("", ":wrong@"):
        url = f"redis://{password}127.0.0.1:{server.port}"
        with pytest.raises(BrokerError, match=rf"cannot connect to redis://127.0.0.1:{server.port}: .*(auth|pass)"):
            async with joined(url):
                pytest.fail("it is connected")
    async with joined(f"redis://:right@127.0.0.1:{server.port}") as process:
        await begin(process)


async def test_a_password_that_is_changed_is_tried_until_it_is_right_again(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined(server.url) as process:
        await begin(process)
        server.ask("CONFIG", "SET", "requirepass", "new")
        server.ask("CLIENT", "KILL", "TYPE", "pubsub", password="new")
        await until(lambda: not process.statistics.connected)
        await trio.sleep(0.3)  # for some attempts
        server.ask("CONFIG", "SET", "requirepass", "", password="new")
        await back(process)
        await process.publish(FLEETING, "second")
    said = [record.levelname for record in caplog.records if record.name == "streamrt"]
    assert said == ["WARNING", "WARNING"]  # that it was lost, and that it is back
    assert not [record for record in caplog.records if record.name == "coredis"]


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/main", "redis+cluster://127.0.0.1:{}"]
)
async def test_an_address_where_nobody_is_is_an_error_at_the_start(url: str) -> None:
    url = url.format(free_port())
    with pytest.raises(BrokerError, match=r"cannot connect to redis.*: .*refused") as caught:
        async with joined(url):
            pytest.fail("it is connected")
    assert caught.value.__cause__ is None


async def test_an_address_where_nobody_answers_is_an_error_at_the_start_too(server: Server) -> None:
    server.stop()
    with pytest.raises(BrokerError, match=r"no answer within 0\.3 s"):
        async with joined(server.url, ping_timeout=IMPATIENT):
            pytest.fail("it is connected")


async def test_a_replica_is_none_to_publish_to(server: Server) -> None:
    with running("valkey") as primary:
        server.ask("REPLICAOF", "127.0.0.1", primary.port)
        with pytest.raises(BrokerError, match="it is not a primary, but slave"):
            async with joined(server.url):
                pytest.fail("it is connected")


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_primary_that_becomes_a_replica_is_left(kind: str) -> None:
    with running(kind) as server, running(kind) as primary:
        async with joined(server.url) as process:
            await begin(process)
            server.ask("REPLICAOF", "127.0.0.1", primary.port)
            with pytest.raises(APIError.Unavailable):
                await process.publish(KEPT, "second", history=HISTORY)
            await until(lambda: not process.statistics.connected)
            server.ask("REPLICAOF", "NO", "ONE")
            await back(process)
            await process.publish(KEPT, "third", history=HISTORY)
            await until(lambda: texts(process.delivered[KEPT])[-1] == "third")


async def test_messages_of_another_version_are_skipped_and_told_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined(server.url) as process:
        await begin(process)
        broker = process.broker
        names = broker._hearing.names  # type: ignore[attr-defined]
        for _ in range(2):
            server.ask("PUBLISH", names.keys(FLEETING).name.decode(), "2 - 1\nsomething")
            server.ask("PUBLISH", names.keys(FLEETING).name.decode(), "1 - 1\nshort")
        await process.publish(FLEETING, "second")
        assert await process.heard(FLEETING, 2) == ["first", "second"]
        assert process.lost[FLEETING] == [None] * 4
        # One that has a history counts in it.
        server.ask("HINCRBY", names.keys(KEPT).at.decode(), "offset", 1)
        server.ask("XADD", names.keys(KEPT).log.decode(), "2-0", "2.4", "what")
        server.ask("PUBLISH", names.keys(KEPT).name.decode(), "2 - 1\nsomething")
        await process.told_of_a_loss(KEPT)
        await process.publish(KEPT, "second", history=HISTORY)
        assert await process.heard(KEPT, 2) == ["first", "second"]
        assert [place.offset for place in process.lost[KEPT] if place is not None] == [2]
        assert await process.missed(History.OLDEST) == ([], False)
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "another version" in errors[0]


async def test_while_it_is_down_messages_are_delivered_here_if_one_wants_it_so(server: Server) -> None:
    async with joined(server.url, when_down="deliver_locally") as process:
        position = await begin(process)
        server.kill()
        await until(lambda: not process.statistics.connected and not process.broker._is_trying)  # type: ignore[attr-defined]
        await process.publish(KEPT, "second", history=HISTORY)
        await process.publish(FLEETING, "second")
        new = Channel("chat", "new")
        await process.publish(new, "nobody is there")
        await process.broker.subscribe(new)
        await process.publish(new, "third", history=HISTORY)
        assert await process.heard(KEPT, 2) == await process.heard(FLEETING, 2) == ["first", "second"]
        assert await process.heard(new, 1) == ["third"]
        assert process.delivered[KEPT][1].position is None
        replay = await process.broker.replay(KEPT, position, HISTORY)
        assert (replay.publications, replay.position.offset, replay.recovered) == ((), 0, False)
        server.start()
        await back(process)
        for channel in (KEPT, FLEETING, new):
            await process.told_of_a_loss(channel)
        assert await process.missed(History.OLDEST, channel=new) == ([], True)


async def test_publishing_that_is_cancelled_before_it_is_sent_has_published_nothing(server: Server) -> None:
    async with joined(server.url, ping_interval=60) as process:
        await begin(process)
        server.stop()
        async with trio.open_nursery() as nursery:
            late = trio.CancelScope()

            async def publish_and_be_cancelled() -> None:
                with late:
                    await process.publish(FLEETING, "sent")

            nursery.start_soon(publish_and_be_cancelled)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as early:
                await process.publish(FLEETING, "cancelled")
            assert early.cancelled_caught
            late.cancel()  # what is on its way cannot be called back: the answer comes first
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            server.go_on()
        assert not late.cancelled_caught
        await process.publish(FLEETING, "last")
        assert await process.heard(FLEETING, 3) == ["first", "sent", "last"]


async def test_what_was_missed_and_cannot_be_read_is_a_loss(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with Proxy(server.port).running() as proxy, joined(proxy.url) as process:
        await begin(process)
        server.ask("FLUSHALL")
        server.ask("CONFIG", "SET", "maxmemory", "1")
        proxy.cut()
        await back(process)
        await process.told_of_a_loss(KEPT)
        assert process.statistics.connected
    assert "what was missed of the topic chat cannot be read" in caplog.text


@pytest.mark.parametrize("scheme", ["redis://", "redis+sentinel://", "redis+cluster://"])
async def test_a_server_that_greets_and_says_nothing_more_is_given_up(scheme: str) -> None:
    async def greet(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"%3\r\n+proto\r\n:3\r\n+version\r\n+6.2.0\r\n+id\r\n:1\r\n")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, greet, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        path = "/main" if "sentinel" in scheme else ""
        with pytest.raises(BrokerError, match=r"no answer within 0\.3 s"):
            async with joined(f"{scheme}127.0.0.1:{port}{path}", ping_timeout=IMPATIENT):
                pytest.fail("it is connected")
        nursery.cancel_scope.cancel()


async def test_a_broker_whose_task_dies_takes_its_block_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_channel: Channel, _publication: Publication) -> None:
        raise ZeroDivisionError("a fault of ours")

    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        async with joined(server.url) as process:
            await process.broker.subscribe(FLEETING)
            process.broker.deliver = broken
            await process.broker.publish(FLEETING, Publication(Frame(b"1")), None)
            await trio.sleep_forever()


async def test_and_its_app(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, name: bytes, payload: bytes) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Hearing, "hear", broken)
    topic, service = Topic("numbers", int), Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[int, int]) -> None:
        async with topic.attach(stream):
            async for number in stream:
                await topic.publish(number)

    app = App(service, broker=RedisBroker(server.url))
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        async with app.client() as client, client.open(talk) as stream:
            await stream.send(1)
            await trio.sleep_forever()


@pytest.mark.parametrize("seed", range(3))
async def test_over_a_bad_line_nothing_that_has_a_history_is_missing_and_nothing_comes_twice(
    server: Server, seed: int
) -> None:
    many = History(messages=100_000, bytes=1 << 30)
    taken: dict[Channel, list[str]] = {KEPT: [], FLEETING: []}
    async with (
        Proxy(server.port).running() as near,
        Proxy(server.port).running() as far,
        joined(near.url, ping_timeout=IMPATIENT) as one,
        joined(far.url, ping_timeout=IMPATIENT) as other,
    ):
        await begin(one, other)
        for process in (one, other):
            await process.broker.replay(KEPT, None, many)

        async def publish(process: Process, name: str, channel: Channel) -> None:
            for number in range(150):
                message = f"{name}{number}"
                try:
                    await process.publish(channel, message, history=many if channel == KEPT else None)
                except APIError.Unavailable:
                    await trio.sleep(0.01)
                else:
                    taken[channel].append(message)
                await trio.sleep(0.005)

        near.chance, far.chance = Random(seed), Random(-seed - 1)
        async with trio.open_nursery() as nursery:
            for process, name in ((one, "a"), (other, "b")):
                for channel in (KEPT, FLEETING):
                    nursery.start_soon(publish, process, name, channel)
        near.chance = far.chance = None
        near.cut()
        far.cut()
        assert near.faults + far.faults > 3
        for process in (one, other):
            await until(lambda process=process: process.statistics.connected)
        await trio.sleep(1.05)
        for process in (one, other):
            await process.all_is_delivered()
        await one.keep("last", history=many)
        for process in (one, other):
            await until(lambda process=process: texts(process.delivered[KEPT])[-1] == "last")
            assert not process.lost[KEPT]
            for channel, messages in taken.items():
                heard = texts(process.delivered[channel])
                assert len(heard) == len(set(heard))
                missing = set(messages) - set(heard)
                assert not missing or channel == FLEETING
                assert not missing or process.lost[FLEETING]
                for name in "ab":
                    numbers = [int(text[1:]) for text in heard if text.startswith(name)]
                    assert numbers == sorted(numbers)
        assert texts(one.delivered[KEPT]) == texts(other.delivered[KEPT])
