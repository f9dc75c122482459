"""What one run brings, and what keeps the time meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import final

from attrs import evolve, field, frozen

from .family import family
from .peers import Speech

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class LoadError(Exception):
    """A server did not answer as it should, so what was measured is void."""


@final
@frozen
class Server:
    """A server that runs, and listens on loopback.

    Args:
        pid: Its process; of several, the one that has begun the others.
        port: Where it listens.
        speech: What it speaks over TCP.
    """

    pid: int
    port: int
    speech: Speech = "websocket"


@final
@frozen
class Measurement:
    """What one run brought.

    Args:
        figure: In the scenario's unit.
        client: The share of the time that the load generator was at work; near 1, the figure is its own.
        server: The same of the server; more than 1 for one with several threads, or processes.
        waited: The share of the time that either was kept waiting by others on its core.
        latencies: Seconds from a message to its reply; empty where that is not measured.
        beside: Other figures, by what they are.
    """

    figure: float
    client: float
    server: float
    waited: float
    latencies: Sequence[float] = field(default=(), repr=False)
    beside: Mapping[str, float] = field(factory=lambda: dict[str, float]())


@final
class Meter:
    """Measures from its creation on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = time.perf_counter()
        self._client = time.process_time()
        self._processes = family(server.pid)
        self._busy = self._busy_seconds()
        self._waited = self._waited_seconds()

    def read(self, done: float) -> Measurement:
        """Return what was done in a second."""
        elapsed = time.perf_counter() - self._began
        waited = self._waited_seconds()
        return Measurement(
            figure=done / elapsed,
            client=(time.process_time() - self._client) / elapsed,
            server=(self._busy_seconds() - self._busy) / elapsed,
            waited=max(now - before for now, before in zip(waited, self._waited, strict=True)) / elapsed,
        )

    def _busy_seconds(self) -> float:
        return sum(map(_busy_seconds, self._processes))

    def _waited_seconds(self) -> Sequence[float]:
        """Return how long the load generator has waited, and the server.

        Several processes wait for each other, where they share a core. So what counts of them is what they did not
        get of their cores' time: what neither they have used, nor nobody.
        """
        if len(self._processes) == 1:
            return _waited_seconds(os.getpid()), _waited_seconds(self._server.pid)
        cores = os.sched_getaffinity(self._server.pid)
        others = len(cores) * time.perf_counter() - _idle_seconds(cores) - self._busy_seconds()
        return _waited_seconds(os.getpid()), others


@final
class Window:
    """The time that counts: it opens after a quarter as much again, to warm up, and closes by itself."""

    def __init__(self, server: Server, seconds: float) -> None:
        self.latencies: list[float] = []  # emptied when it opens
        self._server = server
        self._seconds = seconds
        self._next = time.perf_counter() + seconds / 4
        self._meter: Meter | None = None
        self._before = 0
        self._measurement: Measurement | None = None

    def is_over(self, done: int) -> bool:
        """Tell whether it has closed; call it at every turn, with what was done until now."""
        now = time.perf_counter()
        if now < self._next:
            return False
        if self._meter is None:
            self._meter, self._before = Meter(self._server), done
            self._next = now + self._seconds
            self.latencies.clear()
            return False
        self._measurement = self._meter.read(done - self._before)
        return True

    @property
    def measurement(self) -> Measurement:
        """What was done in a second, when it is over."""
        assert self._measurement is not None
        return evolve(self._measurement, latencies=self.latencies)


def resident_bytes(server: Server) -> int:
    """Return what a server has in memory; the second figure is resident pages, see proc(5)."""
    return int(Path(f"/proc/{server.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def _idle_seconds(cores: Collection[int]) -> float:
    """Return how long cores have had nothing to do: the fourth figure of each, and the fifth, waiting for a disk."""
    names = {f"cpu{core}" for core in cores}
    lines = map(str.split, Path("/proc/stat").read_text(encoding="ascii").splitlines())
    return sum(int(line[4]) + int(line[5]) for line in lines if line[0] in names) / _TICK


def _busy_seconds(pid: int) -> float:
    """Return how long a process has run; behind its name, the 12th and 13th figures are ticks of the clock."""
    figures = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(figures[11]) + int(figures[12])) / _TICK


def _waited_seconds(pid: int) -> float:
    """Return how long a thread has been ready to run and did not; the second figure, in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
