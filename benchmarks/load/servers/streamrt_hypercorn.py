"""The same app of streamrt, under the stock command of hypercorn."""

from __future__ import annotations

from socket import socket

from hypercorn.__main__ import main

from benchmarks.load.servers import streamrt


def serve(listener: socket) -> None:
    """Run ``hypercorn --worker-class trio``; with no workers it serves in this process, which is the measured one."""
    bind = f"fd://{listener.detach()}"
    main(["--worker-class", "trio", "--workers", "0", "--bind", bind, f"{streamrt.__name__}:app"])
