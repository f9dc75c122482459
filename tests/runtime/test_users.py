"""The streams of a user, and their end, in one process and in several."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import APIError, App, Client, EncodeError, Ended, OpenStream, Service, StreamInOut, StreamOut, testing
from streamrt import get_client as client_of_the_app
from streamrt.runtime.broker import Channel, Publication
from streamrt.runtime.users import Users
from streamrt.wire.dialect import STREAMRT_V1
from streamrt.wire.transport import Frame
from tests.conftest import Carrier
from tests.contracts.shared import SharedBroker, Switchboard
from tests.topics.test_topic import SlowBroker

settled = wait_all_tasks_blocked
BANNED = APIError.permission_denied("banned", details={"until": "noon"})


@attrs.frozen
class User:
    id: str


@attrs.frozen
class Credentials:
    token: str | None = None


async def authenticate(credentials: Credentials) -> User:
    return User(credentials.token or "")


@attrs.define(eq=False)
class Site:
    """An app whose handlers wait, and note how they end."""

    broker: SharedBroker | None = None
    options: dict[str, Any] = attrs.Factory(lambda: {"user": lambda user: user.id})
    events: list[Any] = attrs.Factory(list[Any])
    app: App = attrs.field(init=False)
    talk: Any = attrs.field(init=False)
    outer: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        service = Service("site")

        @service.stream_in_out("/talk", expose=True)
        async def talk(stream: StreamInOut[int, int]) -> None:
            try:
                async for number in stream:
                    if number == 0:
                        await self.app.disconnect("ada", BANNED)
                    await stream.send(number)
            finally:
                self.events.append(stream.ended)

        @service.stream_in_out("/linger", expose=True)
        async def linger(stream: StreamInOut[int, int]) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.events.append(stream.ended)

        @service.stream_out("/outer", expose=True)
        async def outer(stream: StreamOut[int]) -> None:
            async with client_of_the_app().open(talk):
                await trio.sleep_forever()

        self.talk = talk
        self.outer = outer
        self.app = App(service, auth_handler=authenticate, broker=self.broker, **self.options)

    def client(self, user: str | None = "ada") -> Any:
        return self.app.client(auth_data=None if user is None else User(user))


@asynccontextmanager
async def running(switchboard: Switchboard) -> AsyncGenerator[Site]:
    """Run an app in a process of its own."""
    site = Site(broker=SharedBroker(switchboard))
    async with site.client(None):
        yield site


@pytest.fixture
def switchboard() -> Switchboard:
    return Switchboard()


@pytest.fixture
async def one(switchboard: Switchboard) -> AsyncGenerator[Site]:
    async with running(switchboard) as one:
        yield one


@pytest.fixture
async def other(switchboard: Switchboard) -> AsyncGenerator[Site]:
    async with running(switchboard) as other:
        yield other


def broker_of(site: Site) -> SharedBroker:
    assert site.broker is not None
    return site.broker


def refused_as_banned(error: pytest.ExceptionInfo[APIError.PermissionDenied]) -> None:
    assert (error.value.message, error.value.details) == ("banned", {"until": "noon"})


# One process.


async def test_the_open_streams_of_a_user_are_listed_oldest_first() -> None:
    site = Site()
    begin = datetime.now(UTC)
    async with site.client() as ada, site.client("bob") as bob, site.client(None) as nobody:
        assert await site.app.streams("ada") == []
        async with ada.open(site.talk) as first, nobody.open(site.talk), bob.open(site.talk):
            async with ada.open(site.talk):
                await settled()
                streams = await site.app.streams("ada")
                assert [stream.endpoint for stream in streams] == ["site.talk"] * 2
                assert streams[0].connection_id < streams[1].connection_id
                assert begin <= streams[0].since <= streams[1].since <= datetime.now(UTC)
                assert streams[0].process == streams[1].process
            await first.send(1)
            assert await first.receive() == 1
            assert await site.app.streams("ada") == streams[:1]
            assert len(await site.app.streams("bob")) == 1
    assert site.app.host.users._streams == {}


async def test_a_user_is_disconnected_everywhere_and_nobody_else_is() -> None:
    site = Site()
    async with site.client() as ada, site.client("bob") as bob:
        async with ada.open(site.talk) as one, ada.open(site.talk) as other, bob.open(site.talk) as third:
            await settled()
            assert await site.app.disconnect("ada", BANNED) == 2
            assert await site.app.streams("ada") == []
            for stream in (one, other):
                with pytest.raises(APIError.PermissionDenied) as error:
                    await stream.receive()
                refused_as_banned(error)
            assert site.events == [Ended("runtime", 4403, "permission_denied: banned")] * 2
            await third.send(1)
            assert await third.receive() == 1
            assert await site.app.disconnect("ada", BANNED) == 0
            async with ada.open(site.talk) as again:  # which was opened later
                await again.send(1)
                assert await again.receive() == 1


@pytest.mark.parametrize("subprotocol", ["encore-ws", STREAMRT_V1])
async def test_the_peer_is_told_with_the_close_and_in_our_dialect_before_it(subprotocol: str) -> None:
    site = Site()
    async with testing.connect(site.app, "/talk", auth_data=User("ada"), subprotocols=[subprotocol]) as peer:
        await settled()
        assert await site.app.disconnect("ada", BANNED) == 1
        if subprotocol == STREAMRT_V1:
            control = await peer.receive()
            assert isinstance(control, bytes)
            assert b'"type":"error","code":"permission_denied","message":"banned"' in control
        assert await peer.closed() == Ended("peer", 4403, "permission_denied: banned")


async def test_a_peer_that_reads_nothing_is_disconnected_like_others(autojump_clock: MockClock) -> None:
    site = Site()
    async with testing.no_tasks_left():
        async with testing.connect(site.app, "/talk", auth_data=User("ada"), stalled=True) as peer:
            await peer.send("1")
            await settled()
            assert await site.app.disconnect("ada", BANNED) == 1
            assert await site.app.streams("ada") == []
            await settled()
            assert site.events == [Ended("runtime", 4403, "permission_denied: banned")]


async def test_a_handler_whose_peer_is_gone_has_no_more_grace(autojump_clock: MockClock) -> None:
    site = Site()
    async with testing.connect(site.app, "/linger", auth_data=User("ada")) as peer:
        await settled()
        peer.vanish()
        await settled()
        assert len(await site.app.streams("ada")) == 1
        assert await site.app.disconnect("ada", BANNED) == 0
        await settled()
        assert [ended.by for ended in site.events] == ["peer"]
        assert trio.current_time() == 0


async def test_streams_that_handlers_open_are_not_listed_and_end_with_those_that_opened_them() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.outer) as stream:
        await settled()
        assert [stream.endpoint for stream in await site.app.streams("ada")] == ["site.outer"]
        assert await site.app.disconnect("ada", BANNED) == 1
        with pytest.raises(APIError.PermissionDenied):
            await stream.receive()


async def test_a_handler_may_disconnect_its_own_user() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.talk) as one, ada.open(site.talk) as other:
        await settled()
        await one.send(0)
        for stream in (one, other):
            with pytest.raises(APIError.PermissionDenied):
                await stream.receive()


async def test_what_is_internal_is_not_told() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.talk) as stream:
        await settled()
        await site.app.disconnect("ada", APIError.internal("a secret"))
        with pytest.raises(APIError.Internal) as error:
            await stream.receive()
    assert "secret" not in str(error.value)


async def test_whatever_carries_it_a_stream_is_listed_and_disconnected(carrier: Carrier) -> None:
    site = Site()
    async with carrier.connect(site.app, "/talk?token=ada") as peer:
        await peer.send("1")
        assert await peer.receive() == "1"
        assert len(await site.app.streams("ada")) == 1
        assert await site.app.disconnect("ada", BANNED) == 1
        ended = await peer.closed()
        assert (ended.code, ended.reason) == (4403, "permission_denied: banned")


async def test_asking_and_disconnecting_can_be_cancelled_and_then_nothing_has_happened() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.talk) as stream:
        await settled()
        with trio.CancelScope() as scope:
            scope.cancel()
            await site.app.disconnect("ada", BANNED)
        with trio.CancelScope() as asking:
            asking.cancel()
            await site.app.streams("ada")
        assert (scope.cancelled_caught, asking.cancelled_caught) == (True, True)
        await stream.send(1)
        assert await stream.receive() == 1


async def test_a_hundred_streams_of_users_leave_nothing_behind() -> None:
    site = Site()
    async with testing.no_tasks_left():
        for number in range(100):
            async with site.client(str(number % 10)) as client, client.open(site.talk):
                await settled()
    users = site.app.host.users
    assert users._streams == {}
    assert users._broker._marked == {}  # type: ignore[attr-defined]


# What is wrong.


async def test_an_app_that_does_not_tell_users_apart_says_so() -> None:
    site = Site(options={})
    assert site.app.host._users is None
    async with site.client() as client, client.open(site.talk):
        await settled()
        with pytest.raises(RuntimeError, match=r"does not tell users apart: .* with App\(user="):
            await site.app.streams("ada")


@pytest.mark.parametrize("name", ["", 7, b"ada"])
async def test_a_user_has_a_name_that_is_a_text(name: Any, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(options={"user": lambda _: name})
    async with site.client() as client:
        with pytest.raises(APIError.Internal):
            async with client.open(site.talk):
                pytest.fail("it is open")
    [record] = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == f"App(user=...) is to return the name of a user, or None, and returned {name!r}"
    caplog.clear()


async def test_who_is_no_user_is_let_in_all_the_same() -> None:
    site = Site(options={"user": lambda user: None})
    async with site.client() as client, client.open(site.talk) as stream:
        await stream.send(1)
        assert await stream.receive() == 1
    assert site.app.host.users._streams == {}


async def test_an_app_that_is_not_running_is_not_connected_with_others(switchboard: Switchboard) -> None:
    site = Site(broker=SharedBroker(switchboard))
    with pytest.raises(RuntimeError, match="the app is not running"):
        await site.app.streams("ada")


async def test_an_app_whose_broker_carries_no_marks_does_not_run() -> None:
    with pytest.raises(NotImplementedError, match=r"SlowBroker carries no marks, which presence and App\(user="):
        async with App(user=str, broker=SlowBroker()).client():
            pytest.fail("it runs")


async def test_what_is_no_error_disconnects_nobody() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.talk) as stream:
        await settled()
        with pytest.raises(TypeError, match="disconnected with an APIError, such as permission_denied, not with 'no'"):
            await site.app.disconnect("ada", "no")  # type: ignore[arg-type]
        await stream.send(1)
        assert await stream.receive() == 1


async def test_details_that_are_no_json_are_an_error_but_the_streams_have_ended() -> None:
    site = Site()
    async with site.client() as ada, ada.open(site.talk) as stream:
        await settled()
        with pytest.raises(EncodeError, match="details"):
            await site.app.disconnect("ada", APIError.aborted("over", details={"what": object()}))
        with pytest.raises(APIError.Aborted):
            await stream.receive()


# Several processes.


@asynccontextmanager
async def open_in(*sites: Site) -> AsyncGenerator[list[Any]]:
    """Open a stream of ada's in each."""
    async with AsyncExitStack() as stack:
        streams: list[Any] = []
        for site in sites:
            client: Client = await stack.enter_async_context(site.client())
            streams.append(await stack.enter_async_context(client.open(site.talk)))
        await settled()
        yield streams


async def test_streams_are_listed_and_ended_in_all_processes(
    autojump_clock: MockClock, switchboard: Switchboard, one: Site, other: Site
) -> None:
    async with running(switchboard), open_in(one, other, other) as streams:  # and one process has none
        for site in (one, other):
            listed = await site.app.streams("ada")
            assert len(listed) == len(set(listed)) == 3
            assert {stream.process for stream in listed} == {broker_of(one).process, broker_of(other).process}
        assert await one.app.disconnect("ada", BANNED) == 3
        for stream in streams:
            with pytest.raises(APIError.PermissionDenied) as error:
                await stream.receive()
            refused_as_banned(error)
        assert await other.app.streams("ada") == []
        assert trio.current_time() == 0
        async with open_in(other) as [again]:
            await trio.sleep(100)
            await again.send(1)
            assert await again.receive() == 1
    assert broker_of(one).subscribed == broker_of(other).subscribed == {Channel("streamrt:commands", "")}


@pytest.mark.parametrize("retry_after", [None, 0, 3, -1])
async def test_an_error_is_told_whole_in_other_processes_too(one: Site, other: Site, retry_after: float | None) -> None:
    async with open_in(one, other) as streams:
        await one.app.disconnect(
            "ada", APIError.unavailable("later", details={"a": [1, None]}, retry_after=retry_after)
        )
        for stream in streams:
            with pytest.raises(APIError.Unavailable) as error:
                await stream.receive()
            assert (error.value.message, error.value.details) == ("later", {"a": [1, None]})
            assert error.value.retry_after == (None if retry_after is None else max(0, retry_after))


async def test_a_stream_that_others_do_not_know_of_yet_is_ended_too(one: Site, other: Site) -> None:
    async with open_in(other) as [stream]:
        marks = broker_of(one).marks

        async def none(channel: Channel) -> Any:
            return attrs.evolve(await marks(channel), marks=())

        broker_of(one).marks = none  # type: ignore[method-assign]
        await one.app.disconnect("ada", BANNED)
        with pytest.raises(APIError.PermissionDenied):
            await stream.receive()


async def test_a_process_that_was_killed_is_waited_for_no_longer_than_its_lease(
    autojump_clock: MockClock, one: Site, other: Site
) -> None:
    async with open_in(one, other, other) as streams:
        broker_of(other).kill()
        assert await one.app.disconnect("ada", BANNED) == 1
        assert trio.current_time() == broker_of(one).lease
        with pytest.raises(APIError.PermissionDenied):
            await streams[0].receive()
        assert await one.app.streams("ada") == []


async def test_a_process_whose_connection_is_lost_for_a_moment_is_told_again_and_no_other_is(
    autojump_clock: MockClock, switchboard: Switchboard, one: Site, other: Site
) -> None:
    async with running(switchboard) as third, open_in(one, other, third) as streams, trio.open_nursery() as nursery:
        broker_of(other).cut()
        ended: list[int] = []

        async def disconnect() -> None:
            ended.append(await one.app.disconnect("ada", BANNED))

        nursery.start_soon(disconnect)
        await trio.sleep(1)
        assert [len(site.events) for site in (one, other, third)] == [1, 0, 1]  # and the first does not wait
        async with open_in(third) as [later]:
            broker_of(other).mend()
            await trio.sleep(3)
            assert ended == [3]
            assert [len(site.events) for site in (one, other, third)] == [1, 1, 1]
            await later.send(1)
            assert await later.receive() == 1
        for stream in streams:
            with pytest.raises(APIError.PermissionDenied):
                await stream.receive()


async def test_without_a_connection_the_streams_of_this_process_end_and_the_error_is_raised(
    one: Site, other: Site
) -> None:
    async with open_in(one, other) as streams:
        broker_of(one).cut()
        with pytest.raises(OSError, match="the connection is lost"):
            await one.app.disconnect("ada", BANNED)
        with pytest.raises(APIError.PermissionDenied):
            await streams[0].receive()
        await streams[1].send(1)
        assert await streams[1].receive() == 1


async def test_a_process_that_cannot_answer_has_ended_the_streams_all_the_same(
    autojump_clock: MockClock, one: Site, other: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_in(other) as [stream]:
        publish = broker_of(other).publish

        async def fail(*_: Any) -> None:
            broker_of(other).publish = publish  # type: ignore[method-assign]
            raise OSError("the broker is down")

        broker_of(other).publish = fail  # type: ignore[method-assign]
        assert await one.app.disconnect("ada", BANNED) == 0  # as far as it knows
        assert trio.current_time() == broker_of(one).lease / 3
        with pytest.raises(APIError.PermissionDenied):
            await stream.receive()
    [record] = caplog.records
    assert record.getMessage() == "it cannot be told that streams of a user have ended"
    caplog.clear()


async def test_what_another_version_says_is_logged_and_left_out(one: Site, caplog: pytest.LogCaptureFixture) -> None:
    broker_of(one).mark(Channel("streamrt:user", "ada"), "1", "{}")
    async with open_in(one) as [stream]:
        assert len(await one.app.streams("ada")) == 1
        await broker_of(one).publish(Channel("streamrt:commands", ""), Publication(Frame(b"{}")), None)
        await stream.send(1)
        assert await stream.receive() == 1
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "an open stream cannot be read, and is left out",
        "a message of the topic streamrt:commands cannot be handed to anybody",
    ]
    caplog.clear()


async def test_who_is_cancelled_at_any_checkpoint_of_disconnecting_listens_no_more(
    autojump_clock: MockClock, one: Site, other: Site
) -> None:
    done = 0
    for steps in range(40):
        async with open_in(one, other):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def disconnect() -> None:
                        nonlocal done
                        await one.app.disconnect("ada", BANNED)
                        done += 1

                    nursery.start_soon(disconnect)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await settled()
            for site in (one, other):
                assert broker_of(site).subscribed == {Channel("streamrt:commands", "")}
            told = [len(site.events) - steps for site in (one, other)]
            assert told in ([0, 0], [1, 0], [1, 1])  # whoever tells others has ended its own
            assert told == [1, 1] or done == 0
    assert 0 < done < 40


async def test_a_process_that_restarts_has_another_app_run_and_no_streams(switchboard: Switchboard, one: Site) -> None:
    site = Site(broker=SharedBroker(switchboard))
    seen: list[Users] = []
    for _ in range(2):
        async with site.client(None), open_in(site):
            seen.append(site.app.host.users)
            [stream] = await one.app.streams("ada")
            assert isinstance(stream, OpenStream)
        assert await one.app.streams("ada") == []
    assert seen[0] is not seen[1]
