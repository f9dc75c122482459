"""The scenarios, which all clients are played, are those of docs/clients.md, and so are their exceptions."""

import json
import re
from pathlib import Path

from tests.codegen.scenarios import FILE, load

TABLE, _, EXCEPTIONS = (Path(__file__).parents[2] / "docs" / "clients.md").read_text().partition("\nNot for all:\n")


def test_the_scenarios_are_those_of_the_documentation() -> None:
    rows = re.findall(r"^\| ([A-Z]\d+) \| (.*) \| (.*) \|$", TABLE, re.MULTILINE)
    assert rows == [(of["id"], of["when"], of["then"]) for of in json.loads(FILE.read_text())]


def test_what_is_not_for_a_language_is_said_there_with_its_reason() -> None:
    rows = re.findall(r"^\| ((?:[A-Z]\d+, )*[A-Z]\d+) \| `([a-z-]+)` \| (.*) \|$", EXCEPTIONS, re.MULTILINE)
    told = {(one, language, why) for numbers, language, why in rows for one in numbers.split(", ")}
    entries = json.loads(FILE.read_text())
    assert told == {(of["id"], language, why) for of in entries for language, why in of.get("except", {}).items()}


def test_a_language_is_played_all_that_is_for_it() -> None:
    everything = {of.name for of in load()}
    assert everything - {of.name for of in load("python-asyncio")} == {"M8", "M9"}
    assert everything - {of.name for of in load("python")} == {"M7", "M8", "M9", "M10", "S6", "R20"}


def test_a_scenario_is_filled_in_with_what_it_is_tried_for() -> None:
    by_name = {str(of): of for of in load()}
    assert len(by_name) == len(load())
    assert by_name["C5 1001 unavailable"].steps[2] == {"closes": [1001, "later"]}
    assert by_name["P5"].steps[3] == {"message": "x" * 65533}
    assert not by_name["M8"].reads
