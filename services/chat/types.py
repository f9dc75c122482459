"""What goes over the wire: one class for each handshake and each message."""

from typing import Literal

from attrs import frozen


@frozen
class Join:
    """The handshake of the chat for everyone.

    Args:
        id: The client's own; it is repeated with each of its messages, and need not be unique.
    """

    id: str


@frozen
class Say:
    """A message to everyone.

    Args:
        username: The name to show.
        msg: The text.
    """

    username: str
    msg: str


@frozen
class Said:
    """A message from somebody else.

    Args:
        userID: The id that the sender joined with.
        username: The name to show.
        msg: The text.
    """

    userID: str  # noqa: N815 - a field's name is its name on the wire
    username: str
    msg: str


@frozen
class Room:
    """The handshake of a private room.

    Args:
        names: Who may enter, with plus signs between the names: ``ada+bob``.
        since: Where to go on: the last `Here.position`, or ``oldest`` for all that is kept.
        echo: Whether to hear one's own messages too: whoever does knows that they were said, and between which others.
    """

    names: str
    since: str | None = None
    echo: bool = False


@frozen
class Whisper:
    """A message to a room.

    Args:
        msg: The text.
        id: What the sender knows it by; repeated, so that a message which is sent again can be told from another one.
    """

    msg: str
    id: str = ""


@frozen
class Whispered:
    """A message in a room.

    Args:
        by: Who said it: the name that the auth handler found, and not one that a client may choose.
        msg: The text.
        id: What the sender knows it by.
    """

    by: str
    msg: str
    id: str = ""
    kind: Literal["whispered"] = "whispered"


@frozen
class Here:
    """Where a member is in what is said in its room.

    Args:
        position: To come back with, as ``since``: nothing is missed then. What it has heard after this may come again.
        recovered: Whether it has heard everything after the ``since`` that it came with.
    """

    position: str
    recovered: bool
    kind: Literal["here"] = "here"


@frozen
class Named:
    """The handshake of the members of a private room.

    Args:
        names: Who may enter it, with plus signs between the names.
    """

    names: str


@frozen
class Members:
    """Who is in a private room.

    Args:
        names: Each once, with however many tabs, and for five seconds after the last of them; in order.
    """

    names: list[str]
