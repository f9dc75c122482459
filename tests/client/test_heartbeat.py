"""A client notices a server that is gone, and takes none for gone that only has nothing to say."""

from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from streamrt import APIError, Client, Ended, Limits, Service, StreamInOut, StreamOut
from streamrt.client.websocket import _Stream  # pyright: ignore[reportPrivateUsage] # in virtual time

service = Service("test")
QUICK = Limits(ping_interval=0.02, ping_timeout=0.02)


@service.stream_out("/count", expose=True)
async def count(stream: StreamOut[int]) -> None:
    """Never run: the tests are the server."""


async def serve(stream: trio.SocketStream, *, listening: bool) -> None:
    """Be a server that has nothing to say before the third ping; and that is deaf, if it does not listen."""
    pings: list[bytes] = []
    protocol = ServerProtocol(subprotocols=["streamrt.v1"])  # type: ignore[list-item]
    protocol.receive_data(await stream.receive_some())
    while True:
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
            elif event.opcode is Opcode.PING:
                pings.append(bytes(event.data))
                if len(pings) == 3:
                    protocol.send_text(b"3")
        for data in protocol.data_to_send():
            await stream.send_all(data)
        if not listening:
            await trio.sleep_forever()
        data = await stream.receive_some()
        if not data:
            return
        protocol.receive_data(data)


@pytest.fixture
async def url(nursery: trio.Nursery, request: pytest.FixtureRequest) -> str:
    [listener] = await nursery.start(partial(trio.serve_tcp, request.param, 0, host="127.0.0.1"))
    return f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"


@pytest.mark.parametrize("url", [partial(serve, listening=False)], indirect=True)
async def test_a_server_that_answers_no_ping_is_gone(url: str) -> None:
    async with Client(url, limits=QUICK).open(count) as stream:
        with pytest.raises(APIError.Unavailable) as caught:
            await stream.receive()
        assert caught.value.message == "the server was silent for 0.02 s, and for 0.02 s after a ping"
        assert stream.ended == Ended("peer", 1006, caught.value.message)


@pytest.mark.parametrize("url", [partial(serve, listening=True)], indirect=True)
async def test_a_server_that_answers_pings_is_there(url: str) -> None:
    limits = Limits(ping_interval=0.02, ping_timeout=20)
    async with Client(url, limits=limits).open(count, silence_timeout=20) as stream:
        assert await stream.receive() == 3


class Line:
    """A client's byte stream in virtual time, and the pings that it asks for."""

    def __init__(self, limits: Limits) -> None:
        ours, self.server = trio.testing.memory_stream_pair()
        self.pings: list[float] = []
        self.stream = _Stream(ours, None, limits)  # type: ignore[arg-type] # it has no socket to close
        self.stream.head = b"HTTP/1.1 101 "

    def ping(self) -> None:
        self.pings.append(trio.current_time())

    async def established(self) -> None:
        await self.server.send_all(b"HTTP/1.1 101 Yes\r\n\r\n")
        await self.stream.receive_some()
        self.stream.establish(self.ping)


async def test_what_comes_before_the_timeout_is_an_answer_whatever_it_is(autojump_clock: MockClock) -> None:
    line = Line(Limits(ping_interval=20, ping_timeout=10))
    await line.established()
    async with trio.open_nursery() as nursery:

        async def say() -> None:
            for pause in (29, 19, 29):
                await trio.sleep(pause)
                await line.server.send_all(b"x")

        nursery.start_soon(say)
        for expected in (29, 48, 77):
            assert await line.stream.receive_some() == b"x"
            assert line.stream.heard == trio.current_time() == expected
    assert line.pings == [20, 68]
    with pytest.raises(trio.BrokenResourceError):
        await line.stream.receive_some()
    assert trio.current_time() == 77 + 30


async def test_a_server_that_nobody_listens_to_is_not_judged(autojump_clock: MockClock) -> None:
    line = Line(Limits(ping_interval=20, ping_timeout=10))
    await line.established()
    await line.server.send_all(b"x")
    await trio.sleep(1000)
    assert await line.stream.receive_some() == b"x"
    assert line.pings == []


async def test_without_a_heartbeat_a_server_may_be_silent(autojump_clock: MockClock) -> None:
    line = Line(Limits(ping_interval=None))
    await line.established()
    with trio.move_on_after(1e9):
        await line.stream.receive_some()
    assert line.pings == []


@pytest.mark.parametrize("url", [partial(serve, listening=False)], indirect=True)
async def test_a_server_that_takes_no_ping_is_gone(url: str) -> None:
    limits = Limits(ping_interval=0.02, ping_timeout=0.02, send_timeout=20)
    async with Client(url, limits=limits).open_path("/") as stream, trio.open_nursery() as nursery:
        nursery.start_soon(flood, stream)
        with pytest.raises(APIError.Unavailable, match="silent for 0"):
            await stream.receive()


async def flood(stream: StreamInOut[Any, Any]) -> None:
    """Send more than the kernel holds, until the stream has ended."""
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send("x" * 500_000)


async def test_what_a_server_says_is_heard_while_it_takes_nothing(nursery: trio.Nursery) -> None:
    speak = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        protocol = ServerProtocol(subprotocols=["streamrt.v1"])  # type: ignore[list-item]
        protocol.receive_data(await stream.receive_some())
        [request] = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        await stream.send_all(b"".join(protocol.data_to_send()))
        await speak.wait()
        protocol.send_text(b"7")
        await stream.send_all(b"".join(protocol.data_to_send()))
        await trio.sleep_forever()

    [listener] = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    limits = Limits(ping_interval=0.02, ping_timeout=20, send_timeout=60, close_timeout=0.1)
    client = Client(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}", limits=limits)
    with trio.CancelScope() as scope:
        async with client.open_path("/") as stream, trio.open_nursery() as sending:
            sending.start_soon(flood, stream)
            await wait_all_tasks_blocked(0.1)  # nothing has moved for five times as long as it takes to ask
            speak.set()
            assert await stream.receive() == 7
            scope.cancel()  # else it would be flushed
