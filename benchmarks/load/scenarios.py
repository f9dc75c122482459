"""The scenarios, as data: who takes part, what is timed, in which unit, and what streamrt should reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Literal, TypeAlias, final

from attrs import frozen

from benchmarks.load import client
from benchmarks.load.client import Measurement, Server

Load: TypeAlias = Callable[[Server, int, float], Measurement]
"""Measures a server over so many connections, for so many seconds."""

Verdict: TypeAlias = Literal["met", "short", "missed"]

OURS = "streamrt"

NEEDS: Mapping[str, Sequence[str]] = {
    "streamrt": (),
    "streamrt_hypercorn": (),
    "hypercorn": (),
    "websockets": ("websockets",),
    "uvicorn": ("uvicorn", "uvloop", "websockets"),
    "litestar": ("litestar", "uvicorn", "uvloop", "websockets"),
    "picows": ("picows", "uvloop"),
    "websockets_broadcast": ("websockets",),
    "litestar_channels": ("litestar", "uvicorn", "uvloop", "websockets"),
    "hypercorn_loop": (),
}
"""The servers, by their modules, and what has to be installed for each beside streamrt."""


@final
@frozen(kw_only=True)
class Goal:
    """What streamrt should reach.

    Args:
        peer: The server that it is compared with; None when only `enough` counts.
        ratio: How many times the peer's figure its own should be, or more.
        fails_below: The ratio below which the goal is missed, and not only fallen short of. Default: `ratio`.
        enough: A figure that will do, whatever the peer's is.
    """

    peer: str | None = None
    ratio: float = 1
    fails_below: float | None = None
    enough: float | None = None


@final
@frozen(kw_only=True)
class Scenario:
    """One way to load a server.

    Args:
        name: What it is called on the command line.
        what: What is timed.
        unit: Of the figure.
        load: What measures it.
        connections: How many.
        servers: Which take part, ours first.
        goals: What ours should reach.
        less_is_better: Whether the figure is a cost.
    """

    name: str
    what: str
    unit: str
    load: Load
    connections: int
    servers: Sequence[str]
    goals: Sequence[Goal] = ()
    less_is_better: bool = False

    def judge(self, goal: Goal, figures: Mapping[str, float]) -> Verdict | None:
        """Tell whether a goal is reached.

        Args:
            goal: One of its goals.
            figures: The medians of those that were measured.

        Returns:
            None when it cannot be told, because one of the two was not measured.
        """
        if OURS not in figures or (goal.peer is not None and goal.peer not in figures):
            return None
        ours = figures[OURS]
        if goal.enough is not None and (ours <= goal.enough if self.less_is_better else ours >= goal.enough):
            return "met"
        if goal.peer is None:
            return "missed"
        ratio = ours / figures[goal.peer]
        if ratio >= goal.ratio:
            return "met"
        return "missed" if goal.fails_below is None or ratio < goal.fails_below else "short"


def is_installed(server: str) -> bool:
    """Tell whether all is there that a server needs."""
    return all(find_spec(package) is not None for package in NEEDS[server])


_AGAINST_ECHOES = (Goal(peer="hypercorn", ratio=3), Goal(peer="litestar", ratio=1, fails_below=0.85))

_BROADCASTING = ("streamrt", "picows", "websockets_broadcast", "litestar_channels", "hypercorn_loop")
_AGAINST_BROADCASTS = (
    Goal(peer="picows", ratio=0.9),
    Goal(peer="websockets_broadcast", ratio=1.4),
    Goal(peer="litestar_channels", ratio=3),
    Goal(peer="hypercorn_loop", ratio=15),
)

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="closed-50",
            what="50 connections echo, one message in flight on each",
            unit="messages/s",
            load=partial(client.echo, in_flight=1),
            connections=50,
            servers=("streamrt", "streamrt_hypercorn", "hypercorn", "litestar", "websockets"),
            goals=_AGAINST_ECHOES,
        ),
        Scenario(
            name="closed-500",
            what="500 connections echo, one message in flight on each",
            unit="messages/s",
            load=partial(client.echo, in_flight=1),
            connections=500,
            servers=("streamrt", "hypercorn", "litestar"),
            goals=_AGAINST_ECHOES,
        ),
        Scenario(
            name="pipelined",
            what="10 connections echo, 32 messages in flight on each",
            unit="messages/s",
            load=partial(client.echo, in_flight=32),
            connections=10,
            servers=("streamrt", "hypercorn", "litestar"),
            goals=(Goal(peer="litestar", ratio=1.6),),
        ),
        Scenario(
            name="stream-out",
            what="messages out over one connection; websockets sends text that is ready",
            unit="messages/s",
            load=client.flood,
            connections=1,
            servers=("streamrt", "streamrt_hypercorn", "websockets"),
            goals=(Goal(peer="websockets", ratio=1.5),),
        ),
        Scenario(
            name="stream-in",
            what="messages in over one connection",
            unit="messages/s",
            load=client.count,
            connections=1,
            servers=("streamrt", "streamrt_hypercorn", "litestar"),
            goals=(Goal(peer="litestar", ratio=2),),
        ),
        # The bursts of both are some 15,000 messages: enough that waiting for leave is nothing even for the fastest,
        # and few enough that the slowest has one out in a second or two.
        Scenario(
            name="broadcast-200",
            what="messages out to 200 subscribers of one topic, counted over all of them",
            unit="messages/s",
            load=partial(client.broadcast, burst=64),
            connections=200,
            servers=_BROADCASTING,
            goals=_AGAINST_BROADCASTS,
        ),
        Scenario(
            name="broadcast-2000",
            what="messages out to 2000 subscribers of one topic, counted over all of them",
            unit="messages/s",
            load=partial(client.broadcast, burst=8),
            connections=2000,
            servers=_BROADCASTING,
            goals=_AGAINST_BROADCASTS,
        ),
        Scenario(
            name="broadcast-apart",
            what="messages out to 200 subscribers, each by itself: others run before the next",
            unit="messages/s",
            load=partial(client.broadcast, burst=64, apart=True),
            connections=200,
            servers=("streamrt", "picows", "websockets_broadcast", "litestar_channels"),
            goals=(
                Goal(peer="picows", ratio=0.9, fails_below=0.7),
                Goal(peer="websockets_broadcast", ratio=1.4, fails_below=1),
            ),
        ),
        Scenario(
            name="idle",
            what="5000 connections that have nothing to say: the server's resident memory for each",
            unit="bytes",
            load=client.idle,
            connections=5000,
            servers=("streamrt", "uvicorn", "hypercorn"),
            goals=(Goal(enough=32 * 1024),),
            less_is_better=True,
        ),
        Scenario(
            name="handshakes",
            what="connections that are opened, upgraded and closed, 20 at a time",
            unit="connections/s",
            load=client.handshakes,
            connections=20,
            servers=("streamrt", "uvicorn", "hypercorn"),
            goals=(Goal(peer="uvicorn", enough=1000),),
        ),
    )
}
"""By name, in the order in which they run."""
