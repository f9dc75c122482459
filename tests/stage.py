"""A stage for peers without manners: an app whose one stream a test plays with them, and a server that holds it."""

import socket
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

import attrs
import pytest
import trio
from hypercorn.config import Config

from streamrt import App, Ended, Header, Service, StreamInOut
from tests.conftest import configured
from tests.peers import SocketPeer, connect_socket

Stream: TypeAlias = StreamInOut[str, str]
Handler: TypeAlias = Callable[[Stream], Awaitable[None]]

NEVER = 1000.0  # seconds that no test takes: who waits for such a limit, hangs

# A ping that is due comes only if there was a sign of life since the one before.
HEARTBEAT = {"ping_interval": 0.05, "ping_timeout": 0.2, "disconnect_grace": 0}
LOST = Ended("peer", 1006)
NO_ANSWER = Ended("peer", 1006, "no answer to a ping within 0.2 s")

BIG = 16 << 20
"""Bytes of a message that no pair of sockets holds on its way to a peer that does not read."""


@attrs.frozen
class Credentials:
    authorization: Annotated[str, Header("authorization")]


AUTHORIZED = {"Authorization": "ada"}


@attrs.define
class Stage:
    """An app with one stream that the test writes the handler of, and an echo beside it.

    Args:
        app: The app.
        began: Set when the handler runs.
        over: Set in its `finally`.
        ended: What its stream said there.
    """

    app: App
    began: trio.Event = attrs.Factory(trio.Event)
    over: trio.Event = attrs.Factory(trio.Event)
    ended: list[Ended | None] = attrs.Factory(lambda: list[Ended | None]())


def stage(
    handler: Handler, auth_handler: Callable[[Credentials], Awaitable[str]] | None = None, /, **limits: object
) -> Stage:
    service = Service("test")

    @service.stream_in_out("/stream", expose=True, **limits)  # type: ignore[arg-type]
    async def stream(stream: StreamInOut[str, str]) -> None:
        staged.began.set()
        try:
            await handler(stream)
        finally:
            staged.ended.append(stream.ended)
            staged.over.set()

    @service.stream_in_out("/echo", expose=True)
    async def echo(stream: StreamInOut[str, str]) -> None:
        await echoing(stream)

    staged = Stage(App(service, auth_handler=auth_handler))
    return staged


# Handlers.


async def echoing(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def waiting(stream: Stream) -> None:
    await trio.sleep_forever()


async def flooding(stream: Stream) -> None:
    while True:
        await stream.send("x" * 1000)


async def returning(stream: Stream) -> None:
    pass


# The server.


def listening(*, send_buffer: int, tls: bool = False) -> Config:
    """Configure a server for a crowd, with small buffers: accepted sockets inherit the listener's."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    return configured(tls=tls, bind=[f"fd://{listener.detach()}"])


# Peers.


async def greets(url: str) -> None:
    """Assert that a good peer is served."""
    async with connect_socket(url + "/echo") as peer:
        for count in range(20):
            await peer.send(f'"{count}"')
            assert await peer.receive() == f'"{count}"'


def stop_reading(peer: SocketPeer) -> None:
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # leaves the other end little to fill


async def expect_reset(peer: SocketPeer) -> None:
    with pytest.raises(ConnectionResetError):
        while await peer.socket.recv(65536):
            pass
