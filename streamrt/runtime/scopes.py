"""Nurseries that users never see: their groups must not be seen either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast, final

import trio


@final
class lone_error:  # noqa: N801 - it reads like the function that it could be, at a fourth of the memory
    """Raise a lone error as itself when a nursery in this block has put it into a group.

    A nursery wraps whatever leaves it into an `ExceptionGroup`. Inside a context manager of ours that
    would change the error that the user raised in the block. A group that holds one error besides
    cancellations is unwrapped, by one level, so that a group which the user made stays a group; a group
    of several is left alone, for nothing else could tell them all.
    """

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, group: BaseException | None, _traceback: object) -> None:
        if not isinstance(group, BaseExceptionGroup):
            return
        group = cast("BaseExceptionGroup[BaseException]", group)
        rest = group.split(trio.Cancelled)[1]
        errors = () if rest is None else rest.exceptions
        if len(errors) > 1:
            return
        lone = errors[0] if errors else next(leaves(group))
        # The lone error keeps the cause and context it had where it was raised.
        cause, context, suppress = lone.__cause__, lone.__context__, lone.__suppress_context__
        try:
            raise lone
        finally:
            lone.__cause__, lone.__context__, lone.__suppress_context__ = cause, context, suppress


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield what a group holds, however deep; an error that is no group is its own leaf."""
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error
