"""The report: what falls short first, then all the ratios, how they were measured, the pictures, and every figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from . import growth, pictures
from .peers import OURS, PEERS
from .report import amount, percentiles
from .results import Result, Results, describe, doubts

_CAPTIONS = {
    "ratios": "How many times as good as each peer",
    "latency": "Latency from when a message was due, by percentile",
    "memory": "Memory by idle connections",
    "fanout": "Deliveries a second by subscribers",
}


_RATIOS = """\
How many times as good as each peer streamrt is: the median of the rounds, each of which compares what was measured at
nearly the same time. Below 1, the peer is better. Throughput is compared by messages or connections a second, latency
by its 99th percentile, memory by bytes. The last, *in italics*, are no servers but limits."""

_METHOD = """\
- Each server is a process of its own with the first core to itself, the load generator has the last. Runs are
  interleaved, A B C A B C, each with a warm-up that does not count. Every byte that comes is compared with what should
  come. [All of the method](../README.md)."""

_FIGURES = """\
Figures of this machine: they say nothing about another. Each is the median of the rounds that count, with the least
and the most. *Busy* is the share of the time that the server, and the load generator, was at work: near 100 % of the
latter, the figure is its own, and the server could do more."""


def write(results: Results, directory: Path) -> None:
    """Write the report and its pictures.

    Args:
        results: What is told.
        directory: Where ``README.md`` and the pictures go.
    """
    drawn = pictures.draw(results, directory)
    (directory / "README.md").write_text("\n".join(_report(results, drawn)) + "\n", encoding="utf-8")


def picture(name: str, where: str = "") -> str:
    """Return a picture that follows the page, light or dark."""
    caption = _CAPTIONS[name]
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{where}{name}-dark.svg">'
    return f'<picture>{dark}<img alt="{caption}" src="{where}{name}-light.svg"></picture>'


def _report(results: Results, drawn: Sequence[str]) -> Iterator[str]:
    yield "# streamrt beside its peers"
    yield ""
    yield from _shortfalls(results.results)
    yield ""
    if "ratios" in drawn:
        yield picture("ratios")
        yield ""
    yield "## Ratios"
    yield ""
    yield _RATIOS
    yield ""
    yield from _ratios(results.results)
    yield ""
    yield "## How it was measured"
    yield ""
    yield from _method(results)
    for name in drawn:
        if name != "ratios":
            yield from ("", f"## {_CAPTIONS[name]}", "", picture(name))
    yield ""
    yield "## Growth"
    yield ""
    yield from _growth(results)
    yield ""
    yield "## Every figure"
    yield ""
    yield _FIGURES
    for result in results.results:
        yield from ("", f"### {result.name}", "", f"{result.scenario.what}; {result.scenario.unit}.", "")
        yield from _figures(result)


def _shortfalls(results: Sequence[Result]) -> Iterator[str]:
    judged = [
        (result, goal, verdict)
        for result in results
        for goal, verdict in result.verdicts().items()
        if verdict is not None
    ]
    behind = [(result, goal) for result, goal, verdict in judged if verdict != "met"]
    yield f"Of {len(judged)} goals that {OURS} has here, {len(judged) - len(behind)} are met."
    if behind:
        yield "**It falls short of these:**"
        yield ""
        for result, goal in behind:
            ratio = None if goal.peer is None else result.ratio(goal.peer)
            is_now = f"{ratio:.2f} x" if ratio is not None else amount(result.figure(OURS) or 0)
            yield f"- {result.name}: {is_now}, where the goal is {describe(goal, result.scenario)}"
    slower = [
        f"- {result.name}: {', '.join(f'{server} {1 / ratio:.2f} x' for server, ratio in ahead)}"
        for result in results
        if (ahead := [(server, r) for server in _peers(result) if (r := result.ratio(server)) is not None and r < 1])
    ]
    if slower:
        yield ""
        yield "**Peers that are ahead** (streamrt, FastAPI and Litestar decode and encode messages, the others do not):"
        yield ""
        yield from slower
    failures = [f"{server} in {result.name}" for result in results for server in result.failures]
    if failures:
        yield ""
        yield "**No figure, because the server did not do what was asked:** " + ", ".join(failures) + "."


def _peers(result: Result) -> list[str]:
    return [server for server in result.servers if server != OURS and not PEERS[server].is_limit]


def _ratios(results: Sequence[Result]) -> Iterator[str]:
    servers = [name for name in PEERS if name != OURS and any(name in result.servers for result in results)]
    heads = [f"*{name}*" if PEERS[name].is_limit else name for name in servers]
    yield from _table(
        ["scenario", *heads], [[result.name, *(_ratio(result, server) for server in servers)] for result in results]
    )


def _ratio(result: Result, server: str) -> str:
    if server in result.failures:
        return "failed"
    ratio = result.ratio(server)
    if ratio is None:
        return ""
    return "∞" if ratio == float("inf") else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _method(results: Results) -> Iterator[str]:
    machine = results.machine
    yield f"- `{results.command}`, {results.made}"
    yield f"- {machine['processor']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}"
    yield "- " + ", ".join(f"{name} {version}" for name, version in results.versions.items())
    yield _METHOD
    yield ""
    taking_part = {server for result in results.results for server in result.runs}
    rows = [[f"`{peer.name}`", peer.what] for peer in PEERS.values() if peer.name in taking_part]
    yield from _table(["server", "is"], rows)


def _growth(results: Results) -> Iterator[str]:
    yield "The cost of one, as `c * n ** e` fitted through the points: an exponent of 1 is linear growth, 0 is none."
    told = [(f"time of {kind.what}", kind.unit, growth.grown(results, kind)) for kind in growth.KINDS]
    told.append(("memory, by idle connections", "MiB", growth.remembered(results)))
    for what, unit, growths in told:
        if growths:
            points = [f"{by:,.0f}" for by, _ in growths[0].points]
            yield from ("", f"**{what}** ({unit})", "")
            rows = [[one.server, *(amount(cost) for _, cost in one.points), f"{one.exponent:.2f}"] for one in growths]
            yield from _table(["server", *points, "exponent"], rows)


def _figures(result: Result) -> Iterator[str]:
    latency = ["p50 - p99 - p99.9 ms"] if result.is_timed else []
    rows: list[list[str]] = []
    for server in result.servers:
        figures = [run.figure for run in result.counted(server)]
        ratio = result.ratio(server)
        rows.append(
            [
                server,
                amount(median(figures)),
                f"{amount(min(figures))} - {amount(max(figures))}",
                f"{ratio:.2f}" if ratio is not None and server != OURS else "",
                *([percentiles(result, server, 50, 99, 99.9)] if result.is_timed else []),
                *map(amount, result.beside(server)),
                " / ".join(f"{share:.0%}" for share in result.busy(server)),
                ", ".join(doubts(result, server)),
            ]
        )
    yield from _table(["", "median", "least - most", f"{OURS} is", *latency, *result.besides, "busy", ""], rows)
    for server, why in result.failures.items():
        yield from ("", f"{server} failed: `{why.splitlines()[0]}`")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
