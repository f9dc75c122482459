"""What a handler can ask for without being given it: who is calling, and what its app holds.

The values live in context variables, so they follow a stream into every task of its nurseries.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

auth_data: ContextVar[object] = ContextVar("streamrt.auth_data", default=None)
user: ContextVar[str | None] = ContextVar("streamrt.user", default=None)
connection_id: ContextVar[int | None] = ContextVar("streamrt.connection_id", default=None)
resources: ContextVar[object] = ContextVar("streamrt.resources", default=None)


def get_auth_data(expected: type[T]) -> T:
    """Return what the auth handler returned for the caller of this stream.

    Args:
        expected: The class of the auth data; for the type checker, and checked.

    Returns:
        The auth data. A stream that one handler opens to another carries it on.

    Raises:
        LookupError: The caller is anonymous, or this is not called from a stream. Declare the endpoint
            with ``auth=True``, and nobody anonymous reaches it.
        TypeError: The auth handler returns something else.
    """
    value = auth_data.get()
    if value is None:
        raise LookupError(
            f"there is no auth data: the caller of this stream is anonymous, or there is no stream. "
            f"Declare the endpoint with auth=True to let only callers in that have {expected.__name__}"
        )
    return _checked(value, expected, "the auth handler returned")


def get_resources(expected: type[T]) -> T:
    """Return what the app's lifespan yielded.

    Args:
        expected: The class of what it yields; for the type checker, and checked.

    Raises:
        LookupError: The app has no lifespan, or this is not called from a stream.
        TypeError: The lifespan yields something else.
    """
    value = resources.get()
    if value is None:
        raise LookupError(f"there are no resources: give the app a lifespan that yields {expected.__name__}")
    return _checked(value, expected, "the app's lifespan yielded")


def _checked(value: object, expected: type[T], source: str) -> T:
    if not isinstance(value, expected):
        raise TypeError(f"{source} {type(value).__name__}, not {expected.__name__}")
    return value
