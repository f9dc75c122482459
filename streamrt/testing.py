"""What a test of streams wants: a peer that misbehaves at will, and a check that nothing is left running.

For a peer that behaves there is `App.client`: in memory, with the credentials or the auth data of your
choice. Both run in virtual time under pytest-trio's `autojump_clock`, so that no test has to wait.

    async def test_a_silent_listener_is_cut_off(autojump_clock):
        async with testing.no_tasks_left(), testing.connect(app, "/logs?rows=100000", stalled=True) as peer:
            assert (await peer.closed()).code == 4429
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import final

import trio

from streamrt.app import App
from streamrt.client.connector import Target, header_lines
from streamrt.client.memory import MemoryConnector
from streamrt.errors import Ended
from streamrt.wire.dialect import ENCORE_WS
from streamrt.wire.transport import Disconnected, MemoryTransport, Payload


@final
class Peer:
    """The other end of a stream, without types and without manners; see `connect`."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self._received: deque[Payload] = deque()
        self.ended: Ended | None = None

    async def send(self, payload: Payload) -> None:
        """Send one message exactly as given: `str` as text, `bytes` as binary.

        Raises:
            trio.BrokenResourceError: The stream has ended.
        """
        try:
            await self._transport.send_payload(payload)
        except Disconnected as gone:
            self._end(gone)
            raise trio.BrokenResourceError(f"the stream has ended: {self.ended}") from None

    async def receive(self) -> Payload:
        """Wait for the next message, as it came.

        Raises:
            trio.EndOfChannel: The stream has ended; `ended` says how.
        """
        if not self._received:
            try:
                self._received.extend(await self._transport.receive())
            except Disconnected as gone:
                self._end(gone)
                raise trio.EndOfChannel from None
        return self._received.popleft()

    async def closed(self) -> Ended:
        """Wait until the other end has closed; messages that come before are thrown away."""
        while True:
            try:
                await self.receive()
            except trio.EndOfChannel:
                assert self.ended is not None
                return self.ended

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close, with any code at all."""
        await self._transport.close(code, reason)

    def vanish(self) -> None:
        """Be gone without a Close, like a phone in a tunnel."""
        self._transport.abort()

    def stall(self) -> None:
        """Take nothing more, like a tab in the background, until `resume`."""
        self._transport.stall()

    def resume(self) -> None:
        """Go on taking."""
        self._transport.resume()

    def _end(self, gone: Disconnected) -> None:
        self.ended = Ended("peer", gone.code, gone.reason)


@asynccontextmanager
async def connect(
    app: App,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    auth_data: object = None,
    stalled: bool = False,
    subprotocols: Sequence[str] = (ENCORE_WS,),
) -> AsyncGenerator[Peer]:
    """Run an app for as long as the block lasts, and connect to it as a peer that is yours to command.

    Leaving the block, the peer vanishes if it has not closed; the handler has ended then.

    Args:
        app: The app.
        url: Path and query: ``/rooms/lobby?since=3``.
        headers: Header names and values.
        auth_data: Who calls, instead of what the auth handler would make of the headers.
        stalled: Whether the peer takes nothing from the first message on, until `Peer.resume`.
        subprotocols: What it offers. With ``streamrt.v1``, `bytes` that it sends and receives are controls.

    Raises:
        APIError: The app refused.
    """
    path, _, query = url.partition("?")
    target = Target(path=path, query_string=query, headers=header_lines(headers))
    connector = MemoryConnector(app.host, private=True, auth_data=auth_data, stalled=stalled, subprotocols=subprotocols)
    async with app.host.running(), connector.connect(target) as (transport, _):
        try:
            yield Peer(transport)
        finally:
            transport.abort()


@asynccontextmanager
async def no_tasks_left(seconds: float = 60) -> AsyncGenerator[None]:
    """Fail when the block has started tasks that are still there when it is left.

    Args:
        seconds: How long they may take to end, once the block is left. In virtual time that costs nothing.

    Raises:
        AssertionError: Tasks are left; it names them.
    """
    before = set(_tasks())
    yield
    deadline = trio.current_time() + seconds
    while left := set(_tasks()) - before:
        if trio.current_time() >= deadline:
            raise AssertionError(f"tasks are left running: {', '.join(sorted(task.name for task in left))}")
        await trio.sleep(min(0.01, seconds))


def _tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    pending = [root] if root is not None else []
    while pending:
        task = pending.pop()
        yield task
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)
