"""The heartbeat: when a peer is pinged, when it is taken for gone, and when not."""

import logging
import weakref
from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt.server.heartbeat import Beat, Heart, current_heart


@attrs.define
class Patient:
    """A connection from which something comes at given seconds; it notes when it was pinged, and when mourned."""

    signs: Sequence[float] = ()
    pings: list[float] = attrs.Factory(list[float])
    mourned: list[float] = attrs.Factory(list[float])

    def ping(self) -> None:
        self.pings.append(trio.current_time())

    def alive(self) -> bool:
        return any(self.pings[-1] < sign <= trio.current_time() for sign in self.signs)

    def mourn(self) -> None:
        self.mourned.append(trio.current_time())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize(
    ("interval", "timeout", "signs", "pings", "mourned"),
    [
        (10, 4, [], [10], 14),
        (10, 4, [9], [10], 14),  # what came before the ping says nothing
        (10, 4, [12], [10, 20], 24),
        (10, 4, [14], [10, 20], 24),  # at the last moment
        (10, 4, [15], [10], 14),
        (10, 4, [11, 21, 31], [10, 20, 30, 40], 44),
        (5, 5, [], [5], 10),
        (5, 5, [10], [5, 10], 15),
        (2, 5, [], [2], 7),  # a ping that is under way is not followed by another
        (2, 5, [3], [2, 4], 9),
        (2, 5, [5], [2, 6], 11),
        (2, 5, [7], [2, 8], 13),
        (2, 5, [3, 5, 7], [2, 4, 6, 8], 13),
    ],
)
async def test_a_peer_is_pinged_each_interval_and_gone_when_nothing_came_within_the_timeout(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    *,
    interval: float,
    timeout: float,
    signs: list[float],
    pings: list[float],
    mourned: float,
) -> None:
    patient = Patient(signs)
    Heart().add(patient, interval, timeout)
    await trio.sleep(100)
    assert patient == Patient(signs, pings, [mourned])
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("signs", "blocked", "pings", "mourned", "postponed"),
    [
        ([], [(8, 9.5)], [10], 14, []),  # nothing was due
        ([], [(8, 17)], [17], 21, []),  # the ping was late, and so is all that follows
        ([], [(11, 15)], [10], 15, []),  # the verdict was, by a quarter of the timeout
        ([], [(11, 15.5)], [10], 19.5, ["1.5"]),
        ([], [(11, 18), (19, 28)], [10], 32, ["4.0", "6.0"]),
        ([16], [(11, 18)], [10, 20], 24, []),  # it is in the socket, and is read before the verdict
        ([19], [(11, 18)], [10, 22], 26, ["4.0"]),  # it comes while the verdict is postponed, and so the ping is late
        ([11], [(12, 33)], [10, 33], 37, []),  # one ping makes up for all that were missed
    ],
)
async def test_a_late_verdict_is_postponed_by_the_whole_timeout(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    *,
    signs: list[float],
    blocked: list[tuple[float, float]],
    pings: list[float],
    mourned: float,
    postponed: list[str],
) -> None:
    patient = Patient(signs)
    Heart().add(patient, 10, 4)
    for since, until in blocked:
        await trio.sleep_until(since)
        autojump_clock.jump(until - since)
    await trio.sleep(100)
    assert patient == Patient(signs, pings, [mourned])
    assert warnings(caplog) == [
        f"the event loop was blocked for {seconds} s: no peer is taken for gone by that" for seconds in postponed
    ]


@pytest.mark.parametrize(("checkpoints", "saved"), [(0, True), (1, True), (3, False)])
async def test_what_is_read_in_the_two_checkpoints_before_the_verdict_counts(
    autojump_clock: MockClock, checkpoints: int, saved: bool
) -> None:
    patient = Patient()
    Heart().add(patient, 10, 4)
    await trio.sleep_until(14)
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    patient.signs = [14]
    await trio.sleep(1)
    assert patient.mourned == ([] if saved else [14])


async def test_who_comes_later_and_is_due_earlier_is_not_missed(autojump_clock: MockClock) -> None:
    heart, patient, hasty = Heart(), Patient(), Patient()
    heart.add(patient, 10, 4)
    await trio.sleep(3)  # the task sleeps, until 10
    heart.add(hasty, 1, 2)
    await trio.sleep(20)
    assert (hasty.pings, hasty.mourned) == ([4], [6])
    assert (patient.pings, patient.mourned) == ([10], [14])


async def test_who_is_due_at_the_same_time_is_judged_at_the_same_time(autojump_clock: MockClock) -> None:
    heart, patients = Heart(), [Patient([12]), Patient(), Patient([12])]
    for patient in patients:
        heart.add(patient, 10, 4)
    await trio.sleep(30)
    assert [patient.mourned for patient in patients] == [[24], [14], [24]]


async def test_a_stopped_beat_says_nothing_more_and_lets_go_of_its_connection(autojump_clock: MockClock) -> None:
    heart, other = Heart(), Patient([11])
    patient = Patient()
    beat = heart.add(patient, 10, 4)
    heart.add(other, 10, 4)
    await trio.sleep(12)
    gone = weakref.ref(patient)
    assert patient.pings == [10]
    beat.stop()
    beat.stop()  # which does not count twice
    del patient
    assert gone() is None  # although the beat stays in the heart until it is due
    await trio.sleep(10)
    assert other.pings == [10, 20]


async def test_a_connection_may_end_while_it_is_pinged(autojump_clock: MockClock) -> None:
    class Ending(Patient):
        def ping(self) -> None:
            super().ping()
            beat.stop()

    before = living()
    patient = Ending()
    beat = Heart().add(patient, 10, 4)
    await trio.sleep(100)
    assert (patient.pings, patient.mourned) == ([10], [])
    assert living() == before


async def test_one_that_stops_while_others_are_judged_is_left_alone(autojump_clock: MockClock) -> None:
    class Stopping(Patient):
        """Takes another with it."""

        def mourn(self) -> None:
            super().mourn()
            beat.stop()

    heart, stopping, victim = Heart(), Stopping(), Patient()
    heart.add(stopping, 10, 4)
    beat = heart.add(victim, 10, 4)
    await trio.sleep(20)
    assert (stopping.mourned, victim.mourned) == ([14], [])


@pytest.mark.parametrize("fault", ["ping", "alive", "mourn"])
async def test_a_fault_is_said_and_costs_one_connection_its_heartbeat(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Faulty(Patient):
        pass

    def fail(self: Patient) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Faulty, fault, fail)
    before = living()
    heart, patient = Heart(), Patient([12])
    heart.add(Faulty(), 10, 4)
    heart.add(patient, 10, 4)
    await trio.sleep(100)
    assert (patient.pings, patient.mourned) == ([10, 20], [24])
    heart.add(Faulty(), 10, 4)  # alone
    await trio.sleep(100)
    assert [record.getMessage() for record in caplog.records] == ["the heartbeat of a connection failed"] * 2
    assert living() == before


async def test_the_dead_are_bounded_by_the_living(autojump_clock: MockClock) -> None:
    heart, beats = Heart(), list[weakref.ref[Beat]]()
    for living in range(20):
        for _ in range(100):
            beat = heart.add(Patient(), 10, 4)
            beats.append(weakref.ref(beat))
            beat.stop()
            del beat
            assert sum(beat() is not None for beat in beats) <= living + 65
        heart.add(Patient(), 10, 4)


async def test_the_living_keep_their_times_when_the_dead_are_dropped(autojump_clock: MockClock) -> None:
    heart = Heart()
    patients = {10 + index * 37 % 100: Patient() for index in range(100)}  # by their intervals, in no order
    beats = {interval: heart.add(patient, interval, 4) for interval, patient in patients.items()}
    for interval in range(10, 50):
        beats[interval].stop()
    for _ in range(200):
        heart.add(Patient(), 60, 4).stop()
    await trio.sleep(150)
    for interval, patient in patients.items():
        assert patient == (Patient() if interval < 50 else Patient((), [interval], [interval + 4]))


async def test_the_task_ends_with_the_last_beat_and_begins_with_the_next(autojump_clock: MockClock) -> None:
    before = living()
    heart, patient = Heart(), Patient()
    for _ in range(2):
        one, other = heart.add(patient, 10, 4), heart.add(patient, 10, 4)
        await wait_all_tasks_blocked()
        assert living() == before + 1
        one.stop()
        await wait_all_tasks_blocked()
        assert living() == before + 1
        other.stop()
        await wait_all_tasks_blocked()
        assert living() == before
    assert trio.current_time() == 0
    assert patient.pings == []


async def test_a_beat_that_begins_as_the_last_one_ends_goes_on(autojump_clock: MockClock) -> None:
    heart, patient = Heart(), Patient()
    heart.add(Patient(), 10, 4).stop()
    heart.add(patient, 10, 4)
    await trio.sleep(15)
    assert (patient.pings, patient.mourned) == ([10], [14])


async def test_a_heart_at_rest_holds_nothing(autojump_clock: MockClock) -> None:
    heart = Heart()
    beat = heart.add(Patient(), 10, 4)
    gone = weakref.ref(beat)
    await wait_all_tasks_blocked()
    beat.stop()
    del beat
    await wait_all_tasks_blocked()
    assert gone() is None
    assert trio.current_time() == 0


def test_each_run_has_its_own_heart() -> None:
    async def main() -> Heart:
        assert current_heart() is current_heart()
        return current_heart()

    assert trio.run(main) is not trio.run(main)
