"""What goes over the wire: one class for each handshake and each message."""

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
    """

    names: str


@frozen
class Whisper:
    """A message to a room."""

    msg: str


@frozen
class Whispered:
    """A message in a room.

    Args:
        by: Who said it: the name that the auth handler found, and not one that a client may choose.
        msg: The text.
    """

    by: str
    msg: str
