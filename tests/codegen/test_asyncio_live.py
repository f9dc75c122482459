"""The generated asyncio client against real servers, which run in Trio: its event loop is in a thread beside them."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from websockets.typing import Subprotocol

from streamrt import App, Ended, Limits, Service, StreamInOut
from streamrt.codegen import runtime_asyncio
from streamrt.codegen.python_asyncio import generate_client
from tests.codegen import live
from tests.codegen.generated import imported
from tests.conftest import served
from tests.peers import CERTIFICATES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generator[ModuleType]:
    """The module of a client of the app `live`."""
    text = generate_client(live.app, "live", "gen")
    with imported(tmp_path_factory.mktemp("asyncio") / "live_asyncio.py", text) as module:
        yield module


@pytest.fixture
def _encore(generated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer only `encore-ws`, as if the server had no other."""

    def connect(*args: Any, **options: Any) -> Any:
        return original(*args, **{**options, "subprotocols": [Subprotocol("encore-ws")]})

    original = vars(generated)["connect"]
    monkeypatch.setattr(generated, "connect", connect)


async def run(program: Coroutine[Any, Any, None]) -> None:
    """Run a program in an event loop of its own, in a thread; what asyncio warns of is an error."""

    def main() -> None:
        problems: list[dict[str, Any]] = []
        with asyncio.Runner(debug=True) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
            runner.run(limited(program))
        assert not problems

    async def limited(program: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(30):
            await program
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task has outlived its stream"

    await trio.to_thread.run_sync(main)


def keeping_sockets(generated: Any, url: str) -> tuple[Any, list[Any]]:
    """Return what connects, and the list of what it has connected."""
    dialer = generated.StreamDialer(url)
    sockets: list[Any] = []

    async def connect(address: str, headers: Any) -> Any:
        sockets.append(await dialer._connect_websocket(address, headers))
        return sockets[-1]

    return connect, sockets


@pytest.fixture(params=["streamrt.v1", "encore-ws"])
def dialect(request: pytest.FixtureRequest) -> str:
    if request.param == "encore-ws":
        request.getfixturevalue("_encore")
    name: str = request.param
    return name


async def test_messages_come_in_order_and_the_stream_ends_well(generated: Any, dialect: str) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.count(end=1000) as stream:
            assert [message["value"] async for message in stream] == list(range(1000))
            assert await stream.closed() == generated.StreamEnded(1000, "", None)
            assert (stream.dialect, stream.state) == (dialect, "closed")

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_messages_go_both_ways(generated: Any, dialect: str) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.echo() as stream:
            for value in range(10):
                await stream.send({"value": value})
                assert await anext(stream) == {"value": value}
        assert stream.ended == generated.StreamEnded(1000, "", None)

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_after_a_half_close_the_server_still_answers(generated: Any) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.echo() as stream:
            await stream.send({"value": 1})
            await stream.send({"value": 2})
            await stream.send_eof()
            assert [message["value"] async for message in stream] == [1, 2, -2]

    async with served(live.app, seconds=60) as url:
        await run(program(url))


@pytest.mark.usefixtures("_encore")
async def test_encore_ws_has_no_half_close(generated: Any) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.echo() as stream:
            with pytest.raises(generated.StreamError, match=r"^failed_precondition: the server speaks encore-ws"):
                await stream.send_eof()

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_an_upload_is_ended_by_asking_for_the_response(generated: Any) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.add() as upload:
            for value in range(1, 101):
                await upload.send({"value": value})
            assert await upload.response() == {"total": 5050}

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_an_error_comes_with_all_that_belongs_to_it(generated: Any, dialect: str) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.add() as upload:
            await upload.send({"value": 1})
            await upload.send({"value": 0})
            with pytest.raises(generated.StreamError) as raised:
                await upload.response()
        error = raised.value
        assert (error.code, error.message, error.close_code) == ("resource_exhausted", "nothing is not counted", 4429)
        more = ({"so far": 1}, 3) if dialect == "streamrt.v1" else (None, None)
        assert (error.details, error.retry_after) == more

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_a_refusal_tells_why_before_the_stream_begins(generated: Any, dialect: str) -> None:
    async def program(url: str) -> None:
        client = generated.Client(url, headers={"authorization": "Basic ada"})
        async with client.live.who() as stream:
            with pytest.raises(generated.StreamError) as raised:
                await stream.ready()
        assert (raised.value.code, raised.value.close_code) == ("unauthenticated", 4401)
        assert stream.dialect == ""

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_credentials_are_asked_for_again_when_they_are_refused(generated: Any) -> None:
    asked: list[bool] = []

    async def headers(attempt: Any) -> dict[str, str]:
        asked.append(attempt.rejected)
        return {"authorization": "Bearer ada" if attempt.rejected else "Basic ada"}

    async def program(url: str) -> None:
        async with generated.Client(url, headers=headers).live.who(reconnect=generated.Reconnect()) as stream:
            assert await anext(stream) == {"name": "ada"}
        assert asked == [False, True]

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_a_handshake_arrives_as_it_was_given(generated: Any, dialect: str) -> None:
    given = {
        "name": "größe /?#",
        "rest": "a b//c%/e",
        "ids": [1, -2],
        "words": ["one", "two"],
        "trace": "a&b",
        "ratio": 1e21,
        "on": False,
    }

    async def program(url: str) -> None:
        client = generated.Client(url)
        on = given.pop("on")
        async with client.live.ask(**given, on_=on) as stream:  # `on` is an option of streams
            assert await anext(stream) == {**given, "on": on}
        async with client.live.ask(name="a", rest="", trace="t") as stream:
            least = {"name": "a", "rest": "", "ids": [], "words": [], "trace": "t", "ratio": 0.5, "on": True}
            assert await anext(stream) == least

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_a_server_that_is_not_there_is_unavailable(generated: Any) -> None:
    async def program() -> None:
        async with generated.Client("ws://127.0.0.1:1").live.echo() as stream:
            with pytest.raises(generated.StreamError, match=r"^unavailable: there is no connection: "):
                await stream.ready()

    await run(program())


async def test_tls_trusts_whom_it_is_told_to(generated: Any) -> None:
    async def program(url: str) -> None:
        client = generated.Client(url, ssl=CERTIFICATES.trusting)
        async with client.live.count(end=1) as stream:
            assert [message async for message in stream] == [{"value": 0}]
        async with generated.Client(url, ssl=ssl.create_default_context()).live.count(end=1) as stream:
            with pytest.raises(generated.StreamError, match=r"^unavailable: there is no connection: .*CERTIFICATE"):
                await stream.ready()

    async with served(live.app, tls=True, seconds=60) as url:
        await run(program(url))


async def test_a_message_that_is_too_large_is_not_taken(generated: Any) -> None:
    async def program(url: str) -> None:
        client = generated.Client(url, max_message_bytes=10)
        async with client.live.ask(name="a", rest="", trace="t") as stream:
            with pytest.raises(generated.StreamError, match=r"^resource_exhausted: max_message_bytes: "):
                await anext(stream)

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_a_program_that_reads_slowly_loses_nothing(generated: Any) -> None:
    async def program(url: str) -> None:
        async with generated.Client(url).live.count(end=50_000) as stream:
            assert await anext(stream) == {"value": 0}
            assert [message["value"] async for message in stream] == list(range(1, 50_000))

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_pings_of_the_server_are_heard(generated: Any) -> None:
    async def program(url: str) -> None:
        connect, sockets = keeping_sockets(generated, url)
        async with generated.Client(url, connect=connect).live.wait() as stream:
            assert await anext(stream) == {"value": 0}
            [websocket] = sockets
            heard, pinged = websocket.heard, asyncio.Event()

            def hear() -> None:
                heard()
                pinged.set()

            websocket.heard = hear
            await pinged.wait()

    app = App(live.service, auth_handler=live.authenticate, limits=Limits(ping_interval=0.1))
    async with served(app, seconds=60) as url:
        await run(program(url))


async def test_the_server_sees_how_a_block_was_left() -> None:
    service = Service("closing")
    tell, ends = trio.open_memory_channel[Ended | None](2)

    @service.stream_in_out(expose=True)
    async def talk(stream: StreamInOut[int, int]) -> None:
        async for _ in stream:
            pass
        await tell.send(stream.ended)

    async def program(url: str) -> None:
        dialer = runtime_asyncio.StreamDialer(url)
        target = runtime_asyncio.StreamTarget("/closing.talk")
        async with runtime_asyncio.StreamInOut[int, int](dialer, target, {}) as stream:
            await stream.ready()
        with pytest.raises(LookupError):
            async with runtime_asyncio.StreamInOut[int, int](dialer, target, {}) as stream:
                await stream.ready()
                raise LookupError

    async with served(App(service), seconds=60) as url:
        await run(program(url))
        assert [await ends.receive(), await ends.receive()] == [Ended("peer", 1000), Ended("peer", 1001)]


async def test_who_comes_back_hears_what_was_said_meanwhile_once_and_in_order(generated: Any) -> None:
    async def program(url: str) -> None:
        client = generated.Client(url)
        connect, sockets = keeping_sockets(generated, url)
        told: list[Any] = []
        retry = generated.Reconnect(base=0.01)
        returning = generated.Client(url, connect=connect).live.talk(room="größer", reconnect=retry, on=told.append)
        async with returning as ada, client.live.talk(room="größer") as bob:
            await ada.send({"value": 0})
            assert await anext(ada) == {"value": 0}  # now she is there
            for number in range(1, 6):
                await bob.send({"value": 2 * number - 1})
                assert await anext(ada) == {"value": 2 * number - 1}
                sockets[-1].abort()
                await bob.send({"value": 2 * number})
                assert await anext(ada) == {"value": 2 * number}
                assert [of for of in told if not isinstance(of, generated.Lost)] == [
                    generated.Back(),
                    generated.Recovered("live.said", "größer", recovered=True),
                ]
                told.clear()

    async with served(live.app, seconds=60) as url:
        await run(program(url))


async def test_a_stream_comes_back_when_the_server_was_killed(generated: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    served_by = [sys.executable, "-m", "streamrt.cli", "run", "tests.codegen.live:app", "--bind", address]

    @contextmanager
    def server() -> Generator[None]:
        process = subprocess.Popen(served_by, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    async def program() -> None:
        told: asyncio.Queue[Any] = asyncio.Queue()
        retry = generated.Reconnect(base=0.1, cap=0.5)
        client = generated.Client(f"ws://{address}")
        async with client.live.wait(reconnect=retry, on=told.put_nowait) as stream:
            with server():
                assert await anext(stream) == {"value": 0}
                while not told.empty():
                    assert isinstance(told.get_nowait(), generated.Lost)  # it was quicker than the server
            assert (await told.get()).error.code == "unavailable"
            with server():
                while not isinstance(await told.get(), generated.Back):
                    pass
                assert await anext(stream) == {"value": 0}

    await run(program())
