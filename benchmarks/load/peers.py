"""The servers, as data: what each is, what it needs, and what it does not do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, final

from attrs import frozen

Speech: TypeAlias = Literal["websocket", "socket.io", "bare"]
"""What is spoken over TCP; see `speech`."""

NODE = Path(__file__).parent / "servers" / "node"
"""Where the servers for Node are, and, once npm has installed them, their libraries."""

OURS = "streamrt"

_UVICORN = ("uvicorn", "uvloop", "websockets")
_ALL = frozenset({"echo", "flood", "count", "topic", "publish", "chat"})
_OVER_REDIS = frozenset({"hear", "tell"})  # which has a program of its own: NAME_redis


@final
@frozen(kw_only=True)
class Peer:
    """A server that can be measured.

    Args:
        name: Its module in `servers`, or its program in `servers/node`, and what it is called on the command line.
        what: What it is, in a line.
        needs: What has to be installed beside streamrt.
        serves: The first segments of the paths of `wire` that it serves.
        speech: What is spoken over TCP.
        is_limit: Whether it is no server, but what no server of its kind can beat.
    """

    name: str
    what: str
    needs: Sequence[str] = ()
    serves: AbstractSet[str] = _ALL
    speech: Speech = "websocket"
    is_limit: bool = False

    @property
    def on_node(self) -> bool:
        """Whether it is a program for Node."""
        return (NODE / f"{self.name}.mjs").exists()

    @property
    def is_installed(self) -> bool:
        """Whether all is there that it needs."""
        if self.on_node:
            return shutil.which("node") is not None and all(
                (NODE / "node_modules" / need).exists() for need in self.needs
            )
        return all(find_spec(package) is not None for package in self.needs)


PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(name=OURS, what="`streamrt.serve`, typed with attrs", serves=_ALL | _OVER_REDIS),
        Peer(name="streamrt_hypercorn", what="the same app under the command `hypercorn --worker-class trio`"),
        Peer(name="hypercorn", what="plain ASGI on hypercorn in Trio mode"),
        Peer(name="quart_trio", what="Quart-Trio on hypercorn in Trio mode", needs=("quart_trio",)),
        Peer(name="trio_websocket", what="trio-websocket"),
        Peer(name="websockets_trio", what="the Trio server of `websockets`"),
        Peer(name="websockets", what="the asyncio server of `websockets`, on uvloop", needs=("uvloop",)),
        Peer(name="uvicorn", what="plain ASGI on uvicorn and uvloop", needs=_UVICORN, serves={"echo"}),
        Peer(name="fastapi", what="FastAPI on uvicorn and uvloop, typed with pydantic", needs=("fastapi", *_UVICORN)),
        Peer(
            name="litestar",
            what="Litestar on uvicorn and uvloop, typed with msgspec",
            needs=("litestar", "redis", *_UVICORN),
            serves=_ALL | _OVER_REDIS,
        ),
        Peer(name="picows", what="picows on uvloop, bytes as they come", needs=("picows", "uvloop")),
        Peer(name="ws", what="`ws` on Node", needs=("ws", "bufferutil")),
        Peer(
            name="socketio",
            what="Socket.IO on Node, WebSocket only",
            needs=("socket.io", "@socket.io/redis-adapter", "redis", "bufferutil"),
            serves=_ALL - {"flood"} | _OVER_REDIS,  # it has no way to wait for a slow reader
            speech="socket.io",
        ),
        Peer(
            name="trio_tcp",
            what="bare TCP on Trio: `receive_some` and `send_all`",
            serves={"echo", "flood"},
            speech="bare",
            is_limit=True,
        ),
        Peer(
            name="send_loop",
            what="bare TCP: a loop of `socket.send` over all sockets",
            serves={"topic", "publish"},
            speech="bare",
            is_limit=True,
        ),
    )
}
"""By name, ours first and the limits last."""
