"""The page, served by the app's fallback: what is no stream is plain HTTP."""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]

PAGE = Path(__file__).with_name("page.html").read_bytes()

HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    # The page shares memory with its workers, which browsers allow only where nothing else is let in.
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
]


async def serve_page(
    scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer ``/ticker`` with the page, and everything else with 404."""
    if scope["path"] == "/ticker":
        status, headers, body = 200, HEADERS, PAGE
    else:
        status, headers, body = 404, [(b"content-type", b"text/plain")], b"not found\n"
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
