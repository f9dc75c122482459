"""Tell which types can be messages, and what each of them is in JSON.

The rules of this file:

- A declared type is resolved once, with all that it refers to, before the first message: ``NewType``,
  ``Annotated`` and aliases are taken off, type variables filled in, forward references looked up, and
  an Enum becomes the ``Literal`` of its members. Whoever reads a resolved type meets none of these.
- A type that could be read in two ways is refused, at declaration, with the place and the way out.
- JSON has six kinds of values. The members of a union are told apart by kind, and objects by a tag.
"""

from __future__ import annotations

import dataclasses
from collections import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, Flag
from inspect import get_annotations
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    ForwardRef,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Required,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    final,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

import attrs

# Built from values that are known only at run time.
_LITERAL: Any = Literal
_UNION: Any = Union

Kind: TypeAlias = Literal["null", "boolean", "number", "string", "array", "object"]

SCALARS: Final[dict[Any, Kind]] = {
    NoneType: "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    bytes: "string",
    datetime: "string",
    date: "string",
    UUID: "string",
    Decimal: "string",
}

ARRAYS: Final[dict[Any, tuple[Any, tuple[Any, ...]]]] = {
    list: (list, (list,)),
    tuple: (tuple, (tuple,)),
    set: (set, (set,)),
    frozenset: (frozenset, (frozenset,)),
    abc.Sequence: (tuple, (list, tuple)),
    abc.MutableSequence: (list, (list,)),
    abc.Set: (frozenset, (set, frozenset)),
    abc.MutableSet: (set, (set,)),
}
"""What an array is read into, and what is taken for one when it is written. The choices are cattrs'."""

MAPPINGS: Final[dict[Any, Any]] = {dict: dict, abc.MutableMapping: abc.MutableMapping, abc.Mapping: abc.Mapping}
"""What is taken for an object when it is written; all are read into a dict."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""The integers that an int64 or uint64 of another language can hold. Python and msgspec know no limit."""


@final
@attrs.frozen
class Field:
    """One member of an object.

    Args:
        name: The attribute's name, which is also the key on the wire.
        type: The resolved type.
        required: Whether it may not be absent.
        alias: The name of the constructor's argument.
    """

    name: str
    type: Any
    required: bool
    alias: str


FIELDS: Final[dict[Any, tuple[Field, ...]]] = {}
"""The fields of every object type that was resolved, by the class or, for ``Page[Item]``, the alias."""


def json_of(value: Any) -> Any:
    """Return what a member of a ``Literal`` is in JSON."""
    return value.value if isinstance(value, Enum) else value


def literals(resolved: Any) -> dict[tuple[type, Any], Any]:
    """Return the members of a ``Literal`` by class and value in JSON; without the class, 1 would be true."""
    return {(json_of(value).__class__, json_of(value)): value for value in get_args(resolved)}


def kinds(resolved: Any) -> set[Kind]:
    """Return the kinds of JSON values that a resolved type, other than a union, can be."""
    origin = get_origin(resolved)
    if origin is Literal:
        return {SCALARS[cls] for cls, _ in literals(resolved)}
    if origin in ARRAYS:
        return {"array"}
    return {SCALARS.get(resolved, "object")}


def tag_of(members: Sequence[Any]) -> tuple[str, dict[tuple[type, Any], Any]]:
    """Find the field that tells object types apart.

    Returns:
        Its name, and the member by the class and value of the tag.

    Raises:
        LookupError: There is no such field.
    """
    by_name = [{field.name: field.type for field in FIELDS.get(member, ())} for member in members]
    for name in by_name[0]:
        types = [fields.get(name) for fields in by_name]
        if all(get_origin(of) is Literal for of in types):
            tags = [(tag, member) for of, member in zip(types, members, strict=True) for tag in literals(of)]
            if len(dict(tags)) == len(tags):
                return name, dict(tags)
    raise LookupError


def is_typeddict(cls: Any) -> bool:
    """Tell whether this is a TypedDict, of typing or of typing_extensions."""
    return isinstance(cls, type) and hasattr(cls, "__required_keys__")


def name_of(declared: Any) -> str:
    """Write a type as its author would."""
    origin, args = get_origin(declared), get_args(declared)
    if declared is ...:
        return "..."
    if origin in (Union, UnionType):
        return " | ".join(map(name_of, args))
    if origin is Literal:
        if all(isinstance(value, Enum) for value in args):
            return str(args[0].__class__.__name__)
        return f"Literal[{', '.join(map(repr, args))}]"
    if origin is Annotated:
        return name_of(args[0])
    if declared is None or declared is NoneType:
        return "None"
    name = str(getattr(origin or declared, "__name__", None) or repr(declared))
    return f"{name}[{', '.join(map(name_of, args))}]" if args else name


@final
class Graph:
    """All types that one declared type refers to.

    Attributes:
        root: The resolved type.
        fields: The fields of each object type in it.
        blocks: What it is built of: scalar types, containers, ``Union``, ``Literal``, ``Annotated``.
    """

    def __init__(self, declared: Any) -> None:
        self.fields: dict[Any, tuple[Field, ...]] = {}
        self.blocks: set[Any] = set()
        self._aliases: list[Any] = []
        self._unions: list[tuple[Any, str]] = []
        at = name_of(declared)
        try:
            self.root: Any = self._resolve(declared, at, {})
        except RecursionError:
            raise TypeError(
                f"{at}: the type has no end; a class may refer to itself, but not to a bigger one"
            ) from None
        # Unions come last: a class that is still being resolved does not know its fields.
        FIELDS.update(self.fields)
        for union, where in self._unions:
            _check_union(union, where)

    def _resolve(self, declared: Any, at: str, bound: Mapping[Any, Any]) -> Any:
        origin: Any = get_origin(declared)
        args = get_args(declared)
        if isinstance(declared, TypeVar) or declared is Self:
            if declared not in bound:
                raise TypeError(f"{at}: {declared} stands for no type here: say which, as in Page[Item]")
            return bound[declared]
        if origin in (Annotated, Required, NotRequired):
            self.blocks.add(origin)
            return self._resolve(args[0], at, bound)
        if isinstance(declared, NewType):
            return self._resolve(declared.__supertype__, at, bound)
        named: Any = origin or declared
        bare = not hasattr(declared, "__args__")  # tuple[()] has arguments: none
        if hasattr(named, "__type_params__") and hasattr(named, "__value__"):  # a `type` statement of Python 3.12
            return self._alias(named, args, at, bound)
        if declared is None:
            declared = NoneType
        if declared is Any or (isinstance(declared, type) and declared in SCALARS):
            self.blocks.add(declared)
            return declared
        if origin in (Union, UnionType):
            return self._union(args, at, bound)
        if origin is Literal:
            return self._literal(args, at)
        if isinstance(declared, type) and issubclass(declared, Enum):
            if issubclass(declared, Flag) or not len(declared):
                raise TypeError(f"{at}: {declared.__name__} has no list of values to choose from: say int or str")
            return self._literal(tuple(declared), at)
        if origin in ARRAYS and not bare:
            return self._array(origin, args, at, bound)
        if origin in MAPPINGS and args:
            self.blocks.add(origin)
            return origin[self._key(args[0], at, bound), self._resolve(args[1], at + "{}", bound)]
        if attrs.has(named) or dataclasses.is_dataclass(named) or is_typeddict(named):
            if scalar := _scalar_base(named):
                raise TypeError(f"{at}: {name_of(named)} is {scalar.__name__} as well: a message cannot be both")
            return self._object(named, args, at, bound)
        raise TypeError(f"{at}: {_refusal(declared)}")

    def _alias(self, alias: Any, args: Iterable[Any], at: str, bound: Mapping[Any, Any]) -> Any:
        if alias in self._aliases:
            raise TypeError(f"{at}: the alias {alias} refers to itself: put a class into the circle")
        filled = [self._resolve(arg, at, bound) for arg in args]
        self._aliases.append(alias)
        resolved = self._resolve(alias.__value__, at, dict(zip(alias.__type_params__, filled, strict=True)))
        self._aliases.pop()
        return resolved

    def _union(self, args: Iterable[Any], at: str, bound: Mapping[Any, Any]) -> Any:
        self.blocks.add(Union)
        members = [self._resolve(arg, at, bound) for arg in args]
        if Any in members and set(members) <= {Any, NoneType}:
            return Any
        union = _UNION[tuple(members)]  # flat, and without duplicates
        if get_origin(union) is Union:
            self._unions.append((union, at))
        return union

    def _literal(self, values: tuple[Any, ...], at: str) -> Any:
        for value in map(json_of, values):
            wrong = value.__class__ not in (str, int, bool, NoneType)
            if wrong or (isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER):
                raise TypeError(
                    f"{at}: {value!r} cannot be a value here: say a string, an integer, True, False or None"
                )
        resolved = _LITERAL[values]
        if len(literals(resolved)) != len(get_args(resolved)):
            raise TypeError(f"{at}: two values of {name_of(resolved)} are the same in JSON: make them differ")
        # What msgspec reads in the same way: strings, and Enums of strings without a second way in.
        words = all(json_of(value).__class__ is str for value in values)
        of = values[0].__class__
        if not words or (of is not str and (set(values) != set(of) or _has_second_way_in(of))):
            self.blocks.add("mixed literals")
        return resolved

    def _array(self, origin: Any, args: tuple[Any, ...], at: str, bound: Mapping[Any, Any]) -> Any:
        self.blocks.add(origin)
        rest = (...,) if args[-1:] == (...,) else ()
        items = tuple(self._resolve(arg, at + "[]", bound) for arg in args[: len(args) - len(rest)])
        if issubclass(cast("type[Any]", origin), abc.Set) and (item := _unhashable(items[0])) is not None:
            raise TypeError(f"{at}[]: {name_of(item)} cannot be in a set, as it is not hashable: say list")
        return origin[(*items, *rest)]

    def _key(self, declared: Any, at: str, bound: Mapping[Any, Any]) -> Any:
        key = self._resolve(declared, at + "{key}", bound)
        self.blocks.add(("key", key))
        if get_origin(key) is Literal:
            words = {str(value) for cls, value in literals(key) if cls in (str, int)}
            if len(words) == len(get_args(key)):
                return key
        elif key in (str, int, UUID):
            return key
        raise TypeError(
            f"{at}: {name_of(key)} cannot be a key: keys are str, int, UUID, or an Enum or Literal of these"
        )

    def _object(self, cls: Any, args: Iterable[Any], at: str, bound: Mapping[Any, Any]) -> Any:
        params = getattr(cls, "__parameters__", ())
        if params and not args:
            raise TypeError(f"{at}: {cls.__name__} is generic: say {cls.__name__}[{', '.join(['Item'] * len(params))}]")
        filled = tuple(self._resolve(arg, at, bound) for arg in args)
        resolved = cls[filled] if filled else cls
        if resolved not in self.fields:
            self.fields[resolved] = ()  # known from here on, so that a class may refer to itself
            self.fields[resolved] = tuple(self._members(resolved, at))
        return resolved

    def _members(self, resolved: Any, at: str) -> Iterator[Field]:
        cls = get_origin(resolved) or resolved
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"{at}: an annotation of {cls.__name__} names {error.name!r}, which is not found in {cls.__module__}. "
                "Types of messages, and what their annotations name, must be at module level, "
                "and imported outside of `if TYPE_CHECKING:`"
            ) from None
        bindings = self._bindings(resolved, at)
        for name, hint, required, alias in _declared_fields(cls, hints, at):
            owner = next((base for base in cls.__mro__ if name in get_annotations(base)), cls)
            bound = bindings.get(owner, {})
            if is_typeddict(cls):  # its bases are not in the __mro__
                bound = {variable: of for base in reversed(bindings.values()) for variable, of in base.items()}
            yield Field(name, self._resolve(hint, f"{at}.{name}", {**bound, Self: resolved}), required, alias)

    def _bindings(self, resolved: Any, at: str) -> dict[Any, dict[Any, Any]]:
        """Tell what the type variables of a class and of its bases stand for; each class has its own."""
        cls = get_origin(resolved) or resolved
        own: dict[Any, Any] = dict(zip(getattr(cls, "__parameters__", ()), get_args(resolved), strict=False))
        found = {cls: own}
        for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
            origin: Any = get_origin(base) or base
            args = get_args(base)
            if hasattr(origin, "__mro__") and origin not in (object, Generic):
                filled = tuple(self._resolve(arg, at, own) for arg in args if getattr(origin, "__parameters__", ()))
                found = {**self._bindings(origin[filled] if filled else origin, at), **found}
        return found


def _has_second_way_in(enum: type[Any]) -> bool:
    return any("_missing_" in base.__dict__ for base in enum.__mro__ if base is not Enum)


def _declared_fields(cls: Any, hints: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any, bool, str]]:
    """Yield name, annotation, whether it is required, and the constructor's argument."""
    if is_typeddict(cls):
        for name, hint in hints.items():
            # Under `from __future__ import annotations` __required_keys__ misses these two.
            marks = {Required: True, NotRequired: False}
            yield name, hint, marks.get(get_origin(hint), name in cls.__required_keys__), name
    elif attrs.has(cls):
        for field in attrs.fields(cls):
            if field.init:
                hint = hints.get(field.name, field.type)
                if hint is None:
                    raise TypeError(f"{at}.{field.name}: the field has no type: annotate it")
                yield field.name, hint, field.default is attrs.NOTHING, field.alias or field.name
    else:
        for name, hint in hints.items():
            if isinstance(hint, dataclasses.InitVar):
                raise TypeError(f"{at}.{name}: an InitVar is not kept, so it cannot be sent: make it a field")
        for member in dataclasses.fields(cls):
            if member.init:
                missing = member.default is member.default_factory is dataclasses.MISSING
                yield member.name, hints[member.name], missing, member.name


def _check_union(union: Any, at: str) -> None:
    seen: dict[Kind, Any] = {}
    members = get_args(union)
    objects = [member for member in members if "object" in kinds(member) and member is not Any]
    for member in (member for member in members if member not in objects):
        if member is Any:
            raise TypeError(f"{at}: {name_of(union)} is any JSON value: say Any")
        for kind in kinds(member):
            if {member, seen.get(kind)} == {int, float}:
                raise TypeError(f"{at}: {name_of(union)} is ambiguous: say float, which takes integers as well")
            if kind in seen:
                raise TypeError(
                    f"{at}: {name_of(seen[kind])} | {name_of(member)} is ambiguous: both are of kind {kind} in JSON. "
                    'Put each into a class of its own with a tag, such as kind: Literal["a"] = "a"'
                )
            seen[kind] = member
    if len(objects) > 1:
        try:
            tag_of(objects)
        except LookupError:
            raise TypeError(
                f"{at}: {' | '.join(map(name_of, objects))} is ambiguous: all are objects in JSON. Add a field to "
                'each, of one name and with values of its own, such as kind: Literal["a"] = "a"'
            ) from None


def _unhashable(resolved: Any) -> Any:
    """Return the part of a type that cannot be in a set, or None."""
    origin = get_origin(resolved) or resolved
    if origin in (tuple, Union):
        return next((part for arg in get_args(resolved) if (part := _unhashable(arg)) is not None), None)
    return (
        None if origin is Literal or (getattr(origin, "__hash__", None) is not None and origin is not Any) else resolved
    )


def _scalar_base(cls: Any) -> Any:
    return next((base for base in getattr(cls, "__mro__", ()) if base in SCALARS), None)


def _refusal(declared: Any) -> str:
    name = name_of(declared)
    origin = get_origin(declared) or declared
    if declared is object:
        return "object is not a type of JSON: say Any for whatever JSON can say"
    if isinstance(declared, str | ForwardRef):
        return f"{declared!r} is a forward reference outside of a class: say the type itself"
    if origin in ARRAYS:
        items = "Any, ..." if origin is tuple else "Any"
        return f"{name} has no type of items: say {name}[{items}], or the type of the items"
    if origin in MAPPINGS:
        return f"{name} has no types of keys and values: say {name}[str, Any], or the type of the values"
    if scalar := _scalar_base(declared):
        return f"{name} is {scalar.__name__} of another name: say {scalar.__name__}, or a NewType of it"
    if isinstance(declared, type) and declared.__module__ not in ("builtins", "collections.abc"):
        return f"{name} is neither an attrs class nor a dataclass nor a TypedDict: decorate it with @attrs.frozen"
    return f"{name} cannot be sent as JSON"
