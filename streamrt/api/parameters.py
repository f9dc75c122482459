"""Parameters: what the fields of a handshake class are on the wire, read once, at import.

The rules:

- A field named in the path template comes from the path, one annotated with ``Header``, ``Query`` or
  ``Cookie`` from there, and any other from the query. A field with an alias goes by its alias.
- A field without a default is required, unless it is Optional (then None) or a list (then empty).
- What could never work is refused here, with the names of the class and the field.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, TypeAlias, cast, final

import attrs
from attrs import frozen

from .scalars import ALLOWED, Scalar, scalar

Source: TypeAlias = Literal["path", "query", "header", "cookie"]
Default: TypeAlias = Callable[[], object] | None

LABELS: dict[Source, str] = {
    "path": "path parameter",
    "query": "query parameter",
    "header": "header",
    "cookie": "cookie",
}
"""What errors call a parameter."""

_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, 5.6.2


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

    @property
    def label(self) -> str:
        """What errors call it: ``query parameter 'since'``."""
        return f"{LABELS[self.source]} {self.wire_name!r}"


@final
@frozen
class Slot:
    """One parameter, and the argument of the class's constructor that it becomes.

    Args:
        parameter: What it is on the wire.
        argument: The constructor's argument.
        scalar: How one value is parsed and rendered.
        collect: What several values are collected in; None for a single value.
        optional: Whether None is a value.
        default: Creates the default; None when there is none.
    """

    parameter: Parameter
    argument: str
    scalar: Scalar
    collect: type[list[Any] | tuple[Any, ...]] | None
    optional: bool
    default: Default

    def absent(self) -> object:
        """Return what the field is when nothing came for it, and it is not required."""
        if self.default is not None:
            return self.default()
        return None if self.optional or self.collect is None else self.collect()


def read_class(handshake_type: Any, path_names: tuple[str, ...], what: str) -> tuple[Slot, ...]:
    """Read the fields that a class's constructor takes; for the arguments and errors see `HandshakeSpec.of`."""
    if not isinstance(handshake_type, type) or not (
        attrs.has(handshake_type) or dataclasses.is_dataclass(handshake_type)
    ):
        raise TypeError(f"{what}: {_show(handshake_type)} is not a class with fields: decorate it with attrs.frozen")
    title = handshake_type.__qualname__
    try:
        hints = typing.get_type_hints(handshake_type, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise TypeError(
            f"{what}: an annotation of {title} cannot be resolved ({error}): "
            "move the class, and the types it names, to module level, and out of `if TYPE_CHECKING`"
        ) from error
    slots: dict[tuple[Source, str], Slot] = {}
    for name, argument, default in _initialized(handshake_type):
        try:
            if name not in hints:
                raise TypeError(f"it has no type; allowed are {ALLOWED}")
            slot = _read_field(name, argument, hints[name], default, path_names)
        except TypeError as error:
            raise TypeError(f"{what}: {title}.{name}: {error}") from None
        other = slots.setdefault((slot.parameter.source, slot.parameter.wire_name), slot).parameter
        if other is not slot.parameter:
            raise TypeError(f"{what}: {title}.{other.name} and {title}.{name} are both {other.label}")
    for name in path_names:
        if ("path", name) not in slots:
            raise TypeError(f"{what}: {title} has no field for the path parameter {name!r}: add `{name}: str`")
    try:
        inspect.signature(handshake_type).bind(**dict.fromkeys(slot.argument for slot in slots.values()))
    except TypeError as error:
        raise TypeError(f"{what}: {title} cannot be created from its fields: {error}") from None
    return tuple(slots.values())


def _initialized(handshake_type: Any) -> Iterator[tuple[str, str, Default]]:
    """Yield name, constructor argument and default of each field with ``init=True``."""
    if attrs.has(handshake_type):
        for attribute in attrs.fields(handshake_type):
            if attribute.init:
                yield attribute.name, attribute.alias or attribute.name, _default(attribute.default)
    else:
        for member in dataclasses.fields(handshake_type):
            if member.init:
                factory: Any = member.default_factory
                made = factory is not dataclasses.MISSING
                yield member.name, member.name, factory if made else _default(member.default)


def _default(default: Any) -> Default:
    if default is attrs.NOTHING or default is dataclasses.MISSING:
        return None
    if not isinstance(default, cast("type[Any]", attrs.Factory)):
        return lambda: default
    # One that takes the object cannot be asked beforehand: NOTHING is equal to no value.
    return (lambda: attrs.NOTHING) if default.takes_self else default.factory


def _read_field(name: str, argument: str, annotation: Any, default: Default, path_names: Iterable[str]) -> Slot:
    tp, markers = _unwrap(annotation)
    if len(markers) > 1:
        raise TypeError(f"it has {len(markers)} of Header, Query and Cookie: keep one")
    source, wire_name = _place(argument, markers[0] if markers else None, path_names)
    inner, optional = _strip_optional(tp)
    inner, collect = _strip_collection(inner)
    inner, misplaced = _unwrap(inner)
    if misplaced:
        raise TypeError(f"write {type(misplaced[0]).__name__} around the whole type: Annotated[..., {misplaced[0]}]")
    if source in {"path", "cookie"} and collect is not None:
        raise TypeError(f"a {LABELS[source]} is one value and cannot be {_show(tp)}")
    if source == "path" and optional:
        raise TypeError(f"a path parameter is always there and cannot be {_show(tp)}")
    how = scalar(inner)
    if how is None:
        raise TypeError(f"type {_show(tp)} is not allowed; allowed are {ALLOWED}")
    required = source == "path" or (default is None and not optional and collect is None)
    return Slot(Parameter(name, source, wire_name, required, tp), argument, how, collect, optional, default)


def _place(argument: str, marker: Header | Query | Cookie | None, path_names: Iterable[str]) -> tuple[Source, str]:
    """Return where a field comes from, and its name there."""
    if argument in path_names:
        if marker is not None:
            raise TypeError(f"it is in the path, so it cannot come from a {type(marker).__name__} too")
        return "path", argument
    name = argument if marker is None or marker.name is None else marker.name
    if marker is None or isinstance(marker, Query):
        if not name:
            raise TypeError("the name of a query parameter cannot be empty")
        return "query", name
    if not _is_token(name):
        raise TypeError(f"{name!r} cannot be the name of a {type(marker).__name__.lower()} (RFC 9110, 5.6.2)")
    if isinstance(marker, Cookie):
        return "cookie", name
    name = (name.replace("_", "-") if marker.name is None else name).lower()
    if name == "cookie":
        raise TypeError("the cookie header is read with Cookie(name), one field a cookie")
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


def _show(tp: Any) -> str:
    return tp.__qualname__ if isinstance(tp, type) else repr(tp).replace("typing.", "")
