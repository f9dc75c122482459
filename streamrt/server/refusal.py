"""Refusals that a browser can read: behind the upgrade, in the dialect ``streamrt.v1``.

A page is told nothing of a failed upgrade but that it has failed. So who speaks the dialect is let in for as long as it
takes to say why not. Such a connection is no stream: it has no handler, no task of its own and no place among the
streams that are counted; what comes in is thrown away, and `close_timeout` is all the time that it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import final

import trio

from streamrt.errors import APIError, CloseCode
from streamrt.runtime.admission import Incoming
from streamrt.wire.control import error_frame
from streamrt.wire.dialect import REFUSALS, STREAMRT_V1
from streamrt.wire.transport import Disconnected, Frame, Payload, Transport


def is_in_band(incoming: Incoming) -> bool:
    """Whether a client is to be refused behind the upgrade."""
    return STREAMRT_V1 in incoming.subprotocols and (REFUSALS, "http") not in incoming.headers


async def refuse(transport: Transport, error: APIError, seconds: float) -> None:
    """Tell a client behind the upgrade why there is no stream, and close.

    Args:
        transport: What would have carried it.
        error: Why not.
        seconds: What it may take.
    """
    try:
        with trio.move_on_after(seconds), suppress(Disconnected):
            transport.attach(_Deaf())
            await transport.send([error_frame(error)])
            await transport.close(error.close_code, error.reason())
            await transport.wait_closed()
    finally:
        transport.abort(CloseCode.ABNORMAL, "")


@final
class _Deaf:
    """Takes what comes in, and nothing of it matters; see `Receiver`."""

    def deliver(self, payloads: Sequence[Payload]) -> int:
        return len(payloads)

    def answer(self, frame: Frame) -> bool:
        return False

    def moved(self) -> None: ...

    def fail(self, code: int, reason: str) -> None: ...

    def lost(self, gone: Disconnected) -> None: ...

    def finish(self) -> None: ...
