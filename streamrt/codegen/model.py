"""Which endpoints are generated, and what their types are called.

The rules of this file:

- Only what is exposed is told.
- A type has two forms where they differ: as a client sends it (what has a default may be left out) and as it
  receives it (everything is there). The received form has the type's name, the sent one ``Input`` behind it. A type
  that goes one way only, or is the same both ways, has the one name.
- Names do not depend on what else is there, as far as that can be: two types of one name are both told apart by
  the modules they are in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, Union, final, get_args, get_origin
from uuid import UUID

from attrs import frozen

from streamrt.api.endpoint import Endpoint
from streamrt.api.handshake import Parameter
from streamrt.app import App
from streamrt.wire.codec import Codec
from streamrt.wire.dialect import FORBIDDEN
from streamrt.wire.graph import FIELDS, Field, Graph, is_typeddict, kinds, name_of, tag_of

from .docstrings import read_doc

_UNION: Any = Union  # of types that are known only at run time

TEXTS: Final[dict[Any, str]] = {
    bytes: "Base64",
    datetime: "DateTime",
    date: "PlainDate",
    UUID: "Uuid",
    Decimal: "DecimalText",
}
"""What is a string in JSON, by the name that it has where it stays one."""

ALIASES: Final[dict[str, str]] = {
    "Base64": "Bytes in base64.",
    "DateTime": 'A date and time in ISO 8601: "2025-01-31T12:00:00+00:00".',
    "PlainDate": 'A date: "2025-01-31".',
    "Uuid": 'A UUID: "12345678-1234-5678-1234-567812345678".',
    "DecimalText": 'A decimal number, exactly as it is written: "12.50".',
}
"""Strings with a meaning, for readers: a compiler takes any string for them."""

Form: TypeAlias = Literal["sent", "received"]
"""As the client sees it."""


@final
@frozen
class Definition:
    """One form of a type that has a name: an object, or an Enum.

    Args:
        name: What it is called.
        type: The resolved type.
        form: Which form.
        endpoints: Which endpoints use it.
    """

    name: str
    type: Any
    form: Form
    endpoints: tuple[str, ...]


@final
@frozen
class HandshakeDefinition:
    """A handshake, as far as a client is asked for it.

    Args:
        name: What it is called.
        type: The handshake class.
        fields: Without cookies and the headers that a browser sets itself.
        endpoints: Which endpoints use it.
    """

    name: str
    type: Any
    fields: tuple[Parameter, ...]
    endpoints: tuple[str, ...]


@frozen
class _Shape:
    """A handshake class, and those of its fields that a client gives: other paths have others."""

    type: Any
    fields: tuple[Parameter, ...]


@final
class Model:
    """What is generated of an app.

    Args:
        app: The app.
        services: Only these services; empty for all.
        tags: Only endpoints that have one of these; empty for all.
        reserved: Names that no type may have.
        in_browsers: Whether the client may run in one, whose scripts can set neither cookies nor some headers.

    Attributes:
        services: The endpoints by service, in the order they were declared.
        definitions: The types that have a name.
        handshakes: The handshakes.

    Raises:
        ValueError: There is no such service, or no such endpoint.
    """

    def __init__(
        self,
        app: App,
        services: Sequence[str] = (),
        tags: Sequence[str] = (),
        reserved: Iterable[str] = (),
        *,
        in_browsers: bool = True,
    ) -> None:
        self._is_given: Callable[[Parameter], bool] = _is_a_scripts if in_browsers else _is_no_transports
        self.services: dict[str, list[Endpoint]] = _select(app, services, tags)
        self.endpoints: tuple[Endpoint, ...] = tuple(of for group in self.services.values() for of in group)
        self._tags: set[tuple[Any, str]] = set()
        self._uses: dict[tuple[Any, Form], list[str]] = {}
        self._shapes: dict[_Shape, list[str]] = {}
        for endpoint in self.endpoints:
            for codec, form in forms(endpoint):
                self._walk(Graph(codec.type).root, form, endpoint.qualified_name, set())
            if (shape := self._shape(endpoint)) is not None:
                for parameter in shape.fields:
                    self._walk(given(parameter), "sent", endpoint.qualified_name, set())
                self._shapes.setdefault(shape, []).append(endpoint.qualified_name)
        self._names: dict[Any, str] = _name_all(self._uses, self._shapes, set(reserved), self._differs)

    @property
    def definitions(self) -> Iterator[Definition]:
        """The types that have a name, in the order in which they are met."""
        for (of, form), users in self._uses.items():
            if not self._differs(of):
                if form == "received" and (of, "sent") in self._uses:
                    continue
                both = (*users, *self._uses.get((of, "received"), ()))
                yield Definition(self.name(of, form), of, form, tuple(sorted(set(both))))
            else:
                yield Definition(self.name(of, form), of, form, tuple(sorted(set(users))))

    @property
    def handshakes(self) -> Iterator[HandshakeDefinition]:
        """The handshakes, in the order in which they are met."""
        for shape, users in self._shapes.items():
            yield HandshakeDefinition(self._names[shape], shape.type, shape.fields, tuple(sorted(set(users))))

    def name(self, resolved: Any, form: Form) -> str:
        """Return what a form of a type is called."""
        return self._names.get((resolved, form)) or self._names[resolved]

    def handshake(self, endpoint: Endpoint) -> HandshakeDefinition | None:
        """Return the handshake that a client of an endpoint gives; None when there is nothing to give."""
        shape = self._shape(endpoint)
        return None if shape is None else next(of for of in self.handshakes if of.name == self._names[shape])

    def _shape(self, endpoint: Endpoint) -> _Shape | None:
        """Return the handshake class of an endpoint, and those fields that a client gives."""
        if endpoint.handshake is None:
            return None
        fields = tuple(filter(self._is_given, endpoint.handshake.fields))
        return _Shape(endpoint.handshake.handshake_type, fields) if fields else None

    def is_optional(self, resolved: Any, field: Field, form: Form) -> bool:
        """Tell whether a field may be absent in a form of its type."""
        if form == "received":
            return not field.required and is_typeddict(get_origin(resolved) or resolved)
        # A tag has to be there, whatever its default is: without it the type is not known.
        return not field.required and (resolved, field.name) not in self._tags

    def _walk(self, resolved: Any, form: Form, endpoint: str, seen: set[Any]) -> None:
        """Note what one endpoint refers to."""
        if resolved in FIELDS or enum_of(resolved) is not None:
            if resolved in seen:
                return
            seen.add(resolved)
            users = self._uses.setdefault((resolved, form), [])
            users.append(endpoint)
        if get_origin(resolved) is Union:
            objects = objects_of(resolved)
            if len(objects) > 1:
                tag, _ = tag_of(objects)
                self._tags.update((member, tag) for member in objects)
        for part in parts(resolved):
            self._walk(part, form, endpoint, seen)

    def _differs(self, resolved: Any) -> bool:
        """Tell whether the two forms of a type differ, or those of a type that it refers to."""
        seen: set[Any] = set()
        open_parts = [resolved]
        while open_parts:
            of = open_parts.pop()
            if of in seen:
                continue
            seen.add(of)
            if any(self.is_optional(of, f, "sent") != self.is_optional(of, f, "received") for f in FIELDS.get(of, ())):
                return True
            open_parts += parts(of)
        return False


def forms(endpoint: Endpoint) -> Iterator[tuple[Codec[Any], Form]]:
    """Yield the codecs of an endpoint, and which way each goes for a client."""
    if endpoint.incoming is not None:
        yield endpoint.incoming, "sent"
    if endpoint.outgoing is not None:
        yield endpoint.outgoing, "received"


def given(parameter: Parameter) -> Any:
    """Return the resolved type of what a client gives for a handshake's field: None is left out, so it is no value."""
    resolved = Graph(parameter.type).root
    members = [of for of in get_args(resolved) if of is not NoneType]
    return _UNION[tuple(members)] if get_origin(resolved) is Union else resolved


def parts(resolved: Any) -> Iterator[Any]:
    """Yield the types that a resolved type is made of."""
    if resolved in FIELDS:
        yield from (field.type for field in FIELDS[resolved])
    elif get_origin(resolved) is not Literal:
        yield from (part for part in get_args(resolved) if part is not ...)


def objects_of(union: Any) -> list[Any]:
    """Return the members of a union that are objects, and so are told apart by a tag."""
    return [member for member in get_args(union) if kinds(member) == {"object"}]


def enum_of(resolved: Any) -> type[Enum] | None:
    """Return the Enum that a resolved type is the whole of."""
    values = get_args(resolved) if get_origin(resolved) is Literal else ()
    cls = values[0].__class__ if values else None
    return cls if isinstance(cls, type) and issubclass(cls, Enum) and set(values) == set(cls) else None


def pascal(text: str) -> str:
    """Write words as the name of a type: ``private-chat`` is ``PrivateChat``."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[\W_]+", text))


def members_of(names: Iterable[str], style: Callable[[str], str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Name the members of something after services, endpoints or fields, no two alike.

    Args:
        names: After which.
        style: Writes a name as names are written there.
        taken: What none may be called.
    """
    members: dict[str, str] = {}
    lower = {name.lower() for name in taken}
    for name in names:
        nice = style(name)
        candidates = (nice, *(f"{nice}{number}" for number in range(2, _MAX_NAMESAKES)))
        # As classes are named after services too: in any case.
        members[name] = next(of for of in candidates if of.lower() not in lower)
        lower.add(members[name].lower())
    return members


def told(endpoint: Endpoint, where: str) -> str:
    """Return what is told about a stream: its docstring, and what it takes to reach it.

    Args:
        endpoint: The endpoint.
        where: Where credentials are given.
    """
    auth = f". It is only for callers with credentials: see `{where}`." if endpoint.auth else ""
    return "\n\n".join(filter(None, [read_doc(endpoint.doc).text, f"`{endpoint.path}`{auth}"]))


def _select(app: App, services: Sequence[str], tags: Sequence[str]) -> dict[str, list[Endpoint]]:
    known = [service.name for service in app.services]
    for name in services:
        if name not in known:
            raise ValueError(f"there is no service {name!r}; there are {', '.join(known)}")
    selected = {
        service.name: [of for of in service.endpoints if of.expose and (not tags or set(tags) & set(of.tags))]
        for service in app.services
        if not services or service.name in services
    }
    if not any(selected.values()):
        raise ValueError("no endpoint is exposed" + (f" and has the tag {' or '.join(tags)}" if tags else ""))
    return {name: endpoints for name, endpoints in selected.items() if endpoints}


def _is_a_scripts(field: Parameter) -> bool:
    """Tell whether a browser lets its scripts give a field."""
    forbidden = field.wire_name in FORBIDDEN or field.wire_name.startswith(("sec-", "proxy-"))
    return field.source != "cookie" and not (field.source == "header" and forbidden)


def _is_no_transports(field: Parameter) -> bool:
    """Tell whether a field is no header that HTTP and WebSockets write themselves."""
    return field.source != "header" or not (field.wire_name in _TRANSPORTS or field.wire_name.startswith("sec-"))


_TRANSPORTS: Final = frozenset(
    "connection content-length expect host keep-alive te trailer transfer-encoding upgrade".split()
)


# --- Names ---

_Key: TypeAlias = Any


def _name_all(
    uses: Iterable[tuple[Any, Form]], shapes: Iterable[_Shape], taken: set[str], differs: Any
) -> dict[_Key, str]:
    """Give each type and each handshake a name of its own."""
    types = list(dict.fromkeys(of for of, _ in uses))
    simple: dict[_Key, str] = {of: _simple(of) for of in types}
    for shape in shapes:
        name = shape.type.__name__
        simple[shape] = f"{name}Handshake" if name in simple.values() or name in taken else name
    names: dict[_Key, str] = {}
    for key, name in simple.items():
        rivals = [other for other, of in simple.items() if of == name]
        names[key] = _free(_qualified(key, name, rivals), taken)
    both = set(uses)
    for of in types:
        if {(of, "sent"), (of, "received")} <= both and differs(of):
            names[of, "sent"] = _free(f"{names[of]}Input", taken)
    return names


def _class_of(key: _Key) -> Any:
    """Return the class that a key is named for: an Enum, a handshake class, or that of a message."""
    if (enum := enum_of(key)) is not None:
        return enum
    if isinstance(key, _Shape):
        return key.type
    cls: Any = get_origin(key)
    return key if cls is None else cls


def _simple(resolved: Any) -> str:
    enum = enum_of(resolved)
    if enum is not None or not get_args(resolved):
        return str((enum or resolved).__name__)
    first, *rest = re.split(r"\W+", name_of(resolved))
    return first + pascal(" ".join(rest))


def _qualified(key: _Key, name: str, rivals: Sequence[_Key]) -> str:
    """Put as much of its module before a name as tells it from its rivals."""
    places = [_place(rival) for rival in rivals]
    if len(set(places)) == 1:
        return name
    place = _place(key)
    return next(
        pascal(" ".join(place[-size:])) + name
        for size in range(1, 1 + max(map(len, places)))
        if len({of[-size:] for of in places}) == len(set(places))
    )


def _place(key: _Key) -> tuple[str, ...]:
    cls = _class_of(key)
    return (*cls.__module__.split("."), *cls.__qualname__.split(".")[:-1])


def _free(name: str, taken: set[str]) -> str:
    """Take a name that nobody has yet."""
    candidates = (name, f"{name}Type", *(f"{name}{number}" for number in range(2, _MAX_NAMESAKES)))
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free


_MAX_NAMESAKES: Final = 10_000
"""Types of one name in one place, such as those made by a function: nobody has so many."""
