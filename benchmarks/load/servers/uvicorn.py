"""Plain ASGI on uvicorn with uvloop: no framework, no types."""

from __future__ import annotations

from importlib import import_module
from socket import socket
from typing import Any

uvicorn: Any = import_module("uvicorn")  # of the group bench, which is not there where types are checked


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Send every text back, on any path."""
    assert scope["type"] == "websocket"  # uvicorn takes it that there is no lifespan then
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


def serve(listener: socket, app: Any = app) -> None:
    """Serve an application with the fastest of uvicorn's protocols; others may use it for theirs."""
    uvicorn.Server(_configure(app)).run([listener])


def serve_by_workers(listener: socket, app: str, workers: int) -> None:
    """Serve an application in so many processes, each of which imports it."""
    import_module("uvicorn.supervisors").Multiprocess(_configure(app, workers), [listener]).run()


def _configure(app: Any, workers: int = 1) -> Any:
    return uvicorn.Config(
        app,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
        workers=workers,
    )
