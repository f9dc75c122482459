"""The servers that are measured, a module each, with one function: ``serve(listener)``, which does not return."""

from __future__ import annotations

import os
from functools import cache

from benchmarks.load import wire

BURST = 64
"""Messages that a flood sends before others run; for libraries whose `send` lets them only once the socket is full."""

READY = wire.encode(wire.READY).decode()
"""What a server sends that takes text as it is."""


def here() -> str:
    """Return what a worker says first, as text."""
    return wire.encode(wire.worker(os.getpid())).decode()


@cache
def ticks(size: int) -> list[str]:
    """Return what such a server publishes, twice, so that any order is a slice of it."""
    return [wire.encode(tick).decode() for tick in wire.ticks(size)] * 2
