"""The seam between a client and what connects it: one abstract class with one method."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import cast, final

from attrs import field, frozen

from streamrt.wire.dialect import Headers, is_header
from streamrt.wire.transport import PullTransport


@final
@frozen(kw_only=True)
class Target:
    """What a client connects to.

    Args:
        path: Percent-encoded, without the query.
        query_string: Percent-encoded, without the ``?``.
        headers: Header lines, names in lower case.
        deadline: When there must be a connection, by Trio's clock. Default: never.
    """

    path: str
    query_string: str = field(default="", repr=False)
    headers: Headers = field(default=(), repr=False)
    deadline: float = field(default=math.inf, repr=False)


def header_lines(headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Return headers as lines, with their names in lower case.

    Raises:
        TypeError: They are no texts by name.
        ValueError: One of them cannot be a header. It is named, but its value is not told.
    """
    if headers is None:
        return []
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] # a function may give anything
        raise TypeError(f"headers must be a mapping of names to values, not {type(headers).__name__}")
    lines: list[tuple[str, str]] = []
    for name, value in cast("Mapping[object, object]", headers).items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"the header {name!r} must be a text, not {type(value).__name__}")
        lines.append((name.lower(), value))
    for name, value in lines:
        if not is_header(name, value) or value != value.strip() or not _is_sendable(value):
            raise ValueError(f"the header {name!r} has a character that no header may have there")
    return lines


_is_sendable = re.compile("[\t\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]*").fullmatch


class Connector(ABC):
    """Connects a client to a target; its text is what that is called in errors."""

    @abstractmethod
    def connect(self, target: Target) -> AbstractAsyncContextManager[tuple[PullTransport, str | None]]:
        """Connect for as long as the block lasts.

        Yields:
            The transport, and the dialect that was agreed on.

        Raises:
            APIError: The server refused, with this error; or it cannot be reached (`Unavailable`).
            trio.TooSlowError: There was no connection before the target's deadline.
        """
