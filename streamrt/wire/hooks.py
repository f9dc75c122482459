"""Build the hooks that turn a resolved type into plain JSON values and back: one cattrs converter.

The rules of this file:

- A container's hook walks all of it and collects the faults, each under its step of the path.
- The same walk serves both directions, with the hooks of the one or of the other.
- The members of a union are told apart by the kind of the value, and objects by their tag.
- cattrs finds the hook of a type and keeps it. Its own hooks coerce (``null`` to ``"None"``, a string to a
  list), and those that write do not collect, so each is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Final, Literal, TypeAlias, Union, cast, get_args, get_origin
from uuid import UUID

import attrs
from cattrs import Converter

from streamrt.wire.graph import (
    ARRAYS,
    FIELDS,
    MAPPINGS,
    MAX_INTEGER,
    MIN_INTEGER,
    SCALARS,
    Kind,
    is_typeddict,
    json_of,
    kinds,
    literals,
    name_of,
    tag_of,
)
from streamrt.wire.scalars import (
    ALL_PLAIN,
    READ,
    WRITE,
    Faults,
    Hook,
    Wrong,
    a_or_an,
    came,
    expectation,
    expected,
    float_out,
    integer,
    literal_in,
    literal_out,
    look_up,
    parsed,
    quoted,
    step,
    string_out,
)


def _any(value: Any, _: Any = None) -> Any:
    if value is None or value.__class__ is bool:
        return value
    if isinstance(value, list):
        return _map(_any, cast("Any", value))
    if isinstance(value, dict):
        return _map_items(string_out, _any, cast("Any", value))
    for cls, hook in ((str, string_out), (float, float_out), (int, integer)):
        if isinstance(value, cls):
            return hook(value)
    raise expected("a JSON value (None, bool, int, float, str, list or dict)", value)


def _map(hook: Hook, values: Iterable[Any]) -> list[Any]:
    out: list[Any] = []
    faults: Faults = []
    for index, value in enumerate(values):
        try:
            out.append(hook(value))
        except Wrong as wrong:
            faults += wrong.under(f"[{index}]")
    if faults:
        raise Wrong(faults)
    return out


def _map_items(key_hook: Hook, hook: Hook, values: Mapping[Any, Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    faults: Faults = []
    for key, value in values.items():
        new_key = None
        try:
            new_key = key_hook(key)
        except Wrong as wrong:
            faults += [(step(key), f"{message} as the key") for _, message in wrong.faults]
        try:
            out[new_key] = hook(value)
        except Wrong as wrong:
            faults += wrong.under(step(key))
    if faults:
        raise Wrong(faults)
    return out


def _array(resolved: Any, hook_of: Callable[[Any], Hook], accepted: tuple[Any, ...], build: Any) -> Hook:
    origin, args = get_origin(resolved), get_args(resolved)
    fixed = origin is tuple and args[-1:] != (...,)
    hooks = [hook_of(arg) for arg in args if arg is not ...]
    all_plain = ALL_PLAIN.get(hooks[0]) if hooks else None
    what = "an array" if accepted == (list,) else " or ".join(a_or_an(cls.__name__) for cls in accepted)

    def hook(value: Any, _: Any = None) -> Any:
        if not isinstance(value, accepted):
            raise expected(what, value, "a list" if isinstance(value, list) else None)
        if not fixed:
            items = value if all_plain is not None and all_plain(value) else _map(hooks[0], value)
        elif len(value) == len(hooks):
            items = _map(lambda pair: pair[0](pair[1]), zip(hooks, value, strict=True))
        else:
            raise expected(f"an array of {len(hooks)}", value, f"an array of {len(value)}")
        try:
            return build(items)
        except TypeError as error:  # a frozen class with a list in it
            raise Wrong([("", f"cannot be a set: {error}")]) from None

    return hook


def _mapping(key_hook: Hook, hook: Hook, accepted: Any) -> Hook:
    def mapping(value: Any, _: Any = None) -> Any:
        if not isinstance(value, accepted):
            raise expected("an object", value)
        return _map_items(key_hook, hook, value)

    return mapping


def _key_in(resolved: Any) -> Hook:
    """Make the hook that reads a key, which is always a string in JSON."""
    if resolved is int:
        return parsed(int, _integer_key)
    if get_origin(resolved) is Literal:
        table = {str(value): member for (_, value), member in literals(resolved).items()}
        what = "one of " + ", ".join(map(quoted, table))

        def hook(value: Any) -> Any:
            if value in table:
                return table[value]
            raise expected(what, value)

        return hook
    return hook_in(resolved)


def _integer_key(text: str) -> int:
    # One way to write each: two keys may not become one.
    if not _INTEGER.fullmatch(text) or not MIN_INTEGER <= int(text) <= MAX_INTEGER:
        raise ValueError
    return int(text)


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")


def _key_out(resolved: Any) -> Hook:
    hook = hook_out(resolved)
    return hook if resolved is str else lambda value: str(hook(value))


_Fields: TypeAlias = list[tuple[str, str, bool, Hook]]
"""Name, constructor's argument, whether it is required, and hook; plain tuples, as encode walks them each time."""


def _object(resolved: Any, hook_of: Callable[[Any], Hook], make: Callable[[Any, Any], Hook]) -> Hook:
    """Make the hook of an object type, which may refer to itself: it is known before its fields are."""
    hooks = _OBJECTS.setdefault(make, {})
    if resolved not in hooks:
        fields: _Fields = []
        hooks[resolved] = make(resolved, fields)
        fields.extend((of.name, of.alias, of.required, hook_of(of.type)) for of in FIELDS[resolved])
    return hooks[resolved]


_OBJECTS: Final[dict[Any, dict[Any, Hook]]] = {}


def _object_in(resolved: Any, fields: _Fields) -> Hook:
    cls = get_origin(resolved) or resolved

    def hook(value: Any, _: Any = None) -> Any:
        if value.__class__ is not dict:
            raise expected("an object", value)
        arguments: dict[str, Any] = {}
        faults: Faults = []
        for name, alias, required, convert in fields:
            if name in value:
                try:
                    arguments[alias] = convert(value[name])
                except Wrong as wrong:
                    faults += wrong.under(step(name))
            elif required:
                faults.append((step(name), "required field is missing"))
        if faults:
            raise Wrong(faults)
        try:
            return cls(**arguments)
        except RecursionError:
            raise
        except Exception as error:
            raise Wrong([_refused(error)]) from error

    return hook


def _refused(error: Exception) -> tuple[str, str]:
    """Show why a class would not have its values, at the field if the error tells which."""
    text = str(error) if isinstance(error, ValueError | TypeError) and error.args else repr(error)
    for arg in error.args:
        if isinstance(arg, attrs.Attribute):  # as attrs' own validators have it: (message, attribute, ...)
            return step(arg.name), str(error.args[0])
    return "", text


def _object_out(resolved: Any, fields: _Fields) -> Hook:
    cls = get_origin(resolved) or resolved
    what = a_or_an(cls.__name__)

    def hook(value: Any) -> Any:
        if value.__class__ is not cls and not isinstance(value, cls):
            raise expected(what, value)
        out: dict[str, Any] = {}
        faults: Faults = []
        for name, _, _, convert in fields:
            try:
                out[name] = convert(getattr(value, name))
            except Wrong as wrong:
                faults += wrong.under(step(name))
            except AttributeError:
                faults.append((step(name), "the attribute is not set"))
        if faults:
            raise Wrong(faults)
        return out

    return hook


def _typeddict_out(resolved: Any, fields: _Fields) -> Hook:
    typed_dict = name_of(resolved)

    def hook(value: Any) -> Any:
        if not isinstance(value, dict):
            raise expected(f"a dict for {typed_dict}", value)
        given: dict[Any, Any] = dict(cast("Any", value))
        out: dict[str, Any] = {}
        faults: Faults = []
        for name, _, required, convert in fields:
            if name in given:
                try:
                    out[name] = convert(given.pop(name))
                except Wrong as wrong:
                    faults += wrong.under(step(name))
            elif required:
                faults.append((step(name), "required field is missing"))
        faults += [(step(key), f"is not a key of {typed_dict}") for key in given]
        if faults:
            raise Wrong(faults)
        return out

    return hook


# --- Unions: by kind, and objects by tag ---


def _union(resolved: Any, hook_of: Callable[[Any], Hook], kind_of: Callable[[Any], Kind], tagged: Any) -> Hook:
    members = get_args(resolved)
    by_kind = {kind: hook_of(member) for member in members for kind in kinds(member)}
    objects = [member for member in members if kinds(member) == {"object"}]
    if len(objects) > 1:
        by_kind["object"] = tagged(objects, hook_of)
    what = expectation(resolved)

    def hook(value: Any, _: Any = None) -> Any:
        found = by_kind.get(kind_of(value))
        if found is None:
            raise expected(what, value)
        return found(value)

    return hook


def _tagged_in(members: list[Any], hook_of: Callable[[Any], Hook]) -> Hook:
    tag, hooks, what = _tags(members, hook_of)

    def hook(value: Any) -> Any:
        if tag not in value:
            raise Wrong([(step(tag), f'required tag "{tag}" is missing, expected {what}')])
        found = look_up(hooks, value[tag], None)
        if found is None:
            raise Wrong(expected(f'the tag "{tag}" to be {what}', value[tag]).under(step(tag)))
        return found(value)

    return hook


def _tagged_out(members: list[Any], hook_of: Callable[[Any], Hook]) -> Hook:
    tag, hooks, what = _tags(members, hook_of)
    classes = tuple(dict if is_typeddict(cls) else cls for cls in (get_origin(of) or of for of in members))
    names = " or ".join(a_or_an(name_of(member)) for member in members)

    def hook(value: Any) -> Any:
        if not isinstance(value, classes):
            raise expected(names, value)
        given: Any = value
        of = given.get(tag, _NOT_SET) if isinstance(value, dict) else getattr(value, tag, _NOT_SET)
        if of is _NOT_SET:
            raise Wrong([(step(tag), f'required tag "{tag}" is missing, expected {what}')])
        found = look_up(hooks, json_of(of), None)
        if found is None:
            raise Wrong(expected(f'the tag "{tag}" to be {what}', of).under(step(tag)))
        return found(value)

    return hook


_NOT_SET = object()


def _tags(members: list[Any], hook_of: Callable[[Any], Hook]) -> tuple[str, dict[tuple[type, Any], Hook], str]:
    tag, by_value = tag_of(members)
    what = "one of " + ", ".join(came(value) for _, value in by_value)
    return tag, {key: hook_of(member) for key, member in by_value.items()}, what


def _kind_in(value: Any) -> Kind:
    return _KINDS_IN[value.__class__]


_KINDS_IN: Final[dict[type[Any], Kind]] = {**SCALARS, list: "array", dict: "object"}


def _kind_out(value: Any) -> Kind:
    """Tell of what kind a value will be in JSON."""
    if isinstance(value, Enum):
        value = value.value
    for classes, kind in _KINDS_OUT:
        if isinstance(value, classes):
            return kind
    return "object"


# In this order: True is an int, and a datetime is a date.
_KINDS_OUT: Final[tuple[tuple[Any, Kind], ...]] = (
    (str, "string"),
    (NoneType, "null"),
    (bool, "boolean"),
    ((int, float), "number"),
    ((bytes, date, UUID, Decimal), "string"),
    ((list, tuple, set, frozenset), "array"),
)


def _strict_converter() -> Any:
    strict: Any = Converter()
    for cls in SCALARS:
        strict.register_structure_hook(cls, READ[cls])
        strict.register_unstructure_hook(cls, WRITE[cls])
    for is_it, hook_in, hook_out in _FACTORIES:
        strict.register_structure_hook_factory(is_it, hook_in)
        strict.register_unstructure_hook_factory(is_it, hook_out)
    return strict


def _of(*origins: Any) -> Callable[[Any], bool]:
    return lambda resolved: get_origin(resolved) in origins


def hook_in(resolved: Any) -> Hook:
    """Return the hook that reads a resolved type; it raises Wrong."""
    return cast("Hook", _CONVERTER.get_structure_hook(resolved))


def hook_out(resolved: Any) -> Hook:
    """Return the hook that writes a resolved type; it raises Wrong."""
    return cast("Hook", _CONVERTER.get_unstructure_hook(resolved))


_FACTORIES: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], Hook], Callable[[Any], Hook]], ...]] = (
    (lambda resolved: resolved is Any, lambda _: _any, lambda _: _any),
    (_of(Literal), literal_in, literal_out),
    (
        _of(*ARRAYS),
        lambda of: _array(of, hook_in, (list,), ARRAYS[get_origin(of)][0]),
        lambda of: _array(of, hook_out, ARRAYS[get_origin(of)][1], list),
    ),
    (
        _of(*MAPPINGS),
        lambda of: _mapping(_key_in(get_args(of)[0]), hook_in(get_args(of)[1]), dict),
        lambda of: _mapping(_key_out(get_args(of)[0]), hook_out(get_args(of)[1]), MAPPINGS[get_origin(of)]),
    ),
    (
        _of(Union),
        lambda of: _union(of, hook_in, _kind_in, _tagged_in),
        lambda of: _union(of, hook_out, _kind_out, _tagged_out),
    ),
    (
        lambda resolved: resolved in FIELDS,
        lambda of: _object(of, hook_in, _object_in),
        lambda of: _object(of, hook_out, _typeddict_out if is_typeddict(get_origin(of) or of) else _object_out),
    ),
)

_CONVERTER = _strict_converter()
