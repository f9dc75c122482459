"""How costs grow: with the connections, with the subscribers, with the size of the messages.

The cost of a message is the time that it takes; over some points it is about ``c * n ** e``. An exponent of 1 is
linear growth, 0 none at all. It is fitted as a line through the logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from statistics import linear_regression
from typing import final

from attrs import frozen

from .results import Result, Results


@final
@frozen
class Growth:
    """How one cost of one server grows.

    Args:
        server: Whose.
        points: By what it grows, and the cost there, from the first to the last.
        exponent: Of the growth.
    """

    server: str
    points: Sequence[tuple[float, float]]
    exponent: float


@final
@frozen
class Kind:
    """A kind of growth.

    Args:
        what: What grows with what.
        unit: Of the cost.
        scenarios: Which have the points.
        by: What it grows with.
        cost: From a figure and what it grows with.
    """

    what: str
    unit: str
    scenarios: Sequence[str]
    by: Callable[[Result], float]
    cost: Callable[[float, Result], float]


def _connections(result: Result) -> float:
    return result.connections


def _size(result: Result) -> float:
    return result.scenario.size


def _microseconds(figure: float, result: Result) -> float:  # noqa: ARG001 - others look at it
    return 1e6 / figure


def _microseconds_for_all(figure: float, result: Result) -> float:
    return 1e6 * result.connections / figure


KINDS: Sequence[Kind] = (
    Kind("an echo, by connections", "µs", ("echo-50", "echo-500"), _connections, _microseconds),
    Kind(
        "a published message, by subscribers; in bursts of 64, and of 8 to 2,000",
        "µs",
        ("fanout-20", "fanout-200", "fanout-2000"),
        _connections,
        _microseconds_for_all,
    ),
    Kind("an echo, by bytes", "µs", ("echo-50", "echo-50-4k", "echo-50-64k"), _size, _microseconds),
    Kind("a message out, by bytes", "µs", ("out", "out-4k", "out-64k"), _size, _microseconds),
    Kind("a message in, by bytes", "µs", ("in", "in-4k", "in-64k"), _size, _microseconds),
    Kind("a delivery, by bytes", "µs", ("fanout-200", "fanout-200-4k", "fanout-200-64k"), _size, _microseconds),
)


def grown(results: Results, kind: Kind) -> list[Growth]:
    """Tell how a cost grows, for each server that has a figure at every point."""
    found = [result for name in kind.scenarios if (result := results.of_scenario(name)) is not None]
    if len(found) < len(kind.scenarios):
        return []
    growths: list[Growth] = []
    for server in found[0].servers:
        figures = [result.figure(server) if server in result.runs else None for result in found]
        points = [
            (kind.by(result), kind.cost(figure, result))
            for result, figure in zip(found, figures, strict=True)
            if figure
        ]
        if len(points) == len(found):
            growths.append(Growth(server, points, exponent(points)))
    return growths


def remembered(results: Results) -> list[Growth]:
    """Tell how the memory of each server grows with idle connections: MiB over all of them."""
    result = results.of_scenario("idle")
    if result is None:
        return []
    growths: list[Growth] = []
    for server in result.servers:
        each = zip(result.besides, result.beside(server), strict=True)
        points = [(float(at.replace(",", "")), value) for at, value in each]
        points = [(connections, connections * value / (1 << 20)) for connections, value in points]
        if len(points) > 1:
            growths.append(Growth(server, points, exponent(points)))
    return growths


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Fit the exponent of a growth.

    Args:
        points: Two or more; all above 0.
    """
    return linear_regression([log(by) for by, _ in points], [log(cost) for _, cost in points]).slope
