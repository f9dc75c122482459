"""What the command line says when something goes wrong: one line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import cast


class CommandError(Exception):
    """Something that the user can do something about; its text is the whole output."""


def lone(error: BaseException) -> BaseException:
    """Return the first error of a group, and any other as it is: one line has room for one."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def tell(error: BaseException) -> str:
    """Return an error of the user's code, and its place there: ``NameError: name 'x' is not defined (app.py:3)``."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    here = Path.cwd()
    places = [
        f" ({Path(frame.filename).relative_to(here)}:{frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(here)
    ]
    return text + (places[-1] if places else "")
