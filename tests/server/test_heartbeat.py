"""The heartbeat: when a peer is pinged, when it is taken for gone, and when not."""

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from streamrt.server.heartbeat import Heart, current_heart


@attrs.define
class Fake:
    """A connection that notes when it was pinged and given up.

    Args:
        answers: Seconds after a ping in which a sign of life comes.
        pings_answered: How many pings it answers before it falls silent.
    """

    answers: float = 0.5
    pings_answered: float = math.inf
    pinged: list[float] = attrs.Factory(list)
    given_up: list[float] = attrs.Factory(list)

    def ping(self) -> None:
        self.pinged.append(trio.current_time())

    def alive(self) -> bool:
        return len(self.pinged) <= self.pings_answered and trio.current_time() >= self.pinged[-1] + self.answers

    def mourn(self) -> None:
        self.given_up.append(trio.current_time())


@asynccontextmanager
async def beating(patient: Fake, interval: float = 10, timeout: float = 4) -> AsyncGenerator[Heart]:
    heart = Heart()
    beat = heart.add(patient, interval, timeout)
    yield heart
    beat.stop()
    beat.stop()


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def test_who_answers_is_pinged_each_interval(autojump_clock: MockClock) -> None:
    patient = Fake()
    async with beating(patient):
        await trio.sleep(35)
    assert patient == Fake(pinged=[10, 20, 30])


async def test_who_does_not_answer_is_gone_after_the_timeout(autojump_clock: MockClock) -> None:
    patient = Fake(pings_answered=2)
    async with beating(patient):
        await trio.sleep(1000)
    assert patient.pinged == [10, 20, 30]
    assert patient.given_up == [34]


async def test_an_answer_may_come_at_the_last_moment(autojump_clock: MockClock) -> None:
    patient = Fake(answers=4)
    async with beating(patient):
        await trio.sleep(25)
    assert patient.given_up == []


@pytest.mark.parametrize("answered", [0, 1, 3])
async def test_with_a_timeout_longer_than_the_interval_it_is_still_the_sum(
    autojump_clock: MockClock, answered: int
) -> None:
    patient = Fake(pings_answered=answered)
    async with beating(patient, interval=2, timeout=5):
        await trio.sleep(100)
    assert patient.pinged == [2 + 2 * count for count in range(answered + 1)]
    assert patient.given_up == [patient.pinged[-1] + 5]


async def test_a_slow_answer_keeps_the_next_ping_back(autojump_clock: MockClock) -> None:
    patient = Fake(answers=3)
    async with beating(patient, interval=2, timeout=5):
        await trio.sleep(11)
    assert patient.pinged == [2, 6, 10]  # at 4 and 8 the one before was under way


async def test_each_connection_has_its_own_beat(autojump_clock: MockClock) -> None:
    slow, fast, late = Fake(), Fake(), Fake(pings_answered=0)
    async with beating(slow, interval=10) as heart:
        first = heart.add(fast, 1, 1)
        await trio.sleep(2.5)
        heart.add(late, 1, 1)
        await trio.sleep(8)
        first.stop()
        await trio.sleep(10)
    assert fast.pinged == list(range(1, 11))
    assert (late.pinged, late.given_up) == ([3.5], [4.5])
    assert slow.pinged == [10, 20]


async def test_a_late_verdict_is_postponed_and_said(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Fake(pings_answered=0)
    async with beating(patient):
        await trio.sleep(11)
        autojump_clock.jump(7)  # something blocks the loop from 11 to 18; the verdict was due at 14
        await trio.sleep(1)
        assert patient.given_up == []
        await trio.sleep(100)
    assert patient.given_up == [22]  # it had the whole time again
    assert [record.getMessage() for record in caplog.records] == [
        "the event loop was blocked for 4.0 s: no peer is taken for gone by that"
    ]


async def test_a_verdict_may_be_late_by_a_quarter(autojump_clock: MockClock) -> None:
    patient = Fake(pings_answered=0)
    async with beating(patient):
        await trio.sleep(11)
        autojump_clock.jump(4)  # to 15: one second late
        await trio.sleep(1)
    assert patient.given_up == [15]


async def test_what_has_come_in_is_read_before_the_verdict(autojump_clock: MockClock) -> None:
    patient = Fake(pings_answered=0)
    async with beating(patient):
        await trio.sleep_until(14)
        await trio.lowlevel.checkpoint()  # a task that reads is woken at the same time, and reads
        patient.pings_answered = 1
        await trio.sleep(1)
    assert patient.given_up == []


@pytest.mark.parametrize("method", ["ping", "alive", "mourn"])
async def test_a_connection_that_fails_does_not_harm_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    class Broken(Fake):
        pass

    def fail(self: Fake) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Broken, method, fail)
    good = Fake()
    async with beating(good) as heart:
        heart.add(Broken(pings_answered=0), 10, 4)
        await trio.sleep(35)
    assert good.pinged == [10, 20, 30]
    assert "a fault" in caplog.text
    caplog.set_level(logging.CRITICAL)


async def test_the_task_ends_with_the_last_beat_and_begins_with_the_next(autojump_clock: MockClock) -> None:
    before = tasks()
    patient = Fake()
    heart = current_heart()
    assert current_heart() is heart
    for _ in range(2):
        one, other = heart.add(patient, 10, 4), heart.add(patient, 10, 4)
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before + 1
        one.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before + 1
        other.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert tasks() == before
    assert trio.current_time() == 0
    assert patient.pinged == []


async def test_one_that_stops_while_others_are_judged_is_left_alone(autojump_clock: MockClock) -> None:
    @attrs.define
    class Stopping(Fake):
        """Takes another with it."""

        def mourn(self) -> None:
            super().mourn()
            beat.stop()

    heart = Heart()
    heart.add(Stopping(pings_answered=0), 10, 4)
    victim = Fake(pings_answered=0)
    beat = heart.add(victim, 10, 4)
    await trio.sleep(20)
    assert victim.given_up == []


async def test_a_beat_that_begins_as_the_last_one_ends_goes_on(autojump_clock: MockClock) -> None:
    heart = Heart()
    heart.add(Fake(), 10, 4).stop()
    patient = Fake()
    heart.add(patient, 10, 4)
    await trio.sleep(15)
    assert patient.pinged == [10]


async def test_those_that_have_stopped_are_forgotten_when_they_are_many(autojump_clock: MockClock) -> None:
    patient = Fake()
    async with beating(patient) as heart:
        for _ in range(1000):
            heart.add(Fake(), 1000, 4).stop()
        assert len(heart._beats) < 100
        await trio.sleep(15)
    assert patient.pinged == [10]
