"""The scenarios, as data: what is timed, in which unit, who takes part, and what streamrt should reach."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Literal, TypeAlias, final

from attrs import frozen

from . import loads, relay, wire
from .meter import Measurement, Server
from .peers import OURS, PEERS, Peer

Load: TypeAlias = Callable[[Server, int, float], Measurement]
"""Measures a server over so many connections, for so many seconds."""

Verdict: TypeAlias = Literal["met", "short", "missed"]


@final
@frozen(kw_only=True)
class Goal:
    """What streamrt should reach.

    Args:
        peer: The server that it is compared with; None when only `enough` counts.
        ratio: How many times as good as the peer it should be, or more.
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
        size: Bytes of JSON in a message.
        family: What it is one of several points of, for the section about growth.
        needs: First segments of the paths that a server must serve to take part.
        peers: Who takes part besides streamrt. Default: all that serve these paths.
        over_websocket: Whether it is about WebSockets, and not for what speaks bare TCP.
        over_redis: Whether it is for servers whose workers exchange messages over Redis.
        goals: What streamrt should reach.
        less_is_better: Whether the figure is a cost.
        rounds: How often at most each server is measured; for what differs little, and takes long.
        quick: Whether it is one of the few of `--quick`.
    """

    name: str
    what: str
    unit: str
    load: Load
    connections: int
    size: int = wire.SMALL
    family: str | None = None
    needs: AbstractSet[str]
    peers: Collection[str] | None = None
    over_websocket: bool = False
    over_redis: bool = False
    goals: Sequence[Goal] = ()
    less_is_better: bool = False
    rounds: int | None = None
    quick: bool = False

    def takes(self, peer: Peer) -> bool:
        """Tell whether a server takes part."""
        chosen = peer.name == OURS or self.peers is None or peer.name in self.peers
        return chosen and peer.serves >= self.needs and not (self.over_websocket and peer.speech == "bare")

    @property
    def servers(self) -> Sequence[str]:
        """Who takes part, ours first."""
        return [peer.name for peer in PEERS.values() if self.takes(peer)]

    def ratio(self, ours: float, theirs: float) -> float:
        """Tell how many times as good our figure is; infinity when theirs is nothing at all."""
        better, worse = (theirs, ours) if self.less_is_better else (ours, theirs)
        return better / worse if worse else float("inf")

    def judge(self, goal: Goal, figure: float | None, ratio: float | None) -> Verdict | None:
        """Tell whether a goal is reached.

        Args:
            goal: One of its goals.
            figure: Our figure, if there is one.
            ratio: How many times as good as the goal's peer it is, if it was measured.

        Returns:
            None when it cannot be told, because one of the two was not measured.
        """
        if figure is None or (goal.peer is not None and ratio is None):
            return None
        if goal.enough is not None and (figure <= goal.enough if self.less_is_better else figure >= goal.enough):
            return "met"
        if ratio is None:
            return "missed"
        if ratio >= goal.ratio:
            return "met"
        return "missed" if goal.fails_below is None or ratio < goal.fails_below else "short"


_PRINCIPAL = frozenset(PEERS) - {"streamrt_hypercorn", "uvicorn"}
"""Servers that do what nobody can take for another's work: all but those that are there for one comparison."""

_IN_SIZES = _PRINCIPAL - {"hypercorn", "quart_trio", "trio_websocket", "websockets_trio"}
"""Those that go through all sizes of messages: what is slow with 100 bytes is not fast with more."""

_SIZES = {"": wire.SMALL, "-4k": 4096, "-64k": 65536}


def _sized(size: int) -> str:
    return f"messages of {size:,} bytes" if size < 1024 else f"messages of {size // 1024} KiB"


def _echoes() -> list[Scenario]:
    against = (Goal(peer="hypercorn", ratio=3), Goal(peer="litestar", ratio=1, fails_below=0.85))
    found: list[Scenario] = []
    for connections in (1, 50, 500):
        for suffix, size in _SIZES.items() if connections == 50 else (("", wire.SMALL),):
            plural = "s echo" if connections > 1 else " echoes"
            found.append(
                Scenario(
                    name=f"echo-{connections}{suffix}",
                    what=f"{connections} connection{plural}, one message in flight on each; {_sized(size)}",
                    unit="messages/s",
                    load=partial(loads.echo, size=size),
                    connections=connections,
                    size=size,
                    family="echo",
                    needs={"echo"},
                    peers=_PRINCIPAL | {"streamrt_hypercorn"} if size == wire.SMALL else _IN_SIZES,
                    goals=against if connections > 1 and size == wire.SMALL else (),
                    quick=connections == 50 and size == wire.SMALL,
                )
            )
    found.append(
        Scenario(
            name="pipelined",
            what="10 connections echo, 32 messages in flight on each; messages of 100 bytes",
            unit="messages/s",
            load=partial(loads.echo, in_flight=32),
            connections=10,
            needs={"echo"},
            peers=_PRINCIPAL,
            goals=(Goal(peer="litestar", ratio=1.6),),
        )
    )
    return found


def _one_way(name: str, load: Callable[..., Measurement], path: str, what: str, goal: Goal) -> list[Scenario]:
    return [
        Scenario(
            name=f"{name}{suffix}",
            what=f"{what}; {_sized(size)}",
            unit="messages/s",
            load=partial(load, size=size),
            connections=1,
            size=size,
            family=name,
            needs={path},
            peers=_PRINCIPAL if size == wire.SMALL else _IN_SIZES,
            goals=(goal,) if size == wire.SMALL else (),
            quick=size == wire.SMALL and name == "out",
        )
        for suffix, size in _SIZES.items()
    ]


def _fan_outs() -> list[Scenario]:
    against = (
        Goal(peer="picows", ratio=0.9),
        Goal(peer="websockets", ratio=1.4),
        Goal(peer="litestar", ratio=3),
        Goal(peer="hypercorn", ratio=15),
    )
    # The bursts of all subscribers are about 15,000 messages: enough that waiting for leave is nothing even for the
    # fastest, and few enough that the slowest has one out in a second or two. Of large messages they are fewer.
    points = [(20, "", 64), (200, "", 64), (2000, "", 8), (200, "-4k", 16), (200, "-64k", 4)]
    found = [
        Scenario(
            name=f"fanout-{connections}{suffix}",
            what=f"{connections} subscribers of one topic, bursts of {burst}; {_sized(_SIZES[suffix])}",
            unit="deliveries/s",
            load=partial(loads.broadcast, burst=burst, size=_SIZES[suffix]),
            connections=connections,
            size=_SIZES[suffix],
            family="fanout",
            needs={"topic", "publish"},
            peers=_PRINCIPAL if not suffix else _IN_SIZES,
            goals=against if connections >= 200 and not suffix else (),
            quick=connections == 200 and not suffix,
        )
        for connections, suffix, burst in points
    ]
    found.append(
        Scenario(
            name="fanout-apart",
            what="200 subscribers of one topic, each message by itself: others run before the next; 100 bytes",
            unit="deliveries/s",
            load=partial(loads.broadcast, burst=64, apart=True),
            connections=200,
            needs={"topic", "publish"},
            peers=_PRINCIPAL,
            goals=(
                Goal(peer="picows", ratio=0.9, fails_below=0.7),
                Goal(peer="websockets", ratio=1.4, fails_below=1),
            ),
        )
    )
    return found


def _latencies() -> list[Scenario]:
    return [
        Scenario(
            name=f"latency-{rate}",
            what=f"{rate} messages a second to 200 subscribers: when a subscriber has it after it was due, at 99 %",
            unit="ms",
            load=partial(loads.latency, rate=rate),
            connections=200,
            needs={"topic", "publish"},
            peers=_PRINCIPAL,
            less_is_better=True,
        )
        for rate in (50, 400)
    ]


def _over_redis() -> list[Scenario]:
    common = partial(Scenario, connections=200, needs={"hear", "tell"}, over_redis=True)
    workers = f"200 subscribers of one topic in {wire.WORKERS} workers, who exchange messages over Redis"
    publishers = f"{relay.PUBLISHERS} publishers in each"
    return [
        common(
            name="redis-fanout",
            what=f"{workers}; {publishers}, bursts of {relay.BURST}; {_sized(wire.SMALL)}",
            unit="deliveries/s",
            load=relay.fan_out,
            goals=(Goal(peer="litestar", ratio=2), Goal(peer="socketio", ratio=2)),
        ),
        *(
            common(
                name=f"redis-latency-{rate}",
                what=f"{workers}; {publishers}, {rate} messages a second: from due to delivered, at 99 %",
                unit="ms",
                load=partial(relay.latency, rate=rate),
                goals=(Goal(peer="litestar"), Goal(peer="socketio")),
                less_is_better=True,
            )
            for rate in (50, 200)
        ),
    ]


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        *_echoes(),
        *_one_way("out", loads.flood, "flood", "messages out over one connection", Goal(peer="websockets", ratio=1.5)),
        *_one_way("in", loads.count, "count", "messages in over one connection", Goal(peer="litestar", ratio=2)),
        *_fan_outs(),
        Scenario(
            name="chat",
            what="500 members of 25 rooms, of whom 50 talk as soon as they hear themselves; 100 bytes",
            unit="deliveries/s",
            load=loads.chat,
            connections=500,
            needs={"chat"},
            peers=_PRINCIPAL,
            quick=True,
        ),
        *_latencies(),
        *_over_redis(),
        Scenario(
            name="stalled",
            what="200 subscribers, of whom 2 read nothing: what the others get; messages of 64 KiB",
            unit="deliveries/s",
            load=partial(loads.stall, stalled=2, burst=4, size=65536, fill=160),
            connections=200,
            size=65536,
            needs={"topic", "publish"},
            peers=_PRINCIPAL,
        ),
        Scenario(
            name="handshakes",
            what="connections that are opened, upgraded and closed, 20 at a time",
            unit="connections/s",
            load=loads.handshakes,
            connections=20,
            needs={"echo"},
            over_websocket=True,
            goals=(Goal(peer="uvicorn", enough=1000),),
            quick=True,
        ),
        Scenario(
            name="idle",
            what="10,000 connections that have nothing to say: the server's resident memory for each",
            unit="bytes",
            load=partial(loads.idle, points=(1000, 2500, 5000)),
            connections=10_000,
            needs={"echo"},
            over_websocket=True,
            goals=(Goal(enough=32 * 1024),),
            less_is_better=True,
            rounds=1,
        ),
    )
}
"""By name, in the order in which they run."""
