"""The pages, as plain HTTP: what is no stream comes here, by way of the app's fallback.

Only the files of a table are served, each under the path that stands for it. No path that was asked for is ever looked
up on the disk, so none leads out of here.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from attrs import frozen

Message: TypeAlias = MutableMapping[str, Any]
Headers: TypeAlias = list[tuple[bytes, bytes]]

HERE = Path(__file__).parent

FILES = {
    "/": "index.html",
    "/style.css": "style.css",
    "/client.js": "client.js",
    "/page.js": "page.js",
    "/upload": "streaming/upload.html",
    "/upload.js": "streaming/upload.js",
    "/logs": "streaming/logs.html",
    "/logs.js": "streaming/logs.js",
    "/assistant": "assistant/page.html",
    "/assistant.js": "assistant/page.js",
    "/rooms": "chat/rooms.html",
    "/rooms.js": "chat/rooms.js",
    "/ticker": "ticker/page.html",
    "/ticker.js": "ticker/page.js",
    "/reader.js": "ticker/reader.js",
}

KINDS = {".html": b"text/html", ".css": b"text/css", ".js": b"text/javascript"}

POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; worker-src 'self'; "
    b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a page may do: nothing but what comes from here. Its scripts, styles and streams do."""

COMMON: Headers = [
    (b"cache-control", b"no-cache"),  # a browser may keep it, and asks each time whether it is still good
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    # The ticker shares memory with its workers, which browsers allow only where nothing else is let in.
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
]


@frozen
class Page:
    """A file as it is sent.

    Args:
        body: What is in it.
        kind: Its content type.
        tag: What a browser that has it already recognizes it by.
    """

    body: bytes
    kind: bytes
    tag: bytes


@cache
def read(name: str) -> Page:
    """Read one of the files: once, and not before it is asked for, as one of them is generated from this very app."""
    path = HERE / name
    body = path.read_bytes()
    return Page(body, KINDS[path.suffix] + b"; charset=utf-8", b'"%s"' % sha256(body).hexdigest()[:16].encode())


async def serve_pages(
    scope: Message, _receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer GET and HEAD with a page: an ASGI application."""
    name = FILES.get(scope["path"])
    status, headers, body = 200, [(b"content-type", b"text/plain; charset=utf-8")], b""
    if name is None:
        status, body = 404, b"there is no such page: / lists those that there are\n"
    elif scope["method"] not in {"GET", "HEAD"}:
        status, body = 405, b"pages can only be read\n"
        headers.append((b"allow", b"GET, HEAD"))
    else:
        page = read(name)
        headers, body = [(b"content-type", page.kind), (b"etag", page.tag)], page.body
        if (b"if-none-match", page.tag) in scope["headers"]:
            status, body = 304, b""
    length = [] if status == 304 else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length, *COMMON]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
