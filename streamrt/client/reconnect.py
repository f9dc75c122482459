"""Whether a stream comes back, and after which pause: the rules of ``docs/clients.md``, as plain calls."""

from __future__ import annotations

import math
import random
from typing import Any, Literal, TypeAlias, final

import attrs
from attrs import field, frozen

from streamrt.errors import APIError, CloseCode

_DOUBLINGS = 64
"""Of the first pause: more would bring nothing but numbers that are too large."""


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{attribute.name} of Reconnect must be a number, 0 or more, not {value!r}")


@final
@frozen(kw_only=True)
class Reconnect:
    """How a stream comes back when its connection is lost; give it to `Client.open`.

    The handler starts afresh each time, so it is for streams that can bear that: those that only listen, or whose
    messages stand for themselves. What stood in the send channel of a connection that is lost is lost with it.

    Args:
        base: The first pause is random, up to so many seconds; each further one up to twice as many. Default 0.5.
        cap: Seconds that a random pause has at most. Default 30.
        healthy: Seconds after which a connection counts as healthy, and pauses are short again. Default 10.
        attempts: How many attempts there may be between two healthy connections. Default: any number.
        bugs: How many of these for a bug of the server (1011). Default 3.
        queue: How many messages may wait for the connection to come back. Default 0: meanwhile `send` raises
            `Unavailable`.
    """

    base: float = field(default=0.5, validator=_not_negative)
    cap: float = field(default=30, validator=_not_negative)
    healthy: float = field(default=10, validator=_not_negative)
    attempts: float = field(default=math.inf, validator=_not_negative)
    bugs: float = field(default=3, validator=_not_negative)
    queue: float = field(default=0, validator=_not_negative)


Way: TypeAlias = Literal["none", "again", "bug", "credential"]


def way_back(code: int, retry_after: float | None) -> Way:
    """Return what a close code means for a stream that wants to come back."""
    if code == CloseCode.INTERNAL_ERROR:
        return "bug"
    if code == APIError.Unauthenticated.close_code:
        return "credential"
    if code == APIError.ResourceExhausted.close_code:
        return "none" if retry_after is None else "again"
    return "again" if code in _PASSING or 4500 <= code < 4600 else "none"


_PASSING = (CloseCode.GOING_AWAY, CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)


@final
class Retries:
    """What has been tried since a connection was healthy.

    Args:
        terms: How often, and how fast.
        renews: Whether other credentials can be had.

    Attributes:
        rejected: Whether credentials were refused, and there are none to follow them yet.
    """

    def __init__(self, terms: Reconnect, *, renews: bool) -> None:
        self.rejected: bool = False
        self._terms = terms
        self._renews = renews
        self._attempts = 0
        self._bugs = 0
        self._renewed = False

    def renewed(self) -> None:
        """Note that headers were to be had after that."""
        self.rejected = False

    def connected(self, seconds: float) -> None:
        """Note that there was a connection for so long."""
        if seconds >= self._terms.healthy:
            self._attempts = self._bugs = 0
            self._renewed = False

    def pause(self, code: int, error: APIError, drain: float) -> float | None:
        """Return after how many seconds the next attempt is made; None if there is none.

        Args:
            code: The close code, or that of the error where there was no connection.
            error: What it has ended with.
            drain: Seconds that the server had announced for its restart, as far as they are left.
        """
        terms, way = self._terms, way_back(code, error.retry_after)
        self.rejected |= way == "credential"
        if (
            way == "none"
            or self._attempts >= terms.attempts
            or (way == "bug" and self._bugs >= terms.bugs)
            or (way == "credential" and (self._renewed or not self._renews))
        ):
            return None
        bound = 0 if way == "credential" else min(terms.cap, terms.base * 2 ** min(self._attempts, _DOUBLINGS))
        self._attempts += 1
        self._bugs += way == "bug"
        self._renewed |= way == "credential"
        announced = drain if code == CloseCode.SERVICE_RESTART else 0
        wait = announced if error.retry_after is None else error.retry_after
        return wait + random.random() * bound  # noqa: S311 - it spreads clients, and is no secret
