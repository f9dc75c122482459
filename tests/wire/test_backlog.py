"""The bounded queue: what fits, in which order it comes out, and who is woken when."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from streamrt.wire.backlog import Backlog


def backlog(max_messages: int = 4, max_bytes: int = 100) -> Backlog[bytes]:
    return Backlog(max_messages, max_bytes, len)


def test_messages_come_out_in_the_order_they_went_in() -> None:
    queue = backlog()
    assert [queue.offer(message) for message in (b"a", b"bb", b"c")] == [True, True, True]
    assert (len(queue), queue.queued_bytes) == (3, 4)
    assert queue.take() == b"a"
    assert queue.take_batch() == [b"bb", b"c"]
    assert (len(queue), queue.queued_bytes) == (0, 0)


def test_of_nothing_there_is_nothing_to_take() -> None:
    queue = backlog()
    assert queue.take_batch() == []
    with pytest.raises(IndexError):
        queue.take()


@pytest.mark.parametrize(
    ("max_bytes", "batch"),
    [(0, [b"aa"]), (2, [b"aa"]), (3, [b"aa", b"b"]), (5, [b"aa", b"b"]), (6, [b"aa", b"b", b"ccc"])],
)
def test_a_batch_may_be_bounded_and_is_one_message_at_least(max_bytes: int, batch: list[bytes]) -> None:
    queue = backlog()
    for message in (b"aa", b"b", b"ccc"):
        queue.offer(message)
    assert queue.take_batch(max_bytes) == batch
    assert queue.queued_bytes == 6 - sum(map(len, batch))
    assert batch + queue.take_batch() == [b"aa", b"b", b"ccc"]


def test_it_is_bounded_in_messages() -> None:
    queue = backlog(max_messages=2)
    assert [queue.offer(b"") for _ in range(3)] == [True, True, False]
    assert len(queue) == 2


def test_it_is_bounded_in_bytes() -> None:
    queue = backlog(max_bytes=3)
    assert [queue.offer(message) for message in (b"aa", b"bb", b"c", b"d", b"")] == [True, False, True, False, True]
    assert queue.queued_bytes == 3


def test_a_message_beyond_all_bounds_passes_alone() -> None:
    queue = backlog(max_bytes=3)
    assert queue.offer(b"too big")
    assert not queue.offer(b"x")
    queue.take()
    queue.offer(b"a")
    assert not queue.offer(b"too big")


@given(st.lists(st.binary(max_size=6)), st.integers(1, 5), st.integers(1, 10))
def test_whatever_comes_it_stays_within_its_bounds_and_in_order(
    messages: list[bytes], max_messages: int, max_bytes: int
) -> None:
    queue = backlog(max_messages, max_bytes)
    accepted: list[bytes] = []
    taken: list[bytes] = []
    for message in messages:
        if queue.offer(message):
            accepted.append(message)
        else:
            taken.append(queue.take())
        assert len(queue) <= max_messages
        assert queue.queued_bytes <= max_bytes or len(queue) == 1
    assert taken + queue.take_batch() == accepted


async def test_a_consumer_is_woken_by_a_message(autojump_clock: trio.testing.MockClock) -> None:
    queue = backlog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.filled)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        queue.offer(b"a")


async def test_one_message_wakes_one_consumer(autojump_clock: trio.testing.MockClock) -> None:
    queue = backlog()
    woken: list[bytes] = []

    async def consume() -> None:
        while not queue:
            await queue.filled()
        woken.append(queue.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        queue.offer(b"a")
        await wait_all_tasks_blocked()
        assert woken == [b"a"]
        queue.offer(b"b")
    assert woken == [b"a", b"b"]


@pytest.mark.parametrize(("messages", "max_messages", "max_bytes"), [(b"abcd", 4, 100), (b"abcd", 100, 4)])
async def test_producers_are_woken_when_half_is_free(
    autojump_clock: trio.testing.MockClock, messages: bytes, max_messages: int, max_bytes: int
) -> None:
    queue = backlog(max_messages, max_bytes)
    for letter in messages:
        queue.offer(bytes([letter]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.room)
        nursery.start_soon(queue.room)
        await wait_all_tasks_blocked()
        queue.take()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        queue.take()


async def test_producers_are_woken_when_all_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    queue = backlog(max_messages=1)
    queue.offer(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.room)
        await wait_all_tasks_blocked()
        assert queue.take_batch() == [b"a"]


async def test_closing_ends_all_waiting_and_keeps_what_is_queued(autojump_clock: trio.testing.MockClock) -> None:
    full, empty = backlog(max_messages=1), backlog()
    full.offer(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(full.room)
        nursery.start_soon(empty.filled)
        await wait_all_tasks_blocked()
        full.close()
        empty.close()
    assert full.closed
    assert full.take() == b"a"
    await full.room()
    await empty.filled()


async def test_every_wait_is_a_checkpoint() -> None:
    queue = backlog()
    queue.offer(b"a")
    with assert_checkpoints():
        await queue.filled()
    queue.close()
    with assert_checkpoints():
        await queue.filled()
    with assert_checkpoints():
        await queue.room()


async def test_a_cancelled_wait_has_moved_nothing(autojump_clock: trio.testing.MockClock) -> None:
    queue = backlog(max_messages=1)
    with trio.move_on_after(1) as patience:
        await queue.filled()
    assert patience.cancelled_caught
    queue.offer(b"a")
    with trio.move_on_after(1) as patience:
        await queue.room()
    assert patience.cancelled_caught
    assert queue.take_batch() == [b"a"]
