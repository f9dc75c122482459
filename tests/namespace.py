"""Another host, as far as the network can tell: a namespace of the system's own."""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path

import pytest


class Namespace:
    """A network of its own, at the other end of a cable that can be pulled."""

    def __init__(self) -> None:
        self.name = f"streamrt{os.getpid()}"
        self.near, self.far = f"near{os.getpid()}", f"far{os.getpid()}"
        block, place = divmod(os.getpid() % (1 << 14), 64)
        # Set aside for such networks (RFC 2544).
        self.address, self.far_address = (f"198.18.{block}.{4 * place + host}" for host in (1, 2))

    def ip(self, command: str) -> None:
        arguments = command.format(name=self.name, near=self.near, far=self.far).split()
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def build(self) -> None:
        self.ip("netns add {name}")
        self.ip("link add {near} type veth peer name {far} netns {name}")
        self.ip(f"addr add {self.address}/30 dev {{near}}")
        self.ip("link set {near} up")
        self.ip(f"-n {{name}} addr add {self.far_address}/30 dev {{far}}")
        self.ip("-n {name} link set {far} up")

    def pull(self) -> None:
        self.ip("-n {name} link set {far} down")

    def plug(self) -> None:
        self.ip("-n {name} link set {far} up")

    def remove(self) -> None:
        for command in ("link del {near}", "netns del {name}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ip(command)

    def socket(self) -> socket.socket:
        """Create a socket in there: where a thread is when it does so, the socket stays."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path("/run/netns", self.name).open() as file:
                assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
            made.append(socket.socket())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]


def namespaces() -> Generator[Namespace]:
    """Make one for a test, which is skipped where that cannot be."""
    if not shutil.which("ip") or os.geteuid() != 0:
        pytest.skip("a network namespace needs root, and iproute2")
    namespace = Namespace()
    try:
        namespace.build()
    except subprocess.CalledProcessError as error:
        namespace.remove()
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    yield namespace
    namespace.remove()
