"""Plain ASGI on hypercorn in Trio mode: the text that comes is sent back, untyped."""

from __future__ import annotations

from functools import partial
from socket import socket

import hypercorn.trio
import trio
from hypercorn.config import Config

from benchmarks.load.servers.asgi import Application, echo


def serve(listener: socket, app: Application = echo) -> None:
    """Serve an application with `hypercorn.trio.serve`; others may use it for theirs."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    trio.run(partial(hypercorn.trio.serve, app, config))  # type: ignore[arg-type]
