"""The connection itself: batches, order, and what happens when its transport misbehaves."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing

from streamrt import APIError, Ended, Limits, Request
from streamrt.runtime.connection import Connection
from streamrt.wire.transport import (
    Disconnected,
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
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
        self.calls.append(("send_nowait", frame.text))
        return True

    async def send(self, frames: Sequence[Frame]) -> None:
        self.calls.append(("send", [frame.text for frame in frames]))
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
            await connection.send(b"%d" % value)
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
            await connection.send(b"x" * 10_000)
    assert [len(call[1]) for call in transport.calls if call[0] == "send"] == [6, 6, 6, 2]


async def test_with_nothing_queued_a_message_goes_straight_through(autojump_clock) -> None:
    transport = Recorder(takes_nowait=2)
    connection = connect(transport)
    transport.going_on.set()
    async with connection.open():
        for value in range(4):
            await connection.send(b"%d" % value)
    sent = [call for call in transport.calls if call[0] in ("send_nowait", "send")]
    assert sent == [("send_nowait", "0"), ("send_nowait", "1"), ("send", ["2", "3"])]


async def test_nothing_overtakes_what_is_queued_or_being_written(autojump_clock) -> None:
    transport = Recorder(takes_nowait=1)
    connection = connect(transport)
    async with connection.open():
        await connection.send(b"0")
        await connection.send(b"1")
        await trio.testing.wait_all_tasks_blocked()
        transport.takes_nowait = 10  # but "1" is still in the writer's hand
        await connection.send(b"2")
        transport.going_on.set()
    sent = [call[1] for call in transport.calls if call[0] in ("send_nowait", "send")]
    assert sent == ["0", ["1"], ["2"]]


async def test_a_block_that_raises_closes_with_1001_and_its_error_comes_out_as_it_is(autojump_clock) -> None:
    transport = Recorder()
    connection = connect(transport)
    with pytest.raises(KeyError, match="mine"):
        async with connection.open():
            await connection.send(b"not flushed")
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
        await connection.send(b"1")
        with connection.scope:
            await trio.sleep_forever()
        assert trio.current_time() == 2
        assert connection.ended == Ended("peer", 1006)
        with pytest.raises(trio.BrokenResourceError, match="ended by the peer: 1006"):
            await connection.send(b"2")


async def test_senders_that_wait_for_room_wake_when_the_peer_is_gone(autojump_clock) -> None:
    ours, theirs = memory_transports()
    connection = connect(ours, limits=Limits(send_messages=1))
    async with connection.open(), trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await connection.send(b"1")

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
            await connection.send(b"1")


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
        await connection.send(b"the response")
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
        await connection.send(b"1")
        with trio.move_on_after(1):
            await connection.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await connection.send(b"2")
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
            await connection.send(b"1")
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
                await connection.send(b"1")
                await connection.send(b"1")
                await connection.send(b"1")
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
