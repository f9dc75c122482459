"""Run one of the servers, pinned to a core and for a limited time: ``... servers NAME CORE SECONDS``.

It listens on a free port of loopback, and says ``ready PORT`` once all is imported: clients that come before it
accepts wait in the backlog.
"""

import os
import signal
import socket
import sys
from importlib import import_module

BACKLOG = 2048  # uvicorn's own; hypercorn listens again, with 100


def main(name: str, core: int, seconds: int) -> None:
    """Serve until SIGALRM or SIGKILL; there is nothing to clean up."""
    os.sched_setaffinity(0, {core})
    signal.alarm(seconds)  # also when the load generator is no more
    server = import_module(f"{__package__}.{name}")
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of what it accepts, too
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        server.serve(listener)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
