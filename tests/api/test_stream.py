"""The streams that handlers and clients hold, on a port of a few queued payloads."""

from collections import deque
from collections.abc import Iterable, Mapping

import pytest
import trio
from attrs import frozen

from streamrt import (
    APIError,
    EncodeError,
    Ended,
    InvalidMessage,
    Request,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    StreamOutWithResponse,
)
from streamrt.api.stream import Port, TopicPosition
from streamrt.wire.codec import codec
from streamrt.wire.transport import Frame, Payload


@frozen
class Say:
    text: str


class FakePort(Port):
    """A port that gives what it was given, and keeps what is sent."""

    def __init__(self, incoming: Iterable[Payload] = ()) -> None:
        self.request = Request(path="/", endpoint="chat.talk", connection_id=1, transport="memory")
        self.ended: Ended | None = None
        self.draining = trio.Event()
        self.known: dict[tuple[str, str], TopicPosition] = {}
        self.sent: list[bytes] = []
        self.half_closed = False
        self._incoming = deque(incoming)

    @property
    def positions(self) -> Mapping[tuple[str, str], TopicPosition]:
        return self.known

    @property
    def round_trip_time(self) -> float | None:
        return 0.25

    async def receive(self) -> Payload:
        if not self._incoming:
            raise trio.EndOfChannel
        return self._incoming.popleft()

    async def send(self, frame: Frame) -> None:
        self.sent.append(frame.payload)

    @property
    def half_closes(self) -> bool:
        return True

    async def send_eof(self) -> None:
        self.half_closed = True

    async def aclose(self) -> None:
        self.ended = Ended("handler", 1000)


async def test_messages_are_decoded_where_they_are_received() -> None:
    stream = StreamIn(FakePort(['{"text": "a"}', b'{"text": "b"}']), codec(Say))
    assert [message async for message in stream] == [Say("a"), Say("b")]


async def test_after_a_message_that_does_not_fit_the_next_may_be_received() -> None:
    stream = StreamInOut(FakePort(['{"text": 1}', '{"text": "b"}']), codec(Say), codec(Say))
    with pytest.raises(InvalidMessage, match=r"\$\.text: "):
        await stream.receive()
    assert await stream.receive() == Say("b")


async def test_messages_are_encoded_where_they_are_sent() -> None:
    port = FakePort()
    await StreamOut(port, codec(Say)).send(Say("a"))
    await StreamInOut(port, codec(Say), codec(Say)).send(Say("b"))
    await StreamOutWithResponse(port, codec(Say), codec(Say)).send(Say("c"))
    assert port.sent == [b'{"text":"a"}', b'{"text":"b"}', b'{"text":"c"}']


async def test_of_a_value_that_does_not_fit_nothing_is_sent() -> None:
    port = FakePort()
    with pytest.raises(EncodeError):
        await StreamOut(port, codec(Say)).send(Say(1))  # type: ignore[arg-type] # the test is about this
    assert port.sent == []


async def test_a_response_is_the_one_message_that_comes_back() -> None:
    port = FakePort(['{"text": "done"}'])
    stream = StreamOutWithResponse(port, codec(Say), codec(Say))
    assert not port.half_closed
    assert await stream.response() == Say("done")
    assert port.half_closed


async def test_a_stream_that_goes_out_says_that_no_more_comes() -> None:
    for cls in (StreamInOut, StreamOutWithResponse):
        port = FakePort()
        await cls(port, codec(Say), codec(Say)).send_eof()
        assert port.half_closed


async def test_a_response_that_does_not_come_is_data_loss() -> None:
    with pytest.raises(APIError.DataLoss, match="the stream ended without its response"):
        await StreamOutWithResponse(FakePort(), codec(Say), codec(Say)).response()


async def test_where_there_is_no_response_waiting_for_it_is_waiting_for_the_end() -> None:
    stream: StreamOutWithResponse[Say, None] = StreamOutWithResponse(FakePort(), codec(Say), None)
    await stream.response()


async def test_a_stream_shows_what_its_port_knows() -> None:
    port = FakePort()
    stream = StreamIn(port, codec(Say))
    assert (stream.request, stream.ended, stream.draining) == (port.request, None, port.draining)
    assert stream.positions == ()
    port.known["chat", "lobby"] = TopicPosition("chat", "lobby", "a.1")
    assert stream.positions == (TopicPosition("chat", "lobby", "a.1"),)
    await stream.aclose()
    assert stream.ended == Ended("handler", 1000)


async def test_an_endpoint_creates_the_stream_of_its_handler() -> None:
    api = Service("chat")

    @api.stream_in()
    async def upload(stream: StreamIn[Say]) -> None: ...

    @api.stream_out()
    async def listen(stream: StreamOut[Say]) -> None: ...

    @api.stream_in_out()
    async def talk(stream: StreamInOut[Say, Say]) -> None: ...

    port = FakePort(['{"text": "a"}', '{"text": "b"}'])
    assert await upload.stream(port).receive() == Say("a")
    assert await talk.stream(port).receive() == Say("b")
    await listen.stream(port).send(Say("c"))
    assert port.sent == [b'{"text":"c"}']
