"""Bare TCP on Trio: what it takes to receive and to send, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from socket import socket

import trio

from benchmarks.load import wire

CHUNK = 1 << 16
"""Bytes that are sent at once, or more: with less, a server that gathers what it sends would beat the limit."""


async def handle(stream: trio.SocketStream) -> None:
    """Do what the path says, until the client has gone."""
    with suppress(trio.BrokenResourceError):
        line = b""
        while not line.endswith(b"\n"):  # one by one: what follows is not ours yet
            line += await stream.receive_some(1)
        match line.decode().strip().split("/")[1:]:
            case ["echo"]:
                async for chunk in stream:
                    await stream.send_all(chunk)
            case ["flood", size]:
                frame = wire.frame(wire.encode(wire.flood(int(size))))
                frames = frame * (CHUNK // len(frame) + 1)
                while True:
                    await stream.send_all(frames)
            case _:
                pass


def serve(listener: socket) -> None:
    """Serve with `serve_listeners`."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    trio.run(partial(trio.serve_listeners, handle, listeners))
