"""Streams for topics, whose other end the test commands."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from streamrt import Limits, Request, StreamOut
from streamrt.api.request import next_connection_id
from streamrt.errors import CloseCode
from streamrt.runtime.connection import Connection
from streamrt.wire.codec import codec
from streamrt.wire.transport import Disconnected, Frame, Receiver, Transport


@attrs.define(eq=False)
class Ear(Transport):
    """The other end of a stream: it hears everything at once, and nothing while it is stalled."""

    name = "ear"

    heard: list[Any] = attrs.Factory(list[Any])
    room: float = float("inf")
    ended: tuple[int, str] | None = None
    receiver: Receiver | None = None
    _going_on: trio.Event = attrs.Factory(trio.Event)

    def attach(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def stall(self, room: int = 0) -> None:
        """Take so many messages more, and then nothing."""
        self.room = room
        self._going_on = trio.Event()

    def resume(self) -> None:
        self.room = float("inf")
        self._going_on.set()

    def vanish(self) -> None:
        assert self.receiver is not None
        self.receiver.lost(Disconnected(CloseCode.ABNORMAL))
        self.receiver.finish()

    def send_nowait(self, frame: Frame) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.heard.append(int(frame.message))
        return True

    async def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            if not self.send_nowait(frame):
                await self._going_on.wait()
                self.send_nowait(frame)
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str) -> None:
        self.ended = (code, reason)
        await trio.lowlevel.checkpoint()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()

    def abort(self, code: int, reason: str) -> None:
        self._going_on.set()


@asynccontextmanager
async def opened(ear: Ear, limits: Limits | None = None) -> AsyncGenerator[StreamOut[int]]:
    """Open a stream to an ear; the block is its handler."""
    request = Request(path="/", endpoint="test.test", connection_id=next_connection_id(), transport=ear.name)
    limits = Limits() if limits is None else limits
    connection = Connection(ear, request, limits, draining=trio.Event(), side="server", takes_input=False)
    async with connection.open():
        with connection.scope:
            yield StreamOut(connection, codec(int))
