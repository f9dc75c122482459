"""What goes over the wire: two kinds of message in, two kinds out, each with the number of an answer."""

from typing import Literal

from attrs import field, frozen
from attrs.validators import max_len


@frozen
class Ask:
    """A question.

    Args:
        answer: The number of its answer, which the client chooses: not that of one that is still coming.
        prompt: The text; at most 1000 characters.
    """

    answer: int
    prompt: str = field(validator=max_len(1000))
    kind: Literal["ask"] = "ask"


@frozen
class Cancel:
    """No more of an answer is wanted. One that is finished, or never was, is no error: it may have just been."""

    answer: int
    kind: Literal["cancel"] = "cancel"


@frozen
class Token:
    """The next piece of an answer.

    Args:
        answer: Of which.
        text: To be put behind what there is of it.
    """

    answer: int
    text: str
    kind: Literal["token"] = "token"


@frozen
class Finished:
    """Nothing more comes of an answer.

    Args:
        answer: Of which.
        how: Whether it is ``whole``, was ``canceled``, or never began because the assistant is ``busy``.
    """

    answer: int
    how: Literal["whole", "canceled", "busy"]
    kind: Literal["finished"] = "finished"
