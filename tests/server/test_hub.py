"""The hub, one task that reads for all: whose turn it is, and what one connection's fault costs the others."""

import select
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt.server.hub import Hub, current_hub


def remove(watched: "Watched") -> None:
    watched.hub.remove(watched.fd)


def fail(*_: "Watched") -> None:
    raise RuntimeError("a fault")


def remove_and_fail(watched: "Watched") -> None:
    remove(watched)
    fail()


@attrs.define(eq=False)
class Watched:
    """A socket that is watched, with a peer.

    Args:
        hub: Who watches it.
        inner: The socket.
        peer: Its other end.
        takes: How many bytes one read takes; with none it stays readable.
        then: What a read does after that.
        closing: What giving it up does.
        reads: How often it was read.
        given_up: How often it was given up.
    """

    hub: Hub
    inner: socket.socket
    peer: socket.socket
    takes: int = 100
    then: Callable[[], None] = lambda: None
    closing: "Callable[[Watched], None]" = remove
    reads: int = 0
    given_up: int = 0

    @property
    def fd(self) -> int:
        return self.inner.fileno()

    def read(self) -> None:
        self.reads += 1
        if self.takes:
            self.inner.recv(self.takes)
        self.then()

    def give_up(self) -> None:
        self.given_up += 1
        self.closing(self)


@attrs.define
class Clock:
    """Stands in for `time`, and goes on by so many seconds whenever it is looked at."""

    step: float
    now: float = 0

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


class Watch:
    """Opens sockets that are watched and have something to read; closes those that are left."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, takes: int = 100, *, wanted: bool = True) -> Watched:
        hub = current_hub()
        assert hub is not None
        inner, peer = (self._stack.enter_context(end) for end in socket.socketpair())
        inner.setblocking(False)  # noqa: FBT003 - it takes nothing else
        watched = Watched(hub, inner, peer, takes)
        hub.add(watched.fd, watched)
        if wanted:
            hub.resume(watched.fd)
        peer.send(b"x")
        return watched


@pytest.fixture
def watch() -> Generator[Watch]:
    with ExitStack() as stack:
        yield Watch(stack)


@attrs.define(eq=False)
class Turns(trio.abc.Instrument):
    """Counts what is read in each step of a task."""

    watched: list[Watched]
    seen: int = 0
    counted: list[int] = attrs.Factory(list[int])

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        now = sum(each.reads for each in self.watched)
        if now > self.seen:
            self.counted.append(now - self.seen)
            self.seen = now


@contextmanager
def counting(watched: list[Watched]) -> Generator[list[int]]:
    turns = Turns(watched)
    trio.lowlevel.add_instrument(turns)
    yield turns.counted
    trio.lowlevel.remove_instrument(turns)


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def remove_all(all_watched: list[Watched]) -> None:
    for each in all_watched:
        remove(each)


@pytest.mark.parametrize(
    ("step", "turns"),
    [
        (0, [40]),  # in no time all is read
        (0.003, [32, 8]),
        (1, [16, 16, 8]),  # every look at the clock ends a turn
    ],
)
async def test_a_turn_has_its_time_and_then_others_run(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, step: float, turns: list[int]
) -> None:
    monkeypatch.setattr("streamrt.server.hub.time", Clock(step))
    all_watched = [watch() for _ in range(40)]
    with counting(all_watched) as counted:
        await wait_all_tasks_blocked()
    assert counted == turns
    assert {each.reads for each in all_watched} == {1}
    remove_all(all_watched)


async def test_in_a_flood_from_many_all_have_their_turns(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrt.server.hub.time", Clock(1))
    flooding = [watch(takes=0) for _ in range(40)]
    with trio.fail_after(10), counting(flooding) as counted:
        while sum(counted) < 160:  # noqa: ASYNC110 - it takes turns with them
            await trio.lowlevel.checkpoint()  # and so has this task
    assert set(counted) == {16}
    reads = [each.reads for each in flooding]
    assert max(reads) - min(reads) <= 1
    remove_all(flooding)


async def test_nothing_is_read_before_it_is_wanted_nor_while_it_is_not(watch: Watch) -> None:
    watched, other = watch(wanted=False), watch()
    await wait_all_tasks_blocked()
    assert (watched.reads, other.reads) == (0, 1)
    watched.hub.resume(watched.fd)
    await wait_all_tasks_blocked()
    assert watched.reads == 1
    watched.hub.pause(watched.fd)
    watched.peer.send(b"y")
    await wait_all_tasks_blocked()
    assert watched.reads == 1
    watched.hub.resume(watched.fd)
    await wait_all_tasks_blocked()
    assert watched.reads == 2
    remove_all([watched, other])


async def test_what_one_read_leaves_is_read_in_the_next(watch: Watch) -> None:
    watched = watch(takes=1)
    watched.peer.send(b"yz")
    await wait_all_tasks_blocked()
    assert watched.reads == 3
    remove(watched)


async def test_the_end_is_readable_too(watch: Watch) -> None:
    watched = watch()
    await wait_all_tasks_blocked()
    watched.then = lambda: remove(watched)
    watched.peer.close()
    await wait_all_tasks_blocked()
    assert watched.reads == 2


async def test_one_that_pauses_itself_is_read_no_more_and_can_still_be_removed(watch: Watch) -> None:
    before = living()
    watched, other = watch(takes=0), watch()
    watched.then = lambda: watched.hub.pause(watched.fd)
    await wait_all_tasks_blocked()
    other.peer.send(b"y")
    await wait_all_tasks_blocked()
    assert (watched.reads, other.reads) == (1, 2)
    watched.hub.resume(watched.fd)
    await wait_all_tasks_blocked()
    assert watched.reads == 2
    remove_all([watched, other])
    await wait_all_tasks_blocked()
    assert living() == before


async def test_one_may_remove_all_that_are_ready_with_it(watch: Watch) -> None:
    before = living()
    all_watched = [watch() for _ in range(20)]
    for each in all_watched:
        each.then = lambda: remove_all(all_watched)
    await wait_all_tasks_blocked()
    assert sum(each.reads for each in all_watched) == 1
    assert living() == before
    assert current_hub() is not all_watched[0].hub  # which has ended


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("closing", "messages"),
    [
        (remove, ["reading from a connection failed"]),
        (fail, ["reading from a connection failed", "nor can it be closed"]),
        (remove_and_fail, ["reading from a connection failed", "nor can it be closed"]),
    ],
)
async def test_a_fault_is_said_once_and_ends_one_connection_only(
    watch: Watch, caplog: pytest.LogCaptureFixture, closing: Callable[[Watched], None], messages: list[str], alone: bool
) -> None:
    before = living()
    bad = watch(takes=0)
    bad.then, bad.closing = fail, closing
    others = [] if alone else [watch() for _ in range(20)]
    await wait_all_tasks_blocked()
    assert (bad.reads, bad.given_up) == (1, 1)  # it stays readable, and is not read again
    for each in others:
        assert (each.reads, each.given_up) == (1, 0)
        each.peer.send(b"y")
    await wait_all_tasks_blocked()
    assert [each.reads for each in others] == [2 for _ in others]
    assert [record.getMessage() for record in caplog.records] == messages
    assert all(record.exc_info for record in caplog.records)
    remove_all(others)
    await wait_all_tasks_blocked()
    assert living() == before


async def test_the_task_ends_with_the_last_socket_and_another_begins_with_the_next(watch: Watch) -> None:
    before = living()
    for _ in range(2):
        one, other = watch(), watch()
        assert one.hub is other.hub is current_hub()
        remove(one)
        await wait_all_tasks_blocked()
        assert (living(), other.reads) == (before + 1, 1)
        remove(other)
        await wait_all_tasks_blocked()
        assert living() == before
        assert one.hub._epoll.closed  # pyright: ignore[reportPrivateUsage]


async def test_a_hub_that_has_just_lost_its_last_socket_is_not_used_again(watch: Watch) -> None:
    remove(watch())
    watched = watch()  # before the first hub has ended
    await wait_all_tasks_blocked()
    assert watched.reads == 1
    remove(watched)


def test_each_run_has_its_own_hub_which_closes_its_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    real, epolls = select.epoll, list[select.epoll]()

    def epoll() -> select.epoll:
        epolls.append(real())
        return epolls[-1]

    async def main() -> Hub | None:
        hub = current_hub()
        assert current_hub() is hub
        await wait_all_tasks_blocked()
        assert not epolls[-1].closed
        return hub

    monkeypatch.setattr(select, "epoll", epoll)
    assert trio.run(main) is not trio.run(main)
    assert all(each.closed for each in epolls)  # Trio's own among them


async def test_where_there_is_no_epoll_there_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert current_hub() is None
