"""In memory: the client of an app in the same process. Tests and services that call each other use it.

It goes the whole way of a request except for the socket: the handshake is written and read again, the
checks are made, messages are encoded and decoded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import final

import trio

from streamrt.runtime.admission import Admitted, Incoming
from streamrt.runtime.host import Host
from streamrt.runtime.scopes import lone_error
from streamrt.wire.dialect import STREAMRT_V1
from streamrt.wire.transport import MemoryTransport, Transport, memory_transports

from .connector import Connector, Target


@final
class MemoryConnector(Connector):
    """Connects to an app in the same process.

    The handler runs inside the block of `connect`: it is cancelled with it, and it has ended when the
    block is left.

    Args:
        host: What runs the app.
        private: Whether endpoints that are not exposed can be reached.
        auth_data: The caller; None for whoever the app's auth handler finds.
        nested: Whether a handler of the app is calling.
        stalled: Whether the client's end takes nothing until it is told to `resume`.
        subprotocols: What is offered.
    """

    def __init__(
        self,
        host: Host,
        *,
        private: bool,
        auth_data: object,
        nested: bool = False,
        stalled: bool = False,
        subprotocols: Sequence[str] = (STREAMRT_V1,),
    ) -> None:
        self._host = host
        self._private = private
        self._auth_data = auth_data
        self._nested = nested
        self._stalled = stalled
        self._subprotocols = subprotocols

    def __str__(self) -> str:
        return "the app"

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncGenerator[tuple[MemoryTransport, str | None]]:
        """Connect for as long as the block lasts; see `Connector.connect`."""
        ours, theirs = memory_transports()
        if self._stalled:
            ours.stall()
        with lone_error():
            async with trio.open_nursery() as nursery:
                with trio.fail_at(target.deadline):
                    dialect = await nursery.start(self._serve, target, theirs)
                yield ours, dialect

    async def _serve(self, target: Target, transport: Transport, task_status: trio.TaskStatus[str | None]) -> None:
        async def accept(admitted: Admitted) -> Transport:
            task_status.started(admitted.request.dialect)
            return transport

        incoming = Incoming(
            path=target.path,
            query_string=target.query_string,
            headers=target.headers,
            subprotocols=self._subprotocols,
            peer=None,
            transport=MemoryTransport.name,
            private=self._private,
            nested=self._nested,
            auth_data=self._auth_data,
        )
        await self._host.handle(incoming, accept)
