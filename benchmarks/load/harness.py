"""Run servers as processes of their own, one at a time, and load them.

A server has a core to itself, and the load generator, which is this process, another. The runs of the servers are
interleaved, A B C A B C, so that a machine that gets slower meanwhile is unfair to nobody. Each run has a new
process, which is killed at its end: there is nothing in it that is worth a farewell. On a machine that has other
things to do, a run that was disturbed by them is begun again, and does not count beside one that was not.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import relay, wire
from .family import family, kill
from .meter import LoadError, Measurement, Server
from .peers import OURS, PEERS
from .results import DISTURBED, Result, Run
from .scenarios import Scenario

ROOT = Path(__file__).parents[2]

SPARE_DESCRIPTORS = 100
"""What a process has open beside its connections; 30 would do."""

ATTEMPTS = 3
"""How often a run is begun until one is not disturbed."""


def run(
    scenario: Scenario,
    servers: Sequence[str],
    runs: int,
    seconds: float,
    report: Callable[[str], None] = lambda server: None,  # noqa: ARG005 - nobody wants to know
) -> Result:
    """Measure servers in one scenario.

    Args:
        scenario: What to do with each of them.
        servers: Which of them.
        runs: How often each is measured.
        seconds: How long one run is measured.
        report: Called with each server before it is measured.
    """
    connections = min(scenario.connections, _allow_descriptors(scenario.connections))
    measured: dict[str, list[Run | None]] = {server: [] for server in servers}
    failures: dict[str, str] = {}
    for _ in range(min(runs, scenario.rounds or runs)):
        for server in servers:
            report(server)
            measured[server].append(None)
            if server not in failures:
                try:
                    measured[server][-1] = Run.of(_measure(scenario, server, connections, seconds))
                except (LoadError, OSError) as error:
                    notes = getattr(error, "__notes__", [])
                    failures[server] = "\n".join([f"{type(error).__name__}: {error}", *notes]).rstrip()
    return Result(scenario.name, connections, measured, failures)


def _measure(
    scenario: Scenario, server: str, connections: int, seconds: float, attempts: int = ATTEMPTS
) -> Measurement:
    with pinned() as cores, running(scenario, server, cores, seconds) as process:
        measurement = scenario.load(process, connections, seconds)
    if measurement.waited > DISTURBED and attempts > 1:
        return _measure(scenario, server, connections, seconds, attempts - 1)
    return measurement


def profile(scenario: Scenario, seconds: float, graph: Path) -> None:
    """Load streamrt, and have py-spy sample it meanwhile, or one of its workers.

    Args:
        scenario: What to do with it.
        seconds: How long.
        graph: The file to write: a flame graph where it ends with ``.svg``, otherwise the collapsed stacks.

    Raises:
        LoadError: The server did not answer as it should, or py-spy is not installed, or failed.
    """
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    py_spy = shutil.which("py-spy", path=beside)
    if py_spy is None:
        raise LoadError("a profile needs py-spy, which is not installed")
    shape = "flamegraph" if graph.suffix == ".svg" else "raw"
    with pinned() as cores, running(scenario, OURS, cores, seconds) as server:
        # It writes its own command line into the graph, which should not tell where this machine keeps its files.
        pid = _worker(server) if scenario.over_redis else server.pid
        sampling = f"record --pid {pid} --rate 500 --duration {math.ceil(seconds)} --format {shape} --output"
        command = ["py-spy", *sampling.split(), graph.name]
        with subprocess.Popen(command, executable=py_spy, cwd=graph.parent, stdout=subprocess.DEVNULL) as spy:  # noqa: S603 - found above
            try:
                scenario.load(server, scenario.connections, seconds)
                if spy.wait(timeout=seconds + 30) != 0:
                    raise LoadError("py-spy has failed, and told why")
            finally:
                spy.kill()


def _worker(server: Server) -> int:
    """Return the process of a worker, once all of them serve; they are what was begun last."""
    with relay.spread(server, "/hear", wire.WORKERS):
        return family(server.pid)[-1]


@contextmanager
def pinned() -> Generator[Sequence[int]]:
    """Keep this process on the last core that it may use, and say which are the others: those are for servers."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield sorted(cores)[: max(len(cores) - 1, 1)]
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def running(scenario: Scenario, name: str, cores: Sequence[int], seconds: float) -> Generator[Server]:
    """Run a server for as long as the block lasts.

    Args:
        scenario: What for.
        name: Its module.
        cores: Where it is to run: on the first of them, or all of its workers on all.
        seconds: How long it is measured; it ends by itself when it has lived for much longer.

    Raises:
        LoadError: It does not start.
    """
    lifetime = str(120 + 4 * math.ceil(seconds))
    where, what = (cores, ["redis"]) if scenario.over_redis else (cores[:1], [])
    command = [sys.executable, "-m", f"{__package__}.servers", name, ",".join(map(str, where)), lifetime, *what]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, process_group=0) as process,  # noqa: S603 - ours
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            if not ready:
                raise LoadError(f"the server {name} does not start")
            yield Server(process.pid, int(ready[1]), PEERS[name].speech)
        except (LoadError, OSError) as error:
            log.seek(0)
            error.add_note(log.read().decode(errors="replace")[-2000:])
            raise
        finally:
            kill(*family(process.pid))


def _allow_descriptors(connections: int) -> int:
    """Raise the limit of open files, which servers inherit, and return how many connections there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_DESCRIPTORS
    if soft < wanted:
        soft = min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - SPARE_DESCRIPTORS
