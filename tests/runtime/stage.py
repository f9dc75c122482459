"""Connections, whose transport the test commands."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio
import trio.testing

from streamrt import Limits, Request
from streamrt.runtime.connection import Connection
from streamrt.wire.transport import (
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
    Receiver,
    Transport,
    memory_transports,
)

REQUEST = Request(path="/", endpoint="test.test", connection_id=0, transport="test")


@attrs.define
class Recorder(PullTransport):
    """A transport that notes what is asked of it, and takes as much as it is told to.

    Args:
        incoming: The batches that `receive` returns, one after the other; then it waits for ever.
        takes_nowait: How many frames `send_nowait` takes.
    """

    name = "recorder"

    incoming: list[list[Payload]] = attrs.Factory(list)
    takes_nowait: int = 0
    calls: list[Any] = attrs.Factory(list)
    going_on: trio.Event = attrs.Factory(trio.Event)

    async def receive(self) -> Sequence[Payload]:
        self.calls.append("receive")
        if not self.incoming:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return self.incoming.pop(0)

    def send_nowait(self, frame: Frame) -> bool:
        if self.takes_nowait == 0:
            return False
        self.takes_nowait -= 1
        self.calls.append(("send_nowait", frame.message))
        return True

    async def send(self, frames: Sequence[Frame]) -> None:
        self.calls.append(("send", [frame.message for frame in frames]))
        await self.going_on.wait()

    async def close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self, code: int, reason: str) -> None:
        self.calls.append(("abort", code, reason))


def connect(
    transport: Transport, side: Literal["server", "client"] = "server", limits: Limits | None = None, **options: Any
) -> Connection:
    options = {"takes_input": True, **options}
    limits = Limits() if limits is None else limits
    return Connection(transport, REQUEST, limits, draining=trio.Event(), side=side, **options)


@asynccontextmanager
async def pair() -> AsyncGenerator[tuple[Connection, MemoryTransport]]:
    ours, theirs = memory_transports()
    connection = connect(ours)
    async with connection.open():
        yield connection, theirs


@attrs.define
class Deliverer(Transport):
    """A transport that delivers when the test says so, and notes what is asked of it.

    Args:
        takes_nowait: Whether `send_nowait` takes what it is given.
    """

    name = "deliverer"

    takes_nowait: bool = True
    calls: list[Any] = attrs.Factory(list)
    going_on: trio.Event = attrs.Factory(trio.Event)
    receiver: Receiver | None = None

    def attach(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def allow(self, room: int) -> None:
        self.calls.append(("allow", room))

    @property
    def round_trip_time(self) -> float | None:
        return 0.5

    def send_nowait(self, frame: Frame) -> bool:
        if self.takes_nowait:
            self.calls.append(frame.payload)
        return self.takes_nowait

    async def send(self, frames: Sequence[Frame]) -> None:
        self.calls.append([frame.payload for frame in frames])
        await self.going_on.wait()

    async def close(self, code: int, reason: str) -> None:
        self.calls.append(("close", code, reason))
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self, code: int, reason: str) -> None:
        self.calls.append("abort")


@asynccontextmanager
async def delivering(
    limits: Limits | None = None, *, takes_nowait: bool = True, **options: Any
) -> AsyncGenerator[tuple[Connection, Deliverer, Receiver]]:
    transport = Deliverer(takes_nowait)
    transport.going_on.set()
    connection = connect(transport, limits=limits, **options)
    async with connection.open():
        assert transport.receiver is not None
        yield connection, transport, transport.receiver
