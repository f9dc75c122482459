"""Python as text: names that are free, docstrings, literals and TypedDicts, as both Python clients need them."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from textwrap import indent
from typing import Final

from .docstrings import Doc

LINE: Final = 100
"""Characters of a line that can be broken."""

BUILTINS: Final = frozenset(dir(builtins)) | frozenset(keyword.kwlist)
"""What no type may be called: the generated code means Python's own by these names."""


def bound_names(source: str) -> set[str]:
    """Return the names that a module's top level binds."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        match node:
            case ast.Import(imported) | ast.ImportFrom(_, imported):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in imported}
            case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                names.add(name)
            case ast.Assign([ast.Name(name)]) | ast.AnnAssign(ast.Name(name)):
                names.add(name)
            case _:
                pass
    return names


def identifier(name: str, taken: Container[str] = ()) -> str:
    """Write a name so that it can be one in Python, and is public: ``my-shop`` is ``my_shop``, ``class`` ``class_``.

    Args:
        name: The name.
        taken: What it cannot be either.
    """
    word = re.sub(r"\W+", "_", name).strip("_") or "_"
    word = f"_{word}" if word[0].isdigit() else word
    return f"{word}_" if keyword.iskeyword(word) or word in taken else word


def snake(name: str, taken: Container[str] = ()) -> str:
    """Write a name as functions and attributes are called: ``privateChat`` is ``private_chat``."""
    return identifier(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower(), taken)


def is_field(name: str) -> bool:
    """Tell whether a field can be written as one of a class: others are no names, or would be mangled."""
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def used_names(annotations: Iterable[str]) -> set[str]:
    """Return the names that stand in annotations."""
    trees = (ast.walk(ast.parse(text, mode="eval")) for text in annotations)
    return {node.id for tree in trees for node in tree if isinstance(node, ast.Name)}


def quoted(value: object) -> str:
    """Write a value, a text in double quotes."""
    text = repr(value)
    only_around = isinstance(value, (str, bytes)) and text.count("'") == 2 and '"' not in text
    return text.replace("'", '"') if only_around else text


def literal(values: Sequence[object]) -> str:
    """Write a ``Literal`` of values."""
    rest = [quoted(value) for value in values if value is not None]
    return union([*([f"Literal[{', '.join(rest)}]"] if rest else []), *(["None"] if None in values else [])])


def union(members: Iterable[str]) -> str:
    """Write a union: each member once, and None last."""
    texts = dict.fromkeys(members)
    return " | ".join([*(text for text in texts if text != "None"), *(text for text in texts if text == "None")])


def docstring(text: str, fields: Mapping[str, str] | None = None) -> str:
    """Write a docstring; empty when there is nothing to say.

    Args:
        text: What stands first.
        fields: What is said of arguments; those of which nothing is said are left out.
    """
    told = [indent(f"{name}: {said}\n", "    ") for name, said in (fields or {}).items() if said]
    whole = text.strip() + ("\n\nArgs:\n" + "".join(told).rstrip() if told else "")
    whole = whole.strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if not whole:
        return ""
    if "\n" in whole:
        lines = "\n".join(line.rstrip() for line in whole.splitlines())
        return f'"""{lines}\n"""\n'
    return f'"""{whole[:-1]}\\""""\n' if whole.endswith('"') else f'"""{whole}"""\n'


def typed_dict(name: str, doc: Doc, members: Sequence[tuple[str, bool, str]]) -> str:
    """Write a TypedDict.

    Args:
        name: What it is called.
        doc: What is said of it.
        members: The name of each field, whether it may be absent, and its type.
    """
    texts = {member: f"NotRequired[{of}]" if optional else of for member, optional, of in members}
    told = docstring(doc.text, {member: doc.fields.get(member, "") for member in texts})
    if all(map(is_field, texts)) and not texts.keys() & used_names(texts.values()):
        lines = "".join(f"{member}: {of}\n" for member, of in texts.items())
        return block(f"class {name}(TypedDict):", told, lines)
    # The other way to write it knows no names but those in quotes.
    lines = "".join(f"        {quoted(member)}: {quoted(of)},\n" for member, of in texts.items())
    return f"{name} = TypedDict(\n    {quoted(name)},\n    {{\n{lines}    }},\n)\n{told}"


def arguments(head: str, parts: Sequence[str], tail: str) -> str:
    """Write what stands between brackets on one line, or if that is too long on one for each part."""
    line = f"{head}({', '.join(parts)}){tail}"
    if len(line) <= LINE:
        return f"{line}\n"
    return f"{head}(\n" + "".join(f"    {part},\n" for part in parts) + f"){tail}\n"


def block(head: str, *parts: str) -> str:
    """Write a head, and indented below it its parts, with a line between them."""
    return f"{head}\n" + indent("\n".join(part for part in parts if part) or "pass\n", "    ")
