"""The command line: measure, print a table for each scenario, and tell by the exit status how it went."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import App as Commands
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from . import harness, report
from .client import LoadError
from .scenarios import NEEDS, OURS, SCENARIOS, is_installed

commands: Commands = Commands(
    name="python -m benchmarks.load", version_flags=(), default_parameter=Parameter(negative=())
)


@commands.default
def main(
    *scenarios: str,
    runs: Annotated[int, Parameter(validator=Number(gte=1))] = 5,
    seconds: Annotated[float, Parameter(validator=Number(gt=0, lte=10))] = 2,
    peers: str | None = None,
    json_file: Annotated[Path | None, Parameter("--json")] = None,
    check: bool = False,
    profile: Path | None = None,
) -> int:
    """Load streamrt and its peers, each as a process of its own.

    Args:
        scenarios: Which; without any, all of them.
        runs: How often each server is measured; the median counts.
        seconds: How long one run is measured; at most 10, because after 20 servers send pings.
        peers: Which others take part, as in `litestar,uvicorn`; without it, all that are installed.
        json_file: A file for all the figures.
        check: Exit with 1 when a goal is missed.
        profile: Measure nothing: load streamrt in the first scenario, and have py-spy draw a flame graph here.

    Returns:
        The exit status: 0, or 1 when a server has failed, or a goal was missed and that was to be checked.
    """
    console = Console(width=None if sys.stdout.isatty() else 130)  # room for a table in a file
    chosen = [SCENARIOS[name] for name in _known(scenarios, SCENARIOS)] or list(SCENARIOS.values())
    if profile is not None:
        try:
            harness.profile(chosen[0], seconds, profile)
        except LoadError as error:
            sys.exit(str(error))
        return 0
    wanted = NEEDS if peers is None else {OURS, *_known(peers.split(","), NEEDS)}
    missing = [server for server in wanted if not is_installed(server)]
    if missing:
        console.print(f"not installed, and left out: {', '.join(missing)}")
    if len(os.sched_getaffinity(0)) == 1:
        console.print("one core only: the servers share it with the load generator, so that no figure is any good")
    outcomes: list[harness.Outcome] = []
    for scenario in chosen:
        servers = [server for server in scenario.servers if server in wanted and server not in missing]
        outcomes.append(harness.run(scenario, servers, runs, seconds))
        report.show(console, outcomes[-1])
    if json_file is not None:
        json_file.write_text(json.dumps(report.to_json(outcomes), indent=2) + "\n", encoding="utf-8")
    verdicts = [
        outcome.scenario.judge(goal, outcome.medians) for outcome in outcomes for goal in outcome.scenario.goals
    ]
    failed = any(outcome.failures for outcome in outcomes)
    return int(failed or (check and "missed" in verdicts))


def _known(names: Iterable[str], table: Mapping[str, object]) -> list[str]:
    """Check names that were given."""
    names = list(names)
    for name in names:
        if name not in table:
            sys.exit(f"there is no {name!r}; there are {', '.join(table)}")
    return names


if __name__ == "__main__":
    commands()
