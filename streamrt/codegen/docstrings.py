"""Docstrings, as far as they say something to the reader of another language: the text, and what fields are.

They are written in Google's style. ``Args:`` and ``Attributes:`` tell about fields; all other sections are about
Python, and are left out.
"""

from __future__ import annotations

import inspect
import re
from enum import Enum
from typing import Any, final

from attrs import frozen

_SECTION = re.compile(r"(Args|Attributes|Example|Examples|Note|Raises|Returns|Warning|Yields):")
_FIELD = re.compile(r"(\w+)(?: \([^)]*\))?: (.*)")


@final
@frozen
class Doc:
    """What a docstring says.

    Args:
        text: Everything before the first section; empty when there is nothing.
        fields: What it says of each argument or attribute.
    """

    text: str
    fields: dict[str, str]


def doc_of(cls: Any) -> Doc:
    """Read the docstring that the author of a class has written, and not what it has inherited or was given."""
    text = cls.__dict__.get("__doc__") or ""
    written_by_dataclass = hasattr(cls, "__dataclass_fields__") and text.startswith(f"{cls.__name__}(")
    written_by_enum = issubclass(cls, Enum) and text == "An enumeration."
    return read_doc("" if written_by_dataclass or written_by_enum else text)


def read_doc(docstring: str | None) -> Doc:
    """Read a docstring."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    starts = [number for number, line in enumerate(lines) if _SECTION.fullmatch(line)]
    text = "\n".join(lines[: starts[0]] if starts else lines).strip()
    fields: dict[str, str] = {}
    for start in starts:
        if lines[start] in ("Args:", "Attributes:"):
            fields |= _fields(lines[start + 1 :])
    return Doc(_plain(text), {name: _plain(said) for name, said in fields.items()})


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line and not line.startswith(" "):
            break
        if re.match(r" {4}\S", line) and (entry := _FIELD.fullmatch(line.strip())):
            name, fields[entry[1]] = entry[1], entry[2]
        elif name and line.strip():
            fields[name] += f" {line.strip()}"
    return fields


def _plain(text: str) -> str:
    return text.replace("``", "`")  # reStructuredText's code is Markdown's, with one backtick more
