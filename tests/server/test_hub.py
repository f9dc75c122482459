"""The hub: one task that reads for all."""

import select
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt.server.hub import Hub, current_hub


class Pair:
    """A socket that is watched, and its other end."""

    def __init__(self, hub: Hub) -> None:
        self.inner, self.outer = socket.socketpair()
        self.inner.setblocking(False)  # noqa: FBT003
        self.hub = hub
        self.received: list[bytes] = []
        self.aborted = False
        self.then: Callable[[], None] = lambda: None
        hub.add(self.inner.fileno(), self)

    def read(self) -> None:
        self.received.append(self.inner.recv(100))
        self.then()

    def give_up(self) -> None:
        self.aborted = True
        self.hub.remove(self.inner.fileno())


@pytest.fixture
def stack() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pair(stack: ExitStack) -> Pair:
    hub = current_hub()
    assert hub is not None
    pair = Pair(hub)
    stack.enter_context(pair.inner)
    stack.enter_context(pair.outer)
    return pair


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_what_is_readable_is_read(stack: ExitStack) -> None:
    one, other = pair(stack), pair(stack)
    for each in (one, other):
        each.hub.resume(each.inner.fileno())
        each.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert (one.received, other.received) == ([b"x"], [b"x"])
    for each in (one, other):
        each.hub.remove(each.inner.fileno())


async def test_nothing_is_read_before_it_is_wanted_nor_while_it_is_not(stack: ExitStack) -> None:
    one = pair(stack)
    fd = one.inner.fileno()
    one.outer.send(b"a")
    await wait_all_tasks_blocked(0.01)
    assert one.received == []
    one.hub.resume(fd)
    await wait_all_tasks_blocked(0.01)
    assert one.received == [b"a"]
    one.hub.pause(fd)
    one.outer.send(b"b")
    await wait_all_tasks_blocked(0.01)
    assert one.received == [b"a"]
    one.hub.resume(fd)
    await wait_all_tasks_blocked(0.01)
    assert one.received == [b"a", b"b"]
    one.hub.remove(fd)


async def test_one_may_remove_another_in_the_same_turn(stack: ExitStack) -> None:
    one, other = pair(stack), pair(stack)

    def remove(victim: Pair) -> Callable[[], None]:
        return lambda: victim.hub.remove(victim.inner.fileno())

    one.then, other.then = remove(other), remove(one)
    for each in (one, other):
        each.hub.resume(each.inner.fileno())
        each.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert sorted([len(one.received), len(other.received)]) == [0, 1]
    survivor = one if one.received else other
    survivor.hub.remove(survivor.inner.fileno())


async def test_a_read_that_fails_ends_that_connection_only(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    bad, good = pair(stack), pair(stack)
    bad.then = fail
    for each in (bad, good):
        each.hub.resume(each.inner.fileno())
        each.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert (bad.aborted, good.aborted, good.received) == (True, False, [b"x"])
    assert "a fault" in caplog.text
    good.hub.remove(good.inner.fileno())


@pytest.mark.parametrize("removed", [False, True])
async def test_even_one_that_cannot_be_closed_does_not_harm_others(
    stack: ExitStack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    bad, good = pair(stack), pair(stack)

    def fail() -> None:
        raise RuntimeError("a fault")

    def give_up() -> None:
        if removed:
            bad.hub.remove(bad.inner.fileno())
        raise RuntimeError("another fault")

    bad.then = fail
    monkeypatch.setattr(bad, "give_up", give_up)
    for each in (bad, good):
        each.hub.resume(each.inner.fileno())
        each.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    bad.outer.send(b"more")
    good.outer.send(b"y")
    await wait_all_tasks_blocked(0.01)
    assert bad.received == [b"x"]  # it is watched no more
    assert good.received[0] == b"x"
    assert b"".join(good.received) == b"xy"
    assert "another fault" in caplog.text
    good.hub.remove(good.inner.fileno())


async def test_the_task_ends_with_the_last_socket_and_another_begins_with_the_next(stack: ExitStack) -> None:
    before = tasks()
    for _ in range(2):
        one = pair(stack)
        assert current_hub() is one.hub
        await wait_all_tasks_blocked()
        assert tasks() == before + 1
        one.hub.remove(one.inner.fileno())
        await wait_all_tasks_blocked()
        assert tasks() == before
        assert one.hub._epoll.closed


async def test_a_hub_that_has_just_lost_its_last_socket_is_not_used_again(stack: ExitStack) -> None:
    one = pair(stack)
    one.hub.remove(one.inner.fileno())
    other = pair(stack)  # before the first hub has ended
    other.hub.resume(other.inner.fileno())
    other.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert other.received == [b"x"]
    other.hub.remove(other.inner.fileno())


async def test_where_there_is_no_epoll_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert current_hub() is None


async def test_many_are_read_in_pieces(stack: ExitStack) -> None:
    pairs = [pair(stack) for _ in range(50)]
    for each in pairs:
        each.hub.resume(each.inner.fileno())
        each.outer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert [each.received for each in pairs] == [[b"x"]] * 50
    for each in pairs:
        each.hub.remove(each.inner.fileno())
