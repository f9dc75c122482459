"""Topics against a model of them: whatever happens in whatever order, everyone hears exactly what the model says.

A few messages are published before the fan-out gets its turn, so that joining, leaving and sending happen in between.
Only what the scheduler decides is avoided: what makes others run happens when nobody has anything to do.
"""

import math
from collections.abc import Generator
from contextlib import AsyncExitStack
from typing import Any, get_args

import attrs
import pytest
import trio
from hypothesis import given, note, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import APIError, History, Limits, StreamOut, Topic
from streamrt.api import context
from streamrt.api.stream import port_of
from streamrt.runtime import exchange
from streamrt.runtime import room as runtime_room
from streamrt.runtime.broker import Channel
from streamrt.runtime.connection import Connection
from streamrt.runtime.room import WhenFull
from streamrt.runtime.subscribers import Attachment, Subscription
from tests.topics import model
from tests.topics.stage import Ear, opened

KEYS = ["a", "a", "a", "b"]
SECONDS = 10
PATIENT = Limits(send_timeout=1e9, close_timeout=1e9)  # time passes for histories only


@pytest.fixture(autouse=True, scope="module")
def _only_the_test_lets_others_run() -> Generator[None]:
    """Let no slow machine decide what happens first; and more be published than the fan-out would wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime_room, "_SHARE", 1)
        patch.setattr(exchange, "_FAN_OUT", math.inf)
        patch.setattr(exchange, "_TURN", 1 << 30)
        patch.setattr("streamrt.runtime.connection._TURN", 1 << 30)
        patch.setattr("streamrt.runtime.subscribers._TURN", 1 << 30)
        yield


histories = st.builds(
    History, messages=st.integers(1, 6), seconds=st.just(SECONDS), bytes=st.sampled_from([6, 12, 1 << 20])
)


def terms(name: str) -> st.SearchStrategy[model.Terms]:
    return st.builds(
        model.Terms,
        name=st.just(name),
        when_full=st.sampled_from(get_args(WhenFull)),
        named=st.booleans(),
        backlog=st.sampled_from([1, 2, 3, 4, 8, 12, 16]),
        backlog_bytes=st.sampled_from([4, 8, 20, 1 << 20]),
        history=st.none() | histories,
    )


@attrs.define(eq=False, repr=False)
class Subject:
    """A topic and its model."""

    topic: Topic[int]
    twin: model.Model

    @classmethod
    def of(cls, terms: model.Terms) -> "Subject":
        topic = Topic(
            terms.name,
            int,
            when_full=terms.when_full,
            latest_by=(lambda number: len(str(number))) if terms.named and terms.when_full == "latest" else None,
            backlog=terms.backlog,
            backlog_bytes=terms.backlog_bytes,
            history=terms.history,
        )
        return cls(topic, model.Model(terms))


@attrs.define(eq=False, repr=False)
class Ears:
    """A stream, with the model of its line."""

    ear: Ear = attrs.Factory(Ear)
    line: model.Line = attrs.Factory(model.Line)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    leaving: trio.Event = attrs.Factory(trio.Event)
    blocks: AsyncExitStack = attrs.Factory(AsyncExitStack)
    stream: StreamOut[int] = attrs.field(init=False)
    gone: bool = False
    """Whether its handler has ended, or is about to."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            async with opened(self.ear, PATIENT) as self.stream, self.blocks:
                task_status.started()
                await self.leaving.wait()


@attrs.define(eq=False, repr=False)
class Seat:
    """Somebody in a room, with the model of it."""

    subject: Subject
    key: str
    listener: model.Listener
    real: Attachment | Subscription[int]
    block: AsyncExitStack
    ears: Ears | None


@attrs.define(eq=False, repr=False)
class Play:
    """Topics, streams and tasks, of which each step is done twice: in reality, and in the model."""

    data: st.DataObject
    clock: MockClock
    nursery: trio.Nursery
    subjects: list[Subject]
    streams: list[Ears] = attrs.Factory(lambda: list[Ears]())
    seats: list[Seat] = attrs.Factory(lambda: list[Seat]())
    noted: dict[model.Room, None] = attrs.Factory(lambda: dict[model.Room, None]())
    positions: list[tuple[Subject, model.Since, str]] = attrs.Factory(lambda: list[tuple[Subject, model.Since, str]]())
    epochs: dict[tuple[Subject, str, int], str] = attrs.Factory(lambda: dict[tuple[Subject, str, int], str]())
    numbers: int = 0

    # What may be done while messages are noted that nobody was handed.

    async def publish(self) -> None:
        subject, key = self.draw(self.subjects), self.draw(KEYS)
        by: Ears | None = self.draw([None, *self.present])
        exclude: Ears | None = self.draw([None, None, None, *self.present])
        for _ in range(self.data.draw(st.integers(1, 5))):
            await self.publish_one(subject, key, by, exclude)

    async def publish_one(self, subject: Subject, key: str, by: Ears | None, exclude: Ears | None) -> None:
        room = exchange.current_exchange()._rooms.get(Channel(subject.topic.name, key))
        if room is not None and room.full:
            await self.settle()
        self.numbers += 1
        number = 10 ** self.data.draw(st.integers(3, 6)) + self.numbers
        token = context.connection_id.set(None if by is None else by.stream.request.connection_id)
        await subject.topic.publish(number, key=key, exclude=None if exclude is None else exclude.stream)
        context.connection_id.reset(token)
        lines = [None if ears is None else ears.line for ears in (by, exclude)]
        subject.twin.publish(key, number, self.now, by=lines[0], exclude=lines[1])
        if key in subject.twin.rooms:
            self.noted[subject.twin.rooms[key]] = None

    async def stall(self) -> None:
        ears = self.draw(self.present)
        if ears.line.places or ears.line.hand:
            return
        room = self.draw([0, 0, 1, 2])
        ears.ear.stall(room)
        ears.line.room = room

    async def send(self) -> None:
        ears = self.draw(self.present)
        if ears.line.ended is None:
            self.numbers += 1
            await ears.stream.send(-self.numbers)
            ears.line.send(model.Message(-self.numbers, 0))
        await self.settle_line(ears)

    async def leave(self) -> None:
        seat = self.draw(self.seats)
        ears = seat.ears
        if ears is not None and any(other.noted for other in ears.line.listeners if other is not seat.listener):
            await self.settle()  # who is first, the fan-out with these or the writer?
        if seat in self.seats:
            await seat.block.aclose()
            self.left(seat)
        if ears is not None:
            await self.settle_line(ears)

    async def attach(self) -> None:
        ears, shy = self.draw(self.present), self.data.draw(st.booleans())
        if any(listener.noted for listener in ears.line.listeners):
            await self.settle()
        await self.settle_disconnecting()
        if ears.gone:
            return
        subject, key, since, text = self.wish()
        block = AsyncExitStack()
        attaching = subject.topic.attach(ears.stream, key=key, since=text, exclude_self=shy)
        if ears.line.ended is not None:
            with pytest.raises(trio.BrokenResourceError):
                await block.enter_async_context(attaching)
            await self.settle()
            return
        attachment = await block.enter_async_context(attaching)
        ears.blocks.push_async_exit(block)
        listener, recovered = subject.twin.join(key, ears.line, since, self.now, shy=shy)
        assert attachment.recovered == recovered
        self.seats.append(Seat(subject, key, listener, attachment, block, ears))
        await self.settle()

    async def subscribe(self) -> None:
        await self.settle_disconnecting()
        subject, key, since, text = self.wish()
        block = AsyncExitStack()
        subscription = await block.enter_async_context(subject.topic.subscribe(key=key, since=text))
        listener, recovered = subject.twin.join(key, None, since, self.now, shy=False)
        assert subscription.recovered == recovered
        self.seats.append(Seat(subject, key, listener, subscription, block, None))
        await self.settle()

    # What is done when nobody has anything to do.

    async def open(self) -> None:
        ears = Ears()
        await self.nursery.start(ears.run)
        self.streams.append(ears)

    async def receive(self) -> None:
        seat = self.draw([seat for seat in self.seats if seat.ears is None])
        for _ in range(self.data.draw(st.integers(1, 10))):
            await self.receive_of(seat)

    async def resume(self) -> None:
        ears = self.draw([ears for ears in self.streams if ears.line.stalled and not ears.line.broken])
        ears.ear.resume()
        ears.line.room = math.inf
        await self.settle()

    async def vanish(self) -> None:
        ears = self.draw(self.present)
        if ears.line.ended is None:
            ears.ear.vanish()
            ears.line.ended, ears.line.broken = 1006, True
        await self.settle()

    async def cancel(self) -> None:
        await self.over(self.draw(self.present), 1001)

    async def close(self) -> None:
        await self.over(self.draw(self.present), 1000)

    async def wait(self) -> None:
        self.clock.jump(self.data.draw(st.sampled_from([1, SECONDS / 2, SECONDS - 1, SECONDS])))

    # What these are made of.

    @property
    def now(self) -> float:
        return trio.current_time()

    @property
    def present(self) -> list[Ears]:
        return [ears for ears in self.streams if not ears.gone]

    def draw(self, choices: list[Any]) -> Any:
        return choices[self.data.draw(st.integers(0, len(choices) - 1))]

    @property
    def at_once(self) -> list[Any]:
        """What is done while messages are noted that nobody was handed."""
        return [self.publish, self.stall, self.send, self.leave, self.attach, self.subscribe]

    def possible(self) -> list[Any]:
        steps = [*[self.publish] * 14, self.open, self.subscribe, *[self.wait] * 2]
        if self.present:
            steps += [*[self.attach] * 6, *[self.stall] * 5, *[self.send] * 6, self.vanish, self.cancel, self.close]
        if any(ears.line.stalled and not ears.line.broken for ears in self.streams):
            steps += [self.resume] * 2
        if self.seats:
            steps += [self.leave] * 2
        if any(seat.ears is None for seat in self.seats):
            steps += [self.receive] * 2
        return steps

    def wish(self) -> tuple[Subject, str, model.Since | str | None, str | None]:
        """Choose what to hear, and since when."""
        subject, key = self.draw(self.subjects), self.draw(KEYS)
        known = [(since, text) for of, since, text in self.positions if of is subject]
        text = self.draw([None, History.OLDEST, "nonsense.1", *["known"] * 3])
        if text != "known" or not known:
            return subject, key, text, text
        since, text = self.draw(known[-10:])
        return subject, key, since, text

    def left(self, seat: Seat) -> None:
        self.seats.remove(seat)
        seat.subject.twin.leave(seat.listener, self.now)

    async def over(self, ears: Ears, code: int) -> None:
        """End a handler."""
        ears.gone = True
        if code == 1001:
            ears.scope.cancel()
            ears.line.broken = True
        else:
            ears.leaving.set()
        if ears.line.ended is None:
            ears.line.ended = code
        self.handler_ends(ears)
        await self.settle()

    def handler_ends(self, ears: Ears) -> None:
        ears.gone = True
        for seat in reversed([seat for seat in self.seats if seat.ears is ears]):
            self.left(seat)

    async def receive_of(self, seat: Seat) -> None:
        assert isinstance(seat.real, Subscription)
        if seat.listener.filled:
            assert await seat.real.receive() == seat.listener.receive().number
        elif seat.listener.failed:
            with pytest.raises(APIError.ResourceExhausted):
                await seat.real.receive()

    async def settle_line(self, ears: Ears) -> None:
        """Let the writer be first, if it has something to do."""
        connection = port_of(ears.stream)
        assert isinstance(connection, Connection)
        if ears.line.places or connection.writer.outbox:
            await self.settle()

    async def settle_disconnecting(self) -> None:
        """Let those leave first who are about to be disconnected."""
        if any(room.terms.when_full == "disconnect" for room in self.noted):
            await self.settle()

    async def settle(self) -> None:
        """Let everybody do what there is to do, and compare."""
        await wait_all_tasks_blocked()
        for room in self.noted:
            for listener in room.listeners:
                listener.catch_up()
        self.noted.clear()
        for ears in self.streams:
            ears.line.write()
            if ears.line.ended == 4429 and not ears.gone:
                self.handler_ends(ears)
        self.compare()

    def compare(self) -> None:
        for subject in self.subjects:
            assert subject.topic.statistics() == subject.twin.statistics()
        for ears in self.streams:
            assert ears.ear.heard == ears.line.heard
        for seat in self.seats:
            self.note_position(seat)

    def note_position(self, seat: Seat) -> None:
        if seat.subject.twin.terms.history is None:
            assert seat.real.position is None
            return
        assert seat.real.position is not None
        beginning = seat.subject.twin.logs[seat.key].beginning
        epoch, _, offset = seat.real.position.partition(".")
        assert int(offset) == seat.listener.handed
        assert self.epochs.setdefault((seat.subject, seat.key, beginning), epoch) == epoch
        position = (seat.subject, model.Since(seat.key, beginning, seat.listener.handed), seat.real.position)
        if position not in self.positions:
            self.positions.append(position)

    async def end(self) -> None:
        """Have everything heard that is to be heard, and everybody leave."""
        await self.settle()
        for ears in self.streams:
            if not ears.line.broken:
                ears.ear.resume()
                ears.line.room = math.inf
        await self.settle()
        for seat in [seat for seat in self.seats if seat.ears is None]:
            while seat.listener.filled:
                await self.receive_of(seat)
            await self.receive_of(seat)
            await seat.block.aclose()
            self.left(seat)
        for ears in self.present:
            await self.over(ears, 1000)
        for ears in self.streams:
            assert ears.ear.ended is not None
            assert ears.ear.ended[0] == ears.line.ended
        assert all(subject.topic.statistics().subscribers == 0 for subject in self.subjects)
        assert len(set(self.epochs.values())) == len(self.epochs)


@settings(max_examples=300)
@given(
    terms=st.tuples(terms("one")) | st.tuples(terms("one"), terms("other")), steps=st.integers(5, 60), data=st.data()
)
def test_everyone_hears_what_the_model_says(terms: tuple[model.Terms, ...], steps: int, data: st.DataObject) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            play = Play(data, clock, nursery, [Subject.of(of_one) for of_one in terms])
            for _ in range(2):
                await play.open()
                await play.attach()
            for _ in range(steps):
                step = play.draw(play.possible())
                note(step.__name__)
                if step not in play.at_once:
                    await play.settle()
                if step in play.possible():
                    await step()
            await play.end()

    clock = MockClock()
    trio.run(main, clock=clock)
