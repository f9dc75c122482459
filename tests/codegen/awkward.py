"""An app whose names are in Python's way: keywords, builtins, the words of generated files, and no names at all."""

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict
from uuid import UUID

import attrs
from attrs import Factory, field, frozen

from streamrt import App, Header, Query, Service, StreamIn, StreamInOut, StreamOut

Mood = enum.Enum("Mood", {"very good": "good", "BAD": "bad"})

Keyword = TypedDict("Keyword", {"class": int, "if": str})
Mangled = attrs.make_class("Mangled", {"__x": field(type=int)}, frozen=True)

Hyphened = TypedDict("Hyphened", {"content-type": str, "in": list["Hyphened"]})


class Hidden(TypedDict):
    """Its fields are called as their types are."""

    other: list[str]
    list: list[int]


@frozen
class Shadow:
    """Fields that hide types.

    Args:
        date: "When": a quote, and a \\ backslash, and \"\"\" three.
    """

    until: date | None
    date: date
    shadow: "Shadow | None"
    words: list[str] = Factory(list)
    some: list[int] = Factory(lambda: [1])
    list: tuple[int, ...] = ()
    late: frozenset[str] = Factory(frozenset)
    mood: Mood = Mood.BAD


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def _now() -> datetime:
    raise AssertionError("a generator asks no factory")


@frozen(kw_only=True)
class Defaults:
    """Each kind of default that there is."""

    nothing: None = None
    sure: bool = True
    whole: int = -1
    ratio: float = 1.5
    more: float = 2
    endless: float = float("inf")
    text: str = 'say "it\'s"'
    data: bytes = b"\x00"
    day: date = date(2025, 1, 31)
    at: datetime = datetime(2025, 1, 31, 12, tzinfo=UTC)
    id: UUID = UUID(int=1)  # noqa: RUF009 - it never changes
    cost: Decimal = Decimal("12.50")
    level: Level = Level.HIGH
    mood: Mood = Mood["very good"]
    bad: Mood = Mood.BAD
    word: Literal["a", 1] | None = 1
    none: Literal["a", 1] | None = None
    low: Literal[Level.LOW] = Level.LOW
    either: list[int] | Level | None = Level.LOW
    pair: tuple[int, Decimal] = (1, Decimal(2))
    one: tuple[str, ...] = ("x",)
    wrong: tuple[str, ...] = ("x", _now)  # type: ignore[assignment]
    short: tuple[int, int] = (1,)  # type: ignore[assignment]
    anything: Any = 1
    strange: Any = field(default=_now)
    misfit: int = field(default=None)  # type: ignore[assignment]
    now: datetime = Factory(_now)
    own: int = Factory(lambda self: self.whole, takes_self=True)
    items: list["Defaults"] = Factory(list)
    maybe: dict[str, int] | None = Factory(dict)
    odd: int = Factory(int)
    _private: int = 0
    called: int = field(default=0, alias="known_as")


@frozen
class Mixed:
    """A field that loses its default stands behind one that has its own."""

    first: int = 1
    second: int = Factory(lambda: 2)
    third: int = field(default=3, kw_only=True)


@frozen
class From:
    """A handshake.

    Args:
        id: A builtin is no obstacle for an argument.
    """

    id: int
    class_: Annotated[str, Query("class")]
    reconnect: bool = False
    self: str | None = field(default=None, alias="me")
    _hidden: Annotated[int, Header()] = 0
    host: Annotated[str, Header()] = ""
    key: Annotated[str, Header("sec-websocket-key")] = ""


Renamed = attrs.make_class("Renamed", {"__y": field(type=int, alias="where")}, frozen=True)


class Exception(TypedDict):  # noqa: A001 - so may others call it
    """A name of Python's own."""

    Lost: int


service = Service("import")
other = Service("Say")


async def lambda_(stream: StreamIn[Keyword]) -> Hyphened:
    raise NotImplementedError


lambda_.__name__ = "lambda"
service.stream_in(expose=True)(lambda_)


@service.stream_in_out("/from/{id}", expose=True)
async def list(handshake: From, stream: StreamInOut[Shadow, Hidden]) -> None: ...  # noqa: A001


@service.stream_out("/defaults/{where}", expose=True)
async def getDefaults(handshake: Renamed, stream: StreamOut[Defaults | None]) -> None: ...  # noqa: N802


@service.stream_in(expose=True)
async def HTTPGet(stream: StreamIn[Mixed]) -> Exception:  # noqa: N802
    raise NotImplementedError


@other.stream_out(expose=True)
async def _2nd(stream: StreamOut[dict[Mood, Mangled]]) -> None: ...


app = App(service, other)
