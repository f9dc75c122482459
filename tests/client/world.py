"""A server that is the test: each connection of a client waits until the test says what comes of it."""

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import define, field
from trio.testing import wait_all_tasks_blocked

from streamrt import APIError
from streamrt.client.connector import Connector, Target
from streamrt.wire.transport import (
    Disconnected,
    Frame,
    MemoryTransport,
    Payload,
    PullTransport,
    Receiver,
    memory_transports,
)


class Carrier(PullTransport):
    """The client's end in memory, which sees pings too."""

    name = "scripted"
    heard = -math.inf

    def __init__(self, inner: MemoryTransport) -> None:
        self.inner = inner

    def attach(self, receiver: Receiver) -> None:
        self.inner.attach(receiver)

    async def receive(self) -> Sequence[Payload]:
        return await self.inner.receive()

    def send_nowait(self, frame: Frame) -> bool:
        return self.inner.send_nowait(frame)

    async def send(self, frames: Sequence[Frame]) -> None:
        await self.inner.send(frames)

    async def close(self, code: int, reason: str) -> None:
        await self.inner.close(code, reason)

    async def wait_closed(self) -> None:
        await self.inner.wait_closed()

    def abort(self, code: int, reason: str) -> None:
        self.inner.abort(code, reason)


@define(eq=False)
class Dialled:
    """One connection, as the server has it."""

    target: Target
    answered: trio.Event = field(factory=trio.Event)
    dialect: str | None = None
    ours: MemoryTransport = field(init=False)
    carrier: Carrier = field(init=False)

    def __attrs_post_init__(self) -> None:
        theirs, self.ours = memory_transports()
        self.carrier = Carrier(theirs)

    def accept(self, dialect: str = "streamrt.v1") -> None:
        self.dialect = dialect
        self.answered.set()

    async def send(self, *payloads: Any) -> None:
        """Send messages; a dict is a control."""
        for payload in payloads:
            text = json.dumps(payload, separators=(",", ":"))
            await self.ours.send_payload(text.encode() if isinstance(payload, dict) else text)

    async def end(self, code: int = 1006, reason: str = "") -> None:
        """Close, or be gone: also before there is an answer."""
        if code == 1006:
            self.ours.abort()
        else:
            await self.ours.close(code, reason)
        self.answered.set()

    async def taken(self) -> tuple[list[Any], Disconnected | None]:
        """Return what the client has sent since the last time, and its Close."""
        sent: list[Any] = []
        await wait_all_tasks_blocked()
        with trio.move_on_after(0):
            while True:
                try:
                    for payload in await self.ours.receive():
                        kind = "control" if isinstance(payload, bytes) else "message"
                        sent.append({kind: json.loads(payload)})
                except Disconnected as gone:
                    return sent, gone
        return sent, None


class World(Connector):
    """All servers of a test.

    Args:
        accepts: Whether every connection is accepted at once.
    """

    def __init__(self, *, accepts: bool = False) -> None:
        self.accepts = accepts
        self.dialled: list[Dialled] = []

    def __str__(self) -> str:
        return "the world"

    @property
    def server(self) -> Dialled:
        """The newest."""
        return self.dialled[-1]

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[PullTransport, str | None]]:
        dialled = Dialled(target)
        self.dialled.append(dialled)
        if self.accepts:
            dialled.accept()
        with trio.fail_at(target.deadline):
            await dialled.answered.wait()
        if dialled.dialect is None:
            raise APIError.unavailable("there is nobody")
        yield dialled.carrier, dialled.dialect
