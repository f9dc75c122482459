"""Bare TCP with blocking sockets: a loop of `socket.send` over all subscribers.

What is not to come apart is sent at once: a server that gathers what it sends would beat the limit otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from io import BufferedReader
from socket import socket
from threading import Thread

from benchmarks.load import wire

READY = wire.frame(wire.encode(wire.READY))
sends: list[Callable[[bytes], int]] = []


@cache
def ticks(size: int) -> list[bytes]:
    """Return what is published, twice, so that any order is a slice of it."""
    return [wire.frame(wire.encode(tick)) for tick in wire.ticks(size)] * 2


def publish(orders: BufferedReader) -> None:
    """Publish as ordered."""
    while head := orders.read(2):
        order = json.loads(orders.read(head[1]))  # never so long that the length does not fit there
        frames = ticks(order["size"])[order["first"] : order["first"] + order["count"]]
        for chunk in frames if order["apart"] else [b"".join(frames)]:
            for send in tuple(sends):
                try:
                    send(chunk)  # all of it: it blocks
                except OSError:
                    sends.remove(send)


def serve(listener: socket) -> None:
    """Accept subscribers, and a thread for each publisher."""
    while True:
        connection, _ = listener.accept()
        reader = connection.makefile("rb")
        if reader.readline() == b"/topic\n":
            connection.send(READY)
            sends.append(connection.send)
        else:
            Thread(target=publish, args=(reader,), daemon=True).start()
