"""What a client's program may want to know of a stream besides its messages."""

from __future__ import annotations

from collections.abc import Callable
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
        missed: How many.
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


def event_of(told: Notice | Drain, asked: set[tuple[str, str]]) -> StreamEvent | None:
    """Return what a control of the server is to the program; None when that is nothing.

    Args:
        told: The control.
        asked: The topics and keys whose position was offered, and of which nothing has been heard yet.
    """
    match told:
        case Drain(within):
            return Draining(within)
        case ToldGap(topic, key, missed):
            return Gap(topic, key, missed)
        case Position(topic, key, recovered=bool(recovered)) if (topic, key) in asked:
            asked.remove((topic, key))
            return Recovered(topic, key, recovered)
        case _:
            return None
