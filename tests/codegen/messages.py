"""Types of messages that hypothesis makes up, each with values, and an app that sends them."""

import enum
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, Union
from uuid import UUID

import attrs
from hypothesis import strategies as st

from streamrt import App, Service, StreamIn, StreamOut

Made = tuple[Any, st.SearchStrategy[Any]]
"""A type, and its values."""

LITERAL: Any = Literal
UNION: Any = Union


class Mood(enum.Enum):
    GOOD = "good"
    BAD = 0


class Step(enum.Enum):
    FIRST = 1
    LAST = 2


texts = st.text(max_size=5)
NUMBERS: list[Made] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
]
STRINGS: list[Made] = [
    (str, texts),
    (bytes, st.binary(max_size=5)),
    (datetime, st.datetimes(timezones=st.just(UTC))),
    (date, st.dates()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Literal["a", "b c"], st.sampled_from(["a", "b c"])),
]
OTHERS: list[Made] = [(bool, st.booleans()), (type(None), st.none())]
MIXED: list[Made] = [
    (Mood, st.sampled_from(Mood)),
    (Literal["x", 1, True], st.sampled_from(["x", 1, True])),
    (Any, st.recursive(st.none() | st.booleans() | texts, lambda inner: st.lists(inner, max_size=2), max_leaves=3)),
]
KEYS: list[Made] = [(str, texts), (int, st.integers(-9, 9)), (UUID, st.uuids()), (Mood, st.sampled_from(Mood))]

names = st.sampled_from(["id", "text", "function", "delete", "größe", "n2", "_under"])


def types(depth: int = 2) -> st.SearchStrategy[Made]:
    """Make up a type that may be in a message."""
    leaf = st.sampled_from([*NUMBERS, *STRINGS, *OTHERS, *MIXED])
    if depth == 0:
        return leaf
    part = types(depth - 1)
    return st.one_of(leaf, arrays(part), tuples(part), mappings(part), classes(part), unions(part), tagged(part))


@st.composite
def arrays(draw: st.DrawFn, part: st.SearchStrategy[Made]) -> Made:
    item, values = draw(part)
    return list[item], st.lists(values, max_size=3)  # type: ignore[valid-type]


@st.composite
def tuples(draw: st.DrawFn, part: st.SearchStrategy[Made]) -> Made:
    items = draw(st.lists(part, max_size=3))
    return tuple[tuple(of for of, _ in items)], st.tuples(*(values for _, values in items))  # type: ignore[misc]


@st.composite
def mappings(draw: st.DrawFn, part: st.SearchStrategy[Made]) -> Made:
    (key, keys), (item, values) = draw(st.sampled_from(KEYS)), draw(part)
    return dict[key, item], st.dictionaries(keys, values, max_size=3)  # type: ignore[valid-type]


@st.composite
def classes(draw: st.DrawFn, part: st.SearchStrategy[Made], tag: str | None = None) -> Made:
    """Make up an attrs class, some of whose fields have defaults; all are called the same."""
    fields = draw(st.dictionaries(names, part, max_size=4))
    if tag is not None:
        fields = {**fields, "kind": (LITERAL[tag], st.just(tag))}
    made = {name: attrs.field(type=of, kw_only=True) for name, (of, _) in fields.items()}
    for name in draw(st.sets(st.sampled_from(sorted(fields)))) if fields else ():
        made[name] = attrs.field(type=fields[name][0], kw_only=True, default=None)
    cls = attrs.make_class("Message", made, frozen=True)
    return cls, st.fixed_dictionaries({name.lstrip("_"): values for name, (_, values) in fields.items()}).map(
        lambda arguments: cls(**arguments)
    )


@st.composite
def unions(draw: st.DrawFn, part: st.SearchStrategy[Made]) -> Made:
    """Make up a union whose members are of different kinds in JSON."""
    kinds: Sequence[st.SearchStrategy[Made]] = [
        st.sampled_from(NUMBERS),
        st.sampled_from(STRINGS),
        *map(st.just, OTHERS),
        arrays(part),
        classes(part),
    ]
    members = [draw(kind) for kind in draw(st.lists(st.sampled_from(kinds), min_size=2, unique_by=id))]
    return UNION[tuple(of for of, _ in members)], st.one_of(*(values for _, values in members))


@st.composite
def tagged(draw: st.DrawFn, part: st.SearchStrategy[Made]) -> Made:
    """Make up a union of classes with a tag."""
    members = [draw(classes(part, tag)) for tag in "ab"]
    return UNION[tuple(of for of, _ in members)], st.one_of(*(values for _, values in members))


def app_of(sent: Sequence[Any]) -> App:
    """Make an app whose service ``made`` has two endpoints for each type: ``out0`` sends it, and ``in0`` takes it."""
    service = Service("made")
    for number, of in enumerate(sent):

        async def out(stream: StreamOut[of]) -> None: ...  # type: ignore[valid-type]

        async def into(stream: StreamIn[of]) -> None: ...  # type: ignore[valid-type]

        out.__name__, into.__name__ = f"out{number}", f"in{number}"
        service.stream_out(expose=True)(out)
        service.stream_in(expose=True)(into)
    return App(service)
