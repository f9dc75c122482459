# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""What a type checker knows of handlers. Checked, and never run.

A line with a `type: ignore` is a mistake that must be found: if it is not, the comment is unused, and
that is an error too.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

import trio
from attrs import frozen

from streamrt import (
    APIError,
    App,
    Endpoint,
    Request,
    Service,
    StreamIn,
    StreamInEndpoint,
    StreamInOut,
    StreamInOutEndpoint,
    StreamOut,
    StreamOutEndpoint,
    get_auth_data,
    get_resources,
)


@frozen
class Join:
    room: str


@frozen
class Say:
    text: str


@frozen
class Said:
    by: str
    text: str


@frozen
class Done:
    success: bool


service = Service("test")


# Message, handshake and response types are read from the handler.


@service.stream_in_out("/rooms/{room}", expose=True, auth=True, send_timeout=3)
async def chat(handshake: Join, stream: StreamInOut[Say, Said]) -> None:
    assert_type(handshake.room, str)
    async for message in stream:
        assert_type(message, Say)
        await stream.send(Said("me", message.text))
        await stream.send(message)  # type: ignore[arg-type]
        await stream.send("text")  # type: ignore[arg-type]
    assert_type(await stream.receive(), Say)


@service.stream_in()
async def upload(stream: StreamIn[Say]) -> Done:
    assert_type([message async for message in stream], list[Say])
    await stream.send(Say("no"))  # type: ignore[attr-defined]
    return Done(success=True)


@service.stream_in()
async def take(handshake: Join, stream: StreamIn[Say]) -> None:
    await stream.receive()


@service.stream_out()
async def logs(stream: StreamOut[Said]) -> None:
    await stream.send(Said("me", "hello"))
    await stream.send(Say("hello"))  # type: ignore[arg-type]
    await stream.receive()  # type: ignore[attr-defined]


assert_type(chat, StreamInOutEndpoint[Join, Say, Said])
assert_type(upload, StreamInEndpoint[None, Say, Done])
assert_type(take, StreamInEndpoint[Join, Say, None])
assert_type(logs, StreamOutEndpoint[None, Said])


# A handler that does not fit its decorator is a mistake.


@service.stream_out()  # type: ignore[arg-type]
async def wrong_direction(stream: StreamIn[Say]) -> None: ...


@service.stream_in_out()  # type: ignore[arg-type]
async def half_a_stream(stream: StreamIn[Say]) -> None: ...


@service.stream_in()  # type: ignore[arg-type]
async def too_much_of_a_stream(stream: StreamInOut[Say, Said]) -> None: ...


@service.stream_in()  # type: ignore[arg-type]
def not_async(stream: StreamIn[Say]) -> None: ...


@service.stream_out()  # type: ignore[arg-type]
async def response_of_a_stream_out(stream: StreamOut[Say]) -> Done:
    return Done(success=True)


@service.stream_in_out(timeout=3)  # type: ignore[call-arg]
async def unknown_option(stream: StreamInOut[Say, Said]) -> None: ...


@service.stream_in_out(send_timeout="3")  # type: ignore[arg-type]
async def option_of_another_type(stream: StreamInOut[Say, Said]) -> None: ...


# A decorated handler is still the plain function.


async def call_it(stream: StreamInOut[Say, Said], uploads: StreamIn[Say]) -> None:
    assert_type(await chat(Join("lobby"), stream), None)
    assert_type(await upload(uploads), Done)
    await chat(stream)  # type: ignore[call-arg, arg-type]
    await chat(Say("lobby"), stream)  # type: ignore[arg-type]
    await upload(stream)  # type: ignore[call-overload]


# A function over StreamIn[object] takes any StreamIn, and one over StreamOut[Say] a StreamOut[object].


async def variance(say: StreamIn[Say], anything: StreamOut[object]) -> None:
    wide: StreamIn[object] = say
    narrow: StreamOut[Say] = anything
    receive: trio.abc.ReceiveChannel[Say] = say
    send: trio.abc.SendChannel[Say] = anything
    del wide, narrow, receive, send


# What a handler asks for has the type it asks for.


@frozen
class User:
    name: str


def ask() -> None:
    assert_type(get_auth_data(User), User)
    assert_type(get_resources(User).name, str)
    try:
        raise APIError.not_found("no such room", details={"room": "lobby"})
    except APIError.NotFound as error:
        assert_type(error.message, str)
    raise APIError.teapot("no")  # type: ignore[attr-defined]


async def authenticate(credentials: Join) -> User:
    return User(credentials.room)


@asynccontextmanager
async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[User]:
    nursery.start_soon(trio.sleep_forever)
    yield User("resources")


@asynccontextmanager
async def middleware(request: Request) -> AsyncGenerator[None]:
    assert_type(request.header("host"), str | None)
    yield


app = App(service, auth_handler=authenticate, lifespan=lifespan, middleware=[middleware])
App(authenticate)  # type: ignore[arg-type]
App(service, lifespan=authenticate)  # type: ignore[arg-type]
endpoint: Endpoint = chat
