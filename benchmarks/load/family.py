"""A process, those that it has begun, and those that these have begun: a server may be many."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process and its descendants, the older first; of one that is over, nobody."""
    found = [pid]
    for one in found:
        with suppress(FileNotFoundError, ProcessLookupError):  # it may be over meanwhile
            for children in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, children.read_text(encoding="ascii").split())
    return found


def kill(*pids: int) -> None:
    """Kill processes, in this order; those that are over already are left alone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
