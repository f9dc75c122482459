"""``streamrt gen``: clients and schemas, written from what an app declares."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from streamrt.codegen import python, python_asyncio, typescript
from streamrt.codegen.schema import generate_schema

from .errors import CommandError
from .load import load_app

TargetLanguage: TypeAlias = Literal["typescript", "javascript", "python", "python-asyncio"]


def gen_client(
    target: str, language: TargetLanguage, output: str, services: Sequence[str], tags: Sequence[str], *, check: bool
) -> None:
    """Write a client, or see whether it is what would be written.

    Raises:
        CommandError: There is no such app, service or endpoint, the file cannot be written, or is stale.
    """
    app = load_app(target)
    filters = [*_each("--service", services), *_each("--tag", tags)]
    command = ["streamrt", "gen", "client", target, "--lang", language, *filters]
    # The file's own name and no more: the same bytes, wherever the command is run.
    head = shlex.join([*command, "-o", Path(output).name])

    def generate(what: TargetLanguage | Literal["declarations"]) -> str:
        match what:
            case "python":
                return python.generate_client(app, target, head, services=services, tags=tags)
            case "python-asyncio":
                return python_asyncio.generate_client(app, target, head, services=services, tags=tags)
            case _:
                return typescript.generate_client(app, target, what, head, services=services, tags=tags)

    files: dict[str, Callable[[], str]] = {output: lambda: generate(language)}
    if language == "javascript" and output != "-":
        files[_declarations(output)] = lambda: generate("declarations")
    _put(files, shlex.join([*command, "-o", output]), check=check)


def gen_schema(target: str, output: str, *, check: bool) -> None:
    """Write a schema, or see whether it is what would be written.

    Raises:
        CommandError: There is no such app, no exposed endpoint, the file cannot be written, or is stale.
    """
    app = load_app(target)
    command = ["streamrt", "gen", "schema", target]
    text = shlex.join(command)
    _put({output: lambda: generate_schema(app, target, text)}, shlex.join([*command, "-o", output]), check=check)


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _declarations(output: str) -> str:
    path = Path(output)
    if path.suffix not in (".js", ".mjs"):
        raise CommandError(f"a JavaScript client is a module, client.js or client.mjs, not {output!r}")
    return str(path.with_suffix(path.suffix.replace("js", "ts").replace(".", ".d.", 1)))


def _put(files: dict[str, Callable[[], str]], command: str, *, check: bool) -> None:
    try:
        texts = {output: generate() for output, generate in files.items()}
    except ValueError as error:
        raise CommandError(str(error)) from None
    for output, text in texts.items():
        if output == "-":
            if check:
                raise CommandError("--check compares a file: say which, with -o FILE")
            sys.stdout.write(text)
        elif check:
            if _read(Path(output)) != text:
                raise CommandError(f"{output} is stale: run {command}")
        else:
            try:
                Path(output).write_text(text, encoding="utf-8", newline="\n")
            except OSError as error:
                raise CommandError(f"{output} cannot be written: {error.strerror}") from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
