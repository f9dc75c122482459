"""Run one of the servers, pinned to cores and for a limited time: ``... servers NAME CORES SECONDS [redis]``.

It listens on a free port of loopback, and says ``ready PORT`` once all is imported: clients that come before it
accepts wait in the backlog. A program for Node takes the place of this process; the core and the alarm stay.

With the last argument it is the program whose workers exchange messages over Redis; see `group`.
"""

import os
import signal
import socket
import sys
from importlib import import_module

from benchmarks.load.peers import NODE, PEERS
from benchmarks.load.servers import group

BACKLOG = 2048  # uvicorn's own; hypercorn listens again, with 100
NODE_LISTENER = 3
"""The descriptor where a program for Node finds the listening socket."""


def main(name: str, cores: str, seconds: str, *over_redis: str) -> None:
    """Serve until SIGALRM or SIGKILL; there is nothing to clean up."""
    os.sched_setaffinity(0, map(int, cores.split(",")))
    program = "_".join([name, *over_redis])
    if over_redis:
        group.lead(int(seconds))
    else:
        signal.alarm(int(seconds))  # also when the load generator is no more
    server = None if PEERS[name].on_node else import_module(f"{__package__}.{program}")
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of what it accepts, too
        sys.stdout.write(f"ready {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        if server is not None:
            server.serve(listener)
        else:
            os.dup2(listener.fileno(), NODE_LISTENER)
            os.set_inheritable(NODE_LISTENER, True)  # `dup2` does not where both are one  # noqa: FBT003
            os.execlp("node", "node", str(NODE / f"{program}.mjs"))  # noqa: S606, S607 - ours


if __name__ == "__main__":
    main(*sys.argv[1:])
