"""The closing handshake: the only part of a stream that is shielded from cancellation, and so it has a deadline."""

from __future__ import annotations

import trio

from streamrt.errors import CloseCode, Ended
from streamrt.wire.transport import Transport

_FAREWELL = 1.0
"""Seconds that a cancelled stream takes to send its Close to a peer that does not read."""


async def close(transport: Transport, ended: Ended, seconds: float) -> None:
    """Say how a stream ended, wait for the peer's answer, and let go of the transport if none comes.

    A Close goes out even when everything around is cancelled; its answer is not waited for then.

    Args:
        transport: What carried it.
        ended: How it ended.
        seconds: How long this may take.
    """
    cancelled = ended.by == "scope"
    deadline = trio.current_time() + (min(_FAREWELL, seconds) if cancelled else seconds)
    answered = False
    try:
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            await transport.close(ended.code, ended.reason)
            if not cancelled:
                scope.shield = False
                await transport.wait_closed()
                answered = True
    finally:
        if not answered:
            transport.abort(CloseCode.ABNORMAL, "")
