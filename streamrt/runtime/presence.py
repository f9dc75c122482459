"""What presence is made of: how a topic declares it, what is told of a member, and how that is written in a mark.

A member is who is attached to a key of a topic, with however many streams, in however many processes. Each process
marks each of its members on the key's channel, with the number of streams that it has there; all the marks of one name
together are the member.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from types import NoneType
from typing import Any, Generic, cast, final

from attrs import Factory, field, frozen
from typing_extensions import TypeVar

from streamrt.wire.codec import Codec, codec

A = TypeVar("A", default=None)
A_co = TypeVar("A_co", covariant=True, default=None)


@final
@frozen(kw_only=True)
class Member(Generic[A_co]):
    """Who is attached to a key of a topic.

    Args:
        name: Who it is.
        about: What is told about it: by the stream that was attached last, of those that still are.
        connections: How many streams of it are attached, in all processes. 0 of one that has left less than
            `leave_after` ago, and so may only be reloading its page.
    """

    name: str
    about: A_co
    connections: int


@final
@frozen
class Part(Generic[A]):
    """What one process knows of a member; this is what its mark says.

    Args:
        connections: How many streams it has.
        at: When the last of them was attached, by this process's clock: seconds since 1970.
        about: What that says about the member.
    """

    connections: int
    at: float
    about: A


def _seconds(_instance: object, _attribute: object, value: float) -> None:
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"leave_after of a presence must be seconds, 0 or more, not {value!r}")


def _one_or_more(_instance: object, _attribute: object, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"backlog of a presence must be a whole number, 1 or more, not {value!r}")


def _find_about_codec(presence: Presence[A]) -> Codec[A] | None:
    return None if cast("object", presence.about) is NoneType else codec(presence.about)


def _find_part_codec(presence: Presence[A]) -> Codec[Part[A]]:
    part: Any = Part
    return codec(part[presence.about])


@final
@frozen(kw_only=True)
class Presence(Generic[A]):
    """What a topic tells of who is attached to it: `Topic(..., presence=Presence(...))`.

    Args:
        about: The type of what is told about a member besides its name: whatever a message can be. Default: nothing.
        leave_after: Seconds after the last stream of a member until it has left: 0 or more. Who comes back before that,
            as one does who reloads a page, has neither left nor joined. Default 5.
        backlog: Changes that one who reads may be behind, 1 or more. Behind more, it is told of each member once,
            what has become of it meanwhile. Default 1024.

    Raises:
        TypeError: Values of this type cannot be carried.
        ValueError: A number is out of its range.

    Example:
        said = Topic("chat.said", Said, presence=Presence(about=Profile))
    """

    about: type[A] = field(default=cast("type[A]", NoneType), kw_only=False)
    leave_after: float = field(default=5.0, validator=_seconds)
    backlog: int = field(default=1024, validator=_one_or_more)
    _about_codec: Codec[A] | None = field(
        default=Factory(_find_about_codec, takes_self=True), init=False, repr=False, eq=False
    )
    _part_codec: Codec[Part[A]] = field(
        default=Factory(_find_part_codec, takes_self=True), init=False, repr=False, eq=False
    )

    @property
    def tells(self) -> bool:
        """Whether anything is told about a member besides its name."""
        return self._about_codec is not None

    def encode_about(self, about: A | None) -> str:
        """Write what is told about a member.

        Raises:
            EncodeError: It does not fit the declared type.
        """
        return "null" if self._about_codec is None else self._about_codec.encode(cast("A", about)).decode()

    def decode(self, text: str) -> Part[A]:
        """Read a mark.

        Raises:
            InvalidMessage: It is not that of such a presence: another version of the program has set it.
        """
        return self._part_codec.decode(text)


def encode_part(connections: int, at: float, about: str) -> str:
    """Write a mark; what is told about the member was written when its stream was attached."""
    return f'{{"connections":{connections},"at":{at!r},"about":{about}}}'


def combine(name: str, parts: Iterable[Part[A]]) -> Member[A] | None:
    """Return a member from what all processes know of it; None when that is nothing."""
    parts = list(parts)
    if not parts:
        return None
    newest = max(parts, key=lambda part: (part.connections > 0, part.at))
    return Member(name=name, about=newest.about, connections=sum(part.connections for part in parts))
