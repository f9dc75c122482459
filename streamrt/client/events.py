"""What a client's program may want to know of a stream besides its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, final

from attrs import frozen

from streamrt.errors import APIError
from streamrt.wire.control import Drain, Notice, Position
from streamrt.wire.control import Gap as ToldGap


@final
@frozen
class Lost:
    """The connection is lost, and the next attempt is made after a pause.

    Args:
        error: Why.
        pause: Seconds.
    """

    error: APIError
    pause: float


@final
@frozen
class Back:
    """There is a connection again. The handler has started afresh."""


@final
@frozen
class Recovered:
    """The stream hears a topic again, or goes on where another was; comes in line with the messages.

    It also comes, with `recovered` false, when the server itself may have missed some.

    Args:
        topic: The name of the topic.
        key: The key under which it is heard.
        recovered: Whether everything follows that was published since. If not, the program has a gap.
    """

    topic: str
    key: str
    recovered: bool


@final
@frozen
class Gap:
    """This end has read too slowly, and a topic has left messages out; comes in line with the messages.

    Args:
        topic: The name of the topic.
        key: The key under which it is heard.
        missed: How many; 0 when it is the server that may have missed some, and nobody knows how many.
    """

    topic: str
    key: str
    missed: int


@final
@frozen
class Draining:
    """The server is about to restart, and closes the stream.

    Args:
        within: Seconds.
    """

    within: float


StreamEvent: TypeAlias = Lost | Back | Recovered | Gap | Draining
"""What `Client.open` tells its ``on``."""

Tell: TypeAlias = Callable[[StreamEvent], object]


@final
class Interpreter:
    """Says what the controls of one connection are to its program.

    Args:
        offered: The topics and keys whose position was offered.
    """

    def __init__(self, offered: Iterable[tuple[str, str]] = ()) -> None:
        self._asked = set(offered)  # and of which nothing has been heard yet
        self._begun = set[tuple[str, str]]()

    def event(self, told: Notice | Drain) -> StreamEvent | None:
        """Return what a control is to the program; None when that is nothing."""
        match told:
            case Drain(within):
                return Draining(within)
            case ToldGap(topic, key, missed):
                return Gap(topic, key, missed)
            case Position(topic, key, recovered=bool(recovered)):
                # The first says how the topic begins, which is news to who has asked; a later one, that it broke off.
                channel = (topic, key)
                is_news = channel in self._asked if channel not in self._begun else not recovered
                self._begun.add(channel)
                return Recovered(topic, key, recovered) if is_news else None
            case _:
                return None
