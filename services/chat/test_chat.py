"""What the endpoints of the chat service do, in memory and in virtual time."""
# ruff: noqa: ARG001 - a test asks for virtual time by naming the clock

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from services import app
from streamrt import APIError, Client, Ended, StreamInOut, testing

from .auth import Credentials, User, authenticate
from .endpoints import HERE_SECONDS, MAX_MESSAGE, chat, private_chat, said, whispered
from .members import members as members_of_room
from .types import Here, Join, Members, Named, Room, Said, Say, Whisper, Whispered


@asynccontextmanager
async def joined(client: Client, identity: str) -> AsyncGenerator[StreamInOut[Said, Say]]:
    """Open a tab on the chat, and wait until the handler knows of it."""
    async with client.open(chat, Join(identity)) as tab:
        await wait_all_tasks_blocked()
        yield tab


@asynccontextmanager
async def entered(
    user: str, names: str, since: str | None = None, *, echo: bool = False
) -> AsyncGenerator[StreamInOut[Whispered | Here, Whisper]]:
    """Open a user's tab on a private room, and wait until the handler knows of it."""
    async with (
        app.client(headers={"authorization": f"Bearer {user}"}) as client,
        client.open(private_chat, Room(names, since, echo)) as tab,
    ):
        await wait_all_tasks_blocked()
        yield tab


async def here(tab: StreamInOut[Whispered | Here, Whisper]) -> Here:
    """Return where a member is, which it is told next."""
    told = await tab.receive()
    assert isinstance(told, Here)
    return told


def members() -> int:
    """Return how many there are in the chat for everyone."""
    return said.statistics().subscribers


def rooms() -> dict[str, int]:
    """Return how many there are in each private room."""
    return {room: counted.subscribers for room, counted in whispered.statistics().keys.items()}


# The chat for everyone.


async def test_everyone_but_the_sender_hears_a_message(autojump_clock: MockClock) -> None:
    async with (
        testing.no_tasks_left(),
        app.client() as client,
        joined(client, "1") as ada,
        joined(client, "2") as bob,
        joined(client, "3") as cy,
    ):
        await ada.send(Say("Ada", "hello"))
        assert await bob.receive() == await cy.receive() == Said("1", "Ada", "hello")
        await bob.send(Say("Bob", "hi"))
        assert await ada.receive() == await cy.receive() == Said("2", "Bob", "hi")  # so not "hello", for ada
    assert members() == 0
    assert trio.current_time() == 0


async def test_two_tabs_with_one_id_hear_each_other_and_leave_by_themselves(autojump_clock: MockClock) -> None:
    async with app.client() as client, joined(client, "1") as tab:
        async with joined(client, "1") as other_tab:
            await tab.send(Say("Ada", "from the first"))
            assert await other_tab.receive() == Said("1", "Ada", "from the first")
        await wait_all_tasks_blocked()
        assert members() == 1
        async with joined(client, "2") as bob:
            await bob.send(Say("Bob", "still there?"))
            assert await tab.receive() == Said("2", "Bob", "still there?")
    assert members() == 0


async def test_all_hear_all_messages_in_one_order(autojump_clock: MockClock) -> None:
    async with (
        app.client() as client,
        joined(client, "1") as ada,
        joined(client, "2") as bob,
        joined(client, "3") as cy,
        joined(client, "4") as dee,
        trio.open_nursery() as nursery,
    ):

        async def talk(tab: StreamInOut[Said, Say], name: str) -> None:
            for number in range(1000):
                await tab.send(Say(name, str(number)))

        nursery.start_soon(talk, ada, "Ada")
        nursery.start_soon(talk, bob, "Bob")
        heard = [await cy.receive() for _ in range(2000)]
        assert [await dee.receive() for _ in range(2000)] == heard
        for name in ("Ada", "Bob"):
            assert [message.msg for message in heard if message.username == name] == list(map(str, range(1000)))


async def test_a_member_that_vanishes_does_not_stop_the_others(autojump_clock: MockClock) -> None:
    async with app.client() as client, joined(client, "1") as ada, joined(client, "2") as bob:
        async with testing.connect(app, "/chat?id=3") as gone:
            await wait_all_tasks_blocked()
            assert members() == 3
            gone.vanish()
        assert members() == 2
        await ada.send(Say("Ada", "who was that?"))
        assert await bob.receive() == Said("1", "Ada", "who was that?")


async def test_a_member_that_reads_nothing_is_cut_off_and_nobody_has_waited_for_it(autojump_clock: MockClock) -> None:
    text = "x" * 16_000
    async with testing.no_tasks_left(), app.client() as client, joined(client, "1") as ada:
        async with testing.connect(app, "/chat?id=2", stalled=True) as silent:
            await wait_all_tasks_blocked()
            async with joined(client, "3") as bob, trio.open_nursery() as nursery:

                async def talk() -> None:
                    for _ in range(100):  # more than the 1 MiB that a member may be behind
                        await ada.send(Say("Ada", text))

                nursery.start_soon(talk)
                for _ in range(100):
                    assert (await bob.receive()).msg == text
                assert trio.current_time() == 0
            silent.resume()
            ended = await silent.closed()
            assert (ended.code, ended.reason) == (4429, "resource_exhausted: too far behind topic chat.said")
        assert members() == 1


async def test_a_message_that_is_none_ends_only_its_senders_stream(autojump_clock: MockClock) -> None:
    async with app.client() as client, joined(client, "1") as ada, joined(client, "2") as bob:
        async with testing.connect(app, "/chat?id=3") as odd:
            await odd.send('{"username": "Cy"}')
            assert await odd.closed() == Ended("peer", 4400, "invalid_argument: $.msg: required field is missing")
        await ada.send(Say("Ada", "still here"))
        assert await bob.receive() == Said("1", "Ada", "still here")


async def test_a_message_that_is_too_big_ends_only_its_senders_stream(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/chat?id=3") as loud:
        await loud.send(" " * MAX_MESSAGE + "{}")
        assert await loud.closed() == Ended("peer", 1009, f"a message may have {MAX_MESSAGE} bytes")
    assert members() == 0


async def test_who_brings_no_id_is_refused(autojump_clock: MockClock) -> None:
    with pytest.raises(APIError.InvalidArgument, match="missing query parameter 'id'"):
        async with testing.connect(app, "/chat"):
            pass
    assert members() == 0


# Who is calling.


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/private-chat/ada+bob", {}),
        ("/private-chat/ada+bob?token=", {}),
        ("/private-chat/ada+bob?token=a%20b", {}),
        ("/private-chat/ada+bob", {"authorization": "Bearer"}),
        ("/private-chat/ada+bob", {"authorization": "Basic YWRhOg=="}),
    ],
)
async def test_who_shows_no_usable_token_is_unauthenticated(
    autojump_clock: MockClock, path: str, headers: dict[str, str]
) -> None:
    with pytest.raises(APIError.Unauthenticated):
        async with testing.connect(app, path, headers=headers):
            pass
    assert not rooms()


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/private-chat/ada+bob", {"authorization": "Bearer ada"}),
        ("/private-chat/ada+bob?token=ada", {}),
        ("/private-chat/ada%2Bbob?token=ada", {}),
    ],
)
async def test_a_token_is_taken_from_the_header_or_from_the_query(
    autojump_clock: MockClock, path: str, headers: dict[str, str]
) -> None:
    async with testing.connect(app, path, headers=headers):
        await wait_all_tasks_blocked()
        assert rooms() == {"ada+bob": 1}
    assert not rooms()


async def test_a_bad_token_does_not_keep_anybody_out_of_the_open_chat(autojump_clock: MockClock) -> None:
    async with testing.connect(app, "/chat?id=1&token=a%20b"):
        await wait_all_tasks_blocked()
        assert members() == 1


async def test_the_auth_handler_is_a_plain_function() -> None:
    assert await authenticate(Credentials(authorization="bearer ada")) == User("ada")
    assert await authenticate(Credentials(token="ada")) == User("ada")
    with pytest.raises(APIError.Unauthenticated, match="a token is needed"):
        await authenticate(Credentials())


# Private rooms.


async def test_only_those_in_the_room_hear_a_whisper(autojump_clock: MockClock) -> None:
    async with (
        testing.no_tasks_left(),
        entered("ada", "ada+bob") as ada,
        entered("bob", "bob+ada") as bob,  # the same room, whatever the order of the names
        entered("bob", "bob+cy") as elsewhere,
        entered("cy", "bob+cy") as cy,
    ):
        await here(bob)
        await here(elsewhere)
        await ada.send(Whisper("for bob"))
        assert await bob.receive() == Whispered("ada", "for bob")
        await cy.send(Whisper("for bob as well"))
        assert await elsewhere.receive() == Whispered("cy", "for bob as well")
        assert rooms() == {"ada+bob": 2, "bob+cy": 2}
    assert not rooms()


async def test_all_tabs_of_all_members_hear_a_whisper_but_the_one_it_came_from(autojump_clock: MockClock) -> None:
    async with (
        entered("ada", "ada+bob") as ada,
        entered("ada", "ada+bob") as adas_other_tab,
        entered("bob", "ada+bob") as bob,
    ):
        for tab in (ada, adas_other_tab, bob):
            await here(tab)
        await ada.send(Whisper("hello"))
        assert await adas_other_tab.receive() == await bob.receive() == Whispered("ada", "hello")
        await bob.send(Whisper("hi"))
        assert await ada.receive() == Whispered("bob", "hi")


async def test_who_asks_for_it_hears_its_own_whispers_between_those_of_others(autojump_clock: MockClock) -> None:
    async with entered("ada", "ada+bob", echo=True) as ada, entered("bob", "ada+bob") as bob:
        for tab in (ada, bob):
            await here(tab)
        await ada.send(Whisper("hello", "1"))
        assert await bob.receive() == Whispered("ada", "hello", "1")
        await bob.send(Whisper("hi"))
        await wait_all_tasks_blocked()
        await ada.send(Whisper("hello", "1"))  # again: it has the same id, and whoever knows that shows it once
        said = [await ada.receive() for _ in range(3)]
    assert said == [Whispered("ada", "hello", "1"), Whispered("bob", "hi"), Whispered("ada", "hello", "1")]


async def test_a_room_is_not_for_those_who_are_not_named_in_it(autojump_clock: MockClock) -> None:
    async with app.client(auth_data=User("eve")) as client, client.open(private_chat, Room("ada+bob")) as stream:
        with pytest.raises(APIError.PermissionDenied, match=r"the room ada\+bob is not for eve"):
            await stream.receive()
    assert not rooms()


async def test_a_room_is_gone_with_its_last_member_however_that_one_leaves(autojump_clock: MockClock) -> None:
    async with testing.no_tasks_left(), testing.connect(app, "/private-chat/ada+bob?token=ada") as ada:
        async with testing.connect(app, "/private-chat/ada+bob?token=bob") as bob:
            await bob.close()
            await bob.closed()
            await wait_all_tasks_blocked()
            assert rooms() == {"ada+bob": 1}
        ada.vanish()
        await wait_all_tasks_blocked()
        assert not rooms()
        assert trio.current_time() == 0


async def test_a_whisper_that_is_none_ends_only_its_senders_stream(autojump_clock: MockClock) -> None:
    async with entered("ada", "ada+bob"), testing.connect(app, "/private-chat/ada+bob?token=bob") as odd:
        await odd.send("{}")
        assert await odd.closed() == Ended("peer", 4400, "invalid_argument: $.msg: required field is missing")
        assert rooms() == {"ada+bob": 1}


# Who joins late, and who comes back.


async def test_who_joins_late_hears_what_was_said_if_it_asks_for_that(autojump_clock: MockClock) -> None:
    async with entered("ada", "ada+bob") as ada:
        for number in range(10):
            await ada.send(Whisper(str(number)))
    async with entered("bob", "ada+bob", since="oldest") as bob, entered("bob", "ada+bob") as incurious:
        assert [await bob.receive() for _ in range(10)] == [Whispered("ada", str(number)) for number in range(10)]
        assert (await here(bob)).recovered
        assert not (await here(incurious)).recovered


async def test_a_member_is_told_where_it_is_when_that_has_changed(autojump_clock: MockClock) -> None:
    async with entered("ada", "ada+bob") as ada, entered("bob", "ada+bob") as bob:
        places = [await here(bob)]
        await trio.sleep(10 * HERE_SECONDS)
        await ada.send(Whisper("still there?"))
        assert await bob.receive() == Whispered("ada", "still there?")
        places.append(await here(bob))
        assert places[0] != places[1]
        assert trio.current_time() == 11 * HERE_SECONDS


async def test_who_comes_back_hears_what_was_said_meanwhile(autojump_clock: MockClock) -> None:
    async with entered("ada", "ada+bob") as ada:
        async with entered("bob", "ada+bob") as bob:
            await ada.send(Whisper("you know this"))
            assert isinstance(await bob.receive(), Here)
            assert await bob.receive() == Whispered("ada", "you know this")
            left_at = (await here(bob)).position
        await ada.send(Whisper("and not this"))
        await wait_all_tasks_blocked()
        async with entered("bob", "ada+bob", left_at) as bob:
            assert await bob.receive() == Whispered("ada", "and not this")
            assert (await here(bob)).recovered


async def test_who_was_cut_off_comes_back_and_has_missed_nothing(autojump_clock: MockClock) -> None:
    url = "/private-chat/ada+bob?token=bob"
    async with entered("ada", "ada+bob") as ada, entered("ada", "ada+bob") as other:
        before = await here(other)
        async with testing.connect(app, url) as bob:
            await wait_all_tasks_blocked()
            bob.stall()
            for number in range(400):
                await ada.send(Whisper(str(number)))
                assert await other.receive() == Whispered("ada", str(number))
            bob.resume()
            ended = await bob.closed()
            assert (ended.code, ended.reason) == (4429, "resource_exhausted: too far behind topic chat.whispered")
        async with entered("bob", "ada+bob", before.position) as tab:
            assert [await tab.receive() for _ in range(400)] == [Whispered("ada", str(number)) for number in range(400)]
            assert (await here(tab)).recovered


@pytest.mark.parametrize("since", ["", "nonsense", "0a1b2c3d.1"])
async def test_who_comes_back_with_a_position_that_is_none_is_told_that_it_has_missed_something(
    autojump_clock: MockClock, since: str
) -> None:
    async with entered("ada", "ada+bob") as ada:
        await ada.send(Whisper("hello"))
        async with entered("bob", "ada+bob", since) as bob:
            assert not (await here(bob)).recovered


# Who is in a private room.


async def test_a_room_tells_who_comes_and_goes_and_nothing_of_tabs_or_reloads(autojump_clock: MockClock) -> None:
    async with (
        app.client(headers={"authorization": "Bearer bob"}) as client,
        client.open(members_of_room, Named("bob+ada")) as told,
    ):
        assert await told.receive() == Members([])
        for _ in range(2):
            async with entered("ada", "ada+bob"), entered("ada", "ada+bob"):
                pass
            await trio.sleep(3)
        async with entered("bob", "ada+bob"):
            assert [await told.receive() for _ in range(3)] == [
                Members(["ada"]),
                Members(["ada", "bob"]),
                Members(["bob"]),
            ]
            assert trio.current_time() == 8
        assert await told.receive() == Members([])


async def test_who_is_not_named_is_not_told_who_is_there(autojump_clock: MockClock) -> None:
    async with (
        app.client(headers={"authorization": "Bearer eve"}) as client,
        client.open(members_of_room, Named("ada+bob")) as told,
    ):
        with pytest.raises(APIError.PermissionDenied, match="the room ada\\+bob is not for eve"):
            await told.receive()
