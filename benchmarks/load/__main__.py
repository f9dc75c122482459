"""The command line: measure, print tables, write the report, and tell by the exit status how it went."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from cyclopts import App as Commands
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import compare, harness, markdown, report
from .meter import LoadError
from .peers import OURS, PEERS
from .results import Result, Results
from .scenarios import SCENARIOS, Scenario

LOCAL = harness.ROOT / "benchmarks" / "results" / "local"
"""Where the figures go when nothing else is said; git ignores it."""

NOT_QUICK = frozenset({"streamrt_hypercorn", "trio_websocket", "websockets_trio", "uvicorn"})
"""Peers that a quick run does without."""

commands: Commands = Commands(
    name="python -m benchmarks.load", version_flags=(), default_parameter=Parameter(negative=())
)


@commands.default
def main(
    *,
    scenario: Sequence[str] = (),
    peer: Sequence[str] = (),
    quick: bool = False,
    runs: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    seconds: Annotated[float | None, Parameter(validator=Number(gt=0, lte=5))] = None,
    out: Path = LOCAL,
    add: bool = False,
    check: bool = False,
    compare_files: Annotated[tuple[Path, Path] | None, Parameter("--compare")] = None,
    report_of: Annotated[Path | None, Parameter("--report")] = None,
    profile: Path | None = None,
) -> int:
    """Load streamrt and its peers, each as a process of its own.

    Args:
        scenario: Which, as `echo-50` or `'fanout-*'`; may come more than once. Default: all of them.
        peer: Which others take part, likewise. Default: all that are installed.
        quick: The few scenarios and peers that tell most, once and shortly: under two minutes.
        runs: How often each server is measured; the median counts. Default: 3, or 1 if quick.
        seconds: How long one run is measured; at most 5, because after 20 servers send pings.
            Default: 1, or 0.4 if quick.
        out: The directory for the figures, the report and its pictures.
        add: Keep the scenarios that `out` has already and that are not measured again.
        check: Exit with 1 when a goal is missed.
        compare_files: Measure nothing: say what got slower between two files of figures.
        report_of: Measure nothing: write the report of a file of figures.
        profile: Measure nothing: load streamrt in the first scenario, and have py-spy draw a flame graph here.

    Returns:
        The exit status: 0, or 1 when streamrt has failed, when a goal was missed and that was to be checked, or when
        something got slower.
    """
    console = Console(width=None if sys.stdout.isatty() else 150)  # room for a table in a file
    if compare_files is not None:
        before, after = map(_load, compare_files)
        changes = compare.compare(before, after)
        compare.show(console, changes)
        return int(any(change.verdict == "slower" for change in changes))
    if report_of is not None:
        _write(console, _load(report_of), out)
        return 0
    chosen = [SCENARIOS[name] for name in _matching(scenario, SCENARIOS)]
    if quick and not scenario:
        chosen = [one for one in chosen if one.quick]
    seconds = seconds or (0.4 if quick else 1)
    if profile is not None:
        try:
            harness.profile(chosen[0], seconds, profile)
        except LoadError as error:
            sys.exit(str(error))
        return 0
    wanted = {OURS, *_matching(peer, PEERS)} - (NOT_QUICK if quick and not peer else set())
    missing = [name for name in PEERS if name in wanted and not PEERS[name].is_installed]
    if missing:
        console.print(f"not installed, and left out: {', '.join(missing)}")
    if len(os.sched_getaffinity(0)) == 1:
        console.print("one core only: the servers share it with the load generator, so that no figure is any good")
    measured = _measure(console, chosen, wanted - {*missing}, runs or (1 if quick else 3), seconds)
    results = Results.of(f"python -m benchmarks.load {shlex.join(sys.argv[1:])}".rstrip(), measured)
    if add:
        results = results.beside(_load(out / "results.json"))
    _write(console, results, out)
    missed = any("missed" in result.verdicts().values() for result in measured)
    return int(any(OURS in result.failures for result in measured) or (check and missed))


def _measure(
    console: Console, scenarios: Sequence[Scenario], wanted: set[str], runs: int, seconds: float
) -> Sequence[Result]:
    """Measure all of it, and show each scenario when it is done."""
    taking_part = {one.name: [server for server in one.servers if server in wanted] for one in scenarios}
    total = sum(len(taking_part[one.name]) * min(runs, one.rounds or runs) for one in scenarios)
    measured: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        for one in scenarios:

            def tell(server: str, name: str = one.name) -> None:
                progress.update(task, advance=1, description=f"{name} {server}")

            measured.append(harness.run(one, taking_part[one.name], runs, seconds, tell))
            report.show(console, measured[-1])
    return measured


def _write(console: Console, results: Results, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results.save(out / "results.json")
    markdown.write(results, out)
    console.print(f"the figures, the report and its pictures are in {os.path.relpath(out)}")


def _load(path: Path) -> Results:
    try:
        return Results.load(path)
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def _matching(patterns: Iterable[str], table: Mapping[str, object]) -> list[str]:
    """Return the names that match one of the patterns, in the order of the table; all, when there are none."""
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in table):
            sys.exit(f"there is no {pattern!r}; there are {', '.join(table)}")
    return [name for name in table if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


if __name__ == "__main__":
    commands()
