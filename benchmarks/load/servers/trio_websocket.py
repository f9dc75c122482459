"""trio-websocket: text as it comes, no types; a loop over all connections for the fan-out."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from socket import socket

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, WebSocketServer

from benchmarks.load import wire
from benchmarks.load.servers import READY, ticks

rooms: defaultdict[str, list[WebSocketConnection]] = defaultdict(list)


async def handle(request: WebSocketRequest) -> None:
    """Do what the path says, until the client has gone."""
    connection = await request.accept()
    with suppress(ConnectionClosed):
        match request.path.split("/")[1:]:
            case ["echo"]:
                while True:
                    await connection.send_message(await connection.get_message())
            case ["flood", size]:
                message = wire.encode(wire.flood(int(size))).decode()
                while True:
                    await connection.send_message(message)
            case ["count"]:
                count = 0
                while json.loads(await connection.get_message())["user"]:
                    count += 1
                await connection.send_message(wire.encode({"count": count}).decode())
            case ["publish"]:
                while True:
                    order = json.loads(await connection.get_message())
                    for tick in ticks(order["size"])[order["first"] : order["first"] + order["count"]]:
                        await broadcast("topic", tick)  # others run at each `send_message`
            case ["topic" as room] | ["chat", room]:
                rooms[room].append(connection)
                try:
                    await connection.send_message(READY)
                    while True:
                        await broadcast(room, await connection.get_message())
                finally:
                    rooms[room].remove(connection)
            case _:
                pass


async def broadcast(room: str, text: str | bytes) -> None:
    """Send a text to all, in turn."""
    for connection in tuple(rooms[room]):  # meanwhile, some may go
        with suppress(ConnectionClosed):
            await connection.send_message(text)


def serve(listener: socket) -> None:
    """Serve with a `WebSocketServer`, which `serve_websocket` is made of."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
    trio.run(WebSocketServer(handle, listeners).run)
