"""The asyncio server of the websockets library, on uvloop: text as it comes, no types; its own `broadcast`."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from importlib import import_module
from socket import socket
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_websocket

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
                    broadcast(subscribers, tick)
                    if order["apart"]:
                        await asyncio.sleep(0)
        case ["chat", room]:
            rooms[room].add(connection)
            try:
                await connection.send(READY)
                async for text in connection:
                    broadcast(rooms[room], text)
            finally:
                rooms[room].remove(connection)
        case _:
            pass


def serve(listener: socket) -> None:
    """Serve on uvloop: it echoes twice as fast as asyncio's own loop."""

    async def run() -> None:
        async with serve_websocket(handle, sock=listener, compression=None) as server:
            await server.serve_forever()

    uvloop: Any = import_module("uvloop")  # of the group bench, which is not there where types are checked
    uvloop.run(run())
