"""What goes out: straight or queued, in order, and what happens to a peer that does not read."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from streamrt import APIError, Ended, Limits
from streamrt.runtime.broker import Publication
from streamrt.runtime.outbox import Slot
from streamrt.wire.transport import Disconnected, Frame, memory_transports
from tests.runtime.stage import Deliverer, Recorder, connect, delivering


async def test_everything_that_queued_up_goes_out_in_one_send(autojump_clock) -> None:
    transport = Recorder()
    connection = connect(transport)
    async with connection.open():
        for value in range(50):
            await connection.send(Frame(b"%d" % value))
        await trio.testing.wait_all_tasks_blocked()
        transport.going_on.set()
    sends = [call for call in transport.calls if call[0] == "send"]
    assert sends == [("send", [str(value) for value in range(50)])]


async def test_one_send_takes_64_kib_so_that_a_slow_peer_makes_room_in_time(autojump_clock) -> None:
    transport = Recorder()
    connection = connect(transport)
    transport.going_on.set()
    async with connection.open():
        for _ in range(20):
            await connection.send(Frame(b"x" * 10_000))
    assert [len(call[1]) for call in transport.calls if call[0] == "send"] == [6, 6, 6, 2]


async def test_with_nothing_queued_a_message_goes_straight_through(autojump_clock) -> None:
    transport = Recorder(takes_nowait=2)
    connection = connect(transport)
    transport.going_on.set()
    async with connection.open():
        for value in range(4):
            await connection.send(Frame(b"%d" % value))
    sent = [call for call in transport.calls if call[0] in ("send_nowait", "send")]
    assert sent == [("send_nowait", "0"), ("send_nowait", "1"), ("send", ["2", "3"])]


async def test_nothing_overtakes_what_is_queued_or_being_written(autojump_clock) -> None:
    transport = Recorder(takes_nowait=1)
    connection = connect(transport)
    async with connection.open():
        await connection.send(Frame(b"0"))
        await connection.send(Frame(b"1"))
        await trio.testing.wait_all_tasks_blocked()
        transport.takes_nowait = 10  # but "1" is still in the writer's hand
        await connection.send(Frame(b"2"))
        transport.going_on.set()
    sent = [call[1] for call in transport.calls if call[0] in ("send_nowait", "send")]
    assert sent == ["0", ["1"], ["2"]]


async def test_a_writer_that_finds_the_peer_gone_ends_the_stream(autojump_clock) -> None:
    class Gone(Recorder):
        async def send(self, frames: Sequence[Frame]) -> None:
            raise Disconnected(1006)

    connection = connect(Gone(), grace=2)
    async with connection.open():
        await connection.send(Frame(b"1"))
        with connection.scope:
            await trio.sleep_forever()
        assert trio.current_time() == 2
        assert connection.ended == Ended("peer", 1006)
        with pytest.raises(trio.BrokenResourceError, match="ended by the peer: 1006"):
            await connection.send(Frame(b"2"))


async def test_senders_that_wait_for_room_wake_when_the_peer_is_gone(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, limits=Limits(send_messages=1))
    async with connection.open(), trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await connection.send(Frame(b"1"))

        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked()
        theirs.abort()
    assert trio.current_time() == 0


async def test_a_stall_aborts_the_transport_and_tells_all_who_wait(autojump_clock) -> None:
    transport = Recorder()
    connection = connect(transport, limits=Limits(send_messages=1, send_timeout=3))
    told: list[str] = []
    async with connection.open(), trio.open_nursery() as nursery:

        async def send(delay: float) -> None:
            await trio.sleep(delay)
            try:
                await connection.send(Frame(b"1"))
                await connection.send(Frame(b"1"))
                await connection.send(Frame(b"1"))
            except (APIError.ResourceExhausted, trio.BrokenResourceError) as error:
                told.append(f"{type(error).__name__} at {trio.current_time():g}")

        nursery.start_soon(send, 0)
        nursery.start_soon(send, 1)
    assert told == ["Stalled at 3", "BrokenResourceError at 3"]
    reason = "resource_exhausted: the peer has not read for 3 s"
    assert ("abort", 4429, reason) in transport.calls
    assert connection.ended == Ended("runtime", 4429, reason)
    assert trio.current_time() == 3  # and nothing is flushed any more


async def test_an_answer_goes_straight_or_queues_or_is_dropped_when_there_is_no_room(autojump_clock) -> None:
    pong = Frame.ready(b"pong")
    async with delivering() as (connection, transport, receiver):
        assert receiver.answer(pong)
        assert transport.calls == [b"pong"]
        transport.takes_nowait = False
        assert receiver.answer(pong)
        await trio.testing.wait_all_tasks_blocked()
        assert transport.calls == [b"pong", [b"pong"]]
        transport.going_on = trio.Event()
        while len(connection.writer.outbox) < connection.limits.send_messages:
            assert receiver.answer(pong)
        assert not receiver.answer(pong)
        assert len(connection.writer.outbox) == connection.limits.send_messages
        transport.going_on.set()
        receiver.lost(Disconnected(1006))
        assert not receiver.answer(pong)
        assert len(connection.writer.outbox) == connection.limits.send_messages


async def test_what_is_taken_back_before_the_writer_comes_does_not_end_it(autojump_clock) -> None:
    class Nobody:
        def taken(self, slot: Slot) -> Sequence[Frame]:
            raise AssertionError("it was taken back")

    async with delivering(takes_nowait=False) as (connection, transport, _):
        transport.going_on.set()
        for _ in range(2):
            slot = Slot(Publication(Frame(b"1")), Nobody())
            connection.writer.outbox.add([slot])
            connection.writer.outbox.take_back(slot)
            await trio.testing.wait_all_tasks_blocked()
        await connection.send(Frame(b"2"))
    assert transport.calls[0] == [b"2"]


async def test_answers_stand_in_line_with_messages(autojump_clock) -> None:
    async with delivering(takes_nowait=False) as (connection, transport, receiver):
        await connection.send(Frame(b"1"))
        receiver.answer(Frame.ready(b"pong"))
        await connection.send(Frame(b"2"))
    assert transport.calls[0] == [b"1", b"pong", b"2"]


async def test_a_burst_of_input_makes_one_write_of_output(autojump_clock) -> None:
    async with delivering() as (connection, transport, receiver):
        receiver.deliver(["1", "2", "3"])
        for _ in range(3):
            await connection.send(Frame((await connection.receive()).encode()))  # type: ignore[union-attr]
        await trio.testing.wait_all_tasks_blocked()
        assert transport.calls == [[b"1", b"2", b"3"]]


async def test_a_flood_goes_out_in_few_writes_and_single_messages_straight(autojump_clock) -> None:
    async with delivering() as (connection, transport, _):
        for _ in range(64 * 20):
            await connection.send(Frame(b"x"))
        await trio.testing.wait_all_tasks_blocked()
        writes = len(transport.calls)
        assert writes < 64 + 2 * 20
        for _ in range(130):
            await connection.send(Frame(b"y"))
            await trio.testing.wait_all_tasks_blocked()
        single = transport.calls[writes:]
        assert single.count(b"y") >= 126  # now and then one is queued, to see whether others come behind it
        assert all(call in (b"y", [b"y"]) for call in single)


async def test_who_waits_for_room_is_not_overtaken_although_the_queue_has_just_been_emptied(autojump_clock) -> None:
    async with delivering(Limits(send_messages=1), takes_nowait=False) as (connection, transport, _):
        transport.going_on = trio.Event()
        async with trio.open_nursery() as nursery:
            for value in (b"1", b"2", b"3"):
                nursery.start_soon(connection.send, Frame(value))
                await trio.testing.wait_all_tasks_blocked()
            transport.takes_nowait = True
            transport.going_on.set()
            await connection.send(Frame(b"4"))
    assert [payload for call in transport.calls[:-1] for payload in (call if isinstance(call, list) else [call])] == [
        b"1",
        b"2",
        b"3",
        b"4",
    ]


async def test_who_is_cut_off_gets_no_new_time_for_what_it_still_reads(autojump_clock) -> None:
    class Slow(Deliverer):
        async def send(self, frames: Sequence[Frame]) -> None:
            await trio.sleep(1.5)

    connection = connect(Slow(takes_nowait=False), limits=Limits(send_bytes=1_000_000, close_timeout=2))
    async with connection.open():
        for _ in range(10):
            await connection.send(Frame(b"x" * 40_000))
        connection.cut_off(Ended("runtime", 1012))
    assert trio.current_time() == 2


async def test_for_who_is_lost_in_the_middle_of_a_write_nothing_is_flushed(autojump_clock) -> None:
    async with delivering(takes_nowait=False) as (connection, transport, receiver):
        transport.going_on = trio.Event()
        await connection.send(Frame(b"1"))
        await trio.testing.wait_all_tasks_blocked()
        receiver.lost(Disconnected(1006))
    assert trio.current_time() == 0
    assert transport.calls == [[b"1"], ("close", 1006, "")]
