"""``streamrt gen`` as its users see it: which files there are, what is told, and the exit code."""

import json
import re
from pathlib import Path

import pytest

from streamrt.cli import main

APP = "tests.codegen.shop:app"


def exit_code(*arguments: str) -> int:
    try:
        main(["gen", *arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.removeprefix("streamrt: ").rstrip("\n")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_typescript_client_is_one_file(tmp_path: Path) -> None:
    assert exit_code("client", APP, "--lang", "typescript", "-o", "client.ts") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["client.ts"]
    text = (tmp_path / "client.ts").read_text()
    assert text.splitlines()[0].endswith(f": streamrt gen client {APP} --lang typescript -o client.ts")
    assert "export class Client {" in text


@pytest.mark.parametrize(("module", "types"), [("client.js", "client.d.ts"), ("client.mjs", "client.d.mts")])
def test_a_javascript_client_has_its_types_beside_it(module: str, types: str, tmp_path: Path) -> None:
    assert exit_code("client", APP, "--lang", "javascript", "-o", module) == 0
    assert {path.name for path in tmp_path.iterdir()} == {module, types}
    assert "interface" not in (tmp_path / module).read_text()
    assert "export declare class Client {" in (tmp_path / types).read_text()


@pytest.mark.parametrize("language", ["python", "python-asyncio"])
def test_a_client_in_python_is_one_module(language: str, tmp_path: Path) -> None:
    assert exit_code("client", APP, "--lang", language, "-o", "client.py") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["client.py"]
    text = (tmp_path / "client.py").read_text()
    assert text.splitlines()[0].endswith(f": streamrt gen client {APP} --lang {language} -o client.py")
    assert ("class Client:" in text) == (language == "python-asyncio")
    compile(text, "client.py", "exec")


@pytest.mark.parametrize(("language", "file"), [("python", "client"), ("python-asyncio", "asyncio")])
def test_the_clients_that_are_type_checked_are_those_of_today(
    language: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    sample = f"tests/type_tests/generated/services_{file}.py"
    assert exit_code("client", "services:app", "--lang", language, "-o", sample, "--check") == 0


def test_a_client_can_go_to_standard_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("client", APP, "--lang", "javascript", "-o", "-") == 0
    assert "export class Client {" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_services_and_tags_are_chosen_and_told(tmp_path: Path) -> None:
    options = ("--service", "my-shop", "--service", "my_shop", "--tag", "search")
    assert exit_code("client", APP, "--lang", "typescript", *options, "-o", "client.ts") == 0
    text = (tmp_path / "client.ts").read_text()
    assert text.splitlines()[0].endswith(f"{' '.join(options)} -o client.ts")
    assert re.findall(r"^  (\w+)\((?:handshake|options)", text, re.MULTILINE) == ["findAll"]


def test_the_bytes_do_not_depend_on_the_directory(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for output in ("client.ts", "deep/client.ts", str(tmp_path / "deep/client.ts")):
        assert exit_code("client", APP, "--lang", "typescript", "-o", output) == 0
    assert (tmp_path / "client.ts").read_bytes() == (tmp_path / "deep" / "client.ts").read_bytes()


def test_a_schema_goes_to_standard_output_or_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("schema", APP) == 0
    printed = capsys.readouterr().out
    assert exit_code("schema", APP, "-o", "schema.json") == 0
    assert (tmp_path / "schema.json").read_text() == printed
    assert json.loads(printed)["$comment"].endswith(f": streamrt gen schema {APP}")


@pytest.mark.parametrize(
    "command",
    [
        ["client", APP, "--lang", "typescript", "-o", "client.ts"],
        ["client", APP, "--lang", "javascript", "--tag", "search", "-o", "client.js"],
        ["client", APP, "--lang", "python", "--service", "my-shop", "-o", "client.py"],
        ["client", APP, "--lang", "python-asyncio", "-o", "client.py"],
        ["schema", APP, "-o", "schema.json"],
    ],
    ids=["typescript", "javascript", "python", "python-asyncio", "schema"],
)
def test_a_stale_file_is_told_with_the_command_and_left_as_it_is(
    command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / command[-1]
    told = f"{file.name} is stale: run streamrt gen {' '.join(command)}"
    assert exit_code(*command, "--check") == 1  # it is not there
    assert complaint(capsys) == told
    assert list(tmp_path.iterdir()) == []
    assert exit_code(*command) == 0
    assert exit_code(*command, "--check") == 0
    for content in (file.read_bytes() + b"\n", b"\xff"):
        file.write_bytes(content)
        assert exit_code(*command, "--check") == 1
        assert complaint(capsys) == told
        assert file.read_bytes() == content


def test_stale_types_beside_a_javascript_client_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["client", APP, "--lang", "javascript", "-o", "client.js"]
    assert exit_code(*command) == 0
    (tmp_path / "client.d.ts").unlink()
    assert exit_code(*command, "--check") == 1
    assert complaint(capsys).startswith("client.d.ts is stale: run streamrt gen client ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["client", APP, "--lang", "typescript", "-o", "a/b.ts"],
            "a/b.ts cannot be written: No such file or directory",
        ),
        (
            ["client", APP, "--lang", "javascript", "-o", "client.ts"],
            "a JavaScript client is a module, client.js or client.mjs, not 'client.ts'",
        ),
        (
            ["client", APP, "--lang", "typescript", "-o", "-", "--check"],
            "--check compares a file: say which, with -o FILE",
        ),
        (
            ["client", APP, "--lang", "typescript", "-o", "c.ts", "--service", "x"],
            "there is no service 'x'; there are my-shop, my_shop",
        ),
        (
            ["client", APP, "--lang", "python", "-o", "c.py", "--tag", "x"],
            "no endpoint is exposed and has the tag x",
        ),
        (["schema", "app"], "an app is named like services:app, not 'app'"),
    ],
    ids=["directory", "suffix", "check of nothing", "service", "tag", "app"],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code(*arguments) == 1
    assert complaint(capsys) == message
    assert list(tmp_path.iterdir()) == []
