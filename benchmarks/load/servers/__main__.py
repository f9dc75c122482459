"""Run one of the servers, pinned to a core and for a limited time: ``... servers NAME CORE SECONDS``.

It listens on a free port of loopback, and says ``ready PORT`` once all is imported: clients that come before it
accepts wait in the backlog. A program for Node takes the place of this process; the core and the alarm stay.
"""

import os
import signal
import socket
import sys
from importlib import import_module

from benchmarks.load.peers import NODE, PEERS

BACKLOG = 2048  # uvicorn's own; hypercorn listens again, with 100
NODE_LISTENER = 3
"""The descriptor where a program for Node finds the listening socket."""


def main(name: str, core: int, seconds: int) -> None:
    """Serve until SIGALRM or SIGKILL; there is nothing to clean up."""
    os.sched_setaffinity(0, {core})
    signal.alarm(seconds)  # also when the load generator is no more
    server = None if PEERS[name].on_node else import_module(f"{__package__}.{name}")
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of what it accepts, too
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        if server is not None:
            server.serve(listener)
        else:
            os.dup2(listener.fileno(), NODE_LISTENER)
            os.set_inheritable(NODE_LISTENER, True)  # `dup2` does not where both are one  # noqa: FBT003
            os.execlp("node", "node", str(NODE / f"{name}.mjs"))  # noqa: S606, S607 - ours


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
