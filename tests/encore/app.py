"""The app that clients of Encore talk to: each endpoint shows one side of the wire."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import trio
from attrs import define, field, frozen

from streamrt import (
    APIError,
    App,
    Cookie,
    Deflate,
    Ended,
    Header,
    Query,
    Request,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    get_auth_data,
)
from tests.stage import NEVER

HERE = Path(__file__).parent


@frozen
class Word:
    word: str


@frozen
class Part:
    text: str
    done: bool = False


@frozen
class Receipt:
    size: int


@frozen
class Count:
    count: int


@frozen
class How:
    how: str


class Color(Enum):
    RED = "red"


@frozen
class Everything:
    """A handshake with a field of every kind and place."""

    room: str
    rest: str
    plain: str
    number: float
    flag: bool
    ids: list[int]
    color: Color
    renamed: Annotated[str, Query("some-query")]
    name: Annotated[str, Header("x-name")]
    tags: Annotated[list[str], Header("x-tag")]
    absent: str | None = None


@frozen
class Visitor:
    session: Annotated[str, Cookie()]


@frozen
class Credentials:
    authorization: Annotated[str, Header("authorization")]
    realm: str = "home"


@frozen
class User:
    id: str


@define
class Stage:
    """An app, and what its handlers see.

    Args:
        app: The app.
        ended: How each stream of /echo and /late has ended, said in its handler's `finally`.
        echoed: Set when /echo has answered.
        going_on: What /late waits for before it receives.
        heard_late: What it has received then.
        requests: The requests of all streams that were admitted.
    """

    app: App
    ended: trio.MemoryReceiveChannel[Ended | None]
    echoed: trio.Event = field(factory=trio.Event)
    going_on: trio.Event = field(factory=trio.Event)
    heard_late: list[str] = field(factory=lambda: list[str]())
    requests: list[Request] = field(factory=lambda: list[Request]())


def make_stage() -> Stage:
    api = Service("encore")
    ends, ended = trio.open_memory_channel[Ended | None](10)

    # What waits for the peer's answer to a Close never gives up: a client that hangs, hangs.
    @api.stream_in_out("/echo", expose=True, close_timeout=NEVER)
    async def echo(stream: StreamInOut[Word, Word]) -> None:
        try:
            async for message in stream:
                await stream.send(message)
                stage.echoed.set()
        finally:
            ends.send_nowait(stream.ended)

    @api.stream_in_out("/packed", expose=True, compression=Deflate())
    async def packed(stream: StreamInOut[Word, Word]) -> None:
        async for message in stream:
            await stream.send(message)

    @api.stream_in_out("/late", expose=True, max_message_bytes=2 << 20)
    async def late(stream: StreamInOut[Word, Word]) -> None:
        try:
            await stream.send(Word("here"))
            await stage.going_on.wait()
            async for message in stream:
                stage.heard_late.append(message.word)
        finally:
            ends.send_nowait(stream.ended)

    @api.stream_in("/upload", expose=True, close_timeout=NEVER)
    async def upload(stream: StreamIn[Part]) -> Receipt:
        size = 0
        async for part in stream:
            size += len(part.text)
            if part.done:
                break
        return Receipt(size)

    @api.stream_out("/rows/{count}", expose=True, close_timeout=NEVER)
    async def rows(handshake: Count, stream: StreamOut[Count]) -> None:
        for count in range(handshake.count):
            await stream.send(Count(count))

    @api.stream_out(expose=True)
    async def greet(stream: StreamOut[Word]) -> None:
        await stream.send(Word("hello"))

    @api.stream_out("/handshake/{room}/{rest:path}", expose=True)
    async def handshake(handshake: Everything, stream: StreamOut[Everything]) -> None:
        await stream.send(handshake)

    @api.stream_out("/quiet", expose=True)
    async def quiet(stream: StreamOut[Word]) -> None:
        await trio.sleep_forever()

    @api.stream_out("/session", expose=True)
    async def session(handshake: Visitor, stream: StreamOut[Word]) -> None:
        await stream.send(Word(handshake.session))

    @api.stream_out("/members", expose=True, auth=True)
    async def members(stream: StreamOut[User]) -> None:
        await stream.send(get_auth_data(User))

    @api.stream_out("/private")
    async def private(stream: StreamOut[Word]) -> None:
        raise AssertionError("nobody gets here")

    @api.stream_in_out("/ends/{how}", expose=True, max_message_bytes=100)
    async def end(handshake: How, stream: StreamInOut[Word, Word]) -> None:
        await stream.send(Word("before"))
        match handshake.how:
            case "return":
                return
            case "error":
                raise APIError.not_found("no such room")
            case "long":
                raise APIError.not_found("ж" * 100)
            case "bug":
                raise RuntimeError("nobody else's business")
            case _:
                await stream.receive()

    async def authenticate(credentials: Credentials) -> User:
        if credentials.authorization == "nobody":
            raise APIError.unauthenticated("nobody is nobody")
        return User(f"{credentials.authorization}@{credentials.realm}")

    @asynccontextmanager
    async def note(request: Request) -> AsyncGenerator[None]:
        stage.requests.append(request)
        yield

    stage = Stage(App(api, auth_handler=authenticate, middleware=[note], fallback=pages), ended)
    return stage


FILES = {
    "/page": ("text/html", b"<!doctype html><link rel=icon href=data:,><title>A page</title>"),
    **{f"/{name}": ("text/javascript", (HERE / name).read_bytes()) for name in ("client.mjs", "scenarios.mjs")},
}


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Serve the page that a browser plays scenarios in, which may come from anywhere."""
    kind, body = FILES[scope["path"]]
    headers = [(b"content-type", kind.encode()), (b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
