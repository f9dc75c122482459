"""The connection itself: whose error comes out, and when others get a turn."""

import pytest
import trio
import trio.testing

from streamrt import APIError, Ended, Limits
from streamrt.wire.transport import Frame, memory_transports
from tests.runtime.stage import Recorder, connect, delivering, pair


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


async def test_a_nursery_inside_a_block_that_is_cancelled_changes_nothing(autojump_clock) -> None:
    connection = connect(Recorder())
    with trio.move_on_after(1):
        async with connection.open(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert connection.ended == Ended("scope", 1001)


async def test_a_connection_knows_what_its_transport_measures() -> None:
    async with delivering() as (connection, _, _):
        assert connection.round_trip_time == 0.5
