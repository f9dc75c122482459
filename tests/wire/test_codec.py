"""What the codec takes, what it refuses, and what it says then."""

import dataclasses
import enum
import sys
import typing
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    NotRequired,
    Required,
    Self,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import attrs
import msgspec
import pytest
from typing_extensions import TypeAliasType

from streamrt.errors import InvalidMessage
from streamrt.wire.codec import Codec, EncodeError, codec

T = TypeVar("T")
U = TypeVar("U")
Name = NewType("Name", str)
UUID_TEXT = "12345678-1234-5678-1234-567812345678"


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    HI = "hi"


class Loose(enum.Enum):
    ONE = "one"

    @classmethod
    def _missing_(cls, value: object) -> "Loose":
        return cls.ONE


@attrs.frozen
class Item:
    name: str
    qty: int = 1


@attrs.define
class Order:
    items: list[Item]
    by: dict[str, int] = attrs.Factory(dict)
    note: str | None = None


@attrs.define
class Page(Generic[T]):
    rows: list[T]
    next: T | None = None
    more: "list[T] | None" = None


@attrs.define(kw_only=True)
class Both(Page[int], Generic[T]):
    """T is another one here than in Page."""

    own: T


@attrs.define(kw_only=True)
class Plain(Both[str]):
    pass


@attrs.define
class Node:
    value: int
    next: "Node | None" = None
    children: list[Self] = attrs.field(factory=list)


@attrs.define
class Say:
    text: str
    kind: Literal["say"] = "say"


@attrs.define
class Join:
    room: str
    kind: Literal["join", "enter"] = "join"


class Left(TypedDict):
    kind: Literal["left"]


Event = Say | Join | Left | None | str


class Options(TypedDict, total=False):
    limit: Required[int]
    color: Color


class Late(TypedDict):
    needed: "Required[int]"
    optional: "NotRequired[int]"


class Box(TypedDict, Generic[T]):
    content: T


class IntBox(Box[int]):
    label: str


Odd = TypedDict("Odd", {"a-b": int, "class": int})


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    seen: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is left of the origin")


@dataclasses.dataclass
class Simple:
    words: list[str] = dataclasses.field(default_factory=list)


def stripped(text: str) -> str:
    return text.strip()


@attrs.define(kw_only=True)
class Guarded:
    _secret: str = "s"
    age: int = attrs.field(default=1, validator=attrs.validators.instance_of(int))
    size: str = attrs.field(default="m", validator=attrs.validators.in_(["s", "m"]))
    other: str = attrs.field(default="o", alias="another", converter=stripped)
    counter: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self.age > 100:
            raise ValueError("nobody is that old")
        if self.age == 13:
            raise KeyError("13")


def refusal(of: Codec[Any] | Any, payload: str | bytes) -> list[str]:
    with pytest.raises(InvalidMessage) as caught:
        (of if isinstance(of, Codec) else codec(of)).decode(payload)
    return [str(fault) for fault in caught.value.faults]


def complaint(of: Any, value: Any) -> list[str]:
    with pytest.raises(EncodeError) as caught:
        codec(of).encode(value)
    return [str(fault) for fault in caught.value.faults]


def test_a_codec_writes_compact_json_and_reads_it_back() -> None:
    order = Order([Item("a", 2)], {"x": 1})
    assert codec(Order).encode(order) == b'{"items":[{"name":"a","qty":2}],"by":{"x":1},"note":null}'
    assert codec(Order).decode(codec(Order).encode(order)) == order


def test_there_is_one_codec_for_a_type_and_it_knows_the_type_as_declared() -> None:
    assert codec(Order) is codec(Order)
    assert codec(Item | None).type == Item | None
    assert codec(Annotated[int, []]).decode("1") == 1  # metadata that cannot be hashed


@pytest.mark.parametrize(
    ("message_type", "value", "text"),
    [
        (str, "é", '"é"'),
        (str, Word.HI, '"hi"'),
        (int, -(2**63), "-9223372036854775808"),
        (int, 2**64 - 1, "18446744073709551615"),
        (int, Level.HIGH, "2"),
        (float, 1.5, "1.5"),
        (float, 3, "3.0"),
        (float, type("Angle", (float,), {})(0.5), "0.5"),
        (bool, True, "true"),
        (None, None, "null"),
        (bytes, b"\x00\xff", '"AP8="'),
        (Decimal, Decimal("1.50"), '"1.50"'),
        (Decimal, Decimal("1E+3"), '"1E+3"'),
        (UUID, UUID(UUID_TEXT), f'"{UUID_TEXT}"'),
        (date, date(2024, 2, 29), '"2024-02-29"'),
        (datetime, datetime(2024, 2, 29, 12, tzinfo=UTC), '"2024-02-29T12:00:00+00:00"'),
        (datetime, datetime.fromisoformat("2024-02-29T12:00:00.000005"), '"2024-02-29T12:00:00.000005"'),
        (datetime, datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=-3.5))), '"2024-02-29T00:00:00-03:30"'),
        (Color, Color.RED, '"red"'),
        (Level, Level.LOW, "1"),
        (Loose, Loose.ONE, '"one"'),
        (Literal["a", 1, True, None], True, "true"),  # noqa: PYI061 - None is a value like others here
        (Literal["hi"], Word.HI, '"hi"'),
        (Literal[Color.RED], Color.RED, '"red"'),
        (list[int], [1, 2], "[1,2]"),
        (typing.List[int], [], "[]"),  # noqa: UP006 - old code has it
        (tuple[int, ...], (1,), "[1]"),
        (tuple[int, str], (1, "a"), '[1,"a"]'),
        (tuple[()], (), "[]"),
        (set[int], {1}, "[1]"),
        (frozenset[str], frozenset({"a"}), '["a"]'),
        (set[tuple[int, str | None]], {(1, None)}, "[[1,null]]"),
        (Sequence[int], (1,), "[1]"),
        (MutableSequence[int], [1], "[1]"),
        (AbstractSet[int], frozenset({1}), "[1]"),
        (MutableSet[int], {1}, "[1]"),
        (dict[str, int], {"a b": 1}, '{"a b":1}'),
        (MutableMapping[int, str], {-1: "a"}, '{"-1":"a"}'),
        (Mapping[Color, int], {Color.RED: 1}, '{"red":1}'),
        (dict[Level, int], {Level.HIGH: 1}, '{"2":1}'),
        (dict[Literal["a", "b"], int], {"a": 1}, '{"a":1}'),
        (dict[UUID, int], {UUID(UUID_TEXT): 1}, f'{{"{UUID_TEXT}":1}}'),
        (Any, {"a": [1, 1.5, "x", None, True]}, '{"a":[1,1.5,"x",null,true]}'),
        (Any | None, None, "null"),
        (int | str | None, "1", '"1"'),
        (int | str | None, 1, "1"),
        (bool | int, True, "true"),
        (list[int] | str, [1], "[1]"),
        (tuple[int] | datetime | None, (1,), "[1]"),
        (Color | int, Color.BLUE, '"blue"'),
        (dict[str, int] | None, {"a": 1}, '{"a":1}'),
        (Name, "a", '"a"'),
        (str | Name, "a", '"a"'),
        (Annotated[list[Annotated[int, "metadata"]], msgspec.Meta(min_length=2)], [1], "[1]"),
        (Page[Item], Page([Item("a")], Item("b"), [Item("c")]), None),
        (Both[str], Both(rows=[1], next=2, more=[3], own="own"), None),
        (Plain, Plain(rows=[1], own="own"), None),
        (Node, Node(1, Node(2), typing.cast("Any", [Node(3)])), None),
        (Event, Say("a"), '{"text":"a","kind":"say"}'),
        (Event, Join("a", "enter"), '{"room":"a","kind":"enter"}'),
        (Event, {"kind": "left"}, '{"kind":"left"}'),
        (Event, None, "null"),
        (Event, "text", '"text"'),
        (Options, {"limit": 1}, '{"limit":1}'),
        (Options, {"limit": 1, "color": Color.RED}, '{"limit":1,"color":"red"}'),
        (Late, {"needed": 1}, '{"needed":1}'),
        (Box[str], {"content": "a"}, '{"content":"a"}'),
        (IntBox, {"content": 1, "label": "a"}, None),
        (Odd, {"a-b": 1, "class": 2}, '{"a-b":1,"class":2}'),
        (Point, Point(1.0, 2.0), '{"x":1.0,"y":2.0}'),
        (Simple, Simple(["a"]), '{"words":["a"]}'),
        (Guarded, Guarded(secret="x"), '{"_secret":"x","age":1,"size":"m","other":"o"}'),
        (TypeAliasType("Pair", tuple[T, T], type_params=(typing.cast("Any", T),))[int], (1, 2), "[1,2]"),
        (TypeAliasType("Name", str), "a", '"a"'),
    ],
    ids=str,
)
def test_what_is_written_is_read_back(message_type: Any, value: Any, text: str | None) -> None:
    payload = codec(message_type).encode(value)
    if text is not None:
        assert payload.decode() == text
    back = codec(message_type).decode(payload)
    assert back == value
    assert codec(message_type).decode(payload.decode()) == value
    if message_type is not Any and not isinstance(value, Level | Word) and not isinstance(value, float | int):
        assert back.__class__ is value.__class__


@pytest.mark.parametrize(
    ("message_type", "text", "fault"),
    [
        (str, "1", "expected a string, got 1"),
        (str, "null", "expected a string, got null"),
        (int, '"x"', 'expected an integer, got "x"'),
        (int, "true", "expected an integer, got true"),
        (int, "1.0", "expected an integer, got 1.0"),
        (int, str(2**64), "expected an integer of 64 bits, got 18446744073709551616"),
        (int, "1" * 400, "expected an integer of 64 bits, got an integer of 1326 bits"),
        (float, "true", "expected a number, got true"),
        (float, '"1"', 'expected a number, got "1"'),
        (float, "1e999", "expected a finite number, got Infinity"),
        (float, "1" * 400, "expected a number that a float can hold, got an integer of 1326 bits"),
        (bool, "1", "expected a boolean, got 1"),
        (None, "0", "expected null, got 0"),
        (bytes, '"!!"', 'expected bytes in base64, got "!!"'),
        (bytes, '"AA-_"', 'expected bytes in base64, got "AA-_"'),
        (Decimal, "1", 'expected a decimal number in a string such as "12.50", got 1'),
        (Decimal, '"NaN"', 'expected a decimal number in a string such as "12.50", got "NaN"'),
        (Decimal, '"1E9999999999999999999999"', None),
        (UUID, '"x"', 'expected a UUID, got "x"'),
        (date, '"2024-02-30"', 'expected a date such as 2024-02-29, got "2024-02-30"'),
        (datetime, '"2024-02-29"', 'expected a date and time such as 2024-02-29T12:00:00Z, got "2024-02-29"'),
        (Color, '"green"', 'expected one of "red", "blue", got "green"'),
        (Color, "[]", 'expected one of "red", "blue", got an array'),
        (Level, "true", "expected one of 1, 2, got true"),
        (Literal["a", "b"], '"c"', 'expected one of "a", "b", got "c"'),
        (Literal[1], "true", "expected one of 1, got true"),
        (list[int], "{}", "expected an array, got an object"),
        (list[str], '"ab"', 'expected an array, got "ab"'),
        (tuple[int, str], "[1]", "expected an array of 2, got an array of 1"),
        (dict[str, int], "[]", "expected an object, got an array"),
        (Item, "[]", "expected an object, got an array"),
        (Item, "null", "expected an object, got null"),
        (Event, "1", "expected a string or an object or null, got 1"),
        (int | str | None, "1.5", "expected an integer, got 1.5"),
        (int | None, "[]", "expected an integer or null, got an array"),
        (None | bytes | int, "[]", "expected an integer or bytes in base64 or null, got an array"),
        (int | bytes | None, "[]", "expected an integer or bytes in base64 or null, got an array"),
    ],
)
def test_nothing_is_guessed_on_the_way_in(message_type: Any, text: str, fault: str | None) -> None:
    faults = refusal(message_type, text)
    assert faults == [f"$: {fault}"] if fault else len(faults) == 1


@pytest.mark.parametrize(
    ("message_type", "value", "fault"),
    [
        (str, None, "expected a string, got null"),
        (str, 5, "expected a string, got 5"),
        (str, "\ud800", 'expected a string without lone surrogates, got "\\\\ud800"'),
        (int, True, "expected an integer, got true"),
        (int, 2**64, "expected an integer of 64 bits, got 18446744073709551616"),
        (float, float("nan"), "expected a finite number, got NaN"),
        (float, -float("inf"), "expected a finite number, got -Infinity"),
        (float, 2**53 + 1, "expected a number that a float can hold exactly, got 9007199254740993"),
        (float, 10**400, "expected a number that a float can hold exactly, got an integer of 1329 bits"),
        (bytes, "a", 'expected bytes, got "a"'),
        (Decimal, Decimal("NaN"), "expected a Decimal that is finite, got a Decimal"),
        (date, datetime(2024, 1, 1, tzinfo=UTC), "expected a date, got a datetime"),
        (
            datetime,
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=30))),
            "expected a datetime with an offset of whole minutes, got a datetime",
        ),
        (Color, "red", 'expected one of "red", "blue", got "red"'),
        (Literal["a"], [], 'expected one of "a", got an array'),
        (list[int], (1,), "expected an array, got a tuple"),
        (tuple[int, ...], [1], "expected a tuple, got a list"),
        (Sequence[str], "ab", 'expected a list or a tuple, got "ab"'),
        (dict[str, int], MappingProxyType({}), "expected an object, got a mappingproxy"),
        (Item, Say("a"), "expected an Item, got a Say"),
        (Options, [], "expected a dict for Options, got an array"),
        (Any, float("inf"), "expected a finite number, got Infinity"),
        (Any, 2**64, "expected an integer of 64 bits, got 18446744073709551616"),
        (Any, (1,), "expected a JSON value (None, bool, int, float, str, list or dict), got a tuple"),
        (Any, Item("a"), "expected a JSON value (None, bool, int, float, str, list or dict), got an Item"),
        (Event, Item("a"), "expected a Say or a Join or a Left, got an Item"),
        (int | None, "a", 'expected an integer or null, got "a"'),
    ],
)
def test_nothing_is_guessed_on_the_way_out(message_type: Any, value: Any, fault: str) -> None:
    assert complaint(message_type, value) == [f"$: {fault}"]


class Shout(str):
    """A string whose class says something else."""

    __slots__ = ()

    def __str__(self) -> str:
        return "loud"


@pytest.mark.parametrize(
    ("message_type", "values", "text"),
    [
        (list[str], ["a", "bc"], '["a","bc"]'),
        (list[str], [], "[]"),
        (list[str], ["a", "\u00fc"], '["a","\u00fc"]'),
        (list[str], ["a", Shout("b")], '["a","b"]'),
        (tuple[str, ...], ("a", "b"), '["a","b"]'),
        (set[str], {"a"}, '["a"]'),
        (list[int], [1, 2**64 - 1, -(2**63)], "[1,18446744073709551615,-9223372036854775808]"),
        (list[int], [], "[]"),
        (list[float], [1.5, 2.0], "[1.5,2.0]"),
        (list[float], [1.5, 2], "[1.5,2.0]"),
        (list[bool], [True, False], "[true,false]"),
    ],
)
def test_an_array_of_plain_values_is_written_as_one_of_others(message_type: Any, values: Any, text: str) -> None:
    assert codec(message_type).encode(values).decode() == text


@pytest.mark.parametrize(
    ("message_type", "values", "fault"),
    [
        (list[str], ["a", 5], "$[1]: expected a string, got 5"),
        (list[str], ["a", "\ud800"], '$[1]: expected a string without lone surrogates, got "\\\\ud800"'),
        (list[str], ["\ud83d", "\ude00"], '$[0]: expected a string without lone surrogates, got "\\\\ud83d"'),
        (list[int], [1, True], "$[1]: expected an integer, got true"),
        (list[int], [1, 2**64], "$[1]: expected an integer of 64 bits, got 18446744073709551616"),
        (list[int], [1, -(2**63) - 1], "$[1]: expected an integer of 64 bits, got -9223372036854775809"),
        (list[float], [1.5, float("nan")], "$[1]: expected a finite number, got NaN"),
        (list[bool], [True, 1], "$[1]: expected a boolean, got 1"),
    ],
)
def test_one_wrong_value_among_plain_ones_is_found(message_type: Any, values: Any, fault: str) -> None:
    assert complaint(message_type, values)[0] == fault


def test_everything_that_is_wrong_is_said_at_once_each_with_its_path() -> None:
    text = '{"items":[{"name":1},{"qty":true},3],"by":{"a b":"x","ok":null,"\\"":[]},"note":{}}'
    assert refusal(Order, text) == [
        "$.items[0].name: expected a string, got 1",
        "$.items[1].name: required field is missing",
        "$.items[1].qty: expected an integer, got true",
        "$.items[2]: expected an object, got 3",
        '$.by["a b"]: expected an integer, got "x"',
        "$.by.ok: expected an integer, got null",
        '$.by["\\""]: expected an integer, got an array',
        "$.note: expected a string or null, got an object",
    ]


def test_an_encode_error_names_the_type_and_everything_that_is_wrong() -> None:
    broken: Any = Order([Item("a", None), 5], {1: "x"})  # type: ignore[arg-type,list-item,dict-item]  # that is the test
    with pytest.raises(EncodeError, match=r"^not a valid Order: ") as caught:
        codec(Order).encode(broken)
    assert [str(fault) for fault in caught.value.faults] == [
        "$.items[0].qty: expected an integer, got null",
        "$.items[1]: expected an Item, got 5",
        '$.by["1"]: expected a string, got 1 as the key',
        '$.by["1"]: expected an integer, got "x"',
    ]


def test_a_long_value_is_repeated_in_part() -> None:
    assert refusal(int, '"' + "x" * 99 + '"') == ['$: expected an integer, got "' + "x" * 39 + '…"']


def test_unknown_keys_are_ignored_and_of_duplicate_keys_the_last_counts() -> None:
    assert codec(Item).decode('{"name":"a","new":[1e999, 1],"name":"b"}') == Item("b")
    assert codec(Page[Decimal]).decode('{"rows":[],"new":1e999}') == Page([])
    assert codec(set[int]).decode("[1,1]") == {1}


def test_a_field_with_a_default_may_be_absent_but_is_always_written() -> None:
    assert codec(Item).decode('{"name":"a"}') == Item("a")
    assert codec(Order).decode('{"items":[]}') == Order([])
    assert codec(Guarded).decode("{}") == Guarded()


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "nope",
        "[1,]",
        '"\\ud800"',
        b'"\xff"',
        b'{"x":"\xff"}',
        "\ud800",
        '{"a":1}x',
        "NaN",
        b"\xef\xbb\xbf1",
        "1" * 5000,
    ],
)
@pytest.mark.parametrize("message_type", [Item, Any, Page[Decimal], str])
def test_what_is_not_json_is_one_fault_at_the_root(message_type: Any, payload: str | bytes) -> None:
    (fault,) = refusal(message_type, payload)
    assert fault.startswith("$: not valid JSON: ")


@pytest.mark.parametrize("payload", ["[" * 100_000, '{"next":' * 100_000, "[" * 100_000 + "]" * 100_000])
@pytest.mark.parametrize("message_type", [Node, Any, Page[Decimal]])
def test_deep_nesting_is_a_fault(message_type: Any, payload: str) -> None:
    assert refusal(message_type, payload) == ["$: nested too deeply"]


def test_a_message_that_is_nested_too_deeply_for_the_hooks_is_a_fault() -> None:
    depth = sys.getrecursionlimit() // 2
    assert refusal(Page[Any], '{"rows":' + "[" * depth + "]" * depth + "}") == ["$: nested too deeply"]


def test_a_value_that_holds_itself_cannot_be_written() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert complaint(Any, circle) == ["$: nested too deeply"]
    node = Node(1)
    node.next = node
    assert complaint(Node, node) == ["$: nested too deeply"]


def test_a_validator_speaks_for_itself_at_its_field_or_else_at_the_class() -> None:
    assert refusal(list[Guarded], '[{"size":"xl"}]')[0].startswith("$[0].size: 'size' must be in")
    assert refusal(Guarded, '{"age":101}') == ["$: nobody is that old"]
    assert refusal(Guarded, '{"age":13}') == ["$: KeyError('13')"]
    assert refusal(list[Point], '[{"x":-1}]') == ["$[0]: x is left of the origin"]


def test_a_constructor_without_an_end_is_nesting() -> None:
    assert refusal(Endless, "{}") == ["$: nested too deeply"]


@attrs.define
class Endless:
    def __attrs_post_init__(self) -> None:
        Endless()


def test_private_fields_aliases_and_init_false() -> None:
    """A private field travels under the attribute's name, as does one with an alias; init=False does not travel."""
    got = codec(Guarded).decode('{"_secret":"x","other":" y ","counter":5,"another":"z"}')
    assert got == Guarded(secret="x", another="y")
    assert got.counter == 0


def test_a_subclass_is_written_as_the_declared_class() -> None:
    @attrs.frozen
    class Special(Item):
        extra: str = "not for the wire"

    assert codec(Item).encode(Special("a")) == b'{"name":"a","qty":1}'
    assert codec(list[int]).encode(type("Numbers", (list,), {})([1])) == b"[1]"


def test_an_attribute_that_is_not_set_is_a_fault() -> None:
    item = object.__new__(Item)
    assert complaint(Item, item) == ["$.name: the attribute is not set", "$.qty: the attribute is not set"]


def test_a_typeddict_has_exactly_its_keys_when_it_is_written() -> None:
    assert complaint(Options, {"color": "x", "odd one": 1}) == [
        "$.limit: required field is missing",
        '$.color: expected one of "red", "blue", got "x"',
        '$["odd one"]: is not a key of Options',
    ]
    assert codec(Options).decode('{"limit":1,"new":2}') == {"limit": 1}


def test_an_unknown_or_missing_tag_names_the_tag_and_what_is_allowed() -> None:
    tags = 'one of "say", "join", "enter", "left"'
    assert refusal(Event, '{"kind":"leave"}') == [f'$.kind: expected the tag "kind" to be {tags}, got "leave"']
    assert refusal(Event, '{"kind":[]}') == [f'$.kind: expected the tag "kind" to be {tags}, got an array']
    assert refusal(Event, "{}") == [f'$.kind: required tag "kind" is missing, expected {tags}']
    assert refusal(Event, '{"kind":"say"}') == ["$.text: required field is missing"]
    mutated = Say("a")
    mutated.kind = "shout"  # type: ignore[assignment]  # that is the test
    assert complaint(Event, mutated) == [f'$.kind: expected the tag "kind" to be {tags}, got "shout"']
    assert complaint(Event, {"text": "a"}) == [f'$.kind: required tag "kind" is missing, expected {tags}']


def test_keys_are_read_strictly() -> None:
    assert refusal(dict[int, int], '{"01":1,"x":2,"18446744073709551616":3,"4":"4"}') == [
        '$["01"]: expected an integer, got "01" as the key',
        '$.x: expected an integer, got "x" as the key',
        '$["18446744073709551616"]: expected an integer, got "18446744073709551616" as the key',
        '$["4"]: expected an integer, got "4"',
    ]
    assert refusal(dict[Color, int], '{"green":1}') == [
        '$.green: expected one of "red", "blue", got "green" as the key'
    ]
    assert refusal(dict[UUID, int], '{"x":1}') == ['$.x: expected a UUID, got "x" as the key']


def test_what_cannot_be_hashed_is_no_set() -> None:
    @attrs.frozen
    class Tagged:
        tags: list[str]

    (fault,) = refusal(set[Tagged], '[{"tags":[]}]')
    assert fault == "$: cannot be a set: unhashable type: 'list'"


# --- The fast way and the careful one ---


@attrs.define
class Wide:
    text: str
    count: int = 0
    when: datetime | None = None
    extra: dict[str, list[float]] = attrs.Factory(dict)


@attrs.define
class Tree:
    branches: "dict[str, Tree]"


class Tint(enum.Enum):
    WARM = "warm"


@attrs.define
class Tinted:
    tint: Tint


@attrs.frozen(cache_hash=True)
class Hashed:
    text: str


class Undecorated(Item):
    pass


@attrs.define
class OwnInit:
    text: str

    def __init__(self, text: str) -> None:
        self.text = text.upper()


@attrs.define
class OwnNew:
    text: str

    def __new__(cls, text: str) -> Self:
        return super().__new__(cls)


@dataclasses.dataclass
class Hidden:
    _text: str


@attrs.define
class Unannotated:
    text = attrs.field(type=str)


@attrs.define
class Hurt:
    """Its default cannot be made."""

    text: str = attrs.field()

    @text.default
    def _text(self) -> str:
        raise LookupError("no default today")


@pytest.mark.parametrize(
    "message_type", [Wide, Item, Order, Simple, Page[str], Tree, Tinted, list[int | None], Literal["a"]]
)
def test_a_type_that_msgspec_reads_as_we_do_is_read_by_msgspec(message_type: Any) -> None:
    assert codec(message_type)._decode_fast is not None


@pytest.mark.parametrize(
    ("message_type", "text", "expected"),
    [
        (Loose | None, '"one"', Loose.ONE),
        (Node, '{"value":1}', Node(1)),
        (Hashed, '{"text":"a"}', Hashed("a")),
        (Undecorated, '{"name":"a"}', Undecorated("a")),
        (OwnInit, '{"text":"a"}', OwnInit("a")),
        (OwnNew, '{"text":"a"}', OwnNew("a")),
        (Hidden, '{"_text":"a"}', Hidden("a")),
        (Point, '{"x":1}', Point(1.0)),
        (Say | Join, '{"kind":"say","text":"a"}', Say("a")),
    ],
)
def test_a_type_that_msgspec_reads_in_another_way_goes_through_the_hooks(
    message_type: Any, text: str, expected: Any
) -> None:
    assert codec(message_type)._decode_fast is None
    assert codec(message_type).decode(text) == expected


def test_a_field_may_have_its_type_without_an_annotation() -> None:
    """Which msgspec reads since 0.23; before, it goes through the hooks."""
    assert codec(Unannotated).decode('{"text":"a"}') == Unannotated("a")
    with pytest.raises(InvalidMessage, match=r"\$\.text: expected a string, got 1"):
        codec(Unannotated).decode('{"text":1}')


def test_integers_of_more_than_64_bits_do_not_slip_through_msgspec() -> None:
    fault = "$.count: expected an integer of 64 bits, got 18446744073709551616"
    assert refusal(Wide, '{"text":"a","count":18446744073709551616}') == [fault]
    assert codec(Wide).decode('{"text":"a","count":18446744073709551615}').count == 2**64 - 1


def test_a_default_that_raises_is_a_fault() -> None:
    assert refusal(Hurt, "{}") == ["$: LookupError('no default today')"]


# --- Types that are refused, when they are declared ---


class NotAMessage:
    pass


@attrs.define
class Holder:
    thing: NotAMessage


@attrs.define
class Deep:
    holders: list[dict[str, Holder]]


@attrs.define
class When:
    when: datetime | str


@attrs.define
class Untyped:
    x = attrs.field()  # type: ignore[var-annotated]  # that is the test


@dataclasses.dataclass
class WithInitVar:
    x: dataclasses.InitVar[int]


@attrs.define
class Untagged:
    kind: Literal["say"] = "say"


class Empty(enum.Enum):
    pass


class Perm(enum.Flag):
    R = 1


class Fraction(enum.Enum):
    HALF = 0.5


class SameInJson(enum.Enum):
    ONE = 1
    UN = "1"


@dataclasses.dataclass
class Scalar(int):
    x: int


class Meters(float):
    pass


@attrs.define
class Growing(Generic[T]):
    more: "Growing[list[T]] | None" = None


@pytest.mark.parametrize(
    ("message_type", "reason"),
    [
        (object, "object: object is not a type of JSON: say Any"),
        (list, "list: list has no type of items: say list[Any], or the type of the items"),
        (typing.List, "list: list has no type of items: say list[Any]"),  # noqa: UP006 - old code has it
        (tuple, "tuple: tuple has no type of items: say tuple[Any, ...], or the type of the items"),
        (complex, "complex: complex cannot be sent as JSON"),
        (dict, "dict: dict has no types of keys and values: say dict[str, Any]"),
        (NotAMessage, "neither an attrs class nor a dataclass nor a TypedDict: decorate it with @attrs.frozen"),
        (Deep, r"Deep.holders[]{}.thing: NotAMessage is neither"),
        (When, "When.when: datetime | str is ambiguous: both are of kind string in JSON."),
        (Callable[[int], int], "cannot be sent as JSON"),
        (type, "type: type cannot be sent as JSON"),
        (list["Item"], "is a forward reference outside of a class: say the type itself"),
        (Page, "Page: Page is generic: say Page[Item]"),
        (list[T], "list[T][]: ~T stands for no type here: say which"),  # type: ignore[valid-type]  # that is the test
        (set[Any], "set[Any][]: Any cannot be in a set, as it is not hashable: say list"),
        (set[list[int]], "list[int] cannot be in a set"),
        (set[tuple[int, list[int]]], "list[int] cannot be in a set"),
        (frozenset[Say], "Say cannot be in a set"),
        (dict[float, int], "float cannot be a key: keys are str, int, UUID, or an Enum or Literal"),
        (dict[SameInJson, int], "SameInJson cannot be a key"),
        (dict[Literal[True], int], "cannot be a key"),
        (int | float, "int | float is ambiguous: say float, which takes integers as well"),
        (Any | int, "Any | int is any JSON value: say Any"),
        (Item | Order, "Item | Order is ambiguous: all are objects in JSON. Add a field to each"),
        (Say | Untagged, "Say | Untagged is ambiguous"),
        (Say | dict[str, int], "Say | dict[str, int] is ambiguous"),
        (list[int] | tuple[int, ...], "list[int] | tuple[int, ...] is ambiguous: both are of kind array"),
        (Literal["a"] | Color, "is ambiguous: both are of kind string"),
        (Literal[b"a"], "b'a' cannot be a value here"),
        (Literal[2**64], "18446744073709551616 cannot be a value here"),
        (Literal["red", Color.RED], "two values of Literal['red', <Color.RED: 'red'>] are the same in JSON"),
        (Empty, "Empty has no list of values to choose from"),
        (Perm, "Perm has no list of values to choose from"),
        (Fraction, "0.5 cannot be a value here"),
        (Scalar, "Scalar is int as well: a message cannot be both"),
        (Meters, "Meters is float of another name: say float, or a NewType of it"),
        (Untyped, "Untyped.x: the field has no type: annotate it"),
        (WithInitVar, "WithInitVar.x: an InitVar is not kept, so it cannot be sent"),
        (Growing[int], "the type has no end"),
        (Annotated[set, "bare"], "set: set has no type of items"),
    ],
    ids=str,
)
def test_a_type_that_cannot_be_carried_is_refused_with_a_way_out(message_type: Any, reason: str) -> None:
    with pytest.raises(TypeError) as caught:
        codec(message_type)
    assert reason in str(caught.value)


def test_an_alias_that_refers_to_itself_is_refused() -> None:
    loop = TypeAliasType("loop", list["loop"])  # type: ignore[misc]  # that is the test
    with pytest.raises(TypeError, match="forward reference"):
        codec(loop)

    class Circle:
        __type_params__ = ()
        __name__ = "Circle"

        @property
        def __value__(self) -> Any:
            return list[self]  # type: ignore[valid-type]  # what `type Circle = list[Circle]` of Python 3.12 does

    with pytest.raises(TypeError, match="refers to itself: put a class into the circle"):
        codec(Circle())


def test_a_class_that_is_local_to_a_function_must_move_to_module_level() -> None:
    @attrs.define
    class Local:
        other: "Elsewhere"  # type: ignore[name-defined]  # noqa: F821 - that is the test

    with pytest.raises(TypeError, match=r"Local: .*'Elsewhere', which is not found in .*must be at module level"):
        codec(Local)


def test_a_hostile_message_gets_no_more_than_a_hundred_faults() -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec(list[int]).decode("[" + ",".join(["null"] * 250) + "]")
    assert len(caught.value.faults) == 101
    assert str(caught.value.faults[-1]) == "$: and 150 more faults"
