"""What waits to go out: in which order, what has room, and what may be taken back."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from streamrt import Limits
from streamrt.runtime.broker import Publication
from streamrt.runtime.outbox import WRITE_BYTES, Outbox, Slot
from streamrt.wire.transport import Frame


class Source:
    """A topic, as the queue sees it."""

    def __init__(self) -> None:
        self.out: list[Slot] = []

    def taken(self, slot: Slot) -> Sequence[Frame]:
        self.out.append(slot)
        return ()


def outbox(messages: int = 4, max_bytes: int = 100) -> Outbox:
    return Outbox(Limits(send_messages=messages, send_bytes=max_bytes), lambda: None)


def slots(source: Source, *payloads: bytes) -> list[Slot]:
    return [Slot(Publication(Frame(payload)), source) for payload in payloads]


def taken(queue: Outbox) -> list[bytes]:
    return [frame.payload for frame in queue.take()]


def test_what_goes_in_comes_out_in_one_order() -> None:
    queue, source = outbox(), Source()
    assert queue.offer(Frame(b"a"))
    queue.add(slots(source, b"bb", b"c"))
    queue.put(Frame(b"d"))
    assert (len(queue), queue.queued_bytes, bool(queue)) == (4, 5, True)
    assert taken(queue) == [b"a", b"bb", b"c", b"d"]
    assert (len(queue), queue.queued_bytes, bool(queue)) == (0, 0, False)
    assert [len(slot) for slot in source.out] == [2, 1]
    assert taken(queue) == []


def test_it_is_bounded_in_messages_and_in_bytes_and_one_message_always_fits() -> None:
    queue = outbox(messages=2, max_bytes=4)
    assert queue.offer(Frame(b"12345"))
    assert not queue.offer(Frame(b""))
    assert not queue.has_room_for(0)
    queue.take()
    assert queue.offer(Frame(b"123"))
    assert not queue.offer(Frame(b"12"))
    assert queue.offer(Frame(b"1"))
    assert not queue.offer(Frame(b""))
    assert not queue.offer_urgent(Frame(b""))


def test_slots_take_no_room() -> None:
    queue = outbox(messages=2)
    queue.add(slots(Source(), *[b"x" * 50] * 10))
    assert queue.offer(Frame(b"1"))
    assert queue.offer(Frame(b"2"))
    assert not queue.offer(Frame(b"3"))


def test_slots_that_are_left_behind_count_as_the_streams_own() -> None:
    queue, source = outbox(messages=2), Source()
    left = slots(source, b"1", b"2")
    queue.add(left)
    queue.keep(left)
    assert not queue.offer(Frame(b"3"))
    assert taken(queue) == [b"1", b"2"]
    assert source.out == []
    assert queue.offer(Frame(b"3"))
    assert queue.offer(Frame(b"4"))
    assert not queue.offer(Frame(b"5"))


def test_control_frames_go_behind_the_first_in_their_order() -> None:
    queue = outbox(messages=9)
    for number in range(3):
        queue.offer(Frame(b"%d" % number))
        queue.offer_urgent(Frame(b"pong %d" % number))
    assert taken(queue) == [b"0", b"pong 0", b"pong 1", b"pong 2", b"1", b"2"]
    queue.offer_urgent(Frame(b"pong"))
    assert taken(queue) == [b"pong"]


def test_control_frames_that_a_write_has_left_stay_in_their_order() -> None:
    queue = outbox(messages=9, max_bytes=4 * WRITE_BYTES)
    big = bytes(WRITE_BYTES)
    queue.offer(Frame(big))
    for number in range(2):
        queue.offer_urgent(Frame(b"%d" % number))
    assert taken(queue) == [big]
    queue.offer_urgent(Frame(b"2"))
    assert taken(queue) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("kind", ["frames", "slots"])
def test_a_write_is_bounded_and_one_message_at_least(kind: str) -> None:
    queue = outbox(messages=99, max_bytes=9 * WRITE_BYTES)
    payloads = [bytes(WRITE_BYTES + 1), bytes(WRITE_BYTES - 1), b"1", b"2"]
    if kind == "slots":
        queue.add(slots(Source(), *payloads))
    else:
        for payload in payloads:
            queue.offer(Frame(payload))
    assert [taken(queue) for _ in range(3)] == [payloads[:1], payloads[1:3], payloads[3:]]


def test_what_is_taken_back_does_not_go_out_and_what_is_replaced_does() -> None:
    queue, source = outbox(), Source()
    some = slots(source, b"1", b"2", b"3", b"4", b"5")
    queue.add(some)
    queue.take_back(some[1])
    some[2].publication = Publication(Frame(b"three"))
    queue.resized(4)
    assert (len(queue), queue.queued_bytes) == (4, 8)
    assert taken(queue) == [b"1", b"three", b"4", b"5"]
    assert source.out == [some[0], *some[2:]]


def test_empty_slots_are_swept_out_when_they_are_the_most() -> None:
    queue, source = outbox(), Source()
    queue.put(Frame(b"first"))
    for number in range(1000):
        [slot] = slots(source, b"%d" % number)
        queue.add([slot])
        queue.take_back(slot)
        assert len(queue._items) <= 4
    assert (len(queue), queue.queued_bytes) == (1, 5)
    assert taken(queue) == [b"first"]


def test_when_all_is_taken_back_there_is_nothing() -> None:
    queue, source = outbox(), Source()
    [slot] = slots(source, b"1")
    queue.add([slot])
    queue.take_back(slot)
    assert not queue
    assert taken(queue) == []


def test_it_starts_the_writer_while_nobody_waits() -> None:
    started: list[None] = []
    queue = Outbox(Limits(), lambda: started.append(None))
    queue.put(Frame(b"1"))
    queue.add(slots(Source(), b"2"))
    assert len(started) == 2


async def test_the_writer_is_woken(autojump_clock: MockClock) -> None:
    started: list[None] = []
    queue = Outbox(Limits(), lambda: started.append(None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.filled)
        await wait_all_tasks_blocked()
        queue.put(Frame(b"1"))
        queue.put(Frame(b"2"))
    assert len(started) == 1  # for the second, which came before it ran


async def test_who_waits_for_room_is_woken_when_something_was_taken_or_it_is_closed(autojump_clock: MockClock) -> None:
    queue = outbox()
    for end in (queue.take, queue.close):
        queue.put(Frame(b"1"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.room)
            await wait_all_tasks_blocked()
            end()


async def test_closing_ends_all_waiting_and_keeps_what_is_queued(autojump_clock: MockClock) -> None:
    queue = outbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.filled)
        await wait_all_tasks_blocked()
        queue.close()
    queue.put(Frame(b"1"))
    assert taken(queue) == [b"1"]
    queue.put(Frame(b"1"))
    queue.clear()
    assert (taken(queue), queue.queued_bytes) == ([], 0)


async def test_every_wait_is_a_checkpoint() -> None:
    queue = outbox()
    queue.put(Frame(b"1"))
    with assert_checkpoints():
        await queue.filled()
    queue.close()
    for wait in (queue.filled, queue.room):
        with assert_checkpoints():
            await wait()
