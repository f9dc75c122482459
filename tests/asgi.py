"""An ASGI server in a few lines: it calls an app with one scope, and notes what the app says."""

from collections.abc import Iterable
from typing import Any

import trio
import trio.testing

from streamrt import App


def websocket_scope(path: str, headers: Iterable[tuple[bytes, bytes]] = (), **more: Any) -> dict[str, Any]:
    return {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": list(headers),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        **more,
    }


async def call_websocket(
    app: App,
    path: str,
    events: Iterable[dict[str, Any]] = (),
    headers: Iterable[tuple[bytes, bytes]] = (),
    **more: Any,
) -> list[dict[str, Any]]:
    """Call an app with a WebSocket scope; after `events`, and the answers to them, the client disconnects."""
    incoming = [{"type": "websocket.connect"}, *events]
    said: list[dict[str, Any]] = []
    answered = trio.Event()
    connecting = True

    async def receive() -> dict[str, Any]:
        nonlocal connecting
        if not connecting:
            await answered.wait()
        connecting = False
        if incoming:
            await trio.lowlevel.checkpoint()
            return incoming.pop(0)
        await trio.testing.wait_all_tasks_blocked()  # the app has said all that it has to say
        return {"type": "websocket.disconnect", "code": 1005}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        said.append(dict(message))
        answered.set()

    await app(websocket_scope(path, headers, **more), receive, send)
    return said
