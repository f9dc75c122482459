"""What both sides agree on: the paths, and the messages.

/echo     every message is sent back
/flood    `FLOOD` comes for as long as the client reads
/count    messages are counted until `LAST`, which is not; then `{"count": n}` comes once
/topic    `READY` comes once the stream hears the topic, and then whatever is published
/publish  after every `{"count": n}` the first n of `TICKS` are published
"""

from __future__ import annotations

import json
from typing import Any

USER_DIGITS = 5


def message(user: str) -> dict[str, Any]:
    """Return a message of about 100 bytes of JSON, as plain values."""
    return {"user": user, "text": "the quick brown fox jumps over it", "ts": 1760000000.25, "tags": ["a", "bc"]}


def encode(value: object) -> bytes:
    """Return compact JSON, which is what all servers send."""
    return json.dumps(value, separators=(",", ":")).encode()


def user(number: int) -> str:
    """Return the name of one of many users; all are of one length."""
    return f"{number:0{USER_DIGITS}}"


FLOOD = message(user(0))
LAST = message("")
READY = message("ready")
TICKS = [message(user(number)) for number in range(64)]
