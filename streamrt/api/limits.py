"""Every limit of a stream, with its unit and its default: set for an app, changed for an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, final

import attrs
from attrs import field, frozen


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value!r}")


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value >= 0:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value!r}")


def _origins(value: Literal["same-host"] | Sequence[str]) -> Literal["same-host"] | tuple[str, ...]:
    return "same-host" if value == "same-host" else tuple(value)


@final
@frozen(kw_only=True)
class Limits:
    """What a stream may use, and how long it may take.

    Args:
        max_message_bytes: The largest message taken, in bytes of JSON; beyond, Close 1009. Default 1 MiB.
        receive_messages: Messages received and not yet read by the handler. When they are as many, the
            socket is not read, and the peer waits. Default 64: a burst, and no more latency than that.
        receive_bytes: The same in bytes. Default 1 MiB.
        send_messages: Messages sent and not yet taken by the socket. When they are as many, `send`
            waits. Default 1024.
        send_bytes: The same in bytes. Default 1 MiB.
        send_timeout: Seconds that `send`, or the last flush, waits for a peer that does not read. Default 10.
        handshake_timeout: Seconds for the auth handler and the middleware before the upgrade. Default 10.
        close_timeout: Seconds that the closing handshake may take. Default 5.
        disconnect_grace: Seconds that a handler has to finish after its peer is gone. Default: 0 for a
            StreamOut, which has nobody left to write to, and 5 for the others, which may still have
            messages to read.
        allowed_origins: Which pages may connect from a browser: ``"same-host"`` (the default) those of the
            host name that was connected to, or a list such as ``["https://example.org"]``, in which
            ``"*"`` is any. A client that sends no Origin is not a browser, and is let through.
        max_streams: Open streams of the app. Default None: no limit.
        max_streams_per_peer: Open streams of one peer address. Default None: no limit; behind a proxy
            all peers have one address.
    """

    max_message_bytes: int = field(default=1 << 20, validator=_positive)
    receive_messages: int = field(default=64, validator=_positive)
    receive_bytes: int = field(default=1 << 20, validator=_positive)
    send_messages: int = field(default=1024, validator=_positive)
    send_bytes: int = field(default=1 << 20, validator=_positive)
    send_timeout: float = field(default=10, validator=_positive)
    handshake_timeout: float = field(default=10, validator=_positive)
    close_timeout: float = field(default=5, validator=_positive)
    disconnect_grace: float | None = field(default=None, validator=_not_negative)
    allowed_origins: Literal["same-host"] | Sequence[str] = field(default="same-host", converter=_origins)
    max_streams: int | None = field(default=None, validator=_positive)
    max_streams_per_peer: int | None = field(default=None, validator=_positive)


class LimitOptions(TypedDict, total=False):
    """The limits that an endpoint may change for itself; see `Limits`."""

    max_message_bytes: int
    receive_messages: int
    receive_bytes: int
    send_messages: int
    send_bytes: int
    send_timeout: float
    handshake_timeout: float
    close_timeout: float
    disconnect_grace: float | None
    allowed_origins: Literal["same-host"] | Sequence[str]
