"""Handshakes: what a class may hold, and how text becomes its values and back.

The handshake classes are made on the spot, from a name to a type each: ``spec_of(rows=int)``.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import functools
import uuid
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, NewType, Optional, TypeVar

import attrs
import pytest
from attrs import frozen
from typing_extensions import TypeAliasType

from streamrt.api.handshake import (
    MAX_ECHO,
    Cookie,
    HandshakeSpec,
    Header,
    Parameter,
    Query,
    Rendered,
)
from streamrt.api.scalars import MAX_INTEGER, MIN_INTEGER
from streamrt.errors import APIError

T = TypeVar("T")
UserId = NewType("UserId", str)
Rows = TypeAliasType("Rows", Annotated[int, Query("n")])


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Name(enum.StrEnum):
    ADA = "ada"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Switch(enum.Enum):
    ON = True
    OFF = False


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(enum.Enum):
    ORIGIN = (0, 0)


class Twice(enum.Enum):
    NUMBER = 1
    TEXT = "1"


class Nothing(enum.Enum):
    pass


def class_of(**types: Any) -> type[Any]:
    """An attrs class ``Join`` with these fields, all without a default."""
    return attrs.frozen(type("Join", (), {"__annotations__": types}))


def spec_of(*path_names: str, **types: Any) -> HandshakeSpec[Any]:
    return HandshakeSpec.of(class_of(**types), path_names)


def parse(
    spec: HandshakeSpec[Any],
    query_string: str = "",
    headers: list[tuple[str, str]] | None = None,
    **path: str,
) -> Any:
    return spec.parse(path=path, query_string=query_string, headers=headers or [])


def faults_of(
    spec: HandshakeSpec[Any],
    query_string: str = "",
    headers: list[tuple[str, str]] | None = None,
    **path: str,
) -> str:
    """The message of the error that parsing ends in."""
    with pytest.raises(APIError.InvalidArgument) as caught:
        parse(spec, query_string, headers, **path)
    return caught.value.message


def refusal_of(handshake_type: Any, *path_names: str, what: str = "handshake") -> str:
    """The message of the TypeError that reading a class ends in."""
    with pytest.raises(TypeError) as caught:
        HandshakeSpec.of(handshake_type, path_names, what)
    return str(caught.value)


# Where a field comes from


@frozen
class Join:
    room: str
    authorization: Annotated[str, Header("Authorization")]
    session: Annotated[str | None, Cookie("sid")] = None
    since: int | None = None
    page_size: Annotated[int, Query("page[size]")] = 20
    accept_language: Annotated[list[str], Header()] = attrs.field(factory=list)
    seen: int = attrs.field(default=0, init=False)


JOIN = HandshakeSpec.of(Join, ["room"], "'/rooms/{room}'")


def test_the_parameters_say_where_each_field_comes_from() -> None:
    assert JOIN.handshake_type is Join
    assert JOIN.fields == (
        Parameter("room", "path", "room", required=True, type=str),
        Parameter("authorization", "header", "authorization", required=True, type=str),
        Parameter("session", "cookie", "sid", required=False, type=str | None),
        Parameter("since", "query", "since", required=False, type=int | None),
        Parameter("page_size", "query", "page[size]", required=False, type=int),
        Parameter("accept_language", "header", "accept-language", required=False, type=list[str]),
    )


def test_a_request_becomes_a_handshake() -> None:
    headers = [("AUTHORIZATION", " Bearer ada\t"), ("cookie", "sid=7"), ("Accept-Language", "en, de")]
    join = parse(JOIN, "since=12&page%5Bsize%5D=50", headers, room="a/b")
    assert join == Join("a/b", "Bearer ada", "7", 12, 50, ["en", "de"])


def test_what_did_not_come_is_its_default() -> None:
    assert parse(JOIN, "", [("authorization", "x")], room="lobby") == Join("lobby", "x", None, None, 20, [])


def test_a_handshake_becomes_a_request() -> None:
    assert JOIN.render(Join("a/b", "Bearer ada", "7", 12, 50, ["en", "de"])) == Rendered(
        path={"room": "a/b"},
        query=[("since", "12"), ("page[size]", "50")],
        headers=[("authorization", "Bearer ada"), ("accept-language", "en, de"), ("cookie", "sid=7")],
    )


def test_none_and_empty_lists_are_left_out_of_a_request() -> None:
    rendered = JOIN.render(Join("lobby", "x", page_size=1))
    assert rendered == Rendered({"room": "lobby"}, [("page[size]", "1")], [("authorization", "x")])


def test_all_cookies_are_one_header() -> None:
    spec = spec_of(a=Annotated[int, Cookie()], b=Annotated[bool, Cookie("B")])
    value = spec.handshake_type(1, b=True)
    assert spec.render(value) == Rendered({}, [], [("cookie", "a=1; B=true")])
    assert parse(spec, "", [("cookie", "a=1; B=true")]) == value


@frozen
class Aliased:
    _token: str
    page: int = attrs.field(alias="p")
    _trace_id: Annotated[str, Header()]


def test_a_field_goes_by_its_alias() -> None:
    spec = HandshakeSpec.of(Aliased, ["token"])
    assert [(field.name, field.wire_name) for field in spec.fields] == [
        ("_token", "token"),
        ("page", "p"),
        ("_trace_id", "trace-id"),
    ]
    value = parse(spec, "p=2", [("trace-id", "t")], token="x")
    assert value == Aliased(token="x", p=2, trace_id="t")
    assert spec.render(value) == Rendered({"token": "x"}, [("p", "2")], [("trace-id", "t")])


@pytest.mark.parametrize(
    ("tp", "wire_name"),
    [
        (int, "x"),
        (Annotated[int, "a comment", []], "x"),
        (Annotated[int, Query], "x"),
        (Annotated[int, Query("y")], "y"),
        (Annotated[Annotated[int, "inside"], Query("y")], "y"),
        (Rows, "n"),
    ],
)
def test_a_marker_names_the_parameter(tp: Any, wire_name: str) -> None:
    spec = spec_of(x=tp)
    assert spec.fields == (Parameter("x", "query", wire_name, required=True, type=int),)


def test_a_marker_may_stand_without_its_brackets() -> None:
    assert spec_of(user_agent=Annotated[str, Header]).fields[0].wire_name == "user-agent"


@dataclasses.dataclass
class Listing:
    kind: ClassVar[str] = "listing"
    owner: str
    rows: int = 10
    tags: list[str] = dataclasses.field(default_factory=lambda: ["all"])
    seen: int = dataclasses.field(default=0, init=False)


def test_a_dataclass_is_a_handshake_too() -> None:
    spec = HandshakeSpec.of(Listing, ["owner"])
    assert [field.required for field in spec.fields] == [True, False, False]
    assert parse(spec, "", owner="ada") == Listing("ada", 10, ["all"])
    assert parse(spec, "rows=1&tags=x&tags=y", owner="ada") == Listing("ada", 1, ["x", "y"])
    assert spec.render(Listing("ada")) == Rendered({"owner": "ada"}, [("rows", "10"), ("tags", "all")], [])


def test_a_handshake_may_be_empty() -> None:
    spec = spec_of()
    assert spec.fields == ()
    assert parse(spec, "x=1", [("x", "1")]) == spec.handshake_type()
    assert spec.render(spec.handshake_type()) == Rendered({}, [], [])


# Classes that are no handshake


@frozen
class Paged(Generic[T]):
    after: T


@frozen
class Unresolvable:
    room: Missing  # type: ignore[name-defined]  # noqa: F821 - the test is about this


@dataclasses.dataclass
class Initial:
    room: str
    seed: dataclasses.InitVar[int]


@attrs.define(init=False)
class OwnInit:
    room: str

    def __init__(self, name: str) -> None:
        self.room = name


@pytest.mark.parametrize(
    ("handshake_type", "wrong"),
    [
        (int, "int is not a class with fields: decorate it with attrs.frozen"),
        (Paged[int], "is not a class with fields"),
        (None, "is not a class with fields"),
        (Paged, "Paged.after: type ~T is not allowed"),
        (Unresolvable, "an annotation of Unresolvable cannot be resolved (name 'Missing' is not defined): move the"),
        (attrs.make_class("Join", ["room"]), "Join.room: it has no type"),
        (Initial, "Initial cannot be created from its fields: missing a required argument: 'seed'"),
        (OwnInit, "OwnInit cannot be created from its fields: missing a required argument: 'name'"),
    ],
)
def test_what_is_no_handshake_class_is_refused(handshake_type: Any, wrong: str) -> None:
    assert wrong in refusal_of(handshake_type)


def test_a_class_with_local_types_is_told_to_move() -> None:
    class Local(enum.Enum):
        X = "x"

    @frozen
    class InFunction:
        local: Local

    message = refusal_of(InFunction)
    assert "'Local' is not defined" in message
    assert "to module level" in message


ALLOWED = "allowed are str, int, float, bool, datetime, date, UUID, Decimal, an Enum or Literal"


@pytest.mark.parametrize(
    ("tp", "described"),
    [
        (bytes, "bytes"),
        (object, "object"),
        (None, "NoneType"),
        (Any, "Any"),
        (dt.timedelta, "timedelta"),
        (list, "list"),
        (set[int], "set[int]"),
        (dict[str, int], "dict[str, int]"),
        (list[list[int]], "list[list[int]]"),
        (list[int | None], "list[int | None]"),
        (tuple[int, int], "tuple[int, int]"),
        (tuple[()], "tuple[()]"),
        (int | str, "int | str"),
        (int | str | None, "int | str | None"),
        (Join, "Join"),
        (Access, "Access"),
        (Point, "Point"),
        (Twice, "Twice"),
        (Nothing, "Nothing"),
        (Literal[b"x"], "Literal[b'x']"),
        (Literal["a", None], "Literal['a', None]"),  # noqa: PYI061 - the test is about this
        (Literal["true", True], "Literal['true', True]"),
        (Literal[Name.ADA], "Literal[<Name.ADA: 'ada'>]"),
    ],
)
def test_a_type_that_is_no_text_is_refused_with_what_is_allowed(tp: Any, described: str) -> None:
    message = refusal_of(class_of(rows=tp))
    assert message.startswith(f"handshake: Join.rows: type {described} is not allowed; {ALLOWED}")


@pytest.mark.parametrize(
    ("types", "path_names", "wrong"),
    [
        ({}, ["room"], "'/x': Join has no field for the path parameter 'room': add `room: str`"),
        (
            {"room": Annotated[str, Header()]},
            ["room"],
            "'/x': Join.room: it is in the path, so it cannot come from a Header too",
        ),
        ({"x": str | None}, ["x"], "'/x': Join.x: a path parameter is always there and cannot be str | None"),
        (
            {"x": Optional[str]},  # noqa: UP045 - the test is about this
            ["x"],
            "a path parameter is always there and cannot be Optional[str]",
        ),
        ({"x": list[str]}, ["x"], "a path parameter is one value and cannot be list[str]"),
        ({"x": Annotated[list[str], Cookie()]}, [], "a cookie is one value and cannot be list[str]"),
        ({"x": Annotated[str, Header(), Query()]}, [], "Join.x: it has 2 of Header, Query and Cookie: keep one"),
        (
            {"x": Annotated[str, Header()] | None},
            [],
            "Join.x: write Header around the whole type: Annotated[..., Header(name=None)]",
        ),
        ({"x": list[Annotated[str, Query("y")]]}, [], "write Query around the whole type"),
        ({"x": Annotated[str, Query("")]}, [], "the name of a query parameter cannot be empty"),
        ({"x": Annotated[str, Header("")]}, [], "'' cannot be the name of a header"),
        ({"x": Annotated[str, Header("a b")]}, [], "'a b' cannot be the name of a header"),
        ({"x": Annotated[str, Cookie("a;b")]}, [], "'a;b' cannot be the name of a cookie"),
        ({"x": Annotated[str, Header("Cookie")]}, [], "the cookie header is read with Cookie(name)"),
        ({"x": str, "y": Annotated[str, Query("x")]}, [], "'/x': Join.x and Join.y are both query parameter 'x'"),
        (
            {"x_y": Annotated[str, Header()], "y": Annotated[str, Header("X-Y")]},
            [],
            "Join.x_y and Join.y are both header 'x-y'",
        ),
    ],
)
def test_a_field_in_the_wrong_place_is_refused_by_name(
    types: dict[str, Any], path_names: list[str], wrong: str
) -> None:
    assert wrong in refusal_of(class_of(**types), *path_names, what="'/x'")


def test_one_name_may_be_in_several_places() -> None:
    spec = spec_of(
        "x", x=int, y=Annotated[int, Query("x")], z=Annotated[int, Header("x")], c=Annotated[int, Cookie("x")]
    )
    assert parse(spec, "x=2", [("x", "3"), ("cookie", "x=4")], x="1") == spec.handshake_type(1, 2, 3, 4)


# One value as text: the same in every place

NOON = dt.datetime(2025, 1, 31, 12, tzinfo=dt.UTC)
A_UUID = "12345678-9abc-def0-1234-56789abcdef0"


@pytest.mark.parametrize("place", ["path", "query", "header", "cookie"])
@pytest.mark.parametrize(
    ("tp", "text", "value"),
    [
        (str, "lobby", "lobby"),
        (str, "", ""),
        (UserId, "ada", "ada"),
        (int, "0", 0),
        (int, "-0", 0),
        (int, "-12", -12),
        (int, str(MAX_INTEGER), MAX_INTEGER),
        (int, str(MIN_INTEGER), MIN_INTEGER),
        (float, "0", 0.0),
        (float, "-1.5e-3", -0.0015),
        (float, "1E2", 100.0),
        (bool, "true", True),
        (bool, "false", False),
        (dt.datetime, "2025-01-31T12:00:00Z", NOON),
        (dt.datetime, "2025-01-31t12:00:00z", NOON),
        (dt.datetime, "2025-01-31T12:00:00.5-00:00", NOON.replace(microsecond=500_000)),
        (dt.datetime, "2025-01-31T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
        (dt.datetime, "2025-01-31T13:30:00-01:30", NOON + dt.timedelta(hours=3)),
        (dt.date, "2025-01-31", dt.date(2025, 1, 31)),
        (uuid.UUID, A_UUID, uuid.UUID(A_UUID)),
        (uuid.UUID, A_UUID.upper(), uuid.UUID(A_UUID)),
        (Decimal, "0.10", Decimal("0.10")),
        (Decimal, "-1E-7", Decimal("-1E-7")),
        (Color, "red", Color.RED),
        (Name, "ada", Name.ADA),
        (Level, "10", Level.HIGH),
        (Switch, "false", Switch.OFF),
        (Literal["a", "b"], "b", "b"),
        (Literal[1, "x", True], "1", 1),
        (Literal[1, "x", True], "true", True),
    ],
)
def test_a_text_is_a_value_of_its_type(place: str, tp: Any, text: str, value: object) -> None:
    markers: dict[str, Any] = {"path": "no marker", "query": Query(), "header": Header(), "cookie": Cookie()}
    spec = spec_of(*(["x"] if place == "path" else []), x=Annotated[tp, markers[place]])
    query = "x=" + text.replace("+", "%2B")
    parsed = {
        "path": lambda: parse(spec, x=text),
        "query": lambda: parse(spec, query),
        "header": lambda: parse(spec, "", [("X", f" {text} ")]),
        "cookie": lambda: parse(spec, "", [("Cookie", f"x={text}")]),
    }[place]().x
    assert parsed == value
    assert type(parsed) is type(value)


EXPECTED_DATETIME = "a date, time and offset as in 2025-01-31T12:00:00Z (RFC 3339)"


@pytest.mark.parametrize(
    ("tp", "texts", "expected"),
    [
        (
            int,
            ["", "x", "+1", "007", "-01", " 1", "1 ", "1_000", "1.0", "1e3", "--1", "-", "٣", "0x1", "1\n"],
            "an integer",
        ),
        (int, [str(MAX_INTEGER + 1), str(MIN_INTEGER - 1), "9" * 10_000], "an integer within 64 bits"),
        (float, ["", "x", "+1", "01", ".5", "5.", "1e", "nan", "inf", "-Infinity", "1_0", " 1"], "a number"),
        (float, ["1e999", "-1e999"], "a number within the range of a float"),
        (bool, ["", "yes", "no", "True", "FALSE", "1", "0", " true"], "true or false"),
        (
            dt.datetime,
            [
                "",
                "2025-01-31",
                "2025-01-31T12:00Z",
                "2025-01-31T12:00:00",
                "2025-01-31 12:00:00Z",
                "2025-02-31T12:00:00Z",
                "2025-01-31T24:00:00Z",
                "2025-01-31T12:00:60Z",
                "2025-01-31T12:00:00+24:00",
                "2025-01-31T12:00:00+0100",
                "20250131T120000Z",
                "1738324800",
            ],
            EXPECTED_DATETIME,
        ),
        (
            dt.date,
            ["", "2025-02-31", "20250131", "2025-W05-5", "2025-1-31", "2025-01-31T00:00:00Z"],
            "a date as in 2025-01-31",
        ),
        (uuid.UUID, ["", "x", A_UUID.replace("-", ""), "{" + A_UUID + "}", "urn:uuid:" + A_UUID], "a UUID"),
        (
            Decimal,
            ["", "x", "+1", "01", ".5", "NaN", "sNaN", "Infinity", "1_0", "1e9999999999999999999"],
            "a decimal number",
        ),
        (Color, ["", "RED", "Color.RED", "green"], "one of 'red', 'blue'"),
        (Level, ["", "LOW", "01", "2", "true"], "one of '1', '10'"),
        (Literal["a", "b"], ["", "A", "c"], "one of 'a', 'b'"),
        (Literal[1], ["", "true", "01"], "'1'"),
    ],
)
def test_a_text_that_is_no_value_is_told_with_what_was_expected(tp: Any, texts: list[str], expected: str) -> None:
    spec = spec_of("x", x=tp)
    for text in texts:
        got = repr(text) if len(text) <= MAX_ECHO else repr(text[:MAX_ECHO]) + "..."
        assert faults_of(spec, x=text) == f"path parameter 'x': expected {expected}, got {got}"


def test_an_empty_value_is_no_absent_one() -> None:
    spec = spec_of(x=int | None)
    assert parse(spec, "").x is None
    assert faults_of(spec, "x=") == "query parameter 'x': expected an integer, got ''"
    assert not parse(spec_of(x=str | None), "x=").x
    assert parse(spec_of(x=str | None), "x=").x is not None


# The query


@pytest.mark.parametrize(
    ("query_string", "value"),
    [
        ("x=a", "a"),
        ("x=a+b", "a b"),
        ("x=a%2Bb", "a+b"),
        ("x=%D0%B6", "ж"),
        ("x=ж", "ж"),
        ("x=a=b", "a=b"),
        ("x=a;b", "a;b"),
        ("x", ""),
        ("x=", ""),
        ("%78=a", "a"),
        ("&&y=1&x=a&", "a"),
        ("%ff=1&%=2&y=%ff&x=a", "a"),
    ],
)
def test_the_query_is_percent_decoded_and_the_unknown_ignored(query_string: str, value: str) -> None:
    assert parse(spec_of(x=str), query_string).x == value


@pytest.mark.parametrize("query_string", ["page%5Bsize%5D=5", "page[size]=5", "page[size%5D=5"])
def test_a_query_key_may_come_encoded_or_not(query_string: str) -> None:
    assert parse(spec_of(x=Annotated[int, Query("page[size]")]), query_string).x == 5


@pytest.mark.parametrize("query_string", ["", "?", "&", "=", "y=1"])
def test_without_its_key_a_required_parameter_is_missing(query_string: str) -> None:
    assert faults_of(spec_of(x=str), query_string) == "missing query parameter 'x'"


@pytest.mark.parametrize("text", ["%ff", "100%", "%zz", "\ud800"])
def test_a_badly_encoded_value_is_refused(text: str) -> None:
    expected = f"query parameter 'x': expected percent-encoded UTF-8, got {text!r}"
    assert faults_of(spec_of(x=str), f"x={text}") == expected
    assert faults_of(spec_of(x=list[str]), f"x=ok&x={text}") == expected


def test_a_scalar_that_comes_twice_is_refused() -> None:
    assert faults_of(spec_of(x=int), "x=1&x=1") == "query parameter 'x': expected one value, got 2"


@pytest.mark.parametrize(
    ("tp", "query_string", "value"),
    [
        (list[int], "", []),
        (list[int], "x=1", [1]),
        (list[int], "x=2&y=0&x=1&x=2", [2, 1, 2]),
        (list[str], "x=a,b&x=", ["a,b", ""]),
        (list[Color], "x=red", [Color.RED]),
        (list[UserId], "x=ada", ["ada"]),
        (tuple[int, ...], "", ()),
        (tuple[int, ...], "x=1&x=2", (1, 2)),
        (list[int] | None, "", None),
        (list[int] | None, "x=1", [1]),
    ],
)
def test_a_list_is_a_repeated_key(tp: Any, query_string: str, value: object) -> None:
    assert parse(spec_of(x=tp), query_string).x == value


def test_a_wrong_item_is_told_with_its_number() -> None:
    assert faults_of(spec_of(x=list[int]), "x=1&x=b") == "query parameter 'x': expected an integer as item 2, got 'b'"


# Headers and cookies


def test_a_scalar_header_on_several_lines_is_refused() -> None:
    spec = spec_of(x=Annotated[str, Header()])
    assert faults_of(spec, "", [("x", "same"), ("X", "same")]) == "header 'x': expected one value, got 2"


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([], []),
        ([""], []),
        (["a"], ["a"]),
        (["a, b"], ["a", "b"]),
        (["a,b", "c"], ["a", "b", "c"]),
        ([" a ,, b ,"], ["a", "b"]),
    ],
)
def test_a_list_in_a_header_is_all_its_lines_split_at_commas(lines: list[str], value: list[str]) -> None:
    assert parse(spec_of(x=Annotated[list[str], Header()]), "", [("x", line) for line in lines]).x == value


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([], None),
        (["y=1"], None),
        (["x"], None),
        (["X=1"], None),
        (["x="], ""),
        (["x=1"], "1"),
        (["y=0; x=1"], "1"),
        (["y=0;x = 1 ;z=2"], "1"),
        (["x=a=b"], "a=b"),
        (['x="a b"'], "a b"),
        (['x="'], '"'),
        (["x=%20"], "%20"),
        (["x=1; x=2"], "1"),
        (["y=0", "x=1", "x=2"], "1"),
    ],
)
def test_a_cookie_is_the_first_of_its_name(headers: list[str], value: str | None) -> None:
    spec = spec_of(x=Annotated[str | None, Cookie()])
    assert parse(spec, "", [("Cookie", header) for header in headers]).x == value


@pytest.mark.parametrize(
    ("marker", "headers"),
    [(Header(), [("x", "s3cret")]), (Cookie(), [("cookie", "x=s3cret")])],
)
def test_what_came_in_a_header_or_cookie_is_never_repeated(marker: Any, headers: list[tuple[str, str]]) -> None:
    with pytest.raises(APIError.InvalidArgument) as caught:
        parse(spec_of(x=Annotated[int, marker]), "", headers)
    assert caught.value.message in {"header 'x': expected an integer", "cookie 'x': expected an integer"}
    assert "s3cret" not in str(caught.value.details)


def test_a_wrong_item_in_a_header_is_told_by_its_number_alone() -> None:
    spec = spec_of(x=Annotated[list[int], Header()])
    assert faults_of(spec, "", [("x", "1, s3cret")]) == "header 'x': expected an integer as item 2"


# Faults


def test_all_faults_are_told_at_once() -> None:
    spec = spec_of(
        "id",
        id=int,
        rows=int,
        room=str,
        authorization=Annotated[str, Header()],
        session=Annotated[str, Cookie("sid")],
    )
    with pytest.raises(APIError.InvalidArgument) as caught:
        parse(spec, "rows=x", id="y")
    assert caught.value.message == (
        "path parameter 'id': expected an integer, got 'y'; "
        "query parameter 'rows': expected an integer, got 'x'; "
        "missing query parameter 'room'; "
        "missing header 'authorization'; "
        "missing cookie 'sid'"
    )
    assert caught.value.details == {
        "faults": [
            {"in": "path", "name": "id", "message": "expected an integer, got 'y'"},
            {"in": "query", "name": "rows", "message": "expected an integer, got 'x'"},
            {"in": "query", "name": "room", "message": "missing"},
            {"in": "header", "name": "authorization", "message": "missing"},
            {"in": "cookie", "name": "sid", "message": "missing"},
        ]
    }


def test_a_path_parameter_that_the_router_did_not_give_is_missing() -> None:
    assert faults_of(spec_of("room", room=str)) == "missing path parameter 'room'"


def is_even(_: object, attribute: Any, value: int) -> None:
    if value % 2:
        raise ValueError(f"{attribute.name} must be even")


def wordless(_: object, __: Any, value: int) -> None:
    if not value:
        raise ValueError


def renumber(text: str) -> str:
    return str(int(text))


@frozen
class Validated:
    rows: int = attrs.field(default=2, validator=[attrs.validators.le(100), is_even, wordless])
    token: Annotated[str, Header()] = attrs.field(default="t-0", validator=attrs.validators.matches_re("t-[0-9]+"))
    port: Annotated[str, Header()] = attrs.field(default="1", converter=renumber)
    tags: Annotated[list[str], Header()] = attrs.field(
        factory=list, validator=attrs.validators.deep_iterable(attrs.validators.in_(["a", "b"]))
    )
    until: Annotated[dt.date, Header()] = attrs.field(
        default=dt.date(2025, 1, 1), validator=attrs.validators.gt(dt.date(2024, 1, 1))
    )

    def __attrs_post_init__(self) -> None:
        if self.rows == 50:
            raise TypeError("rows cannot be 50")
        if self.rows == 52:
            raise KeyError("a bug")


VALIDATED = HandshakeSpec.of(Validated)


def test_a_value_that_passes_its_validators_and_converters_is_taken() -> None:
    headers = [("token", "t-1"), ("port", "007"), ("tags", "a, b"), ("until", "2025-01-31")]
    assert parse(VALIDATED, "rows=100", headers) == Validated(100, "t-1", "7", ["a", "b"], dt.date(2025, 1, 31))


@pytest.mark.parametrize(
    ("query_string", "message"),
    [
        ("rows=102", "'rows' must be <= 100: 102"),
        ("rows=3", "rows must be even"),
        ("rows=50", "rows cannot be 50"),
        ("rows=0", "the values are not accepted"),
    ],
)
def test_what_the_class_refuses_is_a_fault_with_its_text(query_string: str, message: str) -> None:
    with pytest.raises(APIError.InvalidArgument) as caught:
        parse(VALIDATED, query_string, [("token", "t-1")])
    assert caught.value.message == message
    assert caught.value.details == {"faults": [{"in": "handshake", "name": None, "message": message}]}


@pytest.mark.parametrize(
    ("header", "text"),
    [("token", "Bearer s3cret"), ("port", "s3cret\\'"), ("tags", "a, s3cret"), ("until", "2023-01-31")],
)
def test_a_text_that_repeats_a_header_is_not_told(header: str, text: str) -> None:
    with pytest.raises(APIError.InvalidArgument) as caught:
        parse(VALIDATED, "", [(header, text)])
    assert caught.value.message == "the values are not accepted"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_any_other_exception_of_the_class_is_a_bug() -> None:
    with pytest.raises(KeyError, match="a bug"):
        parse(VALIDATED, "rows=52")


# Credentials


@pytest.mark.parametrize(
    ("query_string", "headers", "present"),
    [
        ("", [], False),
        ("other=1", [("other", "1"), ("cookie", "other=1")], False),
        ("token=", [("authorization", " "), ("cookie", "sid=")], False),
        ("token=x", [], True),
        ("token=%ff", [], True),
        ("token=&token=x", [], True),
        ("", [("Authorization", "x")], True),
        ("", [("cookie", "a=b; sid=x")], True),
    ],
)
def test_credentials_are_present_when_any_of_them_is_not_empty(
    query_string: str, headers: list[tuple[str, str]], present: bool
) -> None:
    spec = spec_of(token=int, authorization=Annotated[str, Header()], sid=Annotated[str, Cookie()])
    assert spec.present(query_string=query_string, headers=headers) is present


# Rendering


@pytest.mark.parametrize(
    ("tp", "value", "text"),
    [
        (str, "a/b ж", "a/b ж"),
        (str, Name.ADA, "ada"),
        (int, -1, "-1"),
        (int, Level.HIGH, "10"),
        (float, 0.1, "0.1"),
        (float, 1e-7, "1e-07"),
        (float, 3, "3.0"),
        (bool, True, "true"),
        (bool, False, "false"),
        (dt.datetime, NOON, "2025-01-31T12:00:00+00:00"),
        (dt.datetime, NOON.replace(tzinfo=dt.timezone(dt.timedelta(seconds=1172))), "2025-01-31T11:40:28+00:00"),
        (dt.date, dt.date(2025, 1, 31), "2025-01-31"),
        (uuid.UUID, uuid.UUID(A_UUID), A_UUID),
        (Decimal, Decimal("1E+3"), "1E+3"),
        (Color, Color.BLUE, "blue"),
        (Level, Level.LOW, "1"),
        (Switch, Switch.ON, "true"),
        (Literal["a", 1], 1, "1"),
        (int | None, 1, "1"),
    ],
)
def test_a_value_is_rendered_as_the_text_that_parses_to_it(tp: Any, value: object, text: str) -> None:
    spec = spec_of(x=tp)
    assert spec.render(spec.handshake_type(value)).query == [("x", text)]


@pytest.mark.parametrize(
    ("tp", "value", "wrong"),
    [
        (str, None, "expected str, got NoneType"),
        (str, 1, "expected str, got int"),
        (int, "x", "expected int, got str"),
        (int, True, "expected int, got bool"),
        (int | None, "x", "expected int, got str"),
        (float, True, "expected float, got bool"),
        (float, "1", "expected float, got str"),
        (bool, 1, "expected bool, got int"),
        (dt.datetime, dt.date(2025, 1, 31), "expected datetime, got date"),
        (dt.date, NOON, "expected date, got datetime"),
        (uuid.UUID, A_UUID, "expected UUID, got str"),
        (Decimal, 1.0, "expected Decimal, got float"),
        (Color, "red", "expected one of 'red', 'blue', got str"),
        (Name, "ada", "expected 'ada', got str"),
        (Literal[1], True, "expected '1', got bool"),
        (Literal["a"], [], "expected 'a', got list"),
        (list[int], None, "expected list, got NoneType"),
        (list[int], (1,), "expected list, got tuple"),
        (list[str], "ab", "expected list, got str"),
        (list[int], [1, "2"], "item 2: expected int, got str"),
        (tuple[int, ...], [1], "expected tuple, got list"),
    ],
)
def test_a_value_of_another_type_is_a_type_error_that_names_the_field(tp: Any, value: object, wrong: str) -> None:
    spec = spec_of(x=Annotated[tp, Query("y")])
    with pytest.raises(TypeError) as caught:
        spec.render(spec.handshake_type(value))
    assert str(caught.value) == f"Join.x, query 'y': {wrong}"


@pytest.mark.parametrize(
    ("tp", "value", "wrong"),
    [
        (str, "\ud800", "a lone surrogate is no Unicode text"),
        (int, MAX_INTEGER + 1, "an integer must be within 64 bits"),
        (int, MIN_INTEGER - 1, "an integer must be within 64 bits"),
        (float, float("nan"), "a float must be finite"),
        (float, float("inf"), "a float must be finite"),
        (float, 10**400, "a float must be finite, and can hold only some of the integers beyond 2**53"),
        (float, 2**53 + 1, "a float must be finite, and can hold only some of the integers beyond 2**53"),
        (dt.datetime, NOON.replace(tzinfo=None), "a datetime must have a time zone"),
        (
            dt.datetime,
            dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(seconds=1))),
            "a datetime must be within the years 1 to 9999 in UTC",
        ),
        (Decimal, Decimal("NaN"), "a Decimal must be finite"),
        (Literal["a", "b"], "c", "expected one of 'a', 'b'"),
        (list[float], [1.0, float("nan")], "item 2: a float must be finite"),
        (list[int] | None, [], "[] cannot be sent: what is left out comes back as the default"),
        (Annotated[str, Header()], "a\r\nb", "a header cannot hold control characters"),
        (Annotated[str, Header()], "\x7f", "a header cannot hold control characters"),
        (Annotated[str, Header()], "ж", "or others than ASCII"),
        (Annotated[str, Header()], "é", "or others than ASCII"),
        (Annotated[str, Header()], " a", "a header cannot begin or end with whitespace"),
        (Annotated[list[str], Header()], ["a", "b,c"], "item 2: an item of a header's list cannot be empty or hold a"),
        (Annotated[list[str], Header()], ["a", ""], "item 2: an item of a header's list cannot be empty or hold a"),
        (Annotated[str, Cookie()], "a;b", "a cookie cannot hold"),
        (Annotated[str, Cookie()], "a b", "a cookie cannot hold"),
        (Annotated[str, Cookie()], '"a"', "a cookie cannot hold"),
        (Annotated[str, Cookie()], "é", "a cookie cannot hold"),
    ],
)
def test_a_value_that_cannot_be_sent_is_a_value_error_that_names_the_field(tp: Any, value: object, wrong: str) -> None:
    spec = spec_of(x=tp)
    with pytest.raises(ValueError, match=r"^Join\.x, (query|header|cookie) 'x': ") as caught:
        spec.render(spec.handshake_type(value))
    assert wrong in str(caught.value)


def test_a_path_value_that_is_no_unicode_text_is_refused() -> None:
    spec = spec_of("x", x=str)
    with pytest.raises(ValueError, match="path 'x': a lone surrogate"):
        spec.render(spec.handshake_type("\ud800"))


def test_only_its_own_handshake_is_rendered() -> None:
    with pytest.raises(TypeError, match="expected a Join, got Aliased"):
        JOIN.render(Aliased("x", 2, "t"))  # type: ignore[arg-type]  # the test is about this


@frozen
class Defaults:
    none: int | None = None
    five: int | None = 5
    no_tags: list[str] = attrs.field(factory=list)
    tags: list[str] = attrs.field(factory=lambda: ["a"])
    after: int | None = attrs.field(default=attrs.Factory(lambda self: self.five, takes_self=True))


def test_a_default_that_stands_for_itself_is_left_out_and_any_other_sent() -> None:
    spec = HandshakeSpec.of(Defaults)
    assert spec.render(Defaults()).query == [("five", "5"), ("tags", "a"), ("after", "5")]
    assert parse(spec) == Defaults()


@pytest.mark.parametrize(
    ("value", "field", "text"),
    [
        (Defaults(five=None, after=1), "five", "None"),
        (Defaults(tags=[]), "tags", "[]"),
        (Defaults(after=None), "after", "None"),
    ],
)
def test_an_absence_that_would_come_back_as_a_default_is_refused(value: Defaults, field: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"Defaults.{field}, query '{field}'") as caught:
        HandshakeSpec.of(Defaults).render(value)
    assert f"{text} cannot be sent" in str(caught.value)


@pytest.mark.parametrize("marker", [Header, Query, Cookie])
def test_markers_are_values(marker: Any) -> None:
    assert marker("x") == marker(name="x")
    assert hash(marker()) == hash(marker(None))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        functools.partial(setattr, marker("x"), "name")("y")
