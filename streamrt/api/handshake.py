"""Handshakes: how a request's path, query, headers and cookies become one typed value, and back.

``parameters`` reads the class, ``scalars`` one value; here they meet a request. The rules:

- Parsing knows that all it gets is text. An empty value is a value: the empty string for ``str``, an
  error for most other types.
- Every fault is told, all at once, with the name on the wire and the place it was looked for in. What
  came from a header or a cookie may be a secret: it is never repeated in an error.
- ``render`` is the inverse of ``parse``: it raises where ``parse`` would give another value back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, final

import attrs
from attrs import frozen

from streamrt.errors import APIError

from .parameters import Cookie, Header, Parameter, Query, Slot, Source, read_class
from .path import percent_decode
from .scalars import of_type

__all__ = ["MAX_ECHO", "Cookie", "HandshakeSpec", "Header", "Parameter", "Query", "Rendered"]

H = TypeVar("H")

MAX_ECHO = 64
"""How many characters of a wrong value an error repeats: enough to know it by, too few to flood a log."""

_SECRET: frozenset[Source] = frozenset({"header", "cookie"})

# ASCII of field-content (RFC 9110, 5.5): what is beyond, one server reads as UTF-8 and the next as Latin-1.
_is_header_text = re.compile(r"[\t\x20-\x7e]*").fullmatch
_is_cookie_text = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*").fullmatch  # RFC 6265, 4.1.1


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
    _slots: tuple[Slot, ...] = attrs.field(repr=False)
    _by_name: dict[Source, dict[str, Slot]] = attrs.field(repr=False)

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
        slots = read_class(handshake_type, tuple(path_names), what)
        by_name: dict[Source, dict[str, Slot]] = {"path": {}, "query": {}, "header": {}, "cookie": {}}
        for slot in slots:
            by_name[slot.parameter.source][slot.parameter.wire_name] = slot
        return cls(handshake_type, tuple(slot.parameter for slot in slots), slots, by_name)

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
        for name, slot in self._by_name["path"].items():
            if name in path:
                came[slot.argument] = [path[name]]
        arguments: dict[str, Any] = {}
        faults: list[_Fault] = []
        for slot in self._slots:
            texts = came.get(slot.argument)
            try:
                if texts is not None:
                    arguments[slot.argument] = _read(slot, texts)
                elif slot.parameter.required:
                    faults.append(_Fault(slot.parameter, "missing"))
                elif slot.default is None:
                    arguments[slot.argument] = slot.absent()
            except ValueError as error:
                faults.append(_Fault(slot.parameter, str(error)))
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
        for slot in self._slots:
            name, source = slot.parameter.wire_name, slot.parameter.source
            try:
                texts = _write(slot, getattr(value, slot.parameter.name))
            except (ValueError, TypeError) as error:
                raise _prefixed(f"{title}.{slot.parameter.name}, {source} {name!r}: ", error) from None
            match source:
                case "path":
                    rendered.path[name] = texts[0]
                case "query":
                    rendered.query.extend((name, text) for text in texts)
                case "header":
                    rendered.headers.extend((name, text) for text in ([", ".join(texts)] if texts else []))
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
                slot = wanted.get(_decode_key(key))
                if slot is not None:
                    came.setdefault(slot.argument, []).append(text)
        wanted, cookies = self._by_name["header"], self._by_name["cookie"]
        if wanted or cookies:
            for any_case, text in headers:
                name = any_case.lower()
                slot = wanted.get(name)
                if slot is not None:
                    came.setdefault(slot.argument, []).append(text)
                elif cookies and name == "cookie":
                    for cookie, crumb in _parse_cookies(text):
                        if cookie in cookies:
                            came.setdefault(cookies[cookie].argument, [crumb])
        return came

    def _tells_a_secret(self, message: str, came: Mapping[str, list[str]], arguments: Mapping[str, Any]) -> bool:
        """Return whether a validator's message repeats a word of what came in a header or a cookie."""
        words: set[str] = set()
        for slot in self._slots:
            if slot.parameter.source in _SECRET and slot.argument in came:
                value = arguments[slot.argument]
                for text in came[slot.argument]:
                    words.update(re.split(r"[\s,;]+", text))
                for item in value if slot.collect is not None else [value]:
                    words.update((str(item), repr(item), repr(str(item))[1:-1]))
        return any(word.casefold() in message.casefold() for word in words if word)


@frozen
class _Fault:
    """One thing that is wrong with a request; without a parameter, it is the class that refused."""

    parameter: Parameter | None
    message: str

    def __str__(self) -> str:
        if self.parameter is None:
            return self.message
        label = self.parameter.label
        return f"missing {label}" if self.message == "missing" else f"{label}: {self.message}"

    def to_json(self) -> dict[str, str | None]:
        if self.parameter is None:
            return {"in": "handshake", "name": None, "message": self.message}
        return {"in": self.parameter.source, "name": self.parameter.wire_name, "message": self.message}


def _invalid(faults: list[_Fault]) -> APIError:
    return APIError.invalid_argument(
        "; ".join(map(str, faults)), details={"faults": [fault.to_json() for fault in faults]}
    )


def _read(slot: Slot, texts: list[str]) -> object:
    """Parse the raw texts that came for a field, at least one.

    Raises:
        ValueError: What was expected, and what came, unless that may be a secret.
    """
    match slot.parameter.source:
        case "query":
            texts = [_decode_query(text) for text in texts]
        case "header":
            if slot.collect is not None:
                # Empty items are there to be ignored (RFC 9110, 5.6.1).
                texts = [item for line in texts for item in line.split(",") if item.strip(" \t")]
            texts = [text.strip(" \t") for text in texts]
        case _:
            pass
    if slot.collect is not None:
        return slot.collect(_read_one(slot, text, f" as item {number}") for number, text in enumerate(texts, 1))
    if len(texts) > 1:
        raise ValueError(f"expected one value, got {len(texts)}")
    return _read_one(slot, texts[0], "")


def _read_one(slot: Slot, text: str, position: str) -> object:
    try:
        return slot.scalar.parse(text)
    except ValueError as error:
        got = "" if slot.parameter.source in _SECRET else f", got {_shorten(text)}"
        raise ValueError(f"expected {error}{position}{got}") from None


def _write(slot: Slot, value: object) -> list[str]:
    """Render a value of a field as the texts to send: none at all for None and the empty list."""
    if (value is None and slot.optional) or (slot.collect is not None and value == slot.collect()):
        if slot.absent() != value:
            raise ValueError(f"{value} cannot be sent: what is left out comes back as the default")
        return []
    if slot.collect is None:
        return [_write_one(slot, value)]
    texts: list[str] = []
    for number, item in enumerate(cast("list[object]", of_type(value, slot.collect)), 1):
        try:
            texts.append(_write_one(slot, item))
        except (ValueError, TypeError) as error:
            raise _prefixed(f"item {number}: ", error) from None
    return texts


def _write_one(slot: Slot, value: object) -> str:
    text = slot.scalar.render(value)
    match slot.parameter.source:
        case "header":
            if not _is_header_text(text):
                raise ValueError("a header cannot hold control characters, or others than ASCII")
            if text != text.strip(" \t"):
                raise ValueError("a header cannot begin or end with whitespace")
            if slot.collect is not None and (not text or "," in text):
                raise ValueError("an item of a header's list cannot be empty or hold a comma")
        case "cookie":
            if not _is_cookie_text(text):
                raise ValueError("a cookie cannot hold whitespace, '\"', ',', ';', '\\' or others than ASCII")
        case _:  # of any text, only what is no text cannot be percent-encoded
            if re.search("[\ud800-\udfff]", text):
                raise ValueError("a lone surrogate is no Unicode text")
    return text


def _prefixed(prefix: str, error: Exception) -> Exception:
    return (ValueError if isinstance(error, ValueError) else TypeError)(f"{prefix}{error}")


def _decode_key(key: str) -> str:
    """Decode a query key; one that is not encoded, or badly, stands for itself."""
    try:
        return percent_decode(key.replace("+", " "))
    except ValueError:
        return key


def _decode_query(text: str) -> str:
    try:
        return percent_decode(text.replace("+", " "))
    except ValueError:
        raise ValueError(f"expected percent-encoded UTF-8, got {_shorten(text)}") from None


def _parse_cookies(header: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a ``cookie`` header (RFC 6265, 5.4), without the quotes around values."""
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        value = value.strip(" \t")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if equals:
            yield name.strip(" \t"), value


def _shorten(text: str) -> str:
    return repr(text) if len(text) <= MAX_ECHO else f"{text[:MAX_ECHO]!r}..."
