"""What goes over the wire: one class for each handshake and each message."""

from attrs import field, frozen
from attrs.validators import ge, le, max_len


@frozen
class Upload:
    """The handshake of an upload.

    Args:
        user: Who uploads; only for the log.
    """

    user: str = "anonymous"


@frozen
class Chunk:
    """A part of an upload.

    Args:
        data: The part.
        done: Whether it is the last one.
    """

    data: str
    done: bool = False


@frozen
class Uploaded:
    """The response to an upload."""

    success: bool


@frozen
class Tail:
    """The handshake of a log.

    Args:
        rows: How many rows to send: 0 to 10 000.
    """

    rows: int = field(validator=[ge(0), le(10_000)])


@frozen
class LogRow:
    """One row of a log."""

    message: str


@frozen
class Choose:
    """The handshake of a talk with a model.

    Args:
        model: A name, which is repeated in each answer.
    """

    model: str


@frozen
class Prompt:
    """A question.

    Args:
        prompt: The text; at most 1000 characters, because the answer is sent once for each of them.
    """

    prompt: str = field(validator=max_len(1000))


@frozen
class Answer:
    """An answer as far as it has grown.

    Args:
        message: All of it up to here, and not only what is new.
        done: Whether this is the whole answer.
    """

    message: str
    done: bool
