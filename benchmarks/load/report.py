"""Outcomes for people, as tables, and for programs, as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .client import Measurement
from .harness import DISTURBED, Outcome
from .scenarios import OURS, Goal, Scenario

TOO_BUSY = 0.9
"""The share of the time at work beyond which the load generator may be what limits a figure."""

PACKAGES = (
    "streamrt",
    "trio",
    "hypercorn",
    "litestar",
    "uvicorn",
    "uvloop",
    "websockets",
    "picows",
    "msgspec",
    "cattrs",
)


def show(console: Console, outcome: Outcome) -> None:
    """Print the table of one scenario, and what has become of its goals."""
    scenario, medians = outcome.scenario, outcome.medians
    table = Table(box=SIMPLE_HEAD, title=f"{scenario.name}: {scenario.what}, {scenario.unit}", title_justify="left")
    for column in ("server", "median", "min - max", f"{OURS} is", "p50 - p99 ms", "client busy", ""):
        table.add_column(column, justify="right" if column and column != "server" else "left", no_wrap=True)
    for server, runs in outcome.counted.items():
        figures = [run.figure for run in runs]
        compared = server != OURS and OURS in medians and medians[server] > 0
        table.add_row(
            server,
            f"{medians[server]:,.0f}",
            f"{min(figures):,.0f} - {max(figures):,.0f}",
            f"{medians[OURS] / medians[server]:.2f} x" if compared else "",
            f"{_latency(runs, 50):.2f} - {_latency(runs, 99):.2f}" if runs[0].latencies else "",
            f"{_busy(runs):.0%}",
            f"[bold red]{', '.join(doubts(runs, len(outcome.measurements[server])))}[/]",
        )
    console.print(table)
    if outcome.connections < scenario.connections:
        console.print(f"only {outcome.connections} connections: the system allows no more open files")
    for server, why in outcome.failures.items():
        console.print(f"{server} failed: {why}", style="red", markup=False, highlight=False)
    for goal in scenario.goals:
        verdict = scenario.judge(goal, medians)
        style = {"met": "green", "short": "yellow", "missed": "bold red", None: "dim"}[verdict]
        console.print(f"[{style}]{verdict or 'not measured'}[/]: {describe(goal, scenario)}")
    console.print()


def doubts(runs: Sequence[Measurement], begun: int) -> list[str]:
    """Tell what speaks against a figure.

    Args:
        runs: The runs that count.
        begun: How many there were.
    """
    told: list[str] = []
    if _busy(runs) > TOO_BUSY:
        told.append("limited by the load generator")
    if _waited(runs) > DISTURBED:
        told.append(f"disturbed {_waited(runs):.0%}")
    elif len(runs) < begun:
        told.append(f"{len(runs)} of {begun} runs")
    return told


def describe(goal: Goal, scenario: Scenario) -> str:
    """Tell a goal in words."""
    words: list[str] = []
    if goal.enough is not None:
        words.append(f"{goal.enough:,.0f} {scenario.unit} or {'less' if scenario.less_is_better else 'more'}")
    if goal.peer is not None:
        fails = "" if goal.fails_below is None else f" (fails below {goal.fails_below:g} x)"
        words.append(f"{goal.ratio:g} x {goal.peer} or more{fails}")
    return ", or ".join(words)


def to_json(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Return all figures, with what they were measured on."""
    return {
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
        "scenarios": {outcome.scenario.name: _to_json(outcome) for outcome in outcomes},
    }


def _to_json(outcome: Outcome) -> dict[str, Any]:
    scenario, medians = outcome.scenario, outcome.medians
    return {
        "what": scenario.what,
        "unit": scenario.unit,
        "connections": outcome.connections,
        "servers": {
            server: {
                "median": medians[server],
                "runs": [run.figure for run in runs],
                "client_busy": _busy(runs),
                "disturbed": _waited(runs),
                "latency_ms": {f"p{percent}": _latency(runs, percent) for percent in (50, 99) if runs[0].latencies},
            }
            for server, runs in outcome.counted.items()
        },
        "failures": outcome.failures,
        "goals": {describe(goal, scenario): scenario.judge(goal, medians) for goal in scenario.goals},
    }


def _latency(runs: Sequence[Measurement], percent: int) -> float:
    return 1000 * median(run.percentile(percent) for run in runs)


def _busy(runs: Sequence[Measurement]) -> float:
    return max(run.busy for run in runs)


def _waited(runs: Sequence[Measurement]) -> float:
    return max(run.waited for run in runs)


def _versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
