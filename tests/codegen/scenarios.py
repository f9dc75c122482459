"""The scenarios of ``scenarios.json``, ready to be played to a client: with everything filled in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

FILE = Path(__file__).with_name("scenarios.json")


@frozen
class Scenario:
    """What happens to one stream, step by step.

    Args:
        name: Its number in docs/clients.md, and for what it is tried: ``C5 1001 unavailable``.
        when: What happens.
        then: What the client does.
        stream: Which stream the client has: ``in`` is an upload.
        options: What the stream is opened with; ``headers`` says which kind of them the client has.
        reads: Whether the program reads from the beginning.
        steps: What happens, and what is expected, in order.
        exceptions: Which languages it is not for, and why.
    """

    name: str
    when: str
    then: str
    stream: Literal["in", "in_out"]
    options: dict[str, Any]
    reads: bool
    steps: list[dict[str, Any]]
    exceptions: dict[str, str]

    def __str__(self) -> str:
        return self.name


def load(language: str | None = None) -> list[Scenario]:
    """Return the scenarios that are for a language, or all."""
    found = [scenario for entry in json.loads(FILE.read_text()) for scenario in _each(entry)]
    return [scenario for scenario in found if language not in scenario.exceptions]


def _each(entry: dict[str, Any]) -> Iterator[Scenario]:
    for each in entry.get("each", [{}]):
        yield Scenario(
            name=" ".join([entry["id"], *map(_show, each.values())]),
            when=entry["when"],
            then=entry["then"],
            stream=entry["stream"],
            options=_fill(entry.get("options", {}), each),
            reads=entry.get("reads", True),
            steps=_fill(entry["steps"], each),
            exceptions=entry.get("except", {}),
        )


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _fill(value: Any, each: dict[str, Any]) -> Any:
    """Fill in what a scenario is tried for each of, and texts that are given by their length."""
    match value:
        case str() if value.startswith("$"):
            return _fill(each[value[1:]], each)
        case {"text_of": int(length)}:
            return "x" * length
        case dict():
            return {key: _fill(of, each) for key, of in value.items()}
        case list():
            return [_fill(of, each) for of in value]
        case _:
            return value
