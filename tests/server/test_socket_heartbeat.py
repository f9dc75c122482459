"""A stream on its own socket: who is pinged, and whose silence means what."""

import attrs
import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Opcode

from streamrt import Limits
from streamrt.server.line import Condition
from streamrt.wire.frames import close_frame, ping_frame
from tests.peers import frame, text
from tests.transports import GONE, Recorder, attached


async def test_a_peer_is_pinged_and_its_round_trip_measured(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await trio.sleep(10.5)
    assert receiver.calls == [("answer", ping_frame(b"1"))]
    before = transport.round_trip_time
    transport.take(frame(Opcode.PONG, b"1"))
    assert (before, transport.round_trip_time) == (None, 0.5)
    transport.abort(1006, "")
    await trio.sleep(100)
    assert [call[1] for call in receiver.calls if call[0] == "answer"] == [ping_frame(b"1")]  # and no more
    assert line.calls == ["reset"]


async def test_a_peer_that_answers_no_ping_is_given_up(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await transport.wait_closed()
    assert trio.current_time() == 14
    gone = ("lost", 1006, "no answer to a ping within 4 s")
    assert receiver.calls == [("answer", ping_frame(b"1")), gone, "finish"]
    assert line.calls == ["reset"]


async def test_who_has_our_close_before_it_is_not_taken_for_gone(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await trio.sleep(1)
    await transport.close(1000, "")
    await trio.sleep(100)
    assert receiver.calls == []
    assert line.calls == [close_frame(1000, "")]
    transport.abort(1006, "")


async def test_only_the_answer_to_the_last_ping_is_measured(autojump_clock: MockClock) -> None:
    transport, _ = attached(Recorder())
    transport.ping()
    await trio.sleep(1)
    transport.ping()
    transport.take(frame(Opcode.PONG, b"1") + frame(Opcode.PONG, b"unasked"))
    before = transport.round_trip_time
    await trio.sleep(2)
    transport.take(frame(Opcode.PONG, b"unasked") + frame(Opcode.PONG, b"2"))
    assert (before, transport.round_trip_time) == (None, 2)


WAITING = Condition(departed=False, outstanding=True, acknowledged=5)
TAKEN = attrs.evolve(WAITING, acknowledged=6)
WELL = attrs.evolve(WAITING, outstanding=False)


@pytest.mark.parametrize(
    ("room", "at_the_ping", "now", "alive"),
    [
        (0, WAITING, None, True),  # the system does not tell
        (0, WAITING, attrs.evolve(TAKEN, departed=True), False),
        (0, WAITING, WAITING, False),
        (0, WAITING, TAKEN, True),
        (0, WAITING, WELL, True),
        (0, None, WAITING, True),
        # One that is read could have answered, unless the ping is behind what it had not taken yet.
        (9, WELL, WELL, False),
        (9, WELL, TAKEN, False),
        (9, WAITING, WELL, False),
        (9, WAITING, TAKEN, True),
        (9, WAITING, attrs.evolve(TAKEN, departed=True), False),
        (9, WAITING, None, True),
        (9, None, TAKEN, False),
    ],
)
async def test_who_says_nothing_is_judged_by_what_its_system_says(
    room: int, at_the_ping: Condition | None, now: Condition | None, alive: bool
) -> None:
    transport, line = attached(Recorder(room + 1))
    transport.take(text("1"))
    line.known = at_the_ping
    transport.ping()
    line.known = now
    assert transport.alive() is alive


@pytest.mark.parametrize(
    ("at_the_ping", "now", "alive"),
    [
        (WELL, None, True),
        (WELL, WELL, True),
        (WELL, TAKEN, True),
        (WELL, WAITING, False),
        (WAITING, WAITING, False),
        (WAITING, WELL, True),
        (WELL, attrs.evolve(WELL, departed=True), False),
    ],
)
async def test_who_could_not_be_pinged_is_judged_by_what_its_system_says(
    at_the_ping: Condition, now: Condition | None, alive: bool
) -> None:
    transport, line = attached(Recorder(takes_pings=False))
    line.known = at_the_ping
    transport.ping()
    line.known = now
    assert transport.alive() is alive


async def test_anything_that_comes_is_a_sign_of_life() -> None:
    transport, line = attached(Recorder())
    line.known = WELL
    transport.ping()
    assert not transport.alive()
    transport.take(text("1")[:1])
    assert transport.alive()
    transport.ping()
    assert not transport.alive()


async def test_a_peer_that_takes_what_the_ping_waits_behind_is_alive() -> None:
    transport, line = attached(Recorder())
    line.rest = memoryview(b"under way")
    transport.ping()
    assert not transport.alive()
    line.rest = line.rest[1:]
    assert transport.alive()


@pytest.mark.parametrize(("room", "departed", "lost"), [(0, True, True), (0, False, False), (9, True, False)])
async def test_who_is_not_read_and_has_departed_is_lost_at_the_next_ping(room: int, departed: bool, lost: bool) -> None:
    receiver = Recorder(room + 1)
    transport, line = attached(receiver)
    transport.take(text("1"))
    line.known = attrs.evolve(WELL, departed=departed)
    transport.ping()
    assert (GONE in receiver.calls) is lost
    assert receiver.calls[-1] == ("answer", ping_frame(b"1"))
