"""Endpoints that run elsewhere: declared as a class, and used like those of the server's own modules."""

import re
from typing import Annotated, Any

import pytest
from attrs import frozen

from streamrt import (
    App,
    Service,
    StreamIn,
    StreamInEndpoint,
    StreamInOut,
    StreamInOutEndpoint,
    StreamOut,
    StreamOutEndpoint,
    remote,
)


@frozen
class Room:
    name: str


@frozen
class Say:
    text: str


@frozen
class Said:
    by: str
    text: str


chat = Service("chat")


@chat.stream_in_out("/rooms/{name}", expose=True)
async def talk(handshake: Room, stream: StreamInOut[Say, Said]) -> None:
    async for message in stream:
        await stream.send(Said(handshake.name, message.text))


@chat.stream_in(expose=True)
async def count(stream: StreamIn[Say]) -> int:
    return len([message async for message in stream])


@chat.stream_in(expose=True)
async def take(stream: StreamIn[Say]) -> None:
    async for _ in stream:
        pass


@chat.stream_out(expose=True)
async def listen(stream: StreamOut[Said | None]) -> None:
    await stream.send(Said("nobody", "hello"))
    await stream.send(None)


@chat.stream_out(expose=True)
async def tick(stream: StreamOut[None]) -> None:
    await stream.send(None)


@remote("chat")
class elsewhere:  # noqa: N801 - it stands for the server's module
    talk: Annotated[StreamInOutEndpoint[Room, Say, Said], 7, "/rooms/{name}"]
    count: StreamInEndpoint[None, Say, int]
    take: StreamInEndpoint[None, Say, None]
    listen: StreamOutEndpoint[None, Said | None]
    tick: StreamOutEndpoint[None, None]


async def test_a_client_opens_them_as_if_they_were_the_servers_own() -> None:
    async with App(chat).client(private=False) as client:
        async with client.open(elsewhere.talk, Room("lobby")) as talking:
            await talking.send(Say("hello"))
            assert await talking.receive() == Said("lobby", "hello")
        async with client.open(elsewhere.count) as counting:
            await counting.send(Say("hello"))
            assert await counting.response() == 1
        async with client.open(elsewhere.take) as taking:
            assert await taking.response() is None
        async with client.open(elsewhere.listen) as listening:
            assert [message async for message in listening] == [Said("nobody", "hello"), None]
        async with client.open(elsewhere.tick) as ticking:
            assert [message async for message in ticking] == [None]


@pytest.mark.parametrize("name", ["talk", "count", "take", "listen", "tick"])
def test_they_are_known_as_the_servers_own_are(name: str) -> None:
    declared, own = getattr(elsewhere, name), {of.name: of for of in chat.endpoints}[name]
    for what in ("qualified_name", "path", "handshake", "incoming", "outgoing"):
        assert getattr(declared, what) == getattr(own, what)
    assert type(declared) is type(own)


async def test_they_cannot_be_called() -> None:
    with pytest.raises(TypeError, match=r"^chat\.listen runs elsewhere: open it with a client$"):
        await elsewhere.listen(None)  # type: ignore[arg-type]


def declare(hint: Any) -> None:
    remote("chat")(type("chat", (), {"__annotations__": {"talk": hint}, "__module__": "here"}))


@pytest.mark.parametrize(
    ("hint", "error", "message"),
    [
        (int, TypeError, "expected an endpoint with its types, such as StreamOutEndpoint[None, Message], got int"),
        (Annotated[StreamOutEndpoint, "/talk"], TypeError, "expected an endpoint with its types"),
        (StreamOutEndpoint[Room | None, Say], TypeError, "the handshake is tests.api.test_remote.Room | None"),
        (StreamOutEndpoint[None, object], TypeError, "object is not a type of JSON"),
        (Annotated[StreamOutEndpoint[None, Say], "/{name}"], TypeError, "the path has parameters ('name')"),
        (Annotated[StreamOutEndpoint[None, Say], "talk"], ValueError, ""),
    ],
    ids=["no endpoint", "no types", "handshake", "message", "no handshake", "path"],
)
def test_a_mistake_is_told_with_its_place(hint: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^here\.chat\.talk: .*{re.escape(message)}"):
        declare(hint)
