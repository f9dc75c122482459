"""The pictures of the report, each once for a light page and once for a dark one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias

from . import growth
from .peers import OURS, PEERS
from .results import Result, Results

Draw: TypeAlias = Callable[[Any, Results, Mapping[str, str]], None]
"""Draws into a figure of matplotlib, with these colours."""

matplotlib: Any = import_module("matplotlib")  # of the group bench, which is not there where types are checked

PAGES: Mapping[str, Mapping[str, str]] = {
    "light": {"ink": "#1f2328", "grid": "#d1d9e0", "ours": "#0b6bcb", "peer": "#8b949e", "limit": "#c9d1d9"},
    "dark": {"ink": "#e6edf3", "grid": "#30363d", "ours": "#58a6ff", "peer": "#7d8590", "limit": "#3d444d"},
}
"""The colours of each page; the ground is the page's own."""

HEADLINES = ("echo-50", "pipelined", "out", "in", "fanout-200", "fanout-2000", "fanout-apart", "chat", "handshakes")
"""The scenarios in the picture of ratios."""

_LINES = {
    "websockets": "#e8590c",
    "fastapi": "#2f9e44",
    "litestar": "#ae3ec9",
    "picows": "#e64980",
    "ws": "#0c8599",
    "socketio": "#f08c00",
    "quart_trio": "#74b816",
    "hypercorn": "#5c7cfa",
    "send_loop": "#868e96",
}
"""Who has a line in the pictures, from the last to the first in the legend, and its colour."""

_NINES = (50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)


def draw(results: Results, directory: Path) -> Sequence[str]:
    """Draw all the pictures there is anything for.

    Args:
        results: What is shown.
        directory: Where the files go: ``NAME-light.svg`` and ``NAME-dark.svg``.

    Returns:
        Their names.
    """
    drawn: list[str] = []
    matplotlib.use("svg")
    for name, (size, make) in _PICTURES.items():
        if not _has_anything(name, results):
            continue
        for page, colours in PAGES.items():
            with ExitStack() as stack:
                stack.enter_context(matplotlib.rc_context(_style(colours)))
                figure = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
                make(figure, results, colours)
                path = directory / f"{name}-{page}.svg"
                figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
        drawn.append(name)
    return drawn


def _has_anything(name: str, results: Results) -> bool:
    match name:
        case "ratios":
            return bool(_headlines(results))
        case "latency":
            return bool(_latencies(results))
        case "memory":
            return bool(growth.remembered(results))
        case _:
            return bool(_throughputs(results))


def _style(colours: Mapping[str, str]) -> Mapping[str, object]:
    ink, grid = colours["ink"], colours["grid"]
    return {
        "svg.fonttype": "path",
        "svg.hashsalt": "streamrt",  # the same figures make the same file
        "font.size": 9,
        "axes.edgecolor": grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titlecolor": ink,
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }


def _headlines(results: Results) -> list[Result]:
    found = [results.of_scenario(name) for name in HEADLINES]
    return [result for result in found if result is not None and len(result.servers) > 1 and OURS in result.servers]


def _ratios(figure: Any, results: Results, colours: Mapping[str, str]) -> None:
    """How many times as good streamrt is as each peer, with the least and the most of the rounds."""
    headlines = _headlines(results)
    columns = min(3, len(headlines))
    axes = figure.subplots(-(-len(headlines) // columns), columns, squeeze=False).flat
    for axis, result in zip(axes, headlines, strict=False):
        ratios = {
            server: ratio
            for server in result.servers
            if server != OURS and (ratio := result.ratio(server)) is not None and isfinite(ratio)
        }
        ordered = sorted(ratios, key=lambda server: ratios[server])
        middles = [ratios[server] for server in ordered]
        axis.barh(
            ordered,
            [middle - 1 for middle in middles],
            left=1,
            height=0.7,
            color=[colours["limit"] if PEERS[server].is_limit else colours["ours"] for server in ordered],
            xerr=[
                [middle - min(result.ratios(server)) for server, middle in zip(ordered, middles, strict=True)],
                [max(result.ratios(server)) - middle for server, middle in zip(ordered, middles, strict=True)],
            ],
            error_kw={"ecolor": colours["peer"], "elinewidth": 0.8},
        )
        axis.set_xscale("log")
        axis.axvline(1, color=colours["ink"], linewidth=0.8)
        lowest, highest = min([*middles, 1]) / 1.5, max([*middles, 1])
        axis.set_xlim(lowest, highest * (highest / lowest) ** 0.3)
        steps = (1, 2, 5) if highest / lowest < 30 else (1,)
        axis.xaxis.set_major_locator(import_module("matplotlib.ticker").LogLocator(subs=steps))
        axis.xaxis.set_major_formatter("{x:g}x")
        axis.xaxis.set_minor_formatter("")
        for row, (server, middle) in enumerate(zip(ordered, middles, strict=True)):
            right = max([middle, 1, *result.ratios(server)])
            axis.annotate(f"{middle:.3g}", (right, row), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
        axis.grid(visible=False, axis="y")
        axis.set_title(result.name)
    for axis in list(axes)[len(headlines) :]:
        axis.set_axis_off()
    figure.suptitle("streamrt is so many times as fast as each; grey are the limits, which are no servers", fontsize=10)


def _latencies(results: Results) -> list[Result]:
    return [result for result in results.results if result.name.startswith("latency") and OURS in result.servers]


def _latency(figure: Any, results: Results, colours: Mapping[str, str]) -> None:
    """Percentiles of the latencies."""
    found = _latencies(results)
    for axis, result in zip(figure.subplots(1, len(found), squeeze=False, sharey=True).flat, found, strict=True):
        places = range(len(_NINES))
        for server in _ordered(result.servers):
            histogram = result.latencies(server)
            values = [histogram.get_value_at_percentile(percent) / 1000 for percent in _NINES] if histogram else []
            axis.plot(places[: len(values)], values, **_line(server, colours))
        axis.set_yscale("log")
        axis.set_xticks(places, [f"{percent:g}" for percent in _NINES], rotation=45)
        axis.set_xlabel("percentile")
        axis.set_title(f"{result.name.removeprefix('latency-')} messages a second to {result.connections}")
    figure.axes[0].set_ylabel("ms from when it was due")
    _legend(figure)


def _memory(figure: Any, results: Results, colours: Mapping[str, str]) -> None:
    """Memory by connections."""
    axis = figure.subplots()
    grown = {one.server: one for one in growth.remembered(results)}
    for server in _ordered(grown):
        axis.plot(*zip(*grown[server].points, strict=True), marker="o", markersize=3, **_line(server, colours))
    axis.set_xlabel("idle connections")
    axis.set_ylabel("MiB more than without")
    axis.set_ylim(bottom=0)
    _legend(figure)


def _throughputs(results: Results) -> list[growth.Growth]:
    [kind] = [kind for kind in growth.KINDS if kind.scenarios[0] == "fanout-20"]
    return growth.grown(results, kind)


def _fanout(figure: Any, results: Results, colours: Mapping[str, str]) -> None:
    """Throughput by subscribers."""
    axis = figure.subplots()
    grown = {one.server: one for one in _throughputs(results)}
    for server in _ordered(grown):
        points = [(subscribers, 1e6 * subscribers / cost) for subscribers, cost in grown[server].points]
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, **_line(server, colours))
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("subscribers")
    axis.set_ylabel("deliveries a second, over all")
    _legend(figure)


def _ordered(servers: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Return those that are drawn, ours last, so that it is above the others."""
    return [server for server in (*_LINES, OURS) if server in servers]


def _line(server: str, colours: Mapping[str, str]) -> Mapping[str, object]:
    if server == OURS:
        return {"label": server, "color": colours["ours"], "linewidth": 2.6}
    style = "--" if PEERS[server].is_limit else "-"
    return {"label": server, "color": _LINES[server], "linewidth": 1.2, "linestyle": style}


def _legend(figure: Any) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper")


_PICTURES: Mapping[str, tuple[tuple[float, float], Draw]] = {
    "ratios": ((10, 8.4), _ratios),
    "latency": ((10, 4), _latency),
    "memory": ((8, 4), _memory),
    "fanout": ((8, 4), _fanout),
}
