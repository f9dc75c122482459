"""Handshakes, for any text and any value: parsing never fails in a way of its own, and rendering is its inverse."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import quote, urlencode

import attrs
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from streamrt.api.handshake import Cookie, HandshakeSpec, Header, Query
from streamrt.api.path import PathTemplate, Router
from streamrt.api.scalars import MAX_INTEGER, MIN_INTEGER
from streamrt.errors import APIError


class Color(enum.Enum):
    RED = "red"
    BLUE = "a & b=c"


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 10


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
HEADER_TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"])).map(lambda text: text.strip(" "))
COOKIE_TEXT = st.text(st.sampled_from("abc!#$%&'()*+-./:<=>?@[]^_`{|}~09"))
INTEGERS = st.integers(MIN_INTEGER, MAX_INTEGER)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
OFFSETS = st.timedeltas(-dt.timedelta(hours=23), dt.timedelta(hours=23)).map(
    lambda offset: dt.timezone(dt.timedelta(seconds=offset // dt.timedelta(seconds=1)))
)
DATETIMES = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 - bounds are naive


@frozen
class Rich:
    """Every allowed type, in every place that takes it."""

    text_in_path: str
    level_in_path: Level
    text: str
    number: Annotated[int, Query("page[number]")]
    ratio: float
    flag: bool
    at: dt.datetime
    day: dt.date
    ident: uuid.UUID
    price: Decimal
    color: Color
    choice: Literal["x", "", 1, True]
    maybe: str | None
    maybe_flag: bool | None
    texts: list[str]
    numbers: tuple[int, ...]
    h_text: Annotated[str, Header()]
    h_at: Annotated[dt.datetime | None, Header()]
    h_texts: Annotated[list[str], Header()]
    h_colors: Annotated[tuple[Level, ...], Header("Levels")]
    c_text: Annotated[str, Cookie()]
    c_price: Annotated[Decimal | None, Cookie()]
    plain: int = 7
    fallback: float | None = None
    some: list[bool] = attrs.field(factory=list)


RICH = HandshakeSpec.of(Rich, ["text_in_path", "level_in_path"])
TEMPLATE = PathTemplate.parse("/{level_in_path}/{text_in_path:path}")

values = st.builds(
    Rich,
    text_in_path=TEXT,
    level_in_path=st.sampled_from(Level),
    text=TEXT,
    number=INTEGERS,
    ratio=FLOATS,
    flag=st.booleans(),
    at=DATETIMES,
    day=st.dates(),
    ident=st.uuids(),
    price=DECIMALS,
    color=st.sampled_from(Color),
    choice=st.sampled_from(["x", "", 1, True]),
    maybe=st.none() | TEXT,
    maybe_flag=st.none() | st.booleans(),
    texts=st.lists(TEXT),
    numbers=st.lists(INTEGERS).map(tuple),
    h_text=HEADER_TEXT,
    h_at=st.none() | DATETIMES,
    h_texts=st.lists(HEADER_TEXT.map(lambda text: text.replace(",", ";")).filter(bool)),
    h_colors=st.lists(st.sampled_from(Level)).map(tuple),
    c_text=COOKIE_TEXT,
    c_price=st.none() | DECIMALS,
    plain=INTEGERS,
    fallback=st.none() | FLOATS,
    some=st.lists(st.booleans()),
)


@given(values)
def test_parsing_is_the_inverse_of_rendering(value: Rich) -> None:
    rendered = RICH.render(value)
    router: Router[None] = Router()
    router.add(TEMPLATE, None)
    found = router.match(TEMPLATE.render(rendered.path))
    assert found is not None
    for query_string in (urlencode(rendered.query), urlencode(rendered.query, quote_via=quote)):
        assert RICH.parse(path=found[1], query_string=query_string, headers=rendered.headers) == value


# Text that is near what is expected finds more than text that is arbitrary.
NEAR = st.sampled_from(
    [
        *(
            "",
            "0",
            "-1",
            "007",
            "1e5",
            "1e999",
            "1.5",
            "+1",
            "true",
            "false",
            "yes",
            "red",
            "a & b=c",
            "10",
            "x",
            '"',
            ",",
        ),
        *("2025-01-31", "2025-02-31", "2025-01-31T12:00:00Z", "0001-01-01T00:00:00+23:59", "9" * 5000, "1e" + "9" * 30),
        *("12345678-9abc-def0-1234-56789abcdef0", "%ff", "%", "\ud800", "\x00", "a, b", "a=b; c"),
    ]
)
ANY_TEXT = NEAR | st.text(st.characters())
NAMES = st.sampled_from([parameter.wire_name for parameter in RICH.fields])


@st.composite
def query_strings(draw: st.DrawFn) -> str:
    pairs = draw(st.lists(st.tuples(NAMES | ANY_TEXT, ANY_TEXT)))
    joined = "&".join(f"{name}={text}" for name, text in pairs)
    return draw(st.sampled_from([joined, "?" + joined, quote(joined, safe="=&", errors="surrogatepass")]))


@given(
    path=st.dictionaries(NAMES | ANY_TEXT, ANY_TEXT),
    query_string=query_strings() | ANY_TEXT,
    headers=st.lists(st.tuples(NAMES | st.just("Cookie") | ANY_TEXT, ANY_TEXT)),
    cookies=st.lists(st.tuples(NAMES | ANY_TEXT, ANY_TEXT)),
)
@example(path={}, query_string="", headers=[], cookies=[])
def test_any_request_is_a_handshake_or_an_invalid_argument(
    path: dict[str, str], query_string: str, headers: list[tuple[str, str]], cookies: list[tuple[str, str]]
) -> None:
    lines = [*headers, ("cookie", "; ".join(f"{name}={text}" for name, text in cookies))]
    assert RICH.present(query_string=query_string, headers=lines) in {True, False}
    outcome: Rich | APIError
    try:
        outcome = RICH.parse(path=path, query_string=query_string, headers=lines)
    except APIError.InvalidArgument as error:
        outcome = error
    assert isinstance(outcome, Rich) or (outcome.details and outcome.message.isprintable())


@frozen
class Loose:
    """As ``Rich``, with nothing required, so that arbitrary text gets further."""

    number: int | None = None
    ratio: float | None = None
    at: dt.datetime | None = None
    day: dt.date | None = None
    price: Decimal | None = None
    texts: list[str] = attrs.field(factory=list)


LOOSE = HandshakeSpec.of(Loose)


@given(
    st.lists(st.tuples(st.sampled_from([parameter.wire_name for parameter in LOOSE.fields]), ANY_TEXT), max_size=4),
)
def test_what_was_parsed_can_be_rendered_and_is_the_same_again(pairs: list[tuple[str, str]]) -> None:
    query_string = urlencode(pairs, errors="surrogatepass")
    try:
        value = LOOSE.parse(path={}, query_string=query_string, headers=[])
    except APIError.InvalidArgument:
        return
    again = urlencode(LOOSE.render(value).query)
    assert LOOSE.parse(path={}, query_string=again, headers=[]) == value
