"""The connection itself: batches, order, and what happens when its transport misbehaves."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing

from streamrt import APIError, Ended, Limits, Request
from streamrt.runtime.broker import Publication
from streamrt.runtime.connection import Connection
from streamrt.runtime.outbox import Slot
from streamrt.wire.transport import (
    Disconnected,
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
    Receiver,
    Transport,
    memory_transports,
)

REQUEST = Request(path="/", endpoint="test.test", connection_id=0, transport="test")


@attrs.define
class Recorder(PullTransport):
    """A transport that notes what is asked of it, and takes as much as it is told to.

    Args:
        incoming: The batches that `receive` returns, one after the other; then it waits for ever.
        takes_nowait: How many frames `send_nowait` takes.
    """

    name = "recorder"

    incoming: list[list[Payload]] = attrs.Factory(list)
    takes_nowait: int = 0
    calls: list[Any] = attrs.Factory(list)
    going_on: trio.Event = attrs.Factory(trio.Event)

    async def receive(self) -> Sequence[Payload]:
        self.calls.append("receive")
        if not self.incoming:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.incoming.pop(0)

    def send_nowait(self, frame: Frame) -> bool:
        if self.takes_nowait == 0:
            return False
        self.takes_nowait -= 1
        self.calls.append(("send_nowait", frame.message))
        return True

    async def send(self, frames: Sequence[Frame]) -> None:
        self.calls.append(("send", [frame.message for frame in frames]))
        await self.going_on.wait()

    async def close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self, code: int, reason: str) -> None:
        self.calls.append(("abort", code, reason))


def connect(
    transport: Transport, side: Literal["server", "client"] = "server", limits: Limits | None = None, **options: Any
) -> Connection:
    options = {"takes_input": True, **options}
    limits = Limits() if limits is None else limits
    return Connection(transport, REQUEST, limits, draining=trio.Event(), side=side, **options)


async def test_a_batch_of_messages_costs_one_receive(autojump_clock) -> None:
    transport = Recorder([[str(value) for value in range(50)]])
    async with connect(transport).open():
        pass
    connection = connect(Recorder([["1", "2"], ["3"]]))
    async with connection.open():
        assert [await connection.receive() for _ in range(3)] == ["1", "2", "3"]


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


async def test_a_block_that_raises_closes_with_1001_and_its_error_comes_out_as_it_is(autojump_clock) -> None:
    transport = Recorder()
    connection = connect(transport)
    with pytest.raises(KeyError, match="mine"):
        async with connection.open():
            await connection.send(Frame(b"not flushed"))
            raise KeyError("mine")
    assert connection.ended == Ended("handler", 1001)
    assert ("close", 1001, "") in transport.calls


async def test_a_group_that_the_block_raises_stays_that_group(autojump_clock) -> None:
    group = ExceptionGroup("mine", [KeyError("a")])
    with pytest.raises(ExceptionGroup) as caught:
        async with connect(Recorder()).open():
            raise group
    assert (caught.value.message, caught.value.exceptions) == ("mine", group.exceptions)


async def test_an_error_of_the_transport_comes_out_of_the_block(autojump_clock) -> None:
    class Faulty(Recorder):
        async def receive(self) -> Sequence[Payload]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        async with connect(Faulty()).open():
            await trio.sleep_forever()


async def test_a_close_that_hangs_is_aborted_after_close_timeout(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    async with connect(transport, limits=Limits(close_timeout=3)).open():
        pass
    assert trio.current_time() == 3
    assert transport.calls[-1] == ("abort", 1006, "")


async def test_a_cancelled_block_does_not_wait_for_the_peers_close(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            raise AssertionError("nobody asked for this")

    connection = connect(Hanging())
    with trio.move_on_after(1):
        async with connection.open():
            await trio.sleep_forever()
    assert trio.current_time() == 1
    assert connection.ended == Ended("scope", 1001)


async def test_a_cancellation_ends_the_wait_for_the_peers_close(autojump_clock) -> None:
    class Hanging(Recorder):
        async def wait_closed(self) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    connection = connect(transport)
    with trio.move_on_after(1) as scope:
        async with connection.open():
            pass
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert connection.ended == Ended("handler", 1000)
    assert transport.calls[-1] == ("abort", 1006, "")


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


async def test_a_full_receive_channel_does_not_hide_that_the_peer_is_gone(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, limits=Limits(receive_messages=2))
    async with connection.open():
        for value in range(50):
            await theirs.send_payload(str(value))
        await trio.testing.wait_all_tasks_blocked()
        theirs.abort()
        assert connection.ended == Ended("peer", 1006)
        for value in range(50):
            assert await connection.receive() == str(value)
        with pytest.raises(trio.EndOfChannel):
            await connection.receive()


async def test_several_tasks_may_receive_and_each_message_goes_to_one(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours)
    seen: list[Payload] = []
    async with connection.open(), trio.open_nursery() as nursery:

        async def take() -> None:
            seen.append(await connection.receive())

        for _ in range(3):
            nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        for value in range(3):
            await theirs.send_payload(str(value))
    assert sorted(map(str, seen)) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (1000, "", trio.EndOfChannel),
        (1005, "", trio.EndOfChannel),
        (1001, "", APIError.Unavailable),
        (1006, "", APIError.Unavailable),
        (1011, "internal: an internal error occurred", APIError.Internal),
        (1012, "the server is restarting", APIError.Unavailable),
        (4404, "not_found: no such room", APIError.NotFound),
        (4400, "out_of_range: too far", APIError.OutOfRange),
    ],
)
async def test_a_client_gets_the_close_as_the_error_that_it_means(
    autojump_clock, code: int, reason: str, expected: type[Exception]
) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, "client")
    async with connection.open():
        await theirs.send_payload("1")
        await theirs.close(code, reason)
        assert await connection.receive() == "1"
        for _ in range(2):
            with pytest.raises(expected):
                await connection.receive()
        with pytest.raises(trio.BrokenResourceError):
            await connection.send(Frame(b"1"))


async def test_a_client_that_gets_what_it_does_not_take_ends_the_stream(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, "client", takes_input=False)
    async with connection.open():
        await theirs.send_payload("1")
        with pytest.raises(APIError.InvalidArgument, match="takes no messages"):
            await connection.receive()
    with pytest.raises(Disconnected) as caught:
        await theirs.receive()
    assert caught.value.code == 1003


async def test_closing_discards_what_comes_in_and_is_safe_to_repeat(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, owes_response=True, limits=Limits(receive_messages=2))
    async with connection.open():
        for value in range(60):
            await theirs.send_payload(str(value))
        await trio.testing.wait_all_tasks_blocked()  # the reader waits for room
        await connection.aclose()
        await connection.aclose()
        for value in range(600):
            await theirs.send_payload(str(value))  # and is read, and thrown away
            await trio.lowlevel.checkpoint()
        with pytest.raises(trio.ClosedResourceError):
            await connection.receive()
        await connection.send(Frame(b"the response"))
    assert await theirs.receive() == ["the response"]


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[Connection, MemoryTransport]]:
    ours, theirs = memory_transports()
    connection = connect(ours)
    async with connection.open():
        yield connection, theirs


async def test_a_cancelled_aclose_leaves_the_stream_closed(autojump_clock) -> None:
    async with pair() as (connection, theirs):
        theirs.stall()
        await connection.send(Frame(b"1"))
        with trio.move_on_after(1):
            await connection.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await connection.send(Frame(b"2"))
        theirs.resume()
    assert await theirs.receive() == ["1"]


async def test_a_transport_that_takes_everything_at_once_does_not_keep_others_from_running(autojump_clock) -> None:
    turns = 0
    transport = Recorder(takes_nowait=1_000_000)
    transport.going_on.set()
    connection = connect(transport)
    async with connection.open(), trio.open_nursery() as nursery:

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        for _ in range(6400):
            await connection.send(Frame(b"1"))
        assert turns >= 6400 / 64 - 1  # at the last of them the other one may come after us
        nursery.cancel_scope.cancel()


async def test_reading_a_full_channel_does_not_keep_others_from_running(autojump_clock) -> None:
    turns = 0
    connection = connect(Recorder([["1"] * 6400]), limits=Limits(receive_messages=6400))
    async with connection.open(), trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        for _ in range(6400):
            await connection.receive()
        assert turns >= 6400 / 64 - 1
        nursery.cancel_scope.cancel()


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


async def test_a_nursery_inside_a_block_that_is_cancelled_changes_nothing(autojump_clock) -> None:
    connection = connect(Recorder())
    with trio.move_on_after(1):
        async with connection.open(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert connection.ended == Ended("scope", 1001)


# A transport that delivers by itself


@attrs.define
class Deliverer(Transport):
    """A transport that delivers when the test says so, and notes what is asked of it.

    Args:
        takes_nowait: Whether `send_nowait` takes what it is given.
    """

    name = "deliverer"

    takes_nowait: bool = True
    calls: list[Any] = attrs.Factory(list)
    going_on: trio.Event = attrs.Factory(trio.Event)
    receiver: Receiver | None = None

    def attach(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def allow(self, room: int) -> None:
        self.calls.append(("allow", room))

    @property
    def round_trip_time(self) -> float | None:
        return 0.5

    def send_nowait(self, frame: Frame) -> bool:
        if self.takes_nowait:
            self.calls.append(frame.payload)
        return self.takes_nowait

    async def send(self, frames: Sequence[Frame]) -> None:
        self.calls.append([frame.payload for frame in frames])
        await self.going_on.wait()

    async def close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self, code: int, reason: str) -> None:
        self.calls.append("abort")


@asynccontextmanager
async def delivering(
    limits: Limits | None = None, *, takes_nowait: bool = True, **options: Any
) -> AsyncGenerator[tuple[Connection, Deliverer, Receiver]]:
    transport = Deliverer(takes_nowait)
    transport.going_on.set()
    connection = connect(transport, limits=limits, **options)
    async with connection.open():
        assert transport.receiver is not None
        yield connection, transport, transport.receiver


async def test_what_is_delivered_is_received_and_who_delivers_is_told_how_much_room_there_is() -> None:
    async with delivering(Limits(receive_messages=4)) as (connection, transport, receiver):
        assert receiver.deliver(["1", "2"]) == 2
        assert receiver.deliver(["3", "4"]) == 0
        assert await connection.receive() == "1"
        assert transport.calls == []
        assert await connection.receive() == "2"
        assert transport.calls == [("allow", 2)]
        assert receiver.deliver(["5"]) == 1
        receiver.finish()
        assert [await connection.receive() for _ in range(3)] == ["3", "4", "5"]
        with pytest.raises(trio.EndOfChannel):
            await connection.receive()
        assert transport.calls == [("allow", 2)]  # once for each time that there was no room


async def test_a_message_beyond_the_bytes_leaves_no_room_until_it_is_taken() -> None:
    async with delivering(Limits(receive_bytes=10)) as (connection, transport, receiver):
        assert receiver.deliver(["x" * 30]) == 0
        assert await connection.receive() == "x" * 30
        assert transport.calls == [("allow", 64)]


async def test_from_the_end_on_what_is_delivered_is_thrown_away_and_more_is_asked_for() -> None:
    async with delivering(Limits(receive_messages=1)) as (connection, transport, receiver):
        assert receiver.deliver(["1"]) == 0
        await connection.aclose()
        assert transport.calls == [("allow", 64), ("close", 1000, "")]  # the peer's Close may be behind it
        assert receiver.deliver(["2"] * 1000) == 64
        with pytest.raises(trio.ClosedResourceError):
            await connection.receive()


async def test_a_broken_rule_ends_the_stream_and_asks_for_what_is_behind() -> None:
    async with delivering(Limits(receive_messages=1)) as (connection, transport, receiver):
        receiver.deliver(["1"])
        receiver.fail(1002, "not like that")
        assert connection.ended == Ended("runtime", 1002, "not like that")
        assert connection.scope.cancel_called
        assert transport.calls == [("allow", 64)]
    assert transport.calls[1] == ("close", 1002, "not like that")


async def test_a_message_where_none_is_taken_ends_the_stream() -> None:
    async with delivering(takes_input=False) as (connection, _, receiver):
        assert receiver.deliver(["1"]) == 64
        assert connection.ended == Ended("runtime", 1003, "this stream takes no messages")


async def test_after_a_loss_what_was_delivered_can_still_be_received() -> None:
    async with delivering() as (connection, _, receiver):
        receiver.deliver(["1"])
        receiver.lost(Disconnected(4000, "bye"))
        receiver.finish()
        assert connection.ended == Ended("peer", 4000, "bye")
        assert await connection.receive() == "1"
        with pytest.raises(trio.EndOfChannel):
            await connection.receive()


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
        while len(connection.outbox) < connection.limits.send_messages:
            assert receiver.answer(pong)
        assert not receiver.answer(pong)
        assert len(connection.outbox) == connection.limits.send_messages
        transport.going_on.set()
        receiver.lost(Disconnected(1006))
        assert not receiver.answer(pong)
        assert len(connection.outbox) == connection.limits.send_messages


async def test_what_is_taken_back_before_the_writer_comes_does_not_end_it(autojump_clock) -> None:
    class Nobody:
        def taken(self, slot: Slot) -> Sequence[Frame]:
            raise AssertionError("it was taken back")

    async with delivering(takes_nowait=False) as (connection, transport, _):
        transport.going_on.set()
        for _ in range(2):
            slot = Slot(Publication(Frame(b"1")), Nobody())
            connection.outbox.add([slot])
            connection.outbox.take_back(slot)
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


async def test_a_cancelled_stream_takes_one_second_at_most_for_its_close(autojump_clock) -> None:
    @attrs.define
    class Hanging(Deliverer):
        async def close(self, code: int, reason: str) -> None:
            await trio.sleep_forever()

    transport = Hanging()
    with trio.CancelScope() as scope:
        async with connect(transport).open():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert trio.current_time() == 1
    assert transport.calls == ["abort"]


async def test_a_connection_knows_what_its_transport_measures() -> None:
    async with delivering() as (connection, _, _):
        assert connection.round_trip_time == 0.5
