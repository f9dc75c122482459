"""What those who hear a topic are told when its broker may have missed messages, and how fast a broker may deliver."""

import json
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt import App, History, Limits, Service, StreamOut, Topic, testing
from streamrt.api.stream import TopicPosition
from streamrt.runtime.broker import Channel, Position, Publication
from streamrt.runtime.exchange import current_exchange
from streamrt.runtime.room import WhenFull
from streamrt.wire.transport import Frame
from tests.topics.stage import Ear, opened

CHANNEL = Channel("numbers", "")
THERE = Position("abcd", 7)


def lose(position: Position | None = None) -> None:
    """Be a broker that has lost its connection."""
    tell = current_exchange().broker.lose
    assert tell is not None
    tell(CHANNEL, position)


def deliver(number: int, position: Position | None = None) -> None:
    publication = Publication(Frame(str(number).encode()))
    publication.position = position
    current_exchange()._deliver(CHANNEL, publication)


def listening(topic: Topic[int]) -> tuple[App, Any]:
    service = Service("test")

    @service.stream_out("/listen", expose=True)
    async def listen(stream: StreamOut[int]) -> None:
        async with topic.attach(stream):
            await stream.send(-1)
            await trio.sleep_forever()

    return App(service), listen


async def controls(peer: Any, last: str) -> list[dict[str, Any]]:
    """Return what is told up to a message."""
    told: list[dict[str, Any]] = []
    while (payload := await peer.receive()) != last:
        if isinstance(payload, bytes):
            told.append(json.loads(payload))
    return told


async def test_where_there_is_no_history_a_gap_is_told_of_which_nobody_knows_the_length(autojump_clock: object) -> None:
    topic = Topic("numbers", int)
    app, listen = listening(topic)
    async with testing.connect(app, "/listen", subprotocols=("streamrt.v1",)) as peer:
        assert await controls(peer, "-1") == []
        lose()
        deliver(1)
        assert await controls(peer, "1") == [{"type": "gap", "topic": "numbers", "key": "", "missed": 0}]
    async with app.client() as client, client.open(listen) as stream:
        assert await stream.receive() == -1
        for _ in range(2):
            lose()
        deliver(2)
        assert await stream.receive() == 2
        assert stream.positions == (TopicPosition("numbers", "", losses=2),)


async def test_where_there_is_one_its_position_is_told_and_that_it_was_not_recovered(autojump_clock: object) -> None:
    topic = Topic("numbers", int, history=History())
    async with testing.connect(listening(topic)[0], "/listen", subprotocols=("streamrt.v1",)) as peer:
        await controls(peer, "-1")
        lose(THERE)
        deliver(1, Position("abcd", 8))
        first, second = await controls(peer, "1")
        assert (first["position"], first["messages"], first["recovered"]) == ("abcd.7", 0, False)
        assert (second["position"], second["messages"]) == ("abcd.8", 1)


async def test_where_the_latest_is_kept_no_position_is_told_before_what_waits(autojump_clock: object) -> None:
    topic = Topic("numbers", int, when_full="latest", history=History())
    async with testing.connect(listening(topic)[0], "/listen", subprotocols=("streamrt.v1",)) as peer:
        await controls(peer, "-1")
        lose(THERE)
        deliver(1, Position("abcd", 8))
        assert (await controls(peer, "1"))[0]["type"] == "gap"


@pytest.mark.parametrize("when_full", ["disconnect", "drop_oldest"])
async def test_who_cannot_be_told_goes_on_and_its_handler_knows(when_full: WhenFull) -> None:
    topic = Topic("numbers", int, when_full=when_full, history=History())
    ear = Ear()
    async with opened(ear) as stream, topic.attach(stream, since=History.OLDEST) as attachment:
        assert attachment.recovered
        deliver(1, Position("abcd", 1))
        lose(THERE)
        assert ear.heard == [1]  # what came before the loss went out before it
        assert not attachment.recovered
        assert attachment.position == str(THERE)
        lose(None)
        assert attachment.position == str(THERE)


async def test_a_loss_while_a_history_is_replayed_is_told_behind_it(autojump_clock: object) -> None:
    topic = Topic("numbers", int, history=History())
    for number in range(6):
        await topic.publish(number)
    ear = Ear()
    async with opened(ear, Limits(send_messages=1)) as stream:
        ear.stall(1)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def attached() -> None:
                async with topic.attach(stream, since=History.OLDEST) as attachment:
                    assert not attachment.recovered

            await wait_all_tasks_blocked()
            lose(THERE)
            ear.resume()
    assert ear.heard == list(range(6))


async def test_a_task_that_subscribes_knows_too() -> None:
    topic = Topic("numbers", int, history=History())
    async with topic.subscribe(since=History.OLDEST) as numbers:
        assert numbers.recovered
        await topic.publish(1)
        lose(THERE)
        assert not numbers.recovered
        assert await numbers.receive() == 1


async def test_where_nobody_is_nobody_is_told() -> None:
    topic = Topic("numbers", int)
    lose()
    async with topic.subscribe(key="other") as numbers:
        lose()
        assert topic.statistics().subscribers == 1
        await topic.publish(1, key="other")
        assert await numbers.receive() == 1


async def test_who_fails_to_be_told_is_gone_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topic("numbers", int)
    async with topic.subscribe() as one, topic.subscribe() as other:
        [room] = current_exchange().rooms(topic._terms)
        assert list(room.subscribers) == [one, other]
        calls: list[object] = []

        def broken(self: object, position: Position | None) -> None:
            calls.append(self)
            if self is one:
                raise ZeroDivisionError

        monkeypatch.setattr(type(one), "lose", broken)
        lose()
        assert calls == [one, other]
        with pytest.raises(Exception, match="internal"):
            await one.receive()
        await topic.publish(1)
        assert await other.receive() == 1
    assert "cannot be told of a loss" in caplog.text


async def test_a_broker_that_delivers_faster_than_that_is_handed_on_waits() -> None:
    topic = Topic("numbers", int)
    settle = current_exchange().broker.settle
    assert settle is not None
    async with topic.subscribe() as numbers:
        for number in range(100):
            deliver(number)
        await settle()
        assert [await numbers.receive() for _ in range(100)] == list(range(100))
    async with topic.subscribe():
        deliver(0)
        await settle()


async def test_a_broker_that_waits_goes_on_when_the_room_is_gone() -> None:
    topic = Topic("numbers", int)
    async with trio.open_nursery() as nursery, topic.subscribe():
        for number in range(100):
            deliver(number)
        settle = current_exchange().broker.settle
        assert settle is not None
        nursery.start_soon(settle)
