"""Litestar's listeners on uvicorn with uvloop, typed both ways with msgspec.

A listener gets plain values, whatever its annotation says: Litestar parses JSON there and does not check it. Its
way to a checked Struct is a DTO, which takes a third of the speed; `msgspec.convert` takes none that can be
measured, so that is what streamrt is compared with.
"""

from __future__ import annotations

from importlib import import_module
from socket import socket
from typing import Any

import msgspec

from benchmarks.load.servers import uvicorn

litestar: Any = import_module("litestar")  # of the group bench, which is not there where types are checked


class Message(msgspec.Struct):
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


async def echo(data: dict[str, Any]) -> Message:
    """Send every message back."""
    return msgspec.convert(data, Message)


async def count(data: dict[str, Any], socket: Any) -> None:
    """Count the messages before the last."""
    messages = getattr(socket.state, "messages", 0)
    if msgspec.convert(data, Message).user:
        socket.state.messages = messages + 1
    else:
        await socket.send_json({"count": messages})


def serve(listener: socket) -> None:
    """Serve with the fastest of uvicorn's protocols: wsproto and the older websockets echo at two thirds of it."""
    listen = litestar.websocket_listener
    app = litestar.Litestar([listen("/echo")(echo), listen("/count")(count)])
    uvicorn.serve(listener, app, "websockets-sansio")
