"""Every limit of a stream, with its unit and its default: set for an app, changed for an endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, TypeGuard, final

import attrs
from attrs import field, frozen
from attrs.validators import optional

from streamrt.wire.deflate import Deflate


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} must be a whole number, 1 or more, not {value!r}")


def _seconds(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not _is_number(value) or not value > 0:
        raise ValueError(f"{attribute.name} must be seconds, more than 0, not {value!r}")


def _seconds_or_none(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        _seconds(instance, attribute, value)


def _grace(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not _is_number(value) or not value >= 0:
        raise ValueError(f"{attribute.name} must be seconds, 0 or more, not {value!r}")


def _deflate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, Deflate):
        raise TypeError(f"{attribute.name} must be a streamrt.Deflate, or None, not {value!r}")


def _origins(value: Literal["same-host"] | Sequence[str]) -> Literal["same-host"] | tuple[str, ...]:
    if value == "same-host":
        return "same-host"
    origins = [value] if isinstance(value, str) else list(value)
    for origin in origins:
        # What a browser sends has no path, not even a slash (RFC 6454, 6.2).
        if origin != "*" and not _is_origin(origin):
            raise ValueError(f"allowed_origins holds {origin!r}: an origin is like 'https://example.org', or '*'")
    if isinstance(value, str):
        raise TypeError(f"allowed_origins is a list, such as [{value!r}], not {value!r}")
    return tuple(origins)


_is_origin = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+").fullmatch


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
        send_timeout: Seconds without the peer reading anything that `send`, or the last flush, waits. Default 10.
            A peer that reads slowly is waited for.
        handshake_timeout: Seconds that the auth handler may take. Default 10. Middleware has no deadline but
            its own.
        close_timeout: Seconds that the closing handshake may take. Default 5.
        ping_interval: Seconds between the heartbeat's pings; None for no heartbeat. Default 20, which is below the 30 s
            after which the strictest proxies cut an idle connection.
        ping_timeout: Seconds after a ping within which something must come from the peer, whatever it is, or it
            is taken for gone. Default 20.
        disconnect_grace: Seconds that a handler has to finish after its peer is gone. Default: 0 for a
            StreamOut, which has nobody left to write to, and 5 for the others, which may still have
            messages to read.
        compression: Whether messages may be compressed, and how; see `Deflate`. Default None: they never are, even when
            the peer offers it.
        allowed_origins: Which pages may connect from a browser: ``"same-host"`` (the default) those of the
            host name that was connected to, or a list such as ``["https://example.org"]``, in which
            ``"*"`` is any. A client that sends no Origin is not a browser, and is let through.
        max_streams: Open streams of the app. Default None: no limit.
        max_streams_per_peer: Open streams of one peer address. Default None: no limit; behind a proxy
            all peers have one address.
    """

    max_message_bytes: int = field(default=1 << 20, validator=_count)
    receive_messages: int = field(default=64, validator=_count)
    receive_bytes: int = field(default=1 << 20, validator=_count)
    send_messages: int = field(default=1024, validator=_count)
    send_bytes: int = field(default=1 << 20, validator=_count)
    send_timeout: float = field(default=10, validator=_seconds)
    handshake_timeout: float = field(default=10, validator=_seconds)
    close_timeout: float = field(default=5, validator=_seconds)
    ping_interval: float | None = field(default=20.0, validator=_seconds_or_none)
    ping_timeout: float = field(default=20, validator=_seconds)
    disconnect_grace: float | None = field(default=None, validator=optional(_grace))
    compression: Deflate | None = field(default=None, validator=optional(_deflate))
    allowed_origins: Literal["same-host"] | Sequence[str] = field(default="same-host", converter=_origins)
    max_streams: int | None = field(default=None, validator=optional(_count))
    max_streams_per_peer: int | None = field(default=None, validator=optional(_count))


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
    ping_interval: float | None
    ping_timeout: float
    disconnect_grace: float | None
    compression: Deflate | None
    allowed_origins: Literal["same-host"] | Sequence[str]
