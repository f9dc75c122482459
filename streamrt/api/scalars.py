"""Scalars: one typed value as one text, as paths, queries, headers and cookies hold it.

The rules:

- Each value has one meaning or none: ``false`` is False, ``yes`` is an error, ``007`` is no integer.
  Numbers are JSON's, times RFC 3339's.
- ``parse`` raises ValueError with what was expected, and never with what came: that may be a secret.
- ``render`` is its inverse. It raises TypeError for a value of another type, and ValueError for one that
  ``parse`` would not take, or would take for another.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import re
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, final

from attrs import frozen

K = TypeVar("K")

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""What 64 bits hold, with a sign or without: the integers that messages take too (msgspec's range)."""

ALLOWED = (
    "str, int, float, bool, datetime, date, UUID, Decimal, an Enum or Literal of str, int and bool, and Optional of "
    "these; from the query or a header also a list or tuple[..., ...] of these"
)
"""What a field of a handshake may be, for errors."""


@final
@frozen
class Scalar:
    """How values of one type are read and written.

    Args:
        parse: From text; raises ValueError.
        render: To text; raises TypeError or ValueError.
    """

    parse: Callable[[str], Any]
    render: Callable[[Any], str]


def scalar(tp: Any) -> Scalar | None:
    """Return how a type is parsed and rendered; None if it is none that one text can hold."""
    if typing.get_origin(tp) is Literal:
        return _choice((value, value) for value in typing.get_args(tp))
    if isinstance(tp, type) and issubclass(tp, enum.Enum):
        return None if issubclass(tp, enum.Flag) else _choice((member, member.value) for member in tp)
    return _SCALARS.get(tp) if isinstance(tp, type) else None


def _choice(choices: Iterable[tuple[object, object]]) -> Scalar | None:
    """Return the scalar of a few values, each with what stands for it; None if that cannot be text."""
    values: dict[str, object] = {}
    texts: dict[tuple[type, object], str] = {}  # with the type, because True == 1
    for value, raw in choices:
        if type(raw) not in {str, int, bool} or (text := _SCALARS[type(raw)].render(raw)) in values:
            return None
        values[text] = value
        texts[type(value), value] = text
    if not values:
        return None
    expected = ("one of " if len(values) > 1 else "") + ", ".join(map(repr, values))
    types = {type(value) for value in values.values()}

    def parse(text: str) -> object:
        if text not in values:
            raise ValueError(expected)
        return values[text]

    def render(value: object) -> str:
        if type(value) not in types:
            raise TypeError(f"expected {expected}, got {type(value).__name__}")
        if (type(value), value) not in texts:
            raise ValueError(f"expected {expected}")
        return texts[type(value), value]

    return Scalar(parse, render)


def of_type(value: object, kind: type[K], but: type | None = None) -> K:
    """Return a value of exactly the type that a field has, save for subclasses that are no other type.

    Raises:
        TypeError: It is of another type.
    """
    if not isinstance(value, kind) or (but is not None and isinstance(value, but)):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _parser(pattern: str, convert: Callable[[str], object], expected: str) -> Callable[[str], object]:
    """Return a parser of what has a form and can be converted."""
    has_form = re.compile(pattern, re.ASCII | re.IGNORECASE).fullmatch

    def parse(text: str) -> object:
        try:
            if has_form(text):
                return convert(text)
        except (ValueError, decimal.InvalidOperation):  # such as February 31, or an exponent beyond all bounds
            pass
        raise ValueError(expected)

    return parse


def _parse_int(text: str) -> int:
    if not _is_integer(text):
        raise ValueError("an integer")
    # Digits are counted first: int() is slow for many, and refuses thousands with an error of its own.
    if len(text) > 20 or not MIN_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        raise ValueError("an integer within 64 bits")
    return number


def _render_int(value: object) -> str:
    number = of_type(value, int, but=bool)
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise ValueError("an integer must be within 64 bits")
    return f"{number:d}"


def _parse_bool(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("true or false")
    return text == "true"


def _parse_float(text: str) -> float:
    if not _is_number(text):
        raise ValueError("a number")
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number within the range of a float")
    return number


def _render_float(value: object) -> str:
    given = value if isinstance(value, int) and not isinstance(value, bool) else of_type(value, float)
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if number != given or math.isinf(number):
        raise ValueError("a float must be finite, and can hold only some of the integers beyond 2**53")
    return float.__repr__(number)


def _render_datetime(value: object) -> str:
    time = of_type(value, dt.datetime)
    offset = time.utcoffset()
    if offset is None:
        raise ValueError("a datetime must have a time zone, for others to know when it is")
    if offset % dt.timedelta(minutes=1):  # local mean times, which RFC 3339 has no way to write
        try:
            time = time.astimezone(dt.UTC)
        except OverflowError:
            raise ValueError("a datetime must be within the years 1 to 9999 in UTC") from None
    return time.isoformat()


def _render_decimal(value: object) -> str:
    number = of_type(value, decimal.Decimal)
    if not number.is_finite():
        raise ValueError("a Decimal must be finite")
    return str(number)


_INTEGER = r"-?(?:0|[1-9][0-9]*)"
_NUMBER = _INTEGER + r"(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"  # RFC 8259, 6
_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"  # its range is checked here, all others by `datetime`
_DATETIME = _DATE + r"T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?" + _OFFSET  # RFC 3339, 5.6
_is_integer = re.compile(_INTEGER).fullmatch
_is_number = re.compile(_NUMBER, re.IGNORECASE).fullmatch

_SCALARS: dict[type, Scalar] = {
    str: Scalar(lambda text: text, lambda value: str.__str__(of_type(value, str))),
    int: Scalar(_parse_int, _render_int),
    float: Scalar(_parse_float, _render_float),
    bool: Scalar(_parse_bool, lambda value: "true" if of_type(value, bool) else "false"),
    dt.datetime: Scalar(
        _parser(
            _DATETIME,
            lambda text: dt.datetime.fromisoformat(text.upper()),
            "a date, time and offset as in 2025-01-31T12:00:00Z (RFC 3339)",
        ),
        _render_datetime,
    ),
    dt.date: Scalar(
        _parser(_DATE, dt.date.fromisoformat, "a date as in 2025-01-31"),
        lambda value: of_type(value, dt.date, but=dt.datetime).isoformat(),
    ),
    uuid.UUID: Scalar(
        _parser("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid.UUID, "a UUID"),
        lambda value: str(of_type(value, uuid.UUID)),
    ),
    decimal.Decimal: Scalar(_parser(_NUMBER, decimal.Decimal, "a decimal number"), _render_decimal),
}
