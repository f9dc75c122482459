"""Path templates, such as ``/rooms/{room}``, and the table that finds the template a path belongs to.

The rules:

- A path is split at ``/`` first and percent-decoded after, so that ``%2F`` stays inside its segment.
  What is not percent-encoded UTF-8 matches nothing.
- ``{name}`` is one whole segment, and never an empty one. ``{name:path}`` is the rest of the path as it
  came, slashes and all, and may be empty; only the last segment can be one.
- Text beats ``{name}``, and ``{name}`` beats ``{name:path}``, segment by segment from the left, with a
  step back where that leads nowhere. Which template was added first never matters.
- One slash at the end makes no difference: ``/chat/`` is ``/chat``.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from typing import Generic, Literal, TypeVar, final
from urllib.parse import quote, unquote_to_bytes

from attrs import define, field, frozen

T = TypeVar("T")

# What a path segment may hold as it is (pchar, RFC 3986, 3.3), besides letters, digits and "_.-~".
_SEGMENT_TEXT = "!$&'()*+,;=:@"

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PARAMETER = re.compile(r"\{([^{}]*)\}")


def percent_decode(text: str) -> str:
    """Decode the ``%XX`` in a text, strictly.

    Raises:
        ValueError: A ``%`` without two hexadecimal digits, or bytes that are not UTF-8.
    """
    if "%" not in text and text.isascii():
        return text
    if _BAD_ESCAPE.search(text):
        raise ValueError(f"not percent-encoded: {text!r}")
    return unquote_to_bytes(text).decode()


@final
@frozen
class Segment:
    """One segment of a path template.

    Args:
        kind: ``"text"`` stands for itself, ``"parameter"`` for any one segment, ``"path"`` for the rest.
        text: The decoded text, or the parameter's name.
    """

    kind: Literal["text", "parameter", "path"]
    text: str


@final
@frozen
class PathTemplate:
    """A path with named parts: ``/rooms/{room}``, ``/files/{rest:path}``. Create one with ``parse``.

    Args:
        template: The template as it was written.
        segments: What stands between its slashes.
    """

    template: str
    segments: tuple[Segment, ...] = field(repr=False)

    @classmethod
    def parse(cls, template: str) -> PathTemplate:
        """Read a template.

        Args:
            template: Starts with ``/``. A segment is text, ``{name}``, or at the end ``{name:path}``.

        Raises:
            ValueError: The template is wrong; the error names it and says what is wrong.
        """
        if not template.startswith("/"):
            raise _wrong(template, "it must start with '/'")
        for mark in "?#":
            if mark in template:
                raise _wrong(template, f"a path ends before {mark!r}")
        texts = template.removeprefix("/").removesuffix("/").split("/") if template != "/" else []
        segments = tuple(_parse_segment(template, text) for text in texts)
        names: set[str] = set()
        for segment in segments:
            if segment.kind == "text":
                continue
            if segment.text in names:
                raise _wrong(template, f"the parameter {segment.text!r} is there twice")
            names.add(segment.text)
            if segment.kind == "path" and (segment is not segments[-1] or template.endswith("/")):
                raise _wrong(template, f"nothing can follow '{{{segment.text}:path}}', which takes the rest")
        return cls(template, segments)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, from left to right."""
        return tuple(segment.text for segment in self.segments if segment.kind != "text")

    def render(self, params: Mapping[str, str]) -> str:
        """Fill in the parameters; ``Router.match`` gets the same values back out.

        Args:
            params: The value of each parameter, not yet encoded. Others than the template's are ignored.

        Returns:
            The percent-encoded path. A slash in a value is ``%2F``, except in a ``:path`` parameter.

        Raises:
            ValueError: A parameter is missing, or empty where it cannot be, or is no Unicode text.
        """
        path = "".join("/" + _render_segment(self.template, segment, params) for segment in self.segments)
        return path + "/" if self.template.endswith("/") else path


@final
class Router(Generic[T]):
    """A table of path templates, each with a value.

    It is a tree with one level per segment: looking up a path costs a dict lookup per segment, however
    many templates there are, and more only where a step back is needed.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, template: PathTemplate, value: T) -> None:
        """Add a template.

        Raises:
            ValueError: Another one matches the same paths; the error names both.
        """
        node = self._root
        kind = "text"
        for segment in template.segments:
            kind = segment.kind
            if kind == "text":
                node = node.texts.setdefault(segment.text, _Node())
            elif kind == "parameter":
                node.parameter = node = node.parameter or _Node()
        taken = node.rest if kind == "path" else node.route
        if taken is not None:
            raise ValueError(f"{template.template!r} matches the same paths as {taken.template.template!r}")
        if kind == "path":
            node.rest = _Route(template, value)
        else:
            node.route = _Route(template, value)

    def match(self, raw_path: str) -> tuple[T, dict[str, str]] | None:
        """Find the most specific template that a path belongs to.

        Args:
            raw_path: The path as it came, still percent-encoded, without the query.

        Returns:
            The template's value and its parameters, decoded; None when there is no such template, or the
            path is not percent-encoded UTF-8.
        """
        if not raw_path.startswith("/"):
            return None
        try:
            segments = [percent_decode(text) for text in raw_path[1:].split("/")]
        except ValueError:
            return None
        route = _find(self._root, segments, 0)
        if route is None:
            return None
        params: dict[str, str] = {}
        for position, segment in enumerate(route.template.segments):
            if segment.kind == "parameter":
                params[segment.text] = segments[position]
            elif segment.kind == "path":
                params[segment.text] = "/".join(segments[position:])
        return route.value, params


@frozen
class _Route(Generic[T]):
    template: PathTemplate
    value: T


@define(eq=False)
class _Node(Generic[T]):
    """The templates that share their first segments: those that end here, and those that go on."""

    texts: dict[str, _Node[T]] = field(factory=dict[str, "_Node[T]"])
    parameter: _Node[T] | None = None
    route: _Route[T] | None = None
    rest: _Route[T] | None = None


def _find(node: _Node[T], segments: list[str], depth: int) -> _Route[T] | None:
    """Find the route of the segments from ``depth`` on. No deeper than the tree, whatever the path."""
    left = len(segments) - depth
    if left == 0 or (left == 1 and not segments[depth]):
        return node.route or node.rest
    found = None
    if (child := node.texts.get(segments[depth])) is not None:
        found = _find(child, segments, depth + 1)
    if found is None and node.parameter is not None and segments[depth]:
        found = _find(node.parameter, segments, depth + 1)
    return found or node.rest


def _wrong(template: str, what: str) -> ValueError:
    return ValueError(f"path template {template!r}: {what}")


def _parse_segment(template: str, text: str) -> Segment:
    if not text:
        raise _wrong(template, "a segment is empty")
    if "{" not in text and "}" not in text:
        if text in {".", ".."}:
            raise _wrong(template, f"a client resolves {text!r} before it sends the path")
        try:
            return Segment("text", percent_decode(text))
        except ValueError:
            raise _wrong(template, f"{text!r} is not percent-encoded UTF-8") from None
    whole = _PARAMETER.fullmatch(text)
    if whole is None:
        if re.search(r"[{}]", _PARAMETER.sub("", text)):
            raise _wrong(template, f"the braces of {text!r} do not pair up")
        raise _wrong(template, f"{text!r} must be text or one parameter, not both")
    name, colon, converter = whole[1].partition(":")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise _wrong(template, f"{name!r} is not an identifier, so no field can have that name")
    if colon and converter != "path":
        raise _wrong(template, f"there is no converter {converter!r}, only 'path'")
    return Segment("path" if colon else "parameter", name)


def _render_segment(template: str, segment: Segment, params: Mapping[str, str]) -> str:
    if segment.kind == "text":
        return quote(segment.text, safe=_SEGMENT_TEXT)
    value = params.get(segment.text)
    if value is None:
        raise _wrong(template, f"the parameter {segment.text!r} is missing")
    if not value and segment.kind == "parameter":
        raise _wrong(template, f"the parameter {segment.text!r} cannot be empty")
    parts = value.split("/") if segment.kind == "path" else [value]
    try:
        return "/".join(map(_encode, parts))
    except UnicodeEncodeError:
        raise _wrong(template, f"the parameter {segment.text!r} is not Unicode text") from None


def _encode(part: str) -> str:
    # "." and ".." are resolved by clients and proxies before the server sees them (RFC 3986, 5.2.4);
    # encoded, they survive in all but browsers.
    return part.replace(".", "%2E") if part in {".", ".."} else quote(part, safe="")
