"""An app for clients in other languages: each endpoint shows one thing that can happen."""

from typing import Annotated

import trio
from attrs import asdict, frozen

from streamrt import (
    APIError,
    App,
    Header,
    History,
    Query,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    Topic,
    get_auth_data,
)


@frozen
class Number:
    value: int


@frozen
class Total:
    total: int


@frozen
class Until:
    end: int


@frozen
class Room:
    room: str


@frozen
class Asked:
    """One field from each place that a request has."""

    name: str
    rest: str
    ids: Annotated[list[int], Query("id[]")]
    words: Annotated[list[str], Header("x-words")]
    trace: Annotated[str, Header()]
    ratio: float = 0.5
    on: bool = True


@frozen
class Answered:
    name: str
    rest: str
    ids: list[int]
    words: list[str]
    trace: str
    ratio: float
    on: bool


@frozen
class Credentials:
    authorization: Annotated[str | None, Header()] = None


@frozen
class User:
    name: str


service = Service("live")
said = Topic("live.said", Number, history=History(messages=100))


@service.stream_in(expose=True)
async def add(stream: StreamIn[Number]) -> Total:
    """Add up what comes, until nothing more does; zero is one too many."""
    total = 0
    async for number in stream:
        if number.value == 0:
            raise APIError.resource_exhausted("nothing is not counted", details={"so far": total}, retry_after=3)
        total += number.value
    return Total(total)


@service.stream_out("/count/{end}", expose=True)
async def count(handshake: Until, stream: StreamOut[Number]) -> None:
    """Count, and then end."""
    for value in range(handshake.end):
        await stream.send(Number(value))


@service.stream_in_out("/rooms/{room}", expose=True)
async def talk(handshake: Room, stream: StreamInOut[Number, Number]) -> None:
    """Tell everything to all in a room, and to who comes back what it has missed."""
    async with said.attach(stream, key=handshake.room):
        async for number in stream:
            await said.publish(number, key=handshake.room)


@service.stream_out(expose=True)
async def wait(stream: StreamOut[Number]) -> None:
    """Say that it has begun, and wait for the client to leave."""
    await stream.send(Number(0))
    await trio.sleep_forever()


@service.stream_in_out(expose=True)
async def echo(stream: StreamInOut[Number, Number]) -> None:
    """Repeat everything, and say how many it were once the client has ended."""
    heard = 0
    async for number in stream:
        heard += 1
        await stream.send(number)
    await stream.send(Number(-heard))


@service.stream_out("/ask/{name}/{rest:path}", expose=True)
async def ask(handshake: Asked, stream: StreamOut[Answered]) -> None:
    """Repeat the handshake."""
    await stream.send(Answered(**asdict(handshake)))


@service.stream_out(expose=True, auth=True)
async def who(stream: StreamOut[User]) -> None:
    """Tell callers who they are."""
    await stream.send(get_auth_data(User))


async def authenticate(credentials: Credentials) -> User:
    """Take the name out of a token."""
    if credentials.authorization is None or not credentials.authorization.startswith("Bearer "):
        raise APIError.unauthenticated("a token is needed", details={"scheme": "Bearer"})
    return User(credentials.authorization.removeprefix("Bearer "))


app = App(service, auth_handler=authenticate)
