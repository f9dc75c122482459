"""Read and write scalars, and say what is wrong with them.

The rules of this file:

- A hook takes a value and returns another, or raises :class:`Wrong` with all that is wrong under it.
- A fault says what was expected and what came; a value from the wire is repeated shortened.
- What may be read may be written, and the other way round: the two hooks of a type stand together.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from math import inf, isfinite
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin
from uuid import UUID

import msgspec

from streamrt.wire.graph import ARRAYS, MAX_INTEGER, MIN_INTEGER, json_of, literals

Hook: TypeAlias = Callable[[Any], Any]
"""Those that read take a second argument, the type, because cattrs gives it; each knows its type without it."""

MAX_ECHO = 40
"""Characters of a value that a fault repeats: enough to find it, too few to fill a log or a Close frame."""

Faults: TypeAlias = list[tuple[str, str]]


class Wrong(Exception):
    """The faults of one value: for each the path under it, and the message."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def under(self, step: str) -> Faults:
        """Return the faults as the value one step up sees them."""
        return [(step + path, message) for path, message in self.faults]


def expected(what: str, value: Any, got: str | None = None) -> Wrong:
    """Create the fault of one value that is not what it should be."""
    return Wrong([("", f"expected {what}, got {got or came(value)}")])


def step(key: Any) -> str:
    """Write one step of a path: an attribute, or a quoted key."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{quoted(str(key))}]"


def quoted(text: str) -> str:
    """Quote a text as JSON does; a lone surrogate, which cannot be sent on, is spelled out."""
    return json.dumps(text.encode("utf-8", "backslashreplace").decode(), ensure_ascii=False)


def came(value: Any) -> str:
    """Say what came: a scalar itself, and only the kind of everything else."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        text = str.__str__(value)
        return quoted(text if len(text) <= MAX_ECHO else text[: MAX_ECHO - 1] + "…")
    if isinstance(value, int):
        bits = value.bit_length()
        return int.__repr__(value) if bits <= 128 else f"an integer of {bits} bits"
    if isinstance(value, float):
        return json.dumps(float.__float__(value))
    if value.__class__ in (list, dict):
        return "an array" if value.__class__ is list else "an object"
    return a_or_an(value.__class__.__name__)


def a_or_an(noun: str) -> str:
    """Put the article before a noun."""
    if noun == "bytes":
        return noun
    return f"{'an' if noun[0] in 'aeiouAEIOU' else 'a'} {noun}"


def expectation(resolved: Any) -> str:
    """Say what JSON is expected where a resolved type is."""
    origin = get_origin(resolved)
    if origin is Union:
        # In an order of its own: to typing, `int | None` and `None | int` are one type, and the first stands for both.
        return " or ".join(sorted({*map(expectation, get_args(resolved))}, key=lambda name: (name == "null", name)))
    if origin is Literal:
        return "one of " + ", ".join(came(value) for _, value in literals(resolved))
    return _NAMES.get(resolved) or ("an array" if origin in ARRAYS else "an object")


_NAMES: Final[dict[Any, str]] = {
    NoneType: "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    bytes: "bytes in base64",
    datetime: "a date and time such as 2024-02-29T12:00:00Z",
    date: "a date such as 2024-02-29",
    UUID: "a UUID",
    Decimal: 'a decimal number in a string such as "12.50"',
}


def _exactly(cls: type[Any]) -> Hook:
    def hook(value: Any, _: Any = None) -> Any:
        if value.__class__ is cls:
            return value
        raise expected(_NAMES[cls], value)

    return hook


def integer(value: Any, _: Any = None) -> Any:
    """Take an integer of 64 bits, in either direction."""
    if value.__class__ is int and MIN_INTEGER <= value <= MAX_INTEGER:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return int.__int__(value)
        raise expected("an integer of 64 bits", value)
    raise expected("an integer", value)


def _float_in(value: Any, _: Any = None) -> Any:
    if value.__class__ is int:
        try:
            return float(value)
        except OverflowError:
            raise expected("a number that a float can hold", value) from None
    return float_out(value)


def float_out(value: Any) -> Any:
    """Take a finite number; an integer only if it comes back equal."""
    if value.__class__ is float and isfinite(value):
        return value
    if isinstance(value, float):
        if isfinite(value):
            return float.__float__(value)
        raise expected("a finite number", value)
    if isinstance(value, int) and not isinstance(value, bool):
        number = float(value) if abs(value) <= MAX_INTEGER else inf
        if number != value:
            raise expected("a number that a float can hold exactly", value)
        return number
    raise expected("a number", value)


def string_out(value: Any) -> Any:
    """Take a string that UTF-8 can write."""
    if value.__class__ is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise expected("a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise expected("a string without lone surrogates", value) from None
    return str.__str__(value)


def parsed(cls: Any, parse: Hook) -> Hook:
    """Make the hook that reads a scalar out of a string."""

    def hook(value: Any, _: Any = None) -> Any:
        if value.__class__ is str:
            try:
                return parse(value)
            except (ValueError, InvalidOperation):
                pass
        raise expected(_NAMES[cls], value)

    return hook


def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise ValueError
    return Decimal(text)


# Decimal() itself takes spaces, underscores, digits of any script, NaN and Infinity.
_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _written(cls: Any, write: Hook, fits: Hook = lambda _: True, but: str = "") -> Hook:
    """Make the hook that writes a scalar into a string; a subclass is written as the class itself."""
    what = f"{a_or_an(cls.__name__)}{but}"

    def hook(value: Any) -> Any:
        if isinstance(value, cls) and fits(value):
            return write(value)
        raise expected(what, value)

    return hook


def _whole_minutes(value: datetime) -> bool:
    offset = value.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


READ: Final[dict[Any, Hook]] = {
    NoneType: _exactly(NoneType),
    bool: _exactly(bool),
    str: _exactly(str),
    int: integer,
    float: _float_in,
    bytes: parsed(bytes, lambda text: base64.b64decode(text, validate=True)),
    datetime: parsed(datetime, lambda text: msgspec.convert(text, datetime)),
    date: parsed(date, lambda text: msgspec.convert(text, date)),
    UUID: parsed(UUID, lambda text: msgspec.convert(text, UUID)),
    Decimal: parsed(Decimal, _decimal),
}

WRITE: Final[dict[Any, Hook]] = {
    NoneType: _exactly(NoneType),
    bool: _exactly(bool),
    str: string_out,
    int: integer,
    float: float_out,
    bytes: _written(bytes, lambda data: base64.b64encode(data).decode()),
    datetime: _written(datetime, datetime.isoformat, _whole_minutes, " with an offset of whole minutes"),
    date: _written(date, date.isoformat, lambda day: not isinstance(day, datetime)),
    UUID: _written(UUID, str),
    Decimal: _written(Decimal, Decimal.__str__, Decimal.is_finite, " that is finite"),
}


def _all_are(cls: type[Any], values: Collection[Any]) -> bool:
    return [*map(type, values)].count(cls) == len(values)


def _all_strings(values: Collection[Any]) -> bool:
    # Joining is the fastest way to see that there is nothing else; a subclass is written by what it holds.
    try:
        text = "".join(values)
        return text.isascii() or bool(text.encode())
    except (TypeError, UnicodeEncodeError):
        return False


def _all_integers(values: Collection[Any]) -> bool:
    if not values or not _all_are(int, values):
        return False
    return bool(min(values) >= MIN_INTEGER and max(values) <= MAX_INTEGER)


# Of many values at once, whether each would be taken as it is: a list of thousands goes at the speed of C.
ALL_PLAIN: Final[dict[Hook, Callable[[Collection[Any]], bool]]] = {
    string_out: _all_strings,
    integer: _all_integers,
    float_out: lambda values: _all_are(float, values) and all(map(isfinite, values)),
    READ[bool]: partial(_all_are, bool),
    WRITE[bool]: partial(_all_are, bool),
    READ[str]: partial(_all_are, str),
}


# --- Literal and Enum ---


def literal_in(resolved: Any) -> Hook:
    """Make the hook that reads a ``Literal``, or an Enum by its values."""
    table = literals(resolved)
    what = expectation(resolved)

    def hook(value: Any, _: Any = None) -> Any:
        found = look_up(table, value, hook)
        if found is hook:
            raise expected(what, value)
        return found

    return hook


def literal_out(resolved: Any) -> Hook:
    """Make the hook that writes a ``Literal``, or an Enum by its values."""
    table = {(value.__class__, value): json_of(value) for value in get_args(resolved)}
    classes = {cls for cls, _ in table}
    what = expectation(resolved)

    def hook(value: Any) -> Any:
        plain = str.__str__(value) if isinstance(value, str) and value.__class__ not in classes else value
        if plain.__class__ in classes and (plain.__class__, plain) in table:
            return table[plain.__class__, plain]
        raise expected(what, value)

    return hook


def look_up(table: Mapping[tuple[type, Any], Any], value: Any, default: Any) -> Any:
    """Find a value by its class and itself."""
    # The class comes first: 1 == True == 1.0, and arrays and objects cannot be hashed.
    return table.get((value.__class__, value), default) if value.__class__ in _LITERAL_CLASSES else default


_LITERAL_CLASSES = frozenset({str, int, bool, NoneType})
