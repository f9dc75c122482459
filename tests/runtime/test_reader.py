"""What comes in: batches, room, and what is thrown away."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from streamrt import APIError, Ended, Limits
from streamrt.wire.transport import Disconnected, Frame, Payload, memory_transports
from tests.runtime.stage import Recorder, connect, delivering


async def test_a_batch_of_messages_costs_one_receive(autojump_clock) -> None:
    transport = Recorder([[str(value) for value in range(50)]])
    async with connect(transport).open():
        pass
    connection = connect(Recorder([["1", "2"], ["3"]]))
    async with connection.open():
        assert [await connection.receive() for _ in range(3)] == ["1", "2", "3"]


async def test_an_error_of_the_transport_comes_out_of_the_block(autojump_clock) -> None:
    class Faulty(Recorder):
        async def receive(self) -> Sequence[Payload]:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        async with connect(Faulty()).open():
            await trio.sleep_forever()


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
