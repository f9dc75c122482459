"""The Trio server of the websockets library: text as it comes, no types; its own `broadcast`."""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from socket import socket

import trio
from websockets.trio.server import ServerConnection, broadcast
from websockets.trio.server import serve as serve_websocket

from benchmarks.load import wire
from benchmarks.load.servers import READY, ticks

subscribers: set[ServerConnection] = set()
rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def handle(connection: ServerConnection) -> None:
    """Do what the path says."""
    assert connection.request is not None
    match connection.request.path.split("/")[1:]:
        case ["echo"]:
            async for text in connection:
                await connection.send(text)
        case ["flood", size]:
            message = wire.encode(wire.flood(int(size))).decode()
            while True:
                await connection.send(message)
        case ["count"]:
            count = 0
            async for text in connection:
                if not json.loads(text)["user"]:
                    break
                count += 1
            await connection.send(wire.encode({"count": count}).decode())
        case ["topic"]:
            subscribers.add(connection)
            try:
                await connection.send(READY)
                await connection.wait_closed()
            finally:
                subscribers.remove(connection)
        case ["publish"]:
            async for request in connection:
                order = json.loads(request)
                for tick in ticks(order["size"])[order["first"] : order["first"] + order["count"]]:
                    await broadcast(subscribers, tick)  # it waits until all have taken it
        case ["chat", room]:
            rooms[room].add(connection)
            try:
                await connection.send(READY)
                async for text in connection:
                    await broadcast(rooms[room], text)
            finally:
                rooms[room].remove(connection)
        case _:
            pass


def serve(listener: socket) -> None:
    """Serve with its `serve`."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    trio.run(partial(serve_websocket, handle, listeners=listeners, compression=None))
