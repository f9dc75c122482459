"""Who reads a line: the hub, or where that cannot be, a task."""

from __future__ import annotations

from typing import final

import trio

from .hub import Hub
from .line import BROKEN, Line, PlainLine
from .socket import SocketTransport


@final
class HubReading:
    """Reading that the hub does.

    Args:
        hub: The hub.
        line: What it reads.
        transport: What takes what was read.
    """

    def __init__(self, hub: Hub, line: PlainLine, transport: SocketTransport) -> None:
        self._hub = hub
        self._fd = line.fileno()
        self._stopped = False
        hub.add(self._fd, transport)

    def pause(self) -> None:
        """See `Reading.pause`."""
        self._hub.pause(self._fd)

    def resume(self) -> None:
        """See `Reading.resume`."""
        self._hub.resume(self._fd)

    def stop(self) -> None:
        """See `Reading.stop`."""
        if not self._stopped:
            self._stopped = True
            self._hub.remove(self._fd)


@final
class TaskReading:
    """Reading that a task does.

    Args:
        line: What it reads.
        transport: What takes what was read.
    """

    def __init__(self, line: Line, transport: SocketTransport) -> None:
        self._line = line
        self._transport = transport
        self._scope = trio.CancelScope()
        self._going_on = trio.Event()

    def pause(self) -> None:
        """See `Reading.pause`."""
        self._going_on = trio.Event()

    def resume(self) -> None:
        """See `Reading.resume`."""
        self._going_on.set()

    def stop(self) -> None:
        """See `Reading.stop`."""
        self._scope.cancel()

    async def run(self) -> None:
        """Read until it is stopped."""
        with self._scope:
            while True:
                await self._going_on.wait()
                try:
                    data = await self._line.receive()
                except BROKEN:
                    data = b""
                self._transport.take(data)
                await self._transport.answer()
