"""Handshakes: how a request's path, query, headers and cookies become one typed value, and back.

A handshake is an attrs class (or a dataclass). ``HandshakeSpec.of`` reads it once, at import, and refuses
there what could never work. The rules:

- A field named in the path template comes from the path, one annotated with ``Header``, ``Query`` or
  ``Cookie`` from there, and any other from the query. A field with an alias goes by its alias.
- Parsing knows that all it gets is text: ``false`` is False, ``yes`` is an error, ``007`` is no integer.
  Numbers are JSON's, times RFC 3339's, and each value has one meaning or none.
- A field without a default is required, unless it is Optional (then None) or a list (then empty). An
  empty value is a value: the empty string for ``str``, an error for most other types.
- Every fault is told, all at once, with the name on the wire and the place it was looked for in. What
  came from a header or a cookie may be a secret: it is never repeated in an error.
- ``render`` is the inverse of ``parse``: it raises where ``parse`` would give another value back.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import math
import re
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar, cast, final

import attrs
from attrs import frozen

from streamrt.api.path import percent_decode
from streamrt.errors import APIError

H = TypeVar("H")
K = TypeVar("K")
Source: TypeAlias = Literal["path", "query", "header", "cookie"]

MAX_ECHO = 64
"""How many characters of a wrong value an error repeats: enough to know it by, too few to flood a log."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""What 64 bits hold, with a sign or without: the integers that messages take too (msgspec's range)."""


@final
@frozen
class Header:
    """Take a field of a handshake from a request header: ``Annotated[str, Header("authorization")]``.

    A header that comes on several lines fits only a list, which takes the values of all lines, split at
    commas.

    Args:
        name: The header's name, in any case. Default: the field's, with ``-`` for ``_``.
    """

    name: str | None = None


@final
@frozen
class Query:
    """Take a field of a handshake from the query: ``Annotated[int, Query("page[size]")]``.

    Fields that are not in the path come from the query anyway: it takes this only to give another name.

    Args:
        name: The query key, not encoded. Default: the field's.
    """

    name: str | None = None


@final
@frozen
class Cookie:
    """Take a field of a handshake from a cookie: ``Annotated[str, Cookie("session")]``.

    Args:
        name: The cookie's name, in its exact case. Default: the field's.
    """

    name: str | None = None


@final
@frozen
class Parameter:
    """One field of a handshake, as it is on the wire.

    Args:
        name: The field's name.
        source: Where it is looked for.
        wire_name: Its name there; in lower case for a header.
        required: Whether a request without it is refused.
        type: The field's type, without ``Annotated``.
    """

    name: str
    source: Source
    wire_name: str
    required: bool
    type: Any


@final
@frozen
class Rendered:
    """A handshake as text, not yet percent-encoded.

    Args:
        path: The path's parameters by name, for ``PathTemplate.render``.
        query: Keys and values in the order of the fields; a list is a repeated key.
        headers: Names in lower case, and values; all cookies are one ``cookie`` header.
    """

    path: dict[str, str]
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]


@final
@frozen
class HandshakeSpec(Generic[H]):
    """How one handshake class is parsed and rendered. Create one with ``of``.

    Args:
        handshake_type: The class.
        fields: Its fields as they are on the wire, in the order of the class.
    """

    handshake_type: type[H]
    fields: tuple[Parameter, ...]
    _readers: tuple[_Reader, ...] = attrs.field(repr=False)
    _by_name: dict[Source, dict[str, _Reader]] = attrs.field(repr=False)

    @classmethod
    def of(cls, handshake_type: type[H], path_names: Iterable[str] = (), what: str = "handshake") -> HandshakeSpec[H]:
        """Read a handshake class.

        Args:
            handshake_type: An attrs class or a dataclass, at module level, so that its annotations resolve.
            path_names: The parameters of the path template.
            what: What the handshake is for, as the errors should call it.

        Raises:
            TypeError: The class can be no handshake of this path; the error names the class and the field.
        """
        in_path = tuple(path_names)
        readers = tuple(_Reader.of(member, in_path) for member in _members(handshake_type, what))
        title = handshake_type.__qualname__
        by_name: dict[Source, dict[str, _Reader]] = {"path": {}, "query": {}, "header": {}, "cookie": {}}
        for reader in readers:
            parameter = reader.parameter
            other = by_name[parameter.source].setdefault(parameter.wire_name, reader)
            if other is not reader:
                raise TypeError(
                    f"{what}: {title}.{other.parameter.name} and {title}.{parameter.name} are both "
                    f"{_LABELS[parameter.source]} {parameter.wire_name!r}"
                )
        for name in in_path:
            if name not in by_name["path"]:
                raise TypeError(f"path parameter {name!r} of {what} is missing from {title}: add a field `{name}: str`")
        try:
            inspect.signature(handshake_type).bind(**dict.fromkeys(reader.argument for reader in readers))
        except TypeError as error:
            raise TypeError(f"{what}: {title} cannot be created from its fields: {error}") from None
        return cls(handshake_type, tuple(reader.parameter for reader in readers), readers, by_name)

    def parse(self, *, path: Mapping[str, str], query_string: str, headers: Iterable[tuple[str, str]]) -> H:
        """Create the handshake of a request.

        Args:
            path: The path's parameters, decoded, from ``Router.match``.
            query_string: The query as it came, percent-encoded, without the ``?``.
            headers: Names, in any case, and decoded values; cookies are in the ``cookie`` headers.

        Raises:
            APIError.InvalidArgument: The request does not fit; the message tells all faults, and
                ``details["faults"]`` lists them, each with ``in``, ``name`` and ``message``.
        """
        came = self._collect(query_string, headers)
        for reader in self._by_name["path"].values():
            if reader.parameter.wire_name in path:
                came[reader.argument] = [path[reader.parameter.wire_name]]
        arguments: dict[str, Any] = {}
        faults: list[_Fault] = []
        for reader in self._readers:
            texts = came.get(reader.argument)
            try:
                if texts is not None:
                    arguments[reader.argument] = reader.read(texts)
                elif reader.parameter.required:
                    faults.append(_Fault(reader.parameter, "missing"))
                elif reader.default is None:
                    arguments[reader.argument] = reader.absent()
            except ValueError as error:
                faults.append(_Fault(reader.parameter, str(error)))
        if faults:
            raise _invalid(faults)
        try:
            return self.handshake_type(**arguments)
        except (ValueError, TypeError) as error:
            text = str(error.args[0]) if error.args else ""
            if text and not self._tells_a_secret(text, came, arguments):
                raise _invalid([_Fault(None, text)]) from error
            raise _invalid([_Fault(None, "the values are not accepted")]) from None

    def present(self, *, query_string: str, headers: Iterable[tuple[str, str]]) -> bool:
        """Return whether any parameter has a value there that is not empty, be it valid or not.

        This is how to tell a request without credentials from one with wrong ones.
        """
        return any(text.strip() for texts in self._collect(query_string, headers).values() for text in texts)

    def render(self, value: H) -> Rendered:
        """Turn a handshake into text; ``parse`` gives an equal one back.

        None, and an empty list, are left out.

        Raises:
            TypeError: A value is not of its field's type; the error names the field.
            ValueError: A value cannot be sent, or would come back as another; the error names the field.
        """
        title = self.handshake_type.__qualname__
        if not isinstance(value, self.handshake_type):
            raise TypeError(f"expected a {title}, got {type(value).__qualname__}")
        rendered = Rendered({}, [], [])
        cookies: list[str] = []
        for reader in self._readers:
            name = reader.parameter.wire_name
            try:
                texts = reader.write(getattr(value, reader.parameter.name))
            except (ValueError, TypeError) as error:
                kind = ValueError if isinstance(error, ValueError) else TypeError
                raise kind(f"{title}.{reader.parameter.name}, {reader.parameter.source} {name!r}: {error}") from None
            match reader.parameter.source:
                case "path":
                    rendered.path[name] = texts[0]
                case "query":
                    rendered.query.extend((name, text) for text in texts)
                case "header" if texts:
                    rendered.headers.append((name, ", ".join(texts)))
                case "header":  # left out
                    pass
                case _:
                    cookies.extend(f"{name}={text}" for text in texts)
        if cookies:
            rendered.headers.append(("cookie", "; ".join(cookies)))
        return rendered

    def _collect(self, query_string: str, headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
        """Find what came, by the argument it is for: raw texts, those of the query still encoded."""
        came: dict[str, list[str]] = {}
        wanted = self._by_name["query"]
        if wanted and query_string:
            for pair in query_string.split("&"):
                key, _, text = pair.partition("=")
                reader = wanted.get(_decode_key(key))
                if reader is not None:
                    came.setdefault(reader.argument, []).append(text)
        wanted, cookies = self._by_name["header"], self._by_name["cookie"]
        if wanted or cookies:
            for any_case, text in headers:
                name = any_case.lower()
                reader = wanted.get(name)
                if reader is not None:
                    came.setdefault(reader.argument, []).append(text)
                elif cookies and name == "cookie":
                    for cookie, crumb in _parse_cookies(text):
                        reader = cookies.get(cookie)
                        if reader is not None:
                            came.setdefault(reader.argument, [crumb])
        return came

    def _tells_a_secret(self, message: str, came: Mapping[str, list[str]], arguments: Mapping[str, Any]) -> bool:
        """Return whether a validator's message repeats a word of what came in a header or a cookie."""
        words: set[str] = set()
        for reader in self._readers:
            if reader.parameter.source in _SECRET and reader.argument in came:
                value = arguments[reader.argument]
                for text in came[reader.argument]:
                    words.update(re.split(r"[\s,;]+", text))
                for item in value if reader.collect is not None else [value]:
                    words.update((str(item), repr(item), repr(str(item))[1:-1]))
        return any(word.casefold() in message.casefold() for word in words if word)


_LABELS: dict[Source, str] = {
    "path": "path parameter",
    "query": "query parameter",
    "header": "header",
    "cookie": "cookie",
}
_SECRET: frozenset[Source] = frozenset({"header", "cookie"})


@frozen
class _Fault:
    """One thing that is wrong with a request; without a parameter, it is the class that refused."""

    parameter: Parameter | None
    message: str

    def __str__(self) -> str:
        if self.parameter is None:
            return self.message
        name = f"{_LABELS[self.parameter.source]} {self.parameter.wire_name!r}"
        return f"missing {name}" if self.message == "missing" else f"{name}: {self.message}"

    def to_json(self) -> dict[str, str | None]:
        if self.parameter is None:
            return {"in": "handshake", "name": None, "message": self.message}
        return {"in": self.parameter.source, "name": self.parameter.wire_name, "message": self.message}


def _invalid(faults: list[_Fault]) -> APIError:
    return APIError.invalid_argument(
        "; ".join(map(str, faults)), details={"faults": [fault.to_json() for fault in faults]}
    )


# Scalars: one value as one text. ``parse`` raises ValueError(what was expected); ``render`` raises
# TypeError for a value of another type, and ValueError for one that ``parse`` would not take.


@frozen
class _Scalar:
    parse: Callable[[str], Any]
    render: Callable[[Any], str]


_is_integer = re.compile(r"-?(?:0|[1-9][0-9]*)").fullmatch
_is_number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch  # RFC 8259, 6
_is_date = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_is_datetime = re.compile(  # RFC 3339, 5.6; the offset's range is checked here, all others by ``datetime``
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
    re.IGNORECASE | re.ASCII,
).fullmatch
_is_uuid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII).fullmatch


def _of_type(value: object, kind: type[K], but: type | None = None) -> K:
    """Return a value of exactly the type that a field has, save for subclasses that are no other type."""
    if not isinstance(value, kind) or (but is not None and isinstance(value, but)):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _parse_int(text: str) -> int:
    if not _is_integer(text):
        raise ValueError("an integer")
    # Digits are counted first: int() is slow for many, and refuses thousands with an error of its own.
    if len(text) > 20 or not MIN_INTEGER <= (number := int(text)) <= MAX_INTEGER:
        raise ValueError("an integer within 64 bits")
    return number


def _render_int(value: object) -> str:
    number = _of_type(value, int, but=bool)
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise ValueError("an integer must be within 64 bits")
    return f"{number:d}"


def _parse_float(text: str) -> float:
    if not _is_number(text):
        raise ValueError("a number")
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number within the range of a float")
    return number


def _render_float(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if number != value:
            raise ValueError("a float cannot hold this integer exactly")
    else:
        number = _of_type(value, float)
    if not math.isfinite(number):
        raise ValueError("a float must be finite")
    return float.__repr__(number)


def _parse_bool(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError("true or false")
    return text == "true"


def _render_bool(value: object) -> str:
    return "true" if _of_type(value, bool) else "false"


def _parse_datetime(text: str) -> dt.datetime:
    try:
        if _is_datetime(text):
            return dt.datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    raise ValueError("a date, time and offset as in 2025-01-31T12:00:00Z (RFC 3339)")


def _render_datetime(value: object) -> str:
    time = _of_type(value, dt.datetime)
    offset = time.utcoffset()
    if offset is None:
        raise ValueError("a datetime must have a time zone, for others to know when it is")
    if offset % dt.timedelta(minutes=1):  # local mean times, which RFC 3339 has no way to write
        try:
            time = time.astimezone(dt.UTC)
        except OverflowError:
            raise ValueError("a datetime must be within the years 1 to 9999 in UTC") from None
    return time.isoformat()


def _parse_date(text: str) -> dt.date:
    try:
        if _is_date(text):
            return dt.date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("a date as in 2025-01-31")


def _parse_uuid(text: str) -> uuid.UUID:
    if not _is_uuid(text):
        raise ValueError("a UUID")
    return uuid.UUID(text)


def _parse_decimal(text: str) -> decimal.Decimal:
    try:
        if _is_number(text) and (number := decimal.Decimal(text)).is_finite():
            return number
    except decimal.InvalidOperation:  # an exponent beyond what Decimal holds
        pass
    raise ValueError("a decimal number")


def _render_decimal(value: object) -> str:
    number = _of_type(value, decimal.Decimal)
    if not number.is_finite():
        raise ValueError("a Decimal must be finite")
    return str(number)


_SCALARS: dict[object, _Scalar] = {
    str: _Scalar(lambda text: text, lambda value: str.__str__(_of_type(value, str))),
    int: _Scalar(_parse_int, _render_int),
    float: _Scalar(_parse_float, _render_float),
    bool: _Scalar(_parse_bool, _render_bool),
    dt.datetime: _Scalar(_parse_datetime, _render_datetime),
    dt.date: _Scalar(_parse_date, lambda value: _of_type(value, dt.date, but=dt.datetime).isoformat()),
    uuid.UUID: _Scalar(_parse_uuid, lambda value: str(_of_type(value, uuid.UUID))),
    decimal.Decimal: _Scalar(_parse_decimal, _render_decimal),
}
_ALLOWED = (
    "str, int, float, bool, datetime, date, UUID, Decimal, an Enum or Literal of str, int and bool, and Optional of "
    "these; from the query or a header also a list or tuple[..., ...] of these"
)


def _choice(choices: Iterable[tuple[object, object]]) -> _Scalar | None:
    """Return the scalar of a few values, each with what stands for it; None if that cannot be text."""
    values: dict[str, object] = {}
    texts: dict[tuple[type, object], str] = {}  # with the type, because True == 1
    for value, raw in choices:
        if not isinstance(raw, (str, int)) or isinstance(raw, enum.Enum):
            return None
        text = _SCALARS[bool if isinstance(raw, bool) else int if isinstance(raw, int) else str].render(raw)
        if text in values:
            return None
        values[text] = value
        texts[type(value), value] = text
    if not values:
        return None
    expected = ("one of " if len(values) > 1 else "") + ", ".join(map(repr, values))

    def parse(text: str) -> object:
        if text not in values:
            raise ValueError(expected)
        return values[text]

    def render(value: object) -> str:
        text = texts.get((type(value), value))
        if text is None:
            kind = ValueError if type(value) in {kind for kind, _ in texts} else TypeError
            raise kind(f"expected {expected}")
        return text

    return _Scalar(parse, render)


def _scalar(tp: Any) -> _Scalar | None:
    """Return how a type is parsed and rendered; None if it is none that one text can hold."""
    if typing.get_origin(tp) is Literal:
        return _choice((value, value) for value in typing.get_args(tp))
    if not isinstance(tp, type):
        return None
    if issubclass(tp, enum.Enum):
        return None if issubclass(tp, enum.Flag) else _choice((member, member.value) for member in tp)
    return _SCALARS.get(cast("object", tp))


# Texts in their places.

_is_header_text = re.compile(r"[\t\x20-\x7e\xa0-\xff]*").fullmatch  # field-content of RFC 9110, 5.5, in Latin-1
_is_cookie_text = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*").fullmatch  # RFC 6265, 4.1.1
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, 5.6.2


def _decode_key(key: str) -> str:
    """Decode a query key; one that is not encoded, or badly, stands for itself."""
    try:
        return percent_decode(key.replace("+", " "))
    except ValueError:
        return key


def _parse_cookies(header: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a ``cookie`` header (RFC 6265, 5.4), without the quotes around values."""
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        value = value.strip(" \t")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if equals:
            yield name.strip(" \t"), value


@frozen
class _Reader:
    """One field of a handshake, and how it is read and written."""

    parameter: Parameter
    argument: str  # of the class's constructor
    scalar: _Scalar
    collect: type[list[Any] | tuple[Any, ...]] | None
    optional: bool
    default: Callable[[], object] | None

    @classmethod
    def of(cls, member: _Member, path_names: tuple[str, ...]) -> _Reader:
        tp, markers = _unwrap(member.type)
        if len(markers) > 1:
            raise member.wrong(f"it has {len(markers)} of Header, Query and Cookie: keep one")
        source, wire_name = _place(member, markers[0] if markers else None, path_names)
        inner, optional = _strip_optional(tp)
        inner, collect = _strip_collection(inner)
        inner, misplaced = _unwrap(inner)
        if misplaced:
            raise member.wrong(
                f"write {type(misplaced[0]).__name__} around the whole type: Annotated[..., {misplaced[0]}]"
            )
        if source in {"path", "cookie"} and collect is not None:
            raise member.wrong(f"a {_LABELS[source]} is one value and cannot be {_describe(tp)}")
        if source == "path" and optional:
            raise member.wrong(f"a path parameter is always there and cannot be {_describe(tp)}")
        scalar = _scalar(inner)
        if scalar is None:
            raise member.wrong(f"type {_describe(tp)} is not allowed; allowed are {_ALLOWED}")
        required = source == "path" or (member.default is None and not optional and collect is None)
        return cls(
            Parameter(member.name, source, wire_name, required, tp),
            member.argument,
            scalar,
            collect,
            optional,
            member.default,
        )

    def absent(self) -> object:
        """Return what the field is when nothing came for it, and it is not required."""
        if self.default is not None:
            return self.default()
        return None if self.optional or self.collect is None else self.collect()

    def read(self, texts: list[str]) -> object:
        """Parse the raw texts that came for the field, at least one.

        Raises:
            ValueError: What was expected, and what came, unless that may be a secret.
        """
        match self.parameter.source:
            case "query":
                texts = [_decode_query(text) for text in texts]
            case "header":
                if self.collect is not None:
                    # Empty items are there to be ignored (RFC 9110, 5.6.1).
                    texts = [item for line in texts for item in line.split(",") if item.strip(" \t")]
                texts = [text.strip(" \t") for text in texts]
            case _:
                pass
        if self.collect is None:
            if len(texts) > 1:
                raise ValueError(f"expected one value, got {len(texts)}")
            return self._read_one(texts[0])
        return self.collect(self._read_one(text, f" as item {number}") for number, text in enumerate(texts, 1))

    def _read_one(self, text: str, position: str = "") -> object:
        try:
            return self.scalar.parse(text)
        except ValueError as error:
            got = "" if self.parameter.source in _SECRET else f", got {_shorten(text)}"
            raise ValueError(f"expected {error}{position}{got}") from None

    def write(self, value: object) -> list[str]:
        """Render a value of the field as the texts to send: none at all for None and the empty list."""
        if (value is None and self.optional) or (self.collect is not None and value == self.collect()):
            if self.absent() != value:
                raise ValueError(f"{value} cannot be sent: what is left out comes back as the default")
            return []
        if self.collect is None:
            return [self._write_one(value, "")]
        items = cast("list[object]", _of_type(value, self.collect))
        return [self._write_one(item, f"item {number}: ") for number, item in enumerate(items, 1)]

    def _write_one(self, value: object, position: str) -> str:
        try:
            text = self.scalar.render(value)
        except TypeError as error:
            raise TypeError(f"{position}{error}") from None
        except ValueError as error:
            raise ValueError(f"{position}{error}") from None
        if (wrong := self._unsendable(text)) is not None:
            raise ValueError(f"{position}{wrong}")
        return text

    def _unsendable(self, text: str) -> str | None:
        match self.parameter.source:
            case "header":
                if not _is_header_text(text):
                    return "a header cannot hold control characters, or others than Latin-1"
                if text != text.strip(" \t"):
                    return "a header cannot begin or end with whitespace"
                if self.collect is not None and (not text or "," in text):
                    return "an item of a header's list cannot be empty or hold a comma"
            case "cookie":
                if not _is_cookie_text(text):
                    return "a cookie cannot hold whitespace, '\"', ',', ';', '\\' or others than ASCII (RFC 6265)"
            case _:  # of any text, only what is no text cannot be percent-encoded
                if re.search("[\ud800-\udfff]", text):
                    return "a lone surrogate is no Unicode text"
        return None


def _decode_query(text: str) -> str:
    try:
        return percent_decode(text.replace("+", " "))
    except ValueError:
        raise ValueError(f"expected percent-encoded UTF-8, got {_shorten(text)}") from None


def _shorten(text: str) -> str:
    return repr(text) if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]!r}..."


# Reading the class.


@frozen
class _Member:
    """One field of the class, before it is known what it is on the wire."""

    what: str
    owner: str
    name: str
    argument: str
    type: Any
    default: Callable[[], object] | None

    def wrong(self, message: str) -> TypeError:
        return TypeError(f"{self.what}: {self.owner}.{self.name}: {message}")


def _members(handshake_type: object, what: str) -> Iterator[_Member]:
    """Yield the fields that the class's constructor takes."""
    if not isinstance(handshake_type, type) or not (
        attrs.has(handshake_type) or dataclasses.is_dataclass(handshake_type)
    ):
        raise TypeError(
            f"{what}: {_describe(handshake_type)} is not a class with fields: decorate it with attrs.frozen"
        )
    owner = handshake_type.__qualname__
    try:
        hints = typing.get_type_hints(handshake_type, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise TypeError(
            f"{what}: an annotation of {owner} cannot be resolved ({error}): "
            "move the class, and the types it names, to module level, and out of `if TYPE_CHECKING`"
        ) from error
    for name, argument, default in _initialized(handshake_type):
        if name not in hints:
            raise TypeError(f"{what}: {owner}.{name}: it has no type; allowed are {_ALLOWED}")
        yield _Member(what, owner, name, argument, hints[name], default)


def _initialized(handshake_type: type) -> Iterator[tuple[str, str, Callable[[], object] | None]]:
    """Yield name, constructor argument and default of each field with ``init=True``."""
    if attrs.has(handshake_type):
        for attribute in attrs.fields(handshake_type):
            if attribute.init:
                yield attribute.name, attribute.alias or attribute.name, _attrs_default(attribute.default)
        return
    for member in dataclasses.fields(handshake_type):
        if member.init:
            default = None
            if member.default_factory is not dataclasses.MISSING:
                default = member.default_factory
            elif member.default is not dataclasses.MISSING:
                default = _constant(member.default)
            yield member.name, member.name, default


def _attrs_default(default: Any) -> Callable[[], object] | None:
    if default is attrs.NOTHING:
        return None
    if not isinstance(default, cast("type[Any]", attrs.Factory)):
        return _constant(default)
    # One that takes the object cannot be asked beforehand: NOTHING is equal to no value.
    return _constant(attrs.NOTHING) if default.takes_self else default.factory


def _constant(value: object) -> Callable[[], object]:
    return lambda: value


def _place(member: _Member, marker: Header | Query | Cookie | None, path_names: tuple[str, ...]) -> tuple[Source, str]:
    """Return where a field comes from, and its name there."""
    if member.argument in path_names:
        if marker is not None:
            raise member.wrong(f"it is in the path, so it cannot come from a {type(marker).__name__} too")
        return "path", member.argument
    name = member.argument if marker is None or marker.name is None else marker.name
    if marker is None or isinstance(marker, Query):
        if not name:
            raise member.wrong("the name of a query parameter cannot be empty")
        return "query", name
    if not _is_token(name):
        raise member.wrong(f"{name!r} cannot be the name of a {type(marker).__name__.lower()} (RFC 9110, 5.6.2)")
    if isinstance(marker, Cookie):
        return "cookie", name
    name = (name.replace("_", "-") if marker.name is None else name).lower()
    if name == "cookie":
        raise member.wrong("the cookie header is read with Cookie(name), one field a cookie")
    return "header", name


def _unwrap(tp: Any) -> tuple[Any, list[Header | Query | Cookie]]:
    """Take off ``Annotated``, type aliases and NewTypes, and return the markers that were there."""
    markers: list[Header | Query | Cookie] = []
    while True:
        if typing.get_origin(tp) is Annotated:
            for extra in tp.__metadata__:
                if isinstance(extra, (Header, Query, Cookie)):
                    markers.append(extra)
                elif extra in (Header, Query, Cookie):  # not a set: what stands here may be unhashable
                    markers.append(extra())
            tp = tp.__origin__
        elif isinstance(tp, typing.NewType):
            tp = tp.__supertype__
        elif type(tp).__name__ == "TypeAliasType":  # in ``typing`` from Python 3.12 on
            tp = tp.__value__
        else:
            return tp, markers


def _strip_optional(tp: Any) -> tuple[Any, bool]:
    if typing.get_origin(tp) not in {typing.Union, types.UnionType}:
        return tp, False
    others = [arg for arg in typing.get_args(tp) if arg is not types.NoneType]
    return (others[0], True) if len(others) == 1 else (tp, False)


def _strip_collection(tp: Any) -> tuple[Any, type[list[Any] | tuple[Any, ...]] | None]:
    match typing.get_origin(tp), typing.get_args(tp):
        case builtin, (item,) if builtin is list:
            return item, list
        case builtin, (item, rest) if builtin is tuple and rest is ...:
            return item, tuple
        case _:
            return tp, None


def _describe(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) else repr(tp).replace("typing.", "")
