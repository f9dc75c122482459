"""What both sides agree on: the paths, and the messages.

/echo          every message is sent back
/flood/{size}  `flood(size)` comes for as long as the client reads
/count         messages are counted until `LAST`, which is not; then `{"count": n}` comes once
/topic         `READY` comes once the stream hears the topic, and then whatever is published
/publish       a message is an order, as `order` makes them: so many of `ticks(size)` are published, in turn
/hear          `worker(pid)` comes once the stream hears the topic, and then whatever is published in any worker
/tell          `worker(pid)` comes, and then a message is an order, as for /publish, but for all workers
/chat/{room}   `READY` comes once the stream is in the room; what anybody in it says, everybody in it gets
"""

from __future__ import annotations

import json
import struct
from functools import cache
from typing import Any

SMALL = 100
"""Bytes of JSON in the smallest message."""

VARIANTS = 64
"""How many different messages a publisher has: enough to tell that none is missing, comes twice or too early."""

WORKERS = 2
"""How many there are of a server whose workers exchange messages over Redis."""

_WORDS = "the quick brown fox jumps over it"
_TAG = "streaming"
_BARE = {"user": "00000", "text": "", "ts": 1760000000.25, "tags": ["a", "bc"]}


def encode(value: object) -> bytes:
    """Return compact JSON, which is what all servers send."""
    return json.dumps(value, separators=(",", ":")).encode()


def frame(payload: bytes) -> bytes:
    """Return a text frame without a mask, as a server sends it (RFC 6455, 5.2)."""
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", 0x81, length) + payload
    if length < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, length) + payload
    return struct.pack("!BBQ", 0x81, 127, length) + payload


def message(user: str, size: int = SMALL) -> dict[str, Any]:
    """Return a message as plain values: a number, two texts, and a list of texts.

    Args:
        user: What tells one from another; five characters, or none.
        size: Bytes that it has as JSON when `user` has five; beyond the smallest, half is text and half tags.
    """
    tags = ["a", "bc", *[_TAG] * ((size - SMALL) // 2 // len(encode(_TAG) + b","))]
    room = size - len(encode(_BARE | {"tags": tags}))
    return _BARE | {"user": user, "text": (f"{_WORDS} " * (room // len(_WORDS) + 1))[:room], "tags": tags}


def user(number: int) -> str:
    """Return the name of one of many users; all are of one length."""
    return f"{number:05}"


def flood(size: int) -> dict[str, Any]:
    """Return the message that a server sends again and again."""
    return message(user(0), size)


def worker(pid: int) -> dict[str, Any]:
    """Return what a worker says first, so that it can be told from another: its process, as a user."""
    return message(user(pid % 100_000))


@cache
def ticks(size: int) -> list[dict[str, Any]]:
    """Return the messages that a publisher has; the one after the last is the first."""
    return [message(user(number), size) for number in range(VARIANTS)]


def order(first: int, count: int, *, size: int = SMALL, apart: bool = False) -> dict[str, Any]:
    """Return what tells a publisher to publish.

    Args:
        first: Which of the ticks is the first; below `VARIANTS`.
        count: How many, from there on; `VARIANTS` or fewer.
        size: Which ticks.
        apart: Whether others run after each, so that each comes by itself.
    """
    return {"first": first, "count": count, "size": size, "apart": apart}


LAST = message("")
READY = message("ready")
