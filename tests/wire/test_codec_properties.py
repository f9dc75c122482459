"""What holds for every message, whatever hypothesis thinks of."""

import enum
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar
from uuid import UUID

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamrt.errors import InvalidMessage
from streamrt.wire.codec import Codec, EncodeError, codec

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


class Tint(enum.Enum):
    WARM = "warm"
    COLD = "cold"


@attrs.frozen
class Item:
    name: str
    qty: int = 1
    price: float = 0.0


@attrs.define
class Page(Generic[T]):
    rows: list[T]
    next: "Page[T] | None" = None


@attrs.define
class Say:
    text: str
    kind: Literal["say"] = "say"


@attrs.define
class Join:
    rooms: set[str]
    kind: Literal["join"] = "join"


class Extra(TypedDict):
    id: UUID
    note: NotRequired[str | None]


@attrs.define
class Rich:
    at: datetime
    day: date
    cost: Decimal
    data: bytes
    color: Color
    event: Say | Join | str | None
    extra: Extra
    pages: Page[Item]
    counts: dict[int, tuple[int, ...]]
    colors: dict[Color, float]
    pair: tuple[bool, str | int]
    anything: Any = None


@attrs.define
class Quick:
    """A type that msgspec can read: it has a second way in."""

    text: str
    number: float
    on: bool
    count: int = 3
    at: datetime | None = None
    kind: Literal["a", "b"] = "a"
    items: list[Item] = attrs.Factory(list)
    by: dict[str, tuple[int, str]] = attrs.Factory(dict)
    mixed: int | str | list[float] | None = None
    tags: frozenset[str] = frozenset()
    tint: Tint | None = None


texts = st.text(max_size=8)
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
datetimes = st.datetimes(timezones=st.none() | st.just(UTC) | offsets)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value, and integers that are too big."""
small_plain = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
items = st.builds(Item, texts, integers, floats)
colors = st.sampled_from(Color)
pages = st.builds(Page, st.lists(items, max_size=3), st.none() | st.builds(Page, st.lists(items, max_size=2)))
events = st.none() | texts | st.builds(Say, texts) | st.builds(Join, st.sets(texts, max_size=3))
extras = st.fixed_dictionaries({"id": st.uuids()}, optional={"note": st.none() | texts})
rich = st.builds(
    Rich,
    datetimes,
    st.dates(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.binary(max_size=8),
    colors,
    events,
    extras,
    pages,
    st.dictionaries(integers, st.lists(integers, max_size=3).map(tuple), max_size=3),
    st.dictionaries(colors, floats),
    st.tuples(st.booleans(), texts | integers),
    small_plain,
)
quick = st.builds(
    Quick,
    texts,
    floats,
    st.booleans(),
    integers,
    st.none() | datetimes,
    st.sampled_from(["a", "b"]),
    st.lists(items, max_size=3),
    st.dictionaries(texts, st.tuples(integers, texts), max_size=3),
    st.none() | integers | texts | st.lists(floats, max_size=3),
    st.frozensets(texts, max_size=3),
    st.none() | st.sampled_from(Tint),
)
MESSAGES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Rich, rich),
    (Quick, quick),
    (Page[Item], pages),
    (Say | Join | str | None, events),
    (Extra, extras),
    (list[Decimal | None], st.lists(st.none() | st.decimals(allow_nan=False, allow_infinity=False), max_size=4)),
    (Any, small_plain),
    (dict[UUID, bytes], st.dictionaries(st.uuids(), st.binary(max_size=4), max_size=3)),
]
TYPES = [message_type for message_type, _ in MESSAGES]
QUICK_TYPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Quick, quick),
    (Page[Item], pages),
    (list[int | None], st.lists(st.none() | integers, max_size=4)),
    (dict[str, float | str], st.dictionaries(texts, floats | texts, max_size=4)),
    (set[UUID | None], st.sets(st.none() | st.uuids(), max_size=3)),
    (tuple[date, datetime], st.tuples(st.dates(), datetimes)),
]


@st.composite
def mutated(draw: st.DrawFn, messages: list[tuple[Any, st.SearchStrategy[Any]]]) -> tuple[Any, str]:
    """Draw a type, and the JSON of one of its messages with up to three changes."""
    message_type, values = draw(st.sampled_from(messages))
    document = [json.loads(codec(message_type).encode(draw(values)))]
    for _ in range(draw(st.integers(0, 3))):
        at: Any = document
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None or not isinstance(at[key], dict | list) or draw(st.booleans()):
                break
            at = at[key]
        if key is None:
            continue
        if at is not document and draw(st.booleans()):
            del at[key]
        else:
            at[key] = draw(plain)
    return message_type, json.dumps(document[0])


def exact(value: Any) -> Any:
    """Tell values apart that are equal but of different classes, such as 1 and 1.0; sets have no order."""
    if attrs.has(type(value)):
        return type(value), [exact(getattr(value, field.name)) for field in attrs.fields(type(value))]
    if isinstance(value, dict):
        return [(key, exact(of)) for key, of in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [exact(of) for of in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    return repr(value)


def outcome(of: Codec[Any], payload: str | bytes) -> tuple[str, Any]:
    try:
        return "message", exact(of.decode(payload))
    except InvalidMessage as error:
        return "faults", error.faults


def find(document: Any, path: str) -> Any:
    """Follow the path of a fault."""
    assert path[0] == "$"
    rest = path[1:]
    while rest:
        if rest[0] == ".":
            name = re.match(r"\.(\w+)", rest)
            assert name is not None
            document, rest = document[name[1]], rest[name.end() :]
        elif rest[1] == '"':
            key, end = json.JSONDecoder().raw_decode(rest[1:])
            document, rest = document[key], rest[end + 2 :]
        else:
            end = rest.index("]")
            document, rest = document[int(rest[1:end])], rest[end + 1 :]
    return document


@pytest.mark.parametrize(
    ("message_type", "values"), MESSAGES, ids=lambda of: getattr(of, "__name__", "") or str(of)[:20]
)
def test_what_is_encoded_decodes_to_an_equal_value(message_type: Any, values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(values)
    def check(value: Any) -> None:
        of = codec(message_type)
        payload = of.encode(value)
        json.loads(payload)
        assert of.decode(payload) == value
        assert attrs.evolve(of, decode_fast=None).decode(payload) == value

    check()


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TYPES), st.binary(max_size=30) | st.text(max_size=30) | plain.map(json.dumps))
def test_whatever_comes_decode_raises_nothing_but_invalid_message(message_type: Any, payload: str | bytes) -> None:
    kind, result = outcome(codec(message_type), payload)
    assert kind == "message" or result


@settings(max_examples=300, deadline=None)
@given(mutated(MESSAGES))
def test_the_path_of_every_fault_points_into_the_document(case: tuple[Any, str]) -> None:
    message_type, text = case
    kind, faults = outcome(codec(message_type), text)
    assume(kind == "faults")
    assert len(set(faults)) == len(faults)
    for fault in faults:
        if fault.message.startswith("required "):
            with pytest.raises(KeyError):
                find(json.loads(text), fault.path)
        else:
            find(json.loads(text), fault.path)


@settings(max_examples=400, deadline=None)
@given(mutated(QUICK_TYPES) | st.tuples(st.sampled_from([of for of, _ in QUICK_TYPES]), plain.map(json.dumps)))
def test_msgspec_and_the_hooks_give_the_same_answer(case: tuple[Any, str]) -> None:
    message_type, text = case
    of = codec(message_type)
    assert of._decode_fast is not None
    careful = outcome(attrs.evolve(of, decode_fast=None), text)
    assert outcome(of, text) == careful
    try:
        fast: Callable[[str], Any] = of._decode_fast
        result = exact(fast(text))
    except (ValueError, OverflowError):
        assert careful[0] == "faults"
    else:
        assert careful == ("message", result)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(TYPES),
    plain | items | events | rich | st.text(st.characters(), max_size=5) | st.floats() | st.sets(texts, max_size=2),
)
def test_whatever_is_given_encode_raises_nothing_but_encode_error(message_type: Any, value: Any) -> None:
    of = codec(message_type)
    try:
        payload = of.encode(value)
    except EncodeError as error:
        faults = error.faults
    else:
        assert of.decode(payload) == value
        return
    assert faults
    str(faults).encode()  # it can be logged, even if it is about what could not be written
