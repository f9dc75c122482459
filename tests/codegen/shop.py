"""An app with every kind of type that can be in a handshake or a message, and with names that are in the way."""

import dataclasses
import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar
from uuid import UUID

from attrs import Factory, frozen

from services.chat.types import Say as ChatSay
from streamrt import App, Cookie, Header, Query, Service, StreamIn, StreamInOut, StreamOut

T = TypeVar("T")


class Color(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = 2


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@frozen
class Item(Generic[T]):
    """One thing.

    More of it: a comment may not end with */ here.

    Args:
        id: What it is known by.
        tag (T): Anything;
            on two lines.

    Raises:
        Nothing: ``at`` all.
    """

    id: UUID
    tag: T
    color: Color = Color.RED
    parts: "list[Item[T]]" = Factory(list)


@dataclasses.dataclass
class Bare:
    cost: Decimal
    on: date


class Extra(TypedDict):
    data: bytes
    note: NotRequired[str | None]


Odd = TypedDict("Odd", {"two words": int})


@frozen
class Empty:
    """Nothing."""


@frozen
class Everything:
    at: datetime
    bare: Bare
    extra: Extra
    odd: Odd
    empty: Empty
    word: Literal["a", None, 1, True]  # noqa: PYI061 - so may others write it
    either: None | list[int | str] | float  # noqa: RUF036 - so may others write it
    by: dict[str, float]
    by_number: dict[int, Empty]
    by_color: dict[Color, bool]
    pair: tuple[int, str | None]
    nothing: tuple[()]
    rest: tuple[int, ...]
    anything: Any
    some: Literal[Size.SMALL]


@frozen
class Made:
    item: Item[int]
    kind: Literal["made"] = "made"
    count: int = 1


@frozen
class Gone:
    """It is no more."""

    kind: Literal["gone"] = "gone"


@frozen
class Record:
    """A name that TypeScript has too."""

    sizes: list[Size]


@frozen
class Say:
    """A name that the chat has too."""

    words: str


@frozen
class Find:
    """Where to look.

    Args:
        shelf: The shelf.
        words: What to look for.
    """

    shelf: int
    rest: str
    words: Annotated[list[str], Query("word[]")]
    sizes: Annotated[tuple[Size, ...], Header()]
    session: Annotated[str, Cookie()]
    origin: Annotated[str, Header()]
    trace: Annotated[str, Header("X-Trace")]
    exact: bool = False
    since: datetime | None = None


@frozen
class Session:
    id: Annotated[str, Cookie()]


@frozen
class Optional:
    page: int = 0


shop = Service("my-shop")
other = Service("my_shop")


@shop.stream_in_out("/find/{shelf}/{rest:path}", expose=True, tags=["search"])
async def find_all(handshake: Find, stream: StreamInOut[Made | Gone, Made | Gone]) -> None:
    """Find things.

    Args:
        handshake: Not for others.
    """


@shop.stream_out(expose=True)
async def delete(handshake: Session, stream: StreamOut[Everything]) -> None: ...


@shop.stream_in("/a b/", expose=True)
async def constructor(handshake: Optional, stream: StreamIn[Record]) -> Item[str]:
    raise NotImplementedError


@shop.stream_in(expose=True, tags=["talk"])
async def _talk(stream: StreamIn[Say]) -> None: ...


@shop.stream_in(expose=True, tags=["talk", "chat"])
async def Talk(handshake: Say, stream: StreamIn[ChatSay]) -> None: ...  # noqa: N802


@shop.stream_in()
async def hidden(stream: StreamIn[Session]) -> None: ...


@other.stream_out(expose=True)
async def words(stream: StreamOut[list[Size | None]]) -> None: ...


app = App(shop, other)
