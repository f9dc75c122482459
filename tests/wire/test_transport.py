"""The seam, as the pair in memory keeps it: batches, bounds, and who learns what when an end is closed."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from streamrt.wire.transport import (
    Disconnected,
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
    Transport,
    memory_transports,
    payload_size,
)


def frames(*texts: str) -> list[Frame]:
    return [Frame(text.encode()) for text in texts]


async def end_of(transport: Transport) -> tuple[int, str]:
    """How the other end closed, when nothing comes before that."""
    with pytest.raises(Disconnected) as caught:
        await transport.receive()
    return caught.value.code, caught.value.reason


def fill(transport: MemoryTransport, text: str = "x") -> int:
    """Send until nothing more fits; return how many fitted."""
    count = 0
    while transport.send_nowait(Frame(text.encode())):
        count += 1
    return count


@pytest.mark.parametrize(
    ("payload", "size"), [("", 0), ("abc", 3), ("é", 2), ("😀", 4), ("\ud800", 3), (b"", 0), (b"\xff\xff", 2)]
)
def test_a_payload_is_as_large_as_its_bytes(payload: Payload, size: int) -> None:
    assert payload_size(payload) == size


def test_a_frame_is_decoded_once_for_all() -> None:
    frame = Frame("é".encode())
    assert len(frame) == 2
    assert frame.message == "é"
    assert frame.message is frame.message


def test_the_end_tells_its_code_and_reason() -> None:
    assert repr(Disconnected(4404, "not_found: why")) == "Disconnected(4404, 'not_found: why')"
    assert Disconnected(1000).reason == ""


async def test_what_was_sent_arrives_as_a_batch_and_as_text() -> None:
    one, other = memory_transports()
    await one.send(frames("a", "b"))
    assert one.send_nowait(Frame(b"c"))
    await one.send_payload(b"binary")
    assert await other.receive() == ["a", "b", "c", b"binary"]


async def test_both_directions_are_their_own() -> None:
    one, other = memory_transports()
    await one.send(frames("to other"))
    await other.send(frames("to one"))
    assert (await one.receive(), await other.receive()) == (["to one"], ["to other"])


async def test_receiving_waits_for_a_message(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    received: list[Sequence[Payload]] = []

    async def receive() -> None:
        received.append(await other.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not received
        await one.send(frames("a"))
    assert received == [["a"]]


@pytest.mark.parametrize(("text", "count"), [("x", 64), ("x" * 16384, 4), ("x" * 100_000, 1)])
async def test_a_direction_holds_64_messages_and_64_kib(text: str, count: int) -> None:
    one, other = memory_transports()
    assert fill(one, text) == count
    assert len(await other.receive()) == count
    assert fill(one, text) == count


async def test_sending_waits_until_the_other_end_receives(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    fill(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, frames("last"))
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await other.receive()
    assert await other.receive() == ["last"]


async def test_a_cancelled_send_has_sent_whole_messages(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    with trio.move_on_after(1):
        await one.send(frames(*map(str, range(100))))
    assert await other.receive() == [str(number) for number in range(64)]


# The end


async def test_a_close_comes_after_what_was_sent() -> None:
    one, other = memory_transports()
    await one.send(frames("a"))
    await one.close(4404, "not_found: why")
    assert await other.receive() == ["a"]
    assert await end_of(other) == (4404, "not_found: why")
    assert await end_of(other) == (4404, "not_found: why")


async def test_only_the_first_close_counts() -> None:
    one, other = memory_transports()
    await one.close(1000, "first")
    await one.close(1011, "second")
    one.abort(1006, "third")
    assert await end_of(other) == (1000, "first")


async def test_a_close_is_answered_with_its_code_when_it_is_received() -> None:
    one, other = memory_transports()
    await one.close(1001, "see you")
    await end_of(other)
    assert await end_of(one) == (1001, "")


async def test_a_close_wakes_who_receives(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_of, other)
        await wait_all_tasks_blocked()
        await one.close(1000, "")


async def test_behind_ones_own_close_nothing_is_sent() -> None:
    one, _ = memory_transports()
    await one.close(1000, "")
    assert not one.send_nowait(Frame(b"x"))
    with pytest.raises(trio.ClosedResourceError):
        await one.send(frames("x"))


async def test_to_an_end_that_has_closed_nothing_is_sent() -> None:
    one, other = memory_transports()
    await other.close(1001, "see you")
    assert not one.send_nowait(Frame(b"x"))
    with pytest.raises(Disconnected) as caught:
        await one.send(frames("x"))
    assert (caught.value.code, caught.value.reason) == (1001, "see you")


async def test_messages_under_way_arrive_though_the_receiver_has_closed() -> None:
    one, other = memory_transports()
    await one.send(frames("late"))
    await other.close(1000, "")
    assert await other.receive() == ["late"]


async def test_waiting_for_the_other_end_ends_with_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    await one.close(1000, "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.wait_closed)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        await end_of(other)


async def test_a_sender_goes_on_while_the_other_end_waits_for_its_close(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    fill(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.wait_closed)
        await one.send(frames(*["x"] * 200))
        await one.close(1000, "")


async def test_an_abort_is_a_lost_connection_for_both(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    await one.send(frames("a"))
    one.abort()
    one.abort()
    assert await other.receive() == ["a"]
    assert await end_of(other) == (1006, "")
    assert await end_of(one) == (1006, "")
    await one.wait_closed()


async def test_an_abort_may_carry_a_close() -> None:
    one, other = memory_transports()
    one.abort(4429, "resource_exhausted: why")
    assert await end_of(other) == (4429, "resource_exhausted: why")


async def test_an_abort_wakes_whoever_waits(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    fill(one)

    async def send() -> None:
        with pytest.raises(Disconnected):
            await one.send(frames("x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(one.wait_closed)
        await wait_all_tasks_blocked()
        other.abort()


class Told:
    """A receiver that must be told of the end, and of nothing else."""

    def __init__(self) -> None:
        self.told: list[Disconnected] = []

    def lost(self, gone: Disconnected) -> None:
        self.told.append(gone)

    def deliver(self, payloads: Sequence[Payload]) -> int:
        raise AssertionError("nobody has asked for it")

    def answer(self, frame: Frame) -> bool:
        raise AssertionError("there are no control frames here")

    def fail(self, code: int, reason: str) -> None:
        raise AssertionError("no rule was broken")

    def finish(self) -> None:
        raise AssertionError("it is for the reader to find out")


async def test_who_is_attached_learns_of_the_end_without_receiving() -> None:
    one, other = memory_transports()
    receiver = Told()
    other.attach(receiver)
    await one.send(frames("unread"))
    assert not receiver.told
    await one.close(1001, "see you")
    one.abort()
    assert [(end.code, end.reason) for end in receiver.told] == [(1001, "see you")]


# A peer that stops reading


async def test_to_a_stalled_end_nothing_is_sent_until_it_resumes(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    other.stall()
    other.stall()
    assert not one.send_nowait(Frame(b"x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send, frames("a"))
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        other.resume()
    other.resume()
    assert await other.receive() == ["a"]


async def test_a_stalled_end_still_sends() -> None:
    one, other = memory_transports()
    other.stall()
    await other.send(frames("a"))
    assert await one.receive() == ["a"]


async def test_a_close_ends_a_stall(autojump_clock: trio.testing.MockClock) -> None:
    one, other = memory_transports()
    other.stall()

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.send(frames("x"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await one.close(1000, "")
    other.stall()
    assert await end_of(other) == (1000, "")


# What every transport has unless it says otherwise


class Silent(PullTransport):
    """A carrier that can do only what it must."""

    name = "silent"

    async def receive(self) -> Sequence[Payload]:
        raise Disconnected(1000)

    async def send(self, frames: Sequence[Frame]) -> None: ...
    async def close(self, code: int, reason: str) -> None: ...
    async def wait_closed(self) -> None: ...
    def abort(self, code: int, reason: str) -> None: ...


async def test_a_carrier_need_not_send_at_once_nor_tell_anything() -> None:
    silent = Silent()
    assert not silent.send_nowait(Frame(b"x"))
    silent.attach(Told())
    silent.allow(1)
    assert silent.round_trip_time is None


async def test_receiving_from_an_open_pair_is_a_checkpoint_when_it_waits() -> None:
    one, other = memory_transports()
    with trio.CancelScope() as scope, assert_checkpoints():
        scope.cancel()
        await other.receive()
    assert scope.cancelled_caught
    assert one.send_nowait(Frame(b"x"))


async def test_a_send_that_waits_for_room_ends_when_the_other_end_closes_without_reading(autojump_clock) -> None:
    one, other = memory_transports()
    while one.send_nowait(Frame(b"1")):
        pass
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(Disconnected) as caught:
                await one.send([Frame(b"2")])
            assert caught.value.code == 4000

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await other.close(4000, "")


def test_a_message_becomes_a_websocket_frame_once() -> None:
    frame = Frame(b'{"a":1}')
    assert frame.wire == b"\x81\x07" + b'{"a":1}'
    assert frame.wire is frame.wire
    assert not frame.is_ready


def test_a_control_frame_is_its_bytes_on_the_wire() -> None:
    frame = Frame.ready(b"\x8a\x00")
    assert frame.wire == b"\x8a\x00"
    assert frame.is_ready
    assert len(frame) == 2
