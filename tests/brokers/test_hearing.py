"""What is heard, by itself: in order, once, and without a hole, whatever comes when."""

from collections.abc import Sequence

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt import History
from streamrt.brokers.connection import Connection, Lost, Options, _Wire
from streamrt.brokers.envelope import record
from streamrt.brokers.hearing import Ear, Hearing
from streamrt.brokers.names import Names
from streamrt.brokers.pipe import Pipe, Question, Unsent
from streamrt.runtime.broker import Channel, Mark, Position, Publication, Replay
from streamrt.wire.transport import Frame

ROOM = Channel("chat", "lobby")
HISTORY = History()


def publication(number: int, epoch: str = "aa") -> Publication:
    made = Publication(Frame(b"%d" % number))
    made.position = Position(epoch, number)
    return made


def replay(numbers: Sequence[int], offset: int, *, epoch: str = "aa", recovered: bool = True) -> Replay:
    return Replay([publication(number) for number in numbers], Position(epoch, offset), recovered)


@attrs.define
class Listener:
    """Somebody who hears one channel, on which each message is its own offset."""

    hearing: Hearing
    ear: Ear
    heard: list[int | str]

    def hear(self, first: int, last: int | None = None, epoch: str = "aa") -> None:
        numbers = range(first, (first if last is None else last) + 1)
        records = [record(publication(number), b"another.", 0) for number in numbers]
        line = f"1 {epoch}.{first} {len(numbers)}\n".encode()
        self.hearing.hear(self.ear.keys.name, line + b"".join(records))


@pytest.fixture
def listener() -> Listener:
    heard: list[int | str] = []

    def deliver(_channel: Channel, publication: Publication) -> None:
        heard.append(int(publication.frame.message))

    def lose(_channel: Channel, position: Position | None) -> None:
        heard.append(f"lost, {position}")

    def announce(_channel: Channel, mark: Mark, position: Position) -> None:
        heard.append(f"{mark.name}, {position}")

    hearing = Hearing(Names(b"space", b"myself.."), deliver, lose, announce)
    ear = hearing.add(ROOM)
    hearing.opened(ear.keys.name)
    hearing.note(ROOM, HISTORY, Position("aa", 0))
    return Listener(hearing, ear, heard)


def test_what_comes_in_order_is_delivered(listener: Listener) -> None:
    listener.hear(1)
    listener.hear(2, 4)
    assert listener.heard == [1, 2, 3, 4]
    assert not listener.hearing.due


def test_what_has_come_is_not_delivered_again_nor_the_part_of_it(listener: Listener) -> None:
    listener.hear(1, 3)
    listener.hear(2)
    listener.hear(2, 5)
    assert listener.heard == [1, 2, 3, 4, 5]


def test_a_hole_is_filled_from_the_history_and_what_came_meanwhile_waits(listener: Listener) -> None:
    listener.hear(1)
    listener.hear(4)
    listener.hear(5, 6)
    assert listener.heard == [1]
    assert list(listener.hearing.due) == [listener.ear]
    assert listener.ear.last == Position("aa", 1)
    listener.hearing.replayed(listener.ear, replay([2, 3, 4, 5], 5))
    assert listener.heard == [1, 2, 3, 4, 5, 6]


def test_another_hole_behind_the_answer_is_asked_for_too(listener: Listener) -> None:
    listener.hear(3)
    listener.hearing.due.clear()
    listener.hear(7)
    listener.hear(8)
    listener.hearing.replayed(listener.ear, replay([1, 2, 3, 4], 4))
    assert listener.heard == [1, 2, 3, 4]
    assert list(listener.hearing.due) == [listener.ear]
    listener.hearing.replayed(listener.ear, replay([5, 6, 7, 8], 8))
    assert listener.heard == list(range(1, 9))


def test_when_the_history_has_it_not_what_has_come_is_delivered_behind_the_loss(listener: Listener) -> None:
    listener.hear(1)
    listener.hear(0, 0, epoch="zz")  # what was published before the answer, in a history that is gone
    listener.hear(8)
    listener.hear(9)
    listener.hearing.replayed(listener.ear, replay([], 8, recovered=False))
    assert listener.heard == [1, "lost, aa.7", 0, 8, 9]
    assert listener.ear.held is None


def test_of_more_than_can_wait_the_oldest_is_asked_for_again(listener: Listener) -> None:
    listener.hear(2)
    for number in range(3, 203):
        listener.hear(number)
    listener.hearing.due.clear()
    listener.hearing.replayed(listener.ear, replay(range(1, 101), 100))
    assert list(listener.hearing.due) == [listener.ear]
    listener.hearing.replayed(listener.ear, replay(range(101, 203), 202))
    assert listener.heard == list(range(1, 203))


def test_what_cannot_be_read_is_asked_for_once(listener: Listener) -> None:
    for _ in range(2):
        listener.hearing.hear(listener.ear.keys.name, b"2 aa.1 1\nwhat")
    listener.hear(3)
    assert list(listener.hearing.due) == [listener.ear]
    listener.hearing.replayed(listener.ear, replay([], 3, recovered=False))
    assert listener.heard == ["lost, aa.2", 3]


def test_marks_are_announced_as_they_come_whatever_is_held_back(listener: Listener) -> None:
    listener.hear(2)
    listener.hearing.hear(listener.ear.keys.name, b"1 marks zz.5 me 2\n\0\0\0\1\0\0\0\0a\0\0\0\1\0\0\0\1b")
    assert listener.heard == ["a, zz.5", "b, zz.6"]
    listener.hearing.replayed(listener.ear, replay([1, 2], 2))
    assert listener.heard == ["a, zz.5", "b, zz.6", 1, 2]


@pytest.mark.parametrize("payload", [b"1 marks zz.5 me 2\n", b"2 marks zz.5 me 0\n"])
def test_marks_that_cannot_be_read_are_a_loss(listener: Listener, payload: bytes) -> None:
    listener.ear.history = None
    listener.hearing.hear(listener.ear.keys.name, payload)
    assert listener.heard == ["lost, None"]


def test_a_doubt_about_marks_is_for_those_who_read_them(listener: Listener) -> None:
    listener.hearing.doubt()
    listener.ear.is_read = True
    listener.hearing.doubt()
    assert listener.heard == ["lost, None"]
    listener.ear.close()  # and when it is open again a loss is told anyway
    listener.hearing.doubt()
    assert listener.heard == ["lost, None"]


async def test_a_pipe_that_is_closed_sends_nothing() -> None:
    connection = Connection(("::1", 1), Options())
    hearing = Hearing(Names(b"space", b"myself.."), lambda *_: None, lambda *_: None, lambda *_: None)
    pipe = Pipe(connection, b"run", hearing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    question = Question(b"PING", lambda _server: ())
    pipe.put(question)
    with pytest.raises(Unsent):
        await question.answer()
    with pytest.raises(Unsent):
        await pipe.publish(ROOM, publication(1), None)
    connection._wire.release()


def test_an_answer_for_who_is_gone_is_nothing(listener: Listener) -> None:
    listener.hear(2)
    listener.hearing.remove(ROOM)
    assert not listener.hearing.due
    listener.hearing.replayed(listener.ear, replay([1, 2], 2))
    listener.hear(3)
    assert listener.heard == []
    listener.hearing.opened(listener.ear.keys.name)
    listener.hearing.note(ROOM, HISTORY, Position("aa", 3))
    assert listener.hearing.take_changes() == ([], [listener.ear.keys.name])


def test_where_the_history_is_not_known_a_hole_is_a_loss(listener: Listener) -> None:
    listener.ear.history = None
    listener.hear(1)
    listener.hear(5)
    listener.hear(6)
    assert listener.heard == [1, "lost, None", 5, 6]


async def test_a_connection_that_is_not_there_is_lost() -> None:
    connection = Connection(("::1", 1), Options())
    assert str(connection) == "[::1]:1"
    with pytest.raises(Lost, match=r"\[::1\]:1: the connection was closed"):
        connection.say(b"PING")
    with pytest.raises(Lost):
        await connection.ask_one(b"PING")
    connection._wire.release()


async def test_what_is_no_fault_of_a_connection_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(self: object, *, task_status: object) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    monkeypatch.setattr(_Wire, "run", interrupted)
    with pytest.raises(BaseExceptionGroup) as caught:
        await Connection(("::1", 1), Options()).run()
    assert caught.group_contains(KeyboardInterrupt)
