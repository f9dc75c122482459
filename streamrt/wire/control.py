"""Controls of the dialect ``streamrt.v1``: what one end tells the other besides messages.

A control is a binary frame with a JSON object, and its ``type`` says which one. The rules of this file:

- a type that is not known, or not for this side, is None, and so are keys that are not known: later versions may
  say more;
- what is no control, or a known one with a field that is wrong, is a `BrokenControl`, whose text names it;
- what is to be sent can always be sent: details that are no JSON are left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast, final

import msgspec
from attrs import frozen

from streamrt.errors import CLASSES, APIError, Unknown

from .transport import Frame

MAX_ANNOUNCED = 64
"""Messages that one `Position` announces at most: a client holds them back until it has the last of them."""

MAX_ANNOUNCED_BYTES = 64 * 1024
"""Bytes of the same: none follows once there are so many."""

Number: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]

_logger = logging.getLogger("streamrt")


class BrokenControl(ValueError):
    """A binary frame is not what the dialect says; its text is the reason of a Close."""


@final
@frozen
class End:
    """The sender sends no more messages."""


@final
@frozen
class Failure:
    """The error that is the reason of the Close behind it; see `APIError`."""

    code: str
    message: str
    details: dict[str, Any] | None = None
    retry_after: Number | None = None

    def error(self) -> APIError:
        """Return the error that was meant."""
        cls = CLASSES.get(self.code, Unknown)
        return cls(self.message, details=self.details, retry_after=self.retry_after)


@final
@frozen
class Drain:
    """The server is about to restart, and closes the stream within so many seconds."""

    within: Number


@final
@frozen
class Position:
    """Where a stream is in the history of a topic, once it has the messages that follow at once.

    Args:
        topic: The name of the topic.
        key: The key under which it is heard.
        position: As text, which means nothing but to the topic.
        messages: How many of its messages follow.
        recovered: Where the stream begins to hear the topic: whether everything since the position that was asked
            about follows.
    """

    topic: str
    key: str
    position: str
    messages: Annotated[int, msgspec.Meta(ge=0, le=MAX_ANNOUNCED)]
    recovered: bool | None = None


@final
@frozen
class Gap:
    """Messages of a topic that were left out, because the peer reads too slowly."""

    topic: str
    key: str
    missed: Annotated[int, msgspec.Meta(ge=0)]


Notice: TypeAlias = Position | Gap
Control: TypeAlias = End | Failure | Drain | Notice


@final
@frozen
class _Kind:
    type: str


_KIND = msgspec.json.Decoder(_Kind)
_FROM_CLIENT: Mapping[str, msgspec.json.Decoder[Any]] = {"end": msgspec.json.Decoder(End)}
_FROM_SERVER: Mapping[str, msgspec.json.Decoder[Any]] = {
    **_FROM_CLIENT,
    "error": msgspec.json.Decoder(Failure),
    "drain": msgspec.json.Decoder(Drain),
    "position": msgspec.json.Decoder(Position),
    "gap": msgspec.json.Decoder(Gap),
}


def read_control(payload: bytes, sender: Literal["client", "server"]) -> Control | None:
    """Read one control.

    Args:
        payload: What the binary frame holds.
        sender: Whose it is.

    Returns:
        What it says; None when that is nothing to this side.

    Raises:
        BrokenControl: It is none, or one of its fields is wrong.
    """
    try:
        text = payload.decode()  # also what is skipped has to be UTF-8
        kind = _KIND.decode(text).type
    except (ValueError, RecursionError):
        raise BrokenControl("a binary frame must be a JSON object in UTF-8 with a text 'type'") from None
    decoder = (_FROM_CLIENT if sender == "client" else _FROM_SERVER).get(kind)
    try:
        return None if decoder is None else cast("Control", decoder.decode(text))
    except (ValueError, RecursionError) as error:
        raise BrokenControl(f"the control {kind!r} is wrong: {error}") from None


def error_frame(error: APIError) -> Frame:
    """Return the control that tells an error as the peer may see it."""
    public = error.public()
    fields: dict[str, object] = {"code": public.code, "message": public.message}
    more: dict[str, object] = {}
    if public.details is not None:
        more["details"] = public.details
    if public.retry_after is not None:
        more["retry_after"] = max(0, public.retry_after)
    try:
        return _frame("error", {**fields, **more})
    except (TypeError, ValueError, RecursionError):
        _logger.exception("the details of an error are not JSON, and are not sent")
        return _frame("error", fields)


def drain_frame(within: float) -> Frame:
    """Return the control that announces a restart."""
    return _frame("drain", {"within": round(within, 3)})


def position_frame(position: Position) -> Frame:
    """Return the control that says a position."""
    fields: dict[str, object] = {"topic": position.topic, "key": position.key, "position": position.position}
    fields["messages"] = position.messages
    if position.recovered is not None:
        fields["recovered"] = position.recovered
    return _frame("position", fields)


def gap_frame(gap: Gap) -> Frame:
    """Return the control that says a gap."""
    return _frame("gap", {"topic": gap.topic, "key": gap.key, "missed": gap.missed})


def _frame(kind: str, fields: Mapping[str, object]) -> Frame:
    encoded = json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Frame.control(encoded.encode("utf-8", "replace"))


END = _frame("end", {})
"""The control that says `End`."""
