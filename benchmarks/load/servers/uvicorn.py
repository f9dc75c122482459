"""Bare ASGI on uvicorn with uvloop, as it comes: no framework, no types."""

from __future__ import annotations

from importlib import import_module
from socket import socket
from typing import Any

from benchmarks.load.servers.asgi import echo

uvicorn: Any = import_module("uvicorn")  # of the group bench, which is not there where types are checked


def serve(listener: socket, app: Any = echo, ws: str = "auto") -> None:
    """Serve an application; others may use it for theirs."""
    config = uvicorn.Config(app, loop="uvloop", ws=ws, ws_per_message_deflate=False, log_level="warning")
    uvicorn.Server(config).run([listener])
