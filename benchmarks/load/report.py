"""Results in the terminal, as tables."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .peers import OURS, PEERS
from .results import Result, describe, doubts


def show(console: Console, result: Result) -> None:
    """Print the table of one scenario, and what has become of its goals."""
    scenario = result.scenario
    table = Table(box=SIMPLE_HEAD, title=f"{scenario.name}: {scenario.what}, {scenario.unit}", title_justify="left")
    latency = ["p50 - p99 ms"] if result.is_timed else []
    table.add_column("", no_wrap=True)
    for column in ("median", "least - most", f"{OURS} is", *latency, *result.besides, "busy", "load"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", style="bold red", no_wrap=True)
    for server in result.servers:
        figures = [run.figure for run in result.counted(server)]
        ratio = result.ratio(server)
        table.add_row(
            f"[dim]{server}[/]" if PEERS[server].is_limit else server,
            amount(median(figures)),
            f"{amount(min(figures))} - {amount(max(figures))}",
            f"{ratio:.2f} x" if server != OURS and ratio is not None else "",
            *([percentiles(result, server, 50, 99)] if result.is_timed else []),
            *map(amount, result.beside(server)),
            *(f"{share:.0%}" for share in result.busy(server)),
            ", ".join(doubts(result, server)),
        )
    console.print(table)
    if result.connections < scenario.connections:
        console.print(f"only {result.connections} connections: the system allows no more open files")
    for server, why in result.failures.items():
        console.print(f"{server} failed: {why}", style="red", markup=False, highlight=False)
    for goal, verdict in result.verdicts().items():
        style = {"met": "green", "short": "yellow", "missed": "bold red", None: "dim"}[verdict]
        console.print(f"[{style}]{verdict or 'not measured'}[/]: {describe(goal, scenario)}")
    console.print()


def percentiles(result: Result, server: str, *percents: float) -> str:
    """Return percentiles of the latencies of a server, in milliseconds."""
    latencies: Any = result.latencies(server)
    if latencies is None:
        return ""
    return " - ".join(f"{latencies.get_value_at_percentile(percent) / 1000:.2f}" for percent in percents)


def amount(figure: float) -> str:
    """Return a figure with the digits that matter."""
    return f"{figure:,.0f}" if figure >= 100 or figure == 0 else f"{figure:.3g}"
