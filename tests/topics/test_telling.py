"""Positions, gaps and resuming: what a client of `streamrt.v1` is told of topics, and what it is never sent twice."""

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Opcode

from streamrt import APIError, App, Client, Deflate, History, Limits, Service, StreamInOut, StreamOut, Topic, testing
from streamrt.api.stream import TopicPosition
from streamrt.client.connector import Connector, Target
from streamrt.client.memory import MemoryConnector
from streamrt.runtime.broker import Channel, Publication
from streamrt.runtime.exchange import current_exchange
from streamrt.wire.transport import (
    Disconnected,
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
    Transport,
    memory_transports,
)
from tests.conftest import Carrier, served, socket
from tests.peers import connect_socket

V1 = ("streamrt.v1",)
ENCORE = ("encore-ws",)


@attrs.frozen
class Room:
    key: str = ""
    since: str | None = None


def listening(topic: Topic[int], **limits: Any) -> tuple[App, Any]:
    """An endpoint that hears a topic, and says so."""
    service = Service("test")

    @service.stream_out("/listen", expose=True, **limits)
    async def listen(handshake: Room, stream: StreamOut[int]) -> None:
        async with topic.attach(stream, key=handshake.key, since=handshake.since):
            await stream.send(-1)
            await trio.sleep_forever()

    return App(service), listen


def topic(**options: Any) -> Topic[int]:
    return Topic("numbers", int, **{"history": History(messages=10_000), **options})


def told(control: str | bytes) -> dict[str, Any]:
    """Read a control of the topic of these tests."""
    assert isinstance(control, bytes), control
    fields: dict[str, Any] = json.loads(control)
    assert fields.pop("topic") == "numbers"
    return fields


def offset(control: dict[str, Any]) -> int:
    return int(control["position"].partition(".")[2])


def resume(*entries: dict[str, Any]) -> dict[str, str]:
    return {"streamrt-resume": json.dumps([{"topic": "numbers", "key": "", **entry} for entry in entries])}


async def hear(peer: Any, last: int) -> list[Any]:
    """Return what comes, up to this message: numbers, and what is told about them, without the topic."""
    heard: list[Any] = []
    while True:
        payload = await peer.receive()
        if isinstance(payload, bytes):
            heard.append(told(payload))
        else:
            heard.append(int(payload))
            if heard[-1] == last:
                return heard


# Positions.


async def test_who_attaches_is_told_where_it_begins(carrier: Carrier) -> None:
    numbers = topic()
    app, _ = listening(numbers)
    await numbers.publish(1)
    async with carrier.connect(app, "/listen", subprotocols=V1) as peer:
        control = told(await peer.receive())
        assert (control["type"], control["key"], control["messages"], control["recovered"]) == (
            "position",
            "",
            0,
            False,
        )
        assert await peer.receive() == "-1"


async def test_messages_come_behind_one_position(carrier: Carrier) -> None:
    numbers = topic()
    app, _ = listening(numbers)
    async with carrier.connect(app, "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        for number in range(3):
            await numbers.publish(number)
        heard = await hear(peer, 2)
    # Straight from the room they are announced together, and from a queue each by itself.
    announced = [entry for entry in heard if isinstance(entry, dict)]
    assert [entry for entry in heard if not isinstance(entry, dict)] == [0, 1, 2]
    assert sum(entry["messages"] for entry in announced) == 3
    assert offset(announced[-1]) == 3
    place = 0
    for entry in announced:
        assert heard[place] is entry
        assert all(isinstance(message, int) for message in heard[place + 1 : place + 1 + entry["messages"]])
        place += 1 + entry["messages"]
    assert place == len(heard)


async def test_over_a_socket_a_burst_has_one_position() -> None:
    numbers = topic()
    async with socket().connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        for number in range(3):
            await numbers.publish(number)
        control, *rest = await hear(peer, 2)
        assert (control["messages"], offset(control), rest) == (3, 3, [0, 1, 2])
        assert "recovered" not in control


async def test_all_who_are_told_get_the_same_bytes_and_the_others_the_same_without_controls() -> None:
    numbers = topic()
    app, _ = listening(numbers)
    async with served(app) as url:
        async with AsyncExitStack() as stack:
            peers = []
            for subprotocols in (V1, V1, ENCORE):
                peer = await stack.enter_async_context(connect_socket(url + "/listen", subprotocols=list(subprotocols)))
                while await peer.receive() != "-1":
                    pass
                peers.append(peer)
            await numbers.publish(-2)  # behind it they are all alike: what each attached with is over
            for peer in peers:
                while await peer.receive() != "-2":
                    pass
            for number in range(3):
                await numbers.publish(number)
            heard = [bytes(await peer.stream.receive_some()) for peer in peers]
    assert heard[0] == heard[1]
    control, rest = heard[0][: 2 + heard[0][1]], heard[0][2 + heard[0][1] :]
    assert (control[0], json.loads(control[2:])["messages"]) == (0x82, 3)
    assert rest == heard[2] == b"\x81\x010\x81\x011\x81\x012"


async def test_on_a_compressed_stream_only_messages_are_compressed() -> None:
    texts = Topic("numbers", str, history=History())
    service = Service("test")

    @service.stream_out("/listen", expose=True, compression=Deflate(threshold=0))
    async def listen(stream: StreamOut[str]) -> None:
        async with texts.attach(stream):
            await stream.send("ready")
            await trio.sleep_forever()

    compressing = [ClientPerMessageDeflateFactory()]
    async with served(App(service)) as url:
        async with connect_socket(url + "/listen", subprotocols=list(V1), extensions=compressing) as peer:
            while await peer.receive() != '"ready"':
                pass
            for letter in "ab":
                await texts.publish(letter * 1000)
            frames: list[Any] = []
            while len(frames) < 3:
                frames += await peer.hear()
    assert [frame.opcode for frame in frames] == [Opcode.BINARY, Opcode.TEXT, Opcode.TEXT]
    assert json.loads(frames[0].data)["messages"] == 2
    assert [bytes(frame.data) for frame in frames[1:]] == [b'"%s"' % (letter * 1000) for letter in (b"a", b"b")]


async def test_who_speaks_encore_ws_is_told_nothing_and_hears_the_same(carrier: Carrier) -> None:
    numbers = topic()
    app, _ = listening(numbers)
    async with carrier.connect(app, "/listen", subprotocols=ENCORE) as peer:
        assert await peer.receive() == "-1"
        await numbers.publish(1)
        assert await peer.receive() == "1"


async def test_a_topic_without_a_history_has_no_positions(carrier: Carrier) -> None:
    numbers = topic(history=None)
    async with carrier.connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        assert await peer.receive() == "-1"
        await numbers.publish(1)
        assert await peer.receive() == "1"


@pytest.mark.parametrize("waiting", [False, True], ids=["straight", "waiting"])
async def test_a_message_that_is_in_no_history_comes_without_a_position(waiting: bool, autojump_clock) -> None:
    numbers = topic()
    async with testing.connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        if waiting:
            peer.stall()
            await numbers.publish(0)
            await wait_all_tasks_blocked()
        else:
            await numbers.publish(0)
            await hear(peer, 0)
        broker = current_exchange().broker
        for number in (1, 2):  # as a broker delivers within its process, when it can do no more
            assert broker.deliver is not None
            broker.deliver(Channel("numbers", ""), Publication(Frame(b"%d" % number)))
        await wait_all_tasks_blocked()
        await numbers.publish(3)
        await wait_all_tasks_blocked()
        if waiting:
            peer.resume()
            await hear(peer, 0)
        [one, two, control, three] = await hear(peer, 3)
    assert (one, two, three, control["messages"], offset(control)) == (1, 2, 3, 1, 2)


async def test_a_client_of_encore_ws_is_not_resumed_by_itself(autojump_clock) -> None:
    numbers = topic()
    await numbers.publish(1)
    async with numbers.subscribe(since=History.OLDEST) as place:
        headers = resume({"position": place.position})
    async with testing.connect(listening(numbers)[0], "/listen", subprotocols=ENCORE, headers=headers) as peer:
        assert await peer.receive() == "-1"


async def test_what_is_announced_together_is_bounded(autojump_clock) -> None:
    texts = Topic("numbers", str, history=History(messages=10_000), backlog=16_384)
    heard: list[Any] = []
    service = Service("test")

    @service.stream_out("/listen", expose=True)
    async def listen(stream: StreamOut[str]) -> None:
        async with texts.attach(stream):
            await stream.send("ready")
            await trio.sleep_forever()

    async with testing.connect(App(service), "/listen", subprotocols=V1) as peer:
        while await peer.receive() != '"ready"':
            pass
        # 70 small ones at once, as another process could publish them; then three that are big.
        exchange = current_exchange()
        for payload in [b'"x"'] * 70 + [b'"%s"' % (b"y" * 40_000)] * 3:
            await exchange.broker.publish(Channel("numbers", ""), Publication(Frame(payload)), History(messages=10_000))
        while len(heard) < 73:
            control = told(await peer.receive())
            assert isinstance(control, dict)
            heard += [await peer.receive() for _ in range(control["messages"])]
            assert offset(control) == len(heard)
            assert control["messages"] <= 64
            assert sum(map(len, heard[-control["messages"] : -1])) < 64 * 1024


async def test_what_waits_has_a_position_of_its_own(autojump_clock) -> None:
    numbers = topic()
    async with testing.connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        peer.stall()
        for number in range(200):
            await numbers.publish(number)
        await wait_all_tasks_blocked()
        peer.resume()
        heard = await hear(peer, 199)
    assert [entry for entry in heard if isinstance(entry, int)] == list(range(200))
    place = messages = 0
    while place < len(heard):
        messages += heard[place]["messages"]
        assert offset(heard[place]) == messages
        place += 1 + heard[place]["messages"]
    assert heard[-2]["messages"] == 1  # at the end, each alone


async def test_what_is_not_for_a_stream_is_in_its_position_all_the_same(autojump_clock) -> None:
    numbers = topic()
    service = Service("test")

    @service.stream_in_out("/talk", expose=True)
    async def talk(stream: StreamInOut[int, int]) -> None:
        async with numbers.attach(stream, exclude_self=True):
            await stream.send(-1)
            async for number in stream:
                await numbers.publish(number)

    async with testing.connect(App(service), "/talk", subprotocols=V1) as peer:
        await hear(peer, -1)
        await peer.send("1")
        control = told(await peer.receive())
        assert (control["messages"], offset(control)) == (0, 1)
        await numbers.publish(2)
        [control, number] = await hear(peer, 2)
        assert (control["messages"], offset(control), number) == (1, 2, 2)
        peer.stall()
        await numbers.publish(3)
        await wait_all_tasks_blocked()
        await peer.send("4")  # what waits is not overtaken, so of this nothing is said
        await wait_all_tasks_blocked()
        peer.resume()
        [control, number] = await hear(peer, 3)
        assert (control["messages"], offset(control)) == (1, 3)
        await numbers.publish(5)
        [control, number] = await hear(peer, 5)
        assert (control["messages"], offset(control)) == (1, 5)


async def test_a_client_that_attaches_its_own_stream_tells_its_server_nothing(autojump_clock) -> None:
    numbers = topic()
    service = Service("test")

    @service.stream_in_out("/echo", expose=True)
    async def echo(stream: StreamInOut[int, int]) -> None:
        async for number in stream:
            await stream.send(number)

    async with App(service).client() as client:
        known = [TopicPosition("numbers", "", "a.1")]
        async with client.open(echo, resume=known) as stream, numbers.attach(stream) as attachment:
            assert not attachment.recovered
            await numbers.publish(7)
            assert await stream.receive() == 7
        assert stream.positions == ()


# Gaps.


async def overflown(when_full: str, history: History | None, **options: Any) -> list[Any]:
    """Return what a client hears that does not read while 200 numbers are published to a backlog of 4."""
    numbers = topic(when_full=when_full, backlog=4, history=history, **options)
    async with testing.connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        peer.stall()
        for number in range(200):
            await numbers.publish(number)
        await wait_all_tasks_blocked()
        peer.resume()
        await wait_all_tasks_blocked()
        await numbers.publish(1000)
        heard = await hear(peer, 1000)
        dropped = numbers.statistics().dropped
    assert sum(entry.get("missed", 0) for entry in heard if isinstance(entry, dict)) == dropped > 0
    assert sum(isinstance(entry, int) for entry in heard) == 201 - dropped
    return heard


def gaps(heard: Sequence[Any]) -> list[tuple[Any, int, Any]]:
    """Return each gap with the messages before and behind it."""
    numbers = [-1]
    found: list[tuple[Any, int, Any]] = []
    pending = 0
    for entry in heard:
        if isinstance(entry, int):
            if pending:
                found.append((numbers[-1], pending, entry))
                pending = 0
            numbers.append(entry)
        elif entry["type"] == "gap":
            assert entry["key"] == ""
            assert not pending
            pending = entry["missed"]
    assert not pending
    return found


@pytest.mark.parametrize("history", [None, History(messages=10_000)], ids=["no history", "history"])
async def test_the_oldest_that_were_dropped_are_one_gap_at_their_place(history, autojump_clock) -> None:
    heard = await overflown("drop_oldest", history)
    [(before, missed, behind)] = gaps(heard)
    assert missed == behind - before - 1
    assert [entry for entry in heard if isinstance(entry, int)][-5:] == [196, 197, 198, 199, 1000]


@pytest.mark.parametrize("history", [None, History(messages=10_000)], ids=["no history", "history"])
async def test_the_newest_that_were_dropped_are_one_gap_behind_what_waited(history, autojump_clock) -> None:
    heard = await overflown("drop_newest", history)
    [(before, missed, behind)] = gaps(heard)
    assert (before + missed, behind) == (199, 1000)
    if history is not None:  # so that what was dropped does not come when resuming
        place = next(place for place, entry in enumerate(heard) if isinstance(entry, dict) and entry["type"] == "gap")
        assert (heard[place + 1]["messages"], offset(heard[place + 1])) == (0, 200)


@pytest.mark.parametrize("history", [None, History(messages=10_000)], ids=["no history", "history"])
async def test_what_was_replaced_is_a_gap_and_the_position_comes_when_nothing_waits(history, autojump_clock) -> None:
    heard = await overflown("latest", history, latest_by=lambda number: number % 3)
    assert {entry % 3 for entry in heard if isinstance(entry, int)} == {0, 1, 2}
    last = max(place for place, entry in enumerate(heard[:-1]) if isinstance(entry, int))
    if history is None:
        assert last == len(heard) - 2
    else:
        assert (heard[last + 1]["messages"], offset(heard[last + 1])) == (0, 200)
        waited = [place for place, entry in enumerate(heard[:last]) if isinstance(entry, dict) and "missed" in entry]
        assert all(heard[place + 1] != "position" and isinstance(heard[place + 1], int) for place in waited)


async def test_who_is_disconnected_is_told_the_error_and_no_gap(autojump_clock) -> None:
    numbers = topic(backlog=4)
    async with testing.connect(listening(numbers)[0], "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        peer.stall()
        while numbers.statistics().subscribers:
            await numbers.publish(0)
        peer.resume()
        controls = []
        with pytest.raises(trio.EndOfChannel):
            while True:
                payload = await peer.receive()
                if isinstance(payload, bytes):
                    controls.append(json.loads(payload)["type"])
    assert controls[-1] == "error"
    assert set(controls[:-1]) <= {"position"}


@pytest.mark.parametrize(
    ("when_full", "last"), [("drop_newest", ["gap", "position"]), ("latest", ["position"]), ("drop_oldest", [])]
)
async def test_what_is_still_to_be_said_is_said_when_the_topic_is_left(when_full, last, autojump_clock) -> None:
    numbers = topic(when_full=when_full, backlog=4)
    service = Service("test")
    leave = trio.Event()

    @service.stream_out("/listen", expose=True)
    async def listen(stream: StreamOut[int]) -> None:
        async with numbers.attach(stream):
            await stream.send(-1)
            await leave.wait()
        await stream.send(-2)

    async with testing.connect(App(service), "/listen", subprotocols=V1) as peer:
        await hear(peer, -1)
        peer.stall()
        for number in range(200):
            await numbers.publish(number)
        await wait_all_tasks_blocked()
        leave.set()
        await wait_all_tasks_blocked()
        peer.resume()
        heard = await hear(peer, -2)
    place = max(place for place, entry in enumerate(heard[:-1]) if isinstance(entry, int))
    assert [entry["type"] for entry in heard[place + 1 : -1]] == last
    if last:
        assert offset(heard[-2]) == 200


# Resuming.


async def test_who_comes_back_goes_on_where_it_was(carrier: Carrier) -> None:
    numbers = topic()
    app, _ = listening(numbers)
    for number in range(5):
        await numbers.publish(number)
    async with numbers.subscribe() as place:
        epoch = place.position.partition(".")[0] if place.position else ""
    async with carrier.connect(app, "/listen", subprotocols=V1, headers=resume({"position": f"{epoch}.2"})) as peer:
        begin, *heard = await hear(peer, -1)
        assert (begin["position"], begin["messages"], begin["recovered"]) == (f"{epoch}.2", 0, True)
        assert [entry if isinstance(entry, int) else (entry["messages"], offset(entry)) for entry in heard] == [
            (1, 3),
            2,
            (1, 4),
            3,
            (1, 5),
            4,
            -1,
        ]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        "{}",
        "7",
        '"x"',
        "[" * 100_000,
        "[[], 1, null]",
        '[{"topic":"numbers","key":""}]',
        '[{"topic":"numbers","key":"","position":7}]',
        '[{"topic":"numbers","key":"","position":"oldest"}]',
        '[{"topic":"numbers","key":"","position":"other.1"}]',
        '[{"topic":"numbers","key":"","position":"x.99999999999999999999999"}]',
        '[{"topic":"numbers","key":"lobby","position":"EPOCH.1"}]',
        '[{"topic":"others","key":"","position":"EPOCH.1"}]',
        '[{"topic":"numbers","key":"","position":"EPOCH.9"}]',
    ],
)
async def test_an_offer_that_makes_no_sense_recovers_nothing_and_is_no_error(header: str, autojump_clock) -> None:
    numbers = topic()
    app, _ = listening(numbers)
    for number in range(5):
        await numbers.publish(number)
    async with numbers.subscribe() as place:
        epoch = (place.position or "").partition(".")[0]
    headers = {"streamrt-resume": header.replace("EPOCH", epoch)}
    async with testing.connect(app, "/listen", subprotocols=V1, headers=headers) as peer:
        [begin, _] = await hear(peer, -1)
        assert (offset(begin), begin["recovered"]) == (5, False)


async def test_an_offer_is_taken_once_and_not_when_the_handler_knows_better(autojump_clock) -> None:
    numbers = topic()
    service = Service("test")

    @service.stream_out("/listen", expose=True)
    async def listen(handshake: Room, stream: StreamOut[int]) -> None:
        for _ in range(2):
            async with numbers.attach(stream, since=handshake.since) as attachment:
                await stream.send(-int(attachment.recovered) - 1)
        await stream.send(-9)

    for number in range(2):
        await numbers.publish(number)
    async with numbers.subscribe() as place:
        epoch = (place.position or "").partition(".")[0]
    headers = resume({"position": "other.0"}, {"position": f"{epoch}.1"})
    async with testing.connect(App(service), "/listen", subprotocols=V1, headers=headers) as peer:
        heard = [entry for entry in await hear(peer, -9) if isinstance(entry, int)]
        assert heard == [1, -2, -1, -9]
    async with testing.connect(App(service), "/listen?since=oldest", subprotocols=V1, headers=headers) as peer:
        heard = [entry for entry in await hear(peer, -9) if isinstance(entry, int)]
        assert heard == [0, 1, -2, 0, 1, -2, -9]


async def test_what_is_published_during_a_replay_comes_behind_it_with_its_positions(autojump_clock) -> None:
    numbers = topic()
    app, _ = listening(numbers, send_messages=4)
    for number in range(100):
        await numbers.publish(number)
    url = "/listen?since=oldest"
    async with testing.connect(app, url, subprotocols=V1, stalled=True) as peer:
        await wait_all_tasks_blocked()
        for number in range(100, 110):
            await numbers.publish(number)
        await wait_all_tasks_blocked()
        peer.resume()
        heard = await hear(peer, 109)
    assert [entry for entry in heard if isinstance(entry, int) and entry >= 0] == list(range(110))
    positions = [offset(entry) for entry in heard if isinstance(entry, dict)]
    assert positions == sorted(positions)
    assert positions[-1] == 110


async def test_own_messages_are_left_out_of_a_replay_and_are_in_its_position(autojump_clock) -> None:
    numbers = topic()
    service = Service("test")

    @service.stream_out("/listen", expose=True)
    async def listen(stream: StreamOut[int]) -> None:
        await numbers.publish(1)
        await numbers.publish(2, exclude=stream)
        async with numbers.attach(stream, since=History.OLDEST):
            await stream.send(-1)

    async with testing.connect(App(service), "/listen", subprotocols=V1) as peer:
        heard = await hear(peer, -1)
    assert [entry if isinstance(entry, int) else offset(entry) for entry in heard] == [0, 1, 1, 2, -1]


async def test_what_was_dropped_during_a_replay_is_a_gap_behind_it(autojump_clock) -> None:
    numbers = topic(when_full="drop_oldest", backlog=4)
    app, _ = listening(numbers, send_messages=4)
    for number in range(100):
        await numbers.publish(number)
    async with testing.connect(app, "/listen?since=oldest", subprotocols=V1, stalled=True) as peer:
        await wait_all_tasks_blocked()
        for number in range(100, 110):
            await numbers.publish(number)
        await wait_all_tasks_blocked()
        peer.resume()
        heard = await hear(peer, 109)
    assert gaps(heard) == [(99, 6, 106)]


# The client.


async def test_a_client_knows_where_it_is_and_goes_on_from_there(carrier: Carrier) -> None:
    numbers = topic()
    app, listen = listening(numbers)
    async with carrier.client(app) as client:
        async with client.open(listen, Room("é")) as stream:
            assert await stream.receive() == -1
            [begin] = stream.positions
            assert (begin.topic, begin.key, begin.recovered, begin.missed) == ("numbers", "é", False, 0)
            for number in range(3):
                await numbers.publish(number, key="é")
            assert [await stream.receive() for _ in range(3)] == [0, 1, 2]
        assert stream.positions == (attrs.evolve(begin, position=stream.positions[0].position),)
        for number in range(3, 6):
            await numbers.publish(number, key="é")
        async with client.open(listen, Room("é"), resume=stream.positions) as stream:
            assert [await stream.receive() for _ in range(4)] == [3, 4, 5, -1]
            assert stream.positions[0].recovered


class Scripted(Connector):
    """Connects to a peer that the test commands."""

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[Transport, str | None]]:
        ours, theirs = memory_transports()
        self.peer = testing.Peer(theirs)
        self.headers = target.headers
        yield ours, "streamrt.v1"


@asynccontextmanager
async def scripted(limits: Limits | None = None) -> AsyncGenerator[tuple[StreamInOut[Any, Any], testing.Peer]]:
    connector = Scripted()
    async with Client.over(connector, limits=limits).open_path("/") as stream:
        yield stream, connector.peer


def says(position: str, messages: int, **fields: Any) -> bytes:
    control = {"type": "position", "topic": "t", "key": "k", "position": position, "messages": messages, **fields}
    return json.dumps(control).encode()


def misses(missed: int) -> bytes:
    return json.dumps({"type": "gap", "topic": "t", "key": "k", "missed": missed}).encode()


def at(position: str | None, **fields: Any) -> tuple[TopicPosition, ...]:
    return (TopicPosition("t", "k", position, **fields),)


async def test_messages_are_held_back_until_the_last_of_their_position_is_there(autojump_clock) -> None:
    async with scripted() as (stream, peer):
        for payload in (says("a.0", 0, recovered=True), "0", says("a.3", 3), "1", "2"):
            await peer.send(payload)
        assert await stream.receive() == 0
        with trio.move_on_after(1) as waiting:
            await stream.receive()
        assert waiting.cancelled_caught
        await peer.send("3")
        assert await stream.receive() == 1
        assert await stream.receive() == 2
        assert stream.positions == at("a.0", recovered=True)
        assert await stream.receive() == 3
        assert stream.positions == at("a.3", recovered=True)


async def test_of_messages_whose_last_never_comes_none_is_received(autojump_clock) -> None:
    async with scripted() as (stream, peer):
        for payload in (says("a.1", 1), "1", says("a.3", 2), "2"):
            await peer.send(payload)
        assert await stream.receive() == 1
        await wait_all_tasks_blocked()
        peer.vanish()
        with pytest.raises(APIError.Unavailable):
            await stream.receive()
        assert stream.positions == at("a.1")


async def test_a_position_counts_only_when_what_came_before_it_is_received(autojump_clock) -> None:
    async with scripted() as (stream, peer):
        for payload in ("1", says("a.1", 0), misses(2), misses(3), "2", says("a.4", 1), "3", misses(1)):
            await peer.send(payload)
        await wait_all_tasks_blocked()
        seen = [stream.positions]
        for number in (1, 2, 3):
            assert await stream.receive() == number
            seen.append(stream.positions)
        assert seen == [(), at("a.1", missed=5), at("a.1", missed=5), at("a.4", missed=6)]


async def test_what_is_thrown_away_unread_counts_for_nothing(autojump_clock) -> None:
    async with scripted() as (stream, peer):
        for payload in ("1", says("a.1", 0)):
            await peer.send(payload)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            await wait_all_tasks_blocked()
            assert (await peer.closed()).code == 1000
    assert stream.positions == ()


async def test_messages_that_wait_for_room_when_the_client_closes_count_for_nothing(autojump_clock) -> None:
    async with scripted(Limits(receive_messages=2)) as (stream, peer):
        for payload in (says("a.5", 5), *"12345"):
            await peer.send(payload)
        assert await stream.receive() == 1
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.aclose)
            assert (await peer.closed()).code == 1000
    assert stream.positions == ()


async def test_positions_of_a_slow_client_keep_to_the_bounds_of_its_receive_channel(autojump_clock) -> None:
    async with scripted(Limits(receive_messages=4)) as (stream, peer):
        told_all = trio.Event()
        async with trio.open_nursery() as nursery:

            async def tell() -> None:
                for number in range(200):
                    await peer.send(says(f"a.{number}", 0))
                    await peer.send(misses(1))
                    await peer.send(says(f"b.{number}", 2))
                    await peer.send(str(number))
                    await peer.send(str(number))
                told_all.set()

            nursery.start_soon(tell)
            await wait_all_tasks_blocked()
            assert not told_all.is_set()
            for number in range(200):
                assert await stream.receive() == number
                assert await stream.receive() == number
                await wait_all_tasks_blocked()
        assert stream.positions == at("b.199", missed=200)


@pytest.mark.parametrize(
    ("payloads", "reason"),
    [
        ([says("a.1", 65)], "'position' is wrong: .*`int` <= 64"),
        ([says("a.1", -1)], "'position' is wrong: .*`int` >= 0"),
        ([b'{"type":"position","topic":"t","key":"k","position":7,"messages":0}'], r"`\$\.position`"),
        ([b'{"type":"position","topic":"t","key":"k","messages":0}'], "missing required field `position`"),
        ([says("a.1", 0, recovered="yes")], r"`\$\.recovered`"),
        ([misses(-1)], "'gap' is wrong"),
        ([b'{"type":"gap","topic":"t","key":"k"}'], "missing required field `missed`"),
        ([says("a.2", 2), "1", misses(1)], "must follow it at once, and a control came"),
        ([says("a.2", 2), "1", b'{"type":"end"}'], "must follow it at once, and a control came"),
        ([b'{"type":"end"}', says("a.1", 1)], "'end' must be the last, and a message came behind it"),
        ([says("a.9", 9), "1" * 30_000, "1" * 40_000, "1"], "must have 64 KiB together, and more came"),
    ],
)
async def test_what_is_told_wrongly_closes_with_1002(payloads, reason: str, autojump_clock) -> None:
    async with scripted() as (stream, peer):
        for payload in payloads:
            await peer.send(payload)
        await wait_all_tasks_blocked()
        assert stream.ended is not None
        assert stream.ended.code == 1002
        with pytest.raises(APIError.Internal, match=reason):
            await stream.receive()


@attrs.define(eq=False)
class Cut(PullTransport):
    """A transport that is lost after so many payloads have come."""

    name = "cut"

    inner: MemoryTransport
    left: float

    async def receive(self) -> Sequence[Payload]:
        if not self.left:
            self.inner.abort()
            raise Disconnected(1006)
        payloads = list(await self.inner.receive())[: int(min(self.left, 1000))]
        self.left -= len(payloads)
        return payloads

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.inner.send(frames)

    async def close(self, code: int, reason: str) -> None:
        await self.inner.close(code, reason)

    async def wait_closed(self) -> None:
        await self.inner.wait_closed()

    def abort(self, code: int, reason: str) -> None:
        self.inner.abort(code, reason)


@attrs.define(eq=False)
class Cutting(Connector):
    """Connects to an app in memory, over a transport that is cut."""

    app: App
    after: float

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[Transport, str | None]]:
        connector = MemoryConnector(self.app.host, private=True, auth_data=None)
        async with connector.connect(target) as (transport, dialect):
            yield Cut(transport, self.after), dialect


@pytest.mark.parametrize("cut", range(2, 60))
async def test_wherever_the_connection_ends_nothing_is_missed_and_nothing_comes_twice(cut: int, autojump_clock) -> None:
    numbers = topic()
    app, listen = listening(numbers)

    async def publish(first: int) -> None:
        for number in range(first, first + 50):
            await numbers.publish(number)
            if number % 7 == 0:
                await trio.sleep(1)

    async with app.host.running(), trio.open_nursery() as nursery:
        got: list[int] = []
        async with Client.over(Cutting(app, cut)).open(listen, Room()) as stream:
            assert await stream.receive() == -1
            nursery.start_soon(publish, 0)
            with pytest.raises(APIError.Unavailable):
                while True:
                    got.append(await stream.receive())
        await trio.sleep(100)
        async with Client.over(Cutting(app, math.inf)).open(listen, Room(), resume=stream.positions) as stream:
            await publish(50)
            async for number in stream:
                if number != -1:
                    got.append(number)
                if number == 99:
                    break
        assert got == list(range(100))
