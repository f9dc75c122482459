"""Ten minutes of clients of all manners against one server, and then a look at what is left of them.

The server is `server.py`, in a process of its own; the clients of `clients.py` come and go, `AT_ONCE` at a time.
After a warm-up, and again at the end, all of them leave, and the server must be back where it began: no stream, no
task and no descriptor more than before the first, no object of any connection, and after the warm-up no more memory.
Then it drains, with clients that are still there.

    nox -s soak                                    # ten minutes
    nox -s soak -- --minutes 1 --seed 7            # shorter, and the same clients as last time

Without nox it is `python -m tests.soak.run` in the root of the repository, with the dependency group ``tests``
installed. It fails when anything is left, when the server does not do what a client may expect, when it writes
anything on standard error but that its loop was blocked (which others on the machine may cause), and when the time is
over.
"""

import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import final

import cyclopts
import trio
from attrs import define, field
from rich.console import Console
from rich.table import Table

from streamrt.runtime.scopes import leaves, lone_error
from tests.peers import CERTIFICATES

from .clients import KINDS, fall_silent, half_leave, stay, turn_deaf
from .server import Figures
from .visit import Kind, Visit

AT_ONCE = 200
"""Clients at one time."""

WARM_UP = 60
"""Seconds until memory is looked at for the first time; at most a quarter of the whole."""

SETTLE = 15
"""Seconds that the server has to be back where it began: twice what its limits add up to."""

VISIT = 60
"""Seconds that a visit may take: several times what the longest takes."""

REST = 120
"""Seconds that a run may take beyond its minutes."""

DRAIN = 15
"""Seconds that the server's end may take: twice its drain, its closing handshakes, and hypercorn's own 3."""

TLS = 0.25
"""The part of the clients that come through TLS."""

LEAVING = 0.15
"""The part of the clients that leave in the middle, cancelled."""

GROWTH_BLOCKS = 2000
"""Python objects by which the empty server may have grown since the warm-up: for caches that fill late. In ten minutes
come some 50 000 connections, so what every 25th of them left behind would be found."""

GROWTH_KIB = 4 * 1024
"""Resident memory by which it may have grown: for pages that are kept by a few objects among many that are gone. That
is 80 bytes for each of 50 000 connections."""

_BLOCKED = "the event loop was blocked"
_ROOT = Path(__file__).parents[2]


@final
@define
class Tally:
    """What has been seen of one kind of client."""

    visits: int = 0
    tls: int = 0
    messages: int = 0
    endings: Counter[str] = field(factory=lambda: Counter[str]())


@final
@define
class Report:
    """All that has been seen.

    Args:
        seed: Of everything random.
        tallies: By kind.
        faults: What must not be, and the seconds after the start at which it was.
        figures: The server's, by the moment they were taken at.
        blocked: How often the server said that its loop was blocked.
        late: Seconds by which the clients' own loop was late, at worst: what is wrong with them may come of it.
    """

    seed: int
    tallies: dict[Kind, Tally] = field(factory=lambda: {kind: Tally() for kinds in KINDS.values() for kind in kinds})
    faults: dict[str, list[float]] = field(factory=lambda: dict[str, list[float]]())
    figures: dict[str, Figures] = field(factory=lambda: dict[str, Figures]())
    blocked: int = 0
    late: float = 0
    _began: float = field(factory=time.monotonic, init=False)

    def blame(self, fault: str) -> None:
        """Note a fault."""
        self.faults.setdefault(fault, []).append(time.monotonic() - self._began)


@final
class Server:
    """The server's process, as its parent sees it."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin
        self._answers = process.stdout
        self._process = process
        self._unread = b""

    async def read_line(self) -> str:
        """Return the next line that it writes.

        Raises:
            RuntimeError: It has ended.
        """
        while b"\n" not in self._unread:
            data = await self._answers.receive_some()
            if not data:
                raise RuntimeError("the server has ended")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    async def measure(self) -> Figures:
        """Return its figures."""
        with suppress(trio.BrokenResourceError):  # it has ended, which its answer tells
            await self._orders.send_all(b"measure\n")
        return Figures(**json.loads(await self.read_line()))

    async def end(self) -> int:
        """Let it drain; return its exit status."""
        await self._orders.aclose()
        return await self._process.wait()


@asynccontextmanager
async def running(report: Report) -> AsyncGenerator[Server]:
    """Run the server, and listen to what it complains of; Trio ends the process, whatever happens."""
    command = [sys.executable, "-W", "default::ResourceWarning", "-m", "tests.soak.server", *CERTIFICATES.files]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with lone_error():
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(trio.run_process, command, cwd=_ROOT, check=False, **pipes)
            )
            async with trio.open_nursery() as listening:
                listening.start_soon(_listen, process, report)
                yield Server(process)
                with trio.move_on_after(1):
                    await process.wait()
                if process.returncode is None:  # else it is listened to until it has said everything
                    nursery.cancel_scope.cancel()


async def _listen(process: trio.Process, report: Report) -> None:
    assert process.stderr is not None
    said = b""
    async for data in process.stderr:
        *lines, said = (said + data).split(b"\n")
        for line in lines:
            if _BLOCKED.encode() in line:
                report.blocked += 1
            else:
                report.blame(f"the server wrote: {line.decode(errors='replace')}")


async def soak(seconds: float, seed: int) -> Report:
    """Run everything.

    Args:
        seconds: How long clients keep coming.
        seed: Of everything random.

    Returns:
        What was seen; it went well if there are no faults.
    """
    report = Report(seed)
    with trio.move_on_after(seconds + REST) as patience:
        async with running(report) as server:
            try:
                await try_out(server, report, seconds)
            except RuntimeError as error:
                report.blame(str(error))
    if patience.cancelled_caught:
        report.blame(f"it was not over {REST} s after its time")
    return report


async def try_out(server: Server, report: Report, seconds: float) -> None:
    """Load a server twice, look at what is left of it each time, and end it.

    Raises:
        RuntimeError: The server has ended by itself.
    """
    urls: list[str] = json.loads(await server.read_line())
    report.figures["start"] = await server.measure()
    warm_up = min(WARM_UP, seconds / 4)
    for name, length in (("warm", warm_up), ("end", seconds - warm_up)):
        await load(report, urls, length, Random(f"{report.seed} {name}"))
        await settle(report, server, name)
    check_memory(report)
    await drain(report, server, urls)


async def load(report: Report, urls: list[str], seconds: float, dice: Random) -> None:
    """Let clients come for so many seconds, and see all of them out."""
    end = trio.current_time() + seconds
    kinds = {kind: weight for weights in KINDS.values() for kind, weight in weights.items()}

    async def come_and_go(first: Kind, dice: Random) -> None:
        kind = first
        await trio.sleep(dice.uniform(0, min(2, seconds / 4)))
        while trio.current_time() < end:
            await visit(report, kind, urls, Random(dice.random()))
            [kind] = dice.choices(list(kinds), list(kinds.values()))

    async def watch_the_clock() -> None:
        while True:
            due = trio.current_time() + 0.1
            await trio.sleep_until(due)
            report.late = max(report.late, trio.current_time() - due)

    async with trio.open_nursery() as watching:
        watching.start_soon(watch_the_clock)
        async with trio.open_nursery() as nursery:
            for number in range(AT_ONCE):
                nursery.start_soon(come_and_go, list(kinds)[number % len(kinds)], Random(dice.random()))
        watching.cancel_scope.cancel()


async def visit(report: Report, kind: Kind, urls: list[str], dice: Random, *, may_leave: bool = True) -> None:
    """Make one visit, and note how it went."""
    [secure] = (url for url in urls if url.startswith("https"))
    [plain] = (url for url in urls if url != secure)
    guest = Visit(secure if dice.random() < TLS else plain, dice)
    leaving = dice.uniform(0, 2) if may_leave and dice.random() < LEAVING else math.inf
    ending = "left"
    try:
        with trio.move_on_after(min(leaving, VISIT)):
            ending = await kind(guest)
        if ending == "left" and leaving > VISIT:
            raise TimeoutError(f"it was not over after {VISIT} s")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault, and the others go on
        ending = "FAULT"
        for leaf in leaves(error):
            report.blame(f"{kind.__name__}: {type(leaf).__name__}: {leaf}")
    tally = report.tallies.setdefault(kind, Tally())
    tally.visits += 1
    tally.tls += guest.url == secure
    tally.messages += guest.messages
    tally.endings[ending] += 1


async def settle(report: Report, server: Server, name: str) -> None:
    """Wait until the server is back where it began; what is left when the time is over is a fault."""
    deadline = trio.current_time() + SETTLE
    while True:
        now = await server.measure()
        found = left_over(report.figures["start"], now)
        if not found or trio.current_time() > deadline:
            break
        await trio.sleep(0.5)
    report.figures[name] = now
    for what in found:
        report.blame(f"{name}: {what}")


def left_over(start: Figures, now: Figures) -> list[str]:
    """Say what there is that there was not."""
    found = [
        f"{getattr(now, what)} {what}, not {getattr(start, what)}"
        for what in ("streams", "tasks", "files")
        if getattr(now, what) != getattr(start, what)
    ]
    return [*found, *(f"{count} {name}" for name, count in now.objects.items())]


def check_memory(report: Report) -> None:
    """Compare the empty server before and after; see `GROWTH_BLOCKS`."""
    warm, end = report.figures["warm"], report.figures["end"]
    for what, most in (("rss", GROWTH_KIB), ("blocks", GROWTH_BLOCKS)):
        growth = getattr(end, what) - getattr(warm, what)
        if growth > most:
            report.blame(f"{what} grew by {growth}, and may by {most}")


async def drain(report: Report, server: Server, urls: list[str]) -> None:
    """End the server under clients of all manners, in time."""
    dice = Random(report.seed)
    status: int | None = None
    with trio.move_on_after(DRAIN):
        async with trio.open_nursery() as nursery:
            for kind in (stay, stay, stay, fall_silent, turn_deaf, half_leave):  # the last may be gone at once
                nursery.start_soon(partial(visit, report, kind, urls, Random(dice.random()), may_leave=False))
            while (await server.measure()).streams < 5:  # noqa: ASYNC110 - it is another process that is waited for
                await trio.sleep(0.1)
            status = await server.end()
    if status is None:
        report.blame(f"the server had not ended {DRAIN} s after it was told to")
    elif status:
        report.blame(f"the server ended with {status}")


def tabulate_clients(report: Report) -> Table:
    """Show what was seen of each kind of client."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("client", "visits", "by TLS", "messages"):
        table.add_column(heading, justify="left" if heading == "client" else "right")
    table.add_column("endings")
    for kind, tally in report.tallies.items():
        endings = ", ".join(f"{ending}: {count}" for ending, count in sorted(tally.endings.items()))
        table.add_row(kind.__name__, str(tally.visits), str(tally.tls), str(tally.messages), endings)
    tallies = report.tallies.values()
    totals = (sum(getattr(tally, what) for tally in tallies) for what in ("visits", "tls", "messages"))
    table.add_row("all", *map(str, totals), "")
    return table


def tabulate_server(report: Report) -> Table:
    """Show the figures of the empty server; memory is in KiB."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    names = ("streams", "tasks", "files", "rss", "peak", "blocks")
    for heading in ("server", *names, "objects"):
        table.add_column(heading, justify="left" if heading == "server" else "right")
    for moment, figures in report.figures.items():
        counts = (*(getattr(figures, name) for name in names), sum(figures.objects.values()))
        table.add_row(moment, *map(str, counts))
    return table


def main(*, minutes: float = 10, seed: int | None = None) -> None:
    """Load a server with clients of all manners, and see that nothing is left of them.

    Args:
        minutes: How long clients keep coming.
        seed: Of everything random. Default: another one every time.
    """
    console = Console(markup=False, highlight=False, soft_wrap=True)
    seed = SystemRandom().randrange(2**32) if seed is None else seed
    console.print(f"seed {seed}")
    began = time.monotonic()
    report = trio.run(soak, minutes * 60, seed)
    console.print(tabulate_clients(report))
    console.print(tabulate_server(report))
    console.print(
        f"{time.monotonic() - began:.0f} s; the server's loop was blocked {report.blocked} times, "
        f"the clients' was late by {report.late:.2f} s at most"
    )
    for fault, times in report.faults.items():
        console.print(f"{len(times)} times, from {times[0]:.0f} s to {times[-1]:.0f} s: {fault}")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    cyclopts.run(main)
