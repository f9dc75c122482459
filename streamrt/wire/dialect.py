"""What goes on the wire besides messages: the subprotocol, and headers for browsers that cannot set any.

There are two dialects, and the messages are the same bytes in both. ``encore-ws`` is one JSON value per text frame and
nothing else, so that every error travels in the Close frame, and any WebSocket client that speaks JSON is a client;
clients that offer no subprotocol get the same. ``streamrt.v1`` has controls besides (`control`), and wins where
both are offered.

A browser's ``WebSocket`` cannot set headers, so such a client offers one more subprotocol, the *header
tunnel*: ``encore.dev.headers.`` and the headers as a JSON object in unpadded base64url. It is taken out of
the offer, never answered, and appended behind the real headers. What a browser forbids its scripts to
set is forbidden here too: otherwise the tunnel could fake ``Origin`` or ``Cookie``.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

from streamrt.errors import APIError

ENCORE_WS = "encore-ws"
STREAMRT_V1 = "streamrt.v1"
TUNNEL = "encore.dev.headers."

REFUSALS = "streamrt-refusals"
"""The header by which a client of ``streamrt.v1`` asks for refusals in HTTP: ``http``."""

RESUME = "streamrt-resume"
"""The header in which a client of ``streamrt.v1`` offers where it was in topics: a JSON list of objects with the texts
``topic``, ``key`` and ``position``."""

Headers: TypeAlias = Sequence[tuple[str, str]]
"""Header lines in the order they came, names in lower case."""

FORBIDDEN = frozenset(
    "accept-charset accept-encoding access-control-request-headers access-control-request-method connection "
    "content-length cookie date dnt expect host keep-alive origin permissions-policy referer te trailer "
    "transfer-encoding upgrade via".split()
)
"""The Fetch standard's forbidden request headers; those that begin with sec- or proxy- are too."""

# RFC 9110, 5.6.2: what a header's name is made of.
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def is_header(name: str, value: str) -> bool:
    """Tell whether a line with this name, in lower case, and this value can be a header."""
    return name != "" and _TOKEN.issuperset(name) and not any(character in value for character in "\r\n\0")


def select_subprotocol(offered: Iterable[str]) -> str | None:
    """Return the subprotocol to answer with, or None when none of ours was offered."""
    offered = set(offered)
    return next((dialect for dialect in (STREAMRT_V1, ENCORE_WS) if dialect in offered), None)


def tunnelled_headers(offered: Iterable[str]) -> list[tuple[str, str]]:
    """Read the headers that a client put among the subprotocols it offers.

    Raises:
        InvalidArgument: The entry is not what it should be, or names a header it may not.
    """
    headers: list[tuple[str, str]] = []
    for entry in offered:
        if entry.startswith(TUNNEL):
            headers += _decode(entry.removeprefix(TUNNEL))
    return headers


def tunnel(headers: Mapping[str, str]) -> str:
    """Return the subprotocol entry that carries headers: the inverse of `tunnelled_headers`."""
    encoded = base64.urlsafe_b64encode(json.dumps(dict(headers), ensure_ascii=False).encode())
    return TUNNEL + encoded.rstrip(b"=").decode()


def render_positions(positions: Iterable[tuple[str, str, str]]) -> str:
    """Return the header that offers positions: topic, key and position of each."""
    entries = [{"topic": topic, "key": key, "position": position} for topic, key, position in positions]
    return json.dumps(entries, separators=(",", ":"))


def offered_positions(header: str | None) -> dict[tuple[str, str], str]:
    """Read the header that offers positions, by topic and key: what makes no sense is not there."""
    try:
        parsed: object = json.loads(header or "[]")
    except (ValueError, RecursionError):
        return {}
    positions: dict[tuple[str, str], str] = {}
    for entry in cast("list[object]", parsed) if isinstance(parsed, list) else ():
        match entry:
            case {"topic": str(topic), "key": str(key), "position": str(position)}:
                positions[topic, key] = position
            case _:
                pass
    return positions


def _decode(encoded: str) -> list[tuple[str, str]]:
    try:
        # b64decode skips what is not in its alphabet unless told, and the url-safe form has no way to tell.
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _bad("is not unpadded base64url") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # what btoa makes of the characters U+0080 to U+00FF
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _bad("is not JSON") from None
    if not isinstance(parsed, dict):
        raise _bad("is not a JSON object")
    return [_header(name, value) for name, value in cast("dict[str, object]", parsed).items()]


def _header(name: str, value: object) -> tuple[str, str]:
    lower = name.lower()
    if not lower or not _TOKEN.issuperset(lower):
        raise _bad(f"has {name!r}, which cannot be a header's name")
    if lower in FORBIDDEN or lower.startswith(("sec-", "proxy-")):
        raise _bad(f"has the header {lower!r}, which may not be set this way")
    if not isinstance(value, str):
        raise _bad(f"has no text for the header {lower!r}")
    if any(character in value for character in "\r\n\0"):
        raise _bad(f"has a line break in the header {lower!r}")
    return lower, value.strip(" \t")


def _bad(what: str) -> APIError:
    return APIError.invalid_argument(f"the subprotocol {TUNNEL}... {what}")
