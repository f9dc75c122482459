"""The app's resources, and the streams that it holds."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from streamrt import APIError, App, Client, Service, StreamOut, get_resources, testing
from tests.asgi import call_websocket
from tests.conftest import Carrier, served


@attrs.define
class Database:
    queries: int = 0
    open: bool = True


def app_with_database(events: list[str]) -> App:
    service = Service("test")

    @service.stream_out("/count", expose=True)
    async def count(stream: StreamOut[int]) -> None:
        database = get_resources(Database)
        assert database.open
        database.queries += 1
        await stream.send(database.queries)

    @service.stream_out("/wait", expose=True)
    async def wait(stream: StreamOut[int]) -> None:
        database = get_resources(Database)
        try:
            await trio.sleep_forever()
        finally:
            events.append("the stream is over" if database.open else "the stream is over, too late")

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[Database]:
        events.append("entered")
        nursery.start_soon(trio.sleep_forever)
        database = Database()
        try:
            yield database
        finally:
            database.open = False
            events.append("left")

    return App(service, lifespan=lifespan)


async def test_handlers_reach_what_the_lifespan_yielded(carrier: Carrier) -> None:
    events: list[str] = []
    async with carrier.client(app_with_database(events)) as client:
        for expected in (1, 2):
            async with client.open_path("/count") as stream:
                assert await stream.receive() == expected
    assert events[0] == "entered"


async def test_the_lifespan_is_left_after_the_last_stream(autojump_clock) -> None:
    events: list[str] = []
    async with testing.connect(app_with_database(events), "/wait"):
        pass
    assert events == ["entered", "the stream is over", "left"]


async def test_clients_side_by_side_share_one_lifespan(autojump_clock) -> None:
    events: list[str] = []
    app = app_with_database(events)

    async def use(seconds: float) -> None:
        async with app.client() as client, client.open_path("/wait"):
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, 1)  # the first holds the lifespan, and waits until the second is done
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(use, 2)
    assert events == ["entered", "the stream is over", "the stream is over", "left"]
    assert trio.current_time() == 2


async def test_a_lifespan_that_fails_under_several_blocks_leaves_an_app_that_can_run_again(autojump_clock) -> None:
    fails = True

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[Database]:
        async def fail() -> None:
            await trio.sleep(1)
            raise RuntimeError("the feed is gone")

        if fails:
            nursery.start_soon(fail)
        yield Database()

    service = Service("test")

    @service.stream_out("/hello")
    async def hello(stream: StreamOut[int]) -> None:
        await stream.send(get_resources(Database).queries)

    app = App(service, lifespan=lifespan)

    async def guest() -> None:
        async with app.client() as client:
            await trio.sleep(2)
            with pytest.raises(APIError.Unavailable, match="the app is not running"):
                async with client.open(hello):
                    pass

    async with trio.open_nursery() as nursery:
        with pytest.raises(RuntimeError, match="the feed is gone"):
            async with app.client():
                nursery.start_soon(guest)
                await trio.sleep_forever()
    fails = False
    for _ in range(2):
        async with app.client() as client, client.open(hello) as stream:
            assert await stream.receive() == 0


async def test_an_app_can_run_again(autojump_clock) -> None:
    events: list[str] = []
    app = app_with_database(events)
    for _ in range(2):
        async with testing.connect(app, "/count") as peer:
            assert await peer.receive() == "1"
    assert events == ["entered", "left"] * 2


async def test_an_app_with_a_lifespan_that_is_not_running_refuses() -> None:
    said = await call_websocket(app_with_database([]), "/count")
    assert said[0]["status"] == 503
    assert b"the app is not running" in said[1]["body"]


async def test_a_background_task_that_fails_ends_the_server_with_its_error() -> None:
    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        async def fail() -> None:
            await failing.wait()
            raise RuntimeError("the feed is gone")

        nursery.start_soon(fail)
        yield

    failing = trio.Event()
    with pytest.raises(RuntimeError, match="the feed is gone"):
        async with served(App(lifespan=lifespan)):
            failing.set()
            await trio.sleep_forever()


async def test_a_lifespan_that_fails_to_start_ends_the_server_with_its_error() -> None:
    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[None]:
        raise RuntimeError("no database")
        yield

    with pytest.raises(RuntimeError, match="no database"):
        async with served(App(lifespan=lifespan)):
            pass


async def test_an_in_memory_client_beside_a_server_shares_its_resources() -> None:
    events: list[str] = []
    app = app_with_database(events)
    async with served(app) as url, app.client() as inside:
        async with inside.open_path("/count") as stream:
            assert await stream.receive() == 1
        async with Client(url).open_path("/count") as stream:
            assert await stream.receive() == 2
        with pytest.raises(APIError.NotFound):
            async with Client(url).open_path("/nowhere"):
                pass
    assert events == ["entered", "left"]


async def test_blocks_that_begin_together_enter_one_lifespan(autojump_clock) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[Database]:
        await trio.sleep(1)
        events.append("entered")
        try:
            yield Database()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            events.append("left")

    app = App(lifespan=lifespan)

    async def use(seconds: float) -> None:
        async with app.client():
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, 1)
        nursery.start_soon(use, 5)
    assert events == ["entered", "left"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, 1)
        await trio.sleep(2.5)  # the lifespan is just being left: a block that begins now has one of its own
        nursery.start_soon(use, 1)
    assert events == ["entered", "left"] * 3


async def test_a_first_block_that_is_cancelled_cuts_off_the_streams_of_others(autojump_clock) -> None:
    events: list[str] = []
    app = app_with_database(events)

    async def guest() -> None:
        async with testing.connect(app, "/wait") as peer:
            assert (await peer.closed()).code == 1012

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            async with app.client():
                nursery.start_soon(guest)
                await trio.sleep_forever()
    assert trio.current_time() == 1


async def test_the_first_block_waits_for_streams_and_for_other_blocks(autojump_clock) -> None:
    left_at: list[float] = []
    app = app_with_database([])

    async def hold(seconds: float) -> None:
        async with app.host.running():
            await trio.sleep(seconds)

    async def first() -> None:
        async with app.client():
            await trio.sleep(1)
        left_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(hold, 3)
    assert left_at == [3]
