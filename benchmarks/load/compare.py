"""Say what got slower between two files of results.

Two runs are never on quite the same machine: what all the peers have lost or gained between them was the machine's. So
each figure of streamrt is set against the median of theirs in the same scenario. It has changed when it differs by more
than `NOISE`, and no run of one file comes near one of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal, final

from attrs import frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .peers import OURS
from .report import amount
from .results import Result, Results

NOISE = 0.1
"""The share by which a figure differs from one run to the next on a machine that has other things to do."""


@final
@frozen
class Change:
    """What has become of a figure of streamrt.

    Args:
        scenario: Whose.
        before: The figure.
        after: The figure.
        machine: How many times as good the peers became meanwhile; 1 when there are none.
        ratio: How many times as good streamrt became, with that taken out.
        verdict: Whether that means anything.
    """

    scenario: str
    before: float
    after: float
    machine: float
    ratio: float
    verdict: Literal["slower", "faster", "same"]


def compare(before: Results, after: Results) -> Sequence[Change]:
    """Compare the scenarios that are in both."""
    pairs = [(result, after.of_scenario(result.name)) for result in before.results]
    return [change for one, other in pairs if other is not None and (change := _compare(one, other)) is not None]


def show(console: Console, changes: Sequence[Change]) -> None:
    """Print what has changed."""
    table = Table(box=SIMPLE_HEAD)
    for column in ("scenario", "before", "after", "the machine", OURS, ""):
        table.add_column(column, justify="left" if column in ("scenario", "") else "right", no_wrap=True)
    styles = {"slower": "bold red", "faster": "green", "same": "dim"}
    for change in changes:
        table.add_row(
            change.scenario,
            amount(change.before),
            amount(change.after),
            f"{change.machine:.2f} x",
            f"{change.ratio:.2f} x",
            f"[{styles[change.verdict]}]{change.verdict}[/]",
        )
    console.print(table)


def _compare(before: Result, after: Result) -> Change | None:
    scenario = before.scenario
    one, other = before.figure(OURS), after.figure(OURS)
    if not one or not other:
        return None
    peers = [server for server in before.servers if server != OURS and server in after.servers]
    figures = [(before.figure(peer), after.figure(peer)) for peer in peers]
    machine = median([scenario.ratio(later, earlier) for earlier, later in figures if earlier and later] or [1.0])
    ratio = scenario.ratio(other, one) / machine
    was, now = ([run.figure for run in result.counted(OURS)] for result in (before, after))
    drift = 1 / machine if scenario.less_is_better else machine
    apart = min(now) > max(was) * drift or max(now) < min(was) * drift
    changed = apart and not 1 - NOISE <= ratio <= 1 / (1 - NOISE)
    verdict: Literal["slower", "faster", "same"] = "same" if not changed else "faster" if ratio > 1 else "slower"
    return Change(before.name, one, other, machine, ratio, verdict)
