"""The command line as its users see it: what is printed where, and the exit code."""

import fcntl
import itertools
import json
import os
import pty
import queue
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import websockets.sync.server
from websockets.sync.server import ServerConnection
from websockets.typing import Subprotocol

from streamrt.cli import main

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 30
"""Seconds until a test gives up on another process; none of them takes a tenth of it."""

APP = """
from typing import Annotated
import trio
from attrs import frozen
from streamrt import APIError, App, Header, Service, StreamIn, StreamInOut, StreamOut, Query

@frozen
class Line:
    text: str

@frozen
class Total:
    lines: int

@frozen
class Wanted:
    n: int = 3
    prefix: Annotated[str, Header()] = "row"

@frozen
class Room:
    room: str
    page: Annotated[int, Query("page[size]")] = 0

api = Service("demo")

@api.stream_in_out("/echo", expose=True)
async def echo(stream: StreamInOut[Line, Line]) -> None:
    async for line in stream:
        if line.text == "boom":
            raise APIError.not_found("no such thing")
        if line.text == "bye":
            return
        await stream.send(line)

@api.stream_in("/upload", expose=True)
async def upload(stream: StreamIn[Line]) -> Total:
    count = 0
    async for line in stream:
        count += 1
    return Total(count)

@api.stream_in_out("/reverse", expose=True)
async def reverse(stream: StreamInOut[Line, Line]) -> None:
    for line in reversed([line async for line in stream]):
        await stream.send(line)

@api.stream_out("/rows", expose=True)
async def rows(wanted: Wanted, stream: StreamOut[Line]) -> None:
    for number in range(wanted.n):
        await stream.send(Line(f"{wanted.prefix} {number}"))

@api.stream_out("/silent", expose=True)
async def silent(stream: StreamOut[Line]) -> None:
    await stream.send(Line("and then nothing"))
    await trio.sleep_forever()

@api.stream_out("/the rooms/{room}", expose=True, auth=True)
async def listen(room: Room, stream: StreamOut[list[Line]]) -> None: ...

@api.stream_in()
async def quiet(stream: StreamIn[Line]) -> None: ...

async def authenticate(wanted: Wanted) -> str:
    return wanted.prefix

app = App(api, auth_handler=authenticate)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory that modules can be imported from, once per test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "demo.py").write_text(APP)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(str(sys.modules[name].__file__)).parent == tmp_path:
            del sys.modules[name]


def exit_code(*arguments: str) -> int:
    """Run the command line in this process."""
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


_numbers = itertools.count(512)
"""One for each standard input: a thread that a call has abandoned may still be about to read its own."""


@contextmanager
def feed(*lines: str) -> Generator[None]:
    """Make standard input a pipe with these lines in it, and then its end."""
    reading, writing = os.pipe()
    os.write(writing, "".join(lines).encode(errors="surrogatepass"))
    os.close(writing)
    number = fcntl.fcntl(reading, fcntl.F_DUPFD, next(_numbers))
    os.close(reading)
    with os.fdopen(number) as stdin, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stdin)
        yield


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error; nothing is on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("streamrt: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("streamrt: ").rstrip("\n")


# Other processes


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamrt.cli", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}


Lines = queue.Queue[str]


@contextmanager
def running(directory: Path, *arguments: str) -> Generator[tuple[subprocess.Popen[str], Lines]]:
    """Run a command for as long as the block lasts; its standard error comes line by line."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: Lines = queue.Queue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, lines
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def wait_for(lines: Lines, pattern: str, nudge: Callable[[], object] = lambda: None) -> str:
    """Return what a pattern matches in the next lines; nudge first, and again when none come for long."""
    deadline = time.monotonic() + PATIENCE
    seen: list[str] = []
    nudge()
    while time.monotonic() < deadline:
        try:
            seen.append(lines.get(timeout=10))
        except queue.Empty:
            nudge()
            continue
        if found := re.search(pattern, seen[-1]):
            return found[found.re.groups and 1]
    pytest.fail(f"no {pattern!r} in {seen}")


URL = r"Running on http://(127\.0\.0\.1:[0-9]+)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server in a process of its own, which SIGTERM ends well."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "demo.py").write_text(APP)
    with running(directory, "run", "demo:app", "--bind", "127.0.0.1:0", "--drain", "0.1") as (process, lines):
        yield wait_for(lines, URL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


@contextmanager
def encore() -> Generator[str]:
    """The address of an echo that speaks encore-ws alone; a null is the last that it says."""

    def echo(connection: ServerConnection) -> None:
        assert connection.subprotocol == "encore-ws"
        for message in connection:
            assert isinstance(message, str)  # and no control
            connection.send(message)
            if message == "null":
                return

    subprotocols = [Subprotocol("encore-ws")]
    with websockets.sync.server.serve(echo, "127.0.0.1", 0, subprotocols=subprotocols) as echoing:
        thread = threading.Thread(target=echoing.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{echoing.socket.getsockname()[1]}"
        finally:
            echoing.shutdown()
            thread.join()


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], 'Unknown command "dance". Available commands: run, routes, call, gen.'),
        (["run"], 'Command "run" parameter APP requires an argument.'),
        (["run", "demo:app", "--drain", "long"], 'Invalid value for --drain: unable to convert "long" into float.'),
        (["run", "demo:app", "--fast"], "Unknown option: --fast."),
        (["run", "demo"], "an app is named like services:app, not 'demo'"),
        (["run", ":app"], "an app is named like services:app, not ':app'"),
        (["run", ".demo:app"], "an app is named like services:app, not '.demo:app'"),
        (["run", "demo:app", "--bind", "8000"], "an address is like 127.0.0.1:8000, not '8000'"),
        (["run", "demo:app", "--bind", "h:65536"], "an address is like 127.0.0.1:8000, not 'h:65536'"),
        (["call", "ws://x", "--query", "y"], "--query is NAME=VALUE, not 'y'"),
        (["call", "ws://x", "--query", "=y"], "--query is NAME=VALUE, not '=y'"),
        (["call", "ws://x", "--header", "y"], "--header is NAME=VALUE, not 'y'"),
        (["call", "ws://x", "--header", "a b=c"], "--header is NAME=VALUE, not 'a b=c'"),
        (["call", "ws://x", "--header", "a=\n"], "--header is NAME=VALUE, not 'a=\\n'"),
        (["call", "ws://[::1"], "Invalid IPv6 URL"),
        (["call", "ftp://x"], "a server's URL is like 'ws://host:port' or 'https://host/path', not 'ftp://x'"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_mistake_is_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 1
    assert complaint(capsys) == message


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    captured = capsys.readouterr()
    assert all(name in captured.out for name in ("run", "routes", "call"))
    assert captured.err == ""


def test_the_entry_point_is_the_same_command() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"streamrt": "streamrt.cli:main"}


# Finding the app


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("", "nowhere:app", "there is no module 'nowhere' in {here} or among the installed"),
        ("", "nowhere.deep:app", "there is no module 'nowhere.deep' in {here} or among the installed"),
        ("import nowhere", "broken:app", "the module 'broken' needs 'nowhere', which is not installed"),
        ("x = (", "broken:app", "the module 'broken' fails with SyntaxError: '(' was never closed (broken.py, line 1)"),
        ("\n1 / 0", "broken:app", "the module 'broken' fails with ZeroDivisionError: division by zero (broken.py:2)"),
        ("import demo\n", "broken:app", "'app' in the module 'broken' is not an app; it has no app at all"),
        ("from demo import *\napp = 1\nother = App()", "broken:app", "'app' in the module 'broken' is not an app; its"),
        ("from demo import app as mine", "broken:app", "'app' in the module 'broken' is not an app; its apps are mine"),
        (
            "from streamrt import *\napi = Service('x')\n@api.stream_in()\ndef f(): ...",
            "broken:app",
            "the module 'broken' fails with TypeError: broken.f ({here}/broken.py:3): @stream_in needs",
        ),
    ],
)
def test_an_app_that_cannot_be_had_is_told_in_one_line(
    here: Path, source: str, target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.py").write_text(source)
    assert exit_code("routes", target) == 1
    assert complaint(capsys).startswith(message.format(here=here))


# streamrt routes


def test_routes_are_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("routes", "demo:app") == 0
    captured = capsys.readouterr()
    assert [re.split(r" {2,}", line.rstrip()) for line in captured.out.splitlines()] == [
        ["PATH", "ENDPOINT", "STREAM", "HANDSHAKE", "ACCESS"],
        ["/echo", "demo.echo", "InOut[Line, Line]", "-", "public"],
        ["/upload", "demo.upload", "In[Line] -> Total", "-", "public"],
        ["/reverse", "demo.reverse", "InOut[Line, Line]", "-", "public"],
        ["/rows", "demo.rows", "Out[Line]", "?n, header prefix", "public"],
        ["/silent", "demo.silent", "Out[Line]", "-", "public"],
        ["/the rooms/{room}", "demo.listen", "Out[list[Line]]", "?page[size]", "public auth"],
        ["/demo.quiet", "demo.quiet", "In[Line]", "-", "private"],
    ]
    assert captured.err == ""


@pytest.mark.parametrize("columns", [80, 30])
def test_a_terminal_breaks_neither_paths_nor_names(
    here: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    assert exit_code("routes", "demo:app") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("/the rooms/{room}  demo.listen") for line in lines)
    assert any(line.rstrip().endswith("public auth") for line in lines)


# streamrt call


def called(capsys: pytest.CaptureFixture[str]) -> list[object]:
    """What was printed, a JSON value each line; nothing was complained about."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


def test_lines_of_a_pipe_are_sent_and_the_response_is_printed(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with feed('{"text": "a"}\n', "\n", '{"text": "b"}\n', '{"text": "c"}'):
        assert exit_code("call", f"{server}/upload") == 0
    assert called(capsys) == [{"lines": 3}]


def test_the_end_of_a_pipe_is_the_end_of_what_the_handler_hears_and_not_of_what_it_says(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with feed('{"text": "a"}\n', '{"text": "b"}\n'):
        assert exit_code("call", f"{server}/reverse") == 0
    assert called(capsys) == [{"text": "b"}, {"text": "a"}]


def test_where_the_end_of_a_pipe_cannot_be_told_it_waits_for_the_server(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with encore() as address, feed("1", "\n", "2", "\n"):
        assert exit_code("call", f"{address}/", "--wait", "0.2") == 0
    assert called(capsys) == [1, 2]


def test_where_the_end_of_a_pipe_cannot_be_told_the_server_may_still_end_the_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with encore() as address, feed("1", "\n", "null", "\n"):
        assert exit_code("call", f"{address}/") == 0
    assert called(capsys) == [1, None]


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["http://{}/rows"], ["row 0", "row 1", "row 2"]),
        (["ws://{}/rows?n=1"], ["row 0"]),
        (["{}/rows", "--query", "n=1", "--header", "prefix=the=row"], ["the=row 0"]),
        (["{}/rows?n=0"], []),
    ],
)
def test_what_arrives_is_printed_until_the_server_ends_it(
    arguments: list[str],
    rows: list[str],
    server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with feed():
        assert exit_code("call", *(argument.format(server) for argument in arguments)) == 0
    assert called(capsys) == [{"text": row} for row in rows]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere", "not_found: endpoint not found"),
        ("", "not_found: endpoint not found"),
        ("/rows?n=x", "invalid_argument: query parameter 'n': expected an integer, got 'x'"),
        ("/the rooms/a", "unauthenticated: the request does not have valid authentication credentials"),
    ],
)
def test_a_refusal_is_told_with_its_code(
    path: str, message: str, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with feed():
        assert exit_code("call", server + path) == 1
    assert complaint(capsys) == message


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        assert exit_code("call", f"127.0.0.1:{taken.getsockname()[1]}/x") == 1
    assert complaint(capsys).startswith("unavailable: cannot connect to 127.0.0.1:")


def test_a_stream_that_ends_with_an_error_is_told_with_its_code(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with feed('{"text": "a"}\n{"text": "boom"}\n', '{"text": "late"}\n' * 1000):
        assert exit_code("call", f"{server}/echo") == 1
    captured = capsys.readouterr()
    assert captured.out == '{"text": "a"}\n'
    assert captured.err == "streamrt: not_found: no such thing\n"


@pytest.mark.parametrize("line", ["{nonsense}", "[" * 10_000, "\ud800", "1e999"])
def test_a_line_of_a_pipe_that_is_not_json_ends_the_call(
    line: str, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with feed(line, "\n"):
        assert exit_code("call", f"{server}/echo") == 1
    assert complaint(capsys).startswith("this line is not sent: ")


def test_a_pipe_waits_no_longer_than_it_is_told(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    with feed():
        assert exit_code("call", f"{server}/silent", "--wait", "0.2") == 0
    assert called(capsys) == [{"text": "and then nothing"}]


def test_a_reader_that_goes_away_ends_the_call_quietly(server: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("call", f"{server}/rows?n=100000"),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"text": "row 0"}\n'
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [("routes", "demo:app")])
def test_a_reader_that_is_not_there_is_no_error_either(here: Path, arguments: Sequence[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        command(*arguments), cwd=here, env=environment(), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


# streamrt call, at a terminal


@contextmanager
def terminal(*arguments: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command at a terminal that does not echo; the file descriptor is the human's side."""
    human, machine = pty.openpty()
    attributes = termios.tcgetattr(machine)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(machine, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        command(*arguments), env=environment(), stdin=machine, stdout=machine, stderr=machine, start_new_session=True
    )
    try:
        yield process, human
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(machine)
        os.close(human)


def read_until(human: int, text: str) -> str:
    """Return what the terminal shows, up to a text."""
    deadline = time.monotonic() + PATIENCE
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([human], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {text!r} in {shown!r}"
        shown += os.read(human, 65536).decode()
    return shown


def remainder(human: int) -> str:
    """Return what is left to read from a terminal that nobody writes to any more."""
    shown = ""
    while select.select([human], [], [], 0)[0]:
        shown += os.read(human, 65536).decode()
    return shown


@pytest.mark.slow
def test_at_a_terminal_a_wrong_line_is_told_and_the_talk_goes_on(server: str) -> None:
    with terminal("call", f"{server}/echo") as (process, human):
        os.write(human, b'{"text": "a"}\n')
        assert read_until(human, "\n") == '{"text": "a"}\r\n'
        os.write(human, b"hello\n")
        shown = read_until(human, "\n")
        assert shown.startswith("this line is not sent: Expecting value")
        assert shown.endswith(": hello\r\n")
        os.write(human, b'{"text": "b"}\n')
        assert read_until(human, "\n") == '{"text": "b"}\r\n'
        os.write(human, b"\x04")
        assert process.wait(PATIENCE) == 0
        assert remainder(human) == ""


@pytest.mark.slow
def test_at_a_terminal_the_end_of_the_input_brings_the_response(server: str) -> None:
    with terminal("call", f"{server}/upload") as (process, human):
        os.write(human, b'{"text": "a"}\n')
        os.write(human, b"\x04")
        assert read_until(human, "\n") == '{"lines": 1}\r\n'
        assert process.wait(PATIENCE) == 0
        assert remainder(human) == ""


@pytest.mark.slow
def test_at_a_terminal_the_end_of_the_input_closes_a_stream_where_it_cannot_be_told() -> None:
    with encore() as address, terminal("call", f"{address}/") as (process, human):
        os.write(human, b"1\n")
        assert read_until(human, "\n") == "1\r\n"
        os.write(human, b"\x04")
        assert process.wait(PATIENCE) == 0
        assert remainder(human) == ""


@pytest.mark.slow
def test_at_a_terminal_the_command_ends_when_the_server_ends_the_stream(server: str) -> None:
    with terminal("call", f"{server}/echo") as (process, human):
        os.write(human, b'{"text": "bye"}\n')
        assert process.wait(PATIENCE) == 0
        assert remainder(human) == ""


@pytest.mark.slow
def test_an_interrupt_ends_the_talk_quietly(server: str) -> None:
    with terminal("call", f"{server}/silent") as (process, human):
        read_until(human, "\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert remainder(human) == ""


# streamrt run


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_well(here: Path, number: signal.Signals) -> None:
    with running(here, "run", "demo:app", "--bind", "127.0.0.1:0") as (process, lines):
        wait_for(lines, URL)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert lines.empty()


@pytest.mark.slow
def test_it_listens_on_several_addresses(here: Path) -> None:
    binds = ("--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0")
    with running(here, "run", "demo:app", *binds) as (_, lines):
        assert wait_for(lines, URL) != wait_for(lines, URL)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_drain(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(here, "run", "demo:app", "--bind", "127.0.0.1:0", "--drain", "600") as (process, lines):
        address = wait_for(lines, URL)
        with terminal("call", f"{address}/silent") as (_, human):
            read_until(human, "nothing")
            process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                with feed():
                    if exit_code("call", f"{address}/rows") == 1:
                        break
            assert "unavailable: the server is shutting down" in capsys.readouterr().err
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            assert lines.empty()


def test_an_address_that_is_taken_is_told(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with running(here, "run", "demo:app", "--bind", address) as (process, lines):
            assert process.wait(PATIENCE) == 1
            line = wait_for(lines, ".*")
    assert line.startswith(f"streamrt: cannot listen on {address}: ")
    assert line.endswith("Address already in use")
    assert lines.empty()


def test_a_lifespan_that_fails_is_told_with_its_place(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "failing.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from streamrt import App\n"
        "@asynccontextmanager\n"
        "async def lifespan(nursery):\n"
        "    raise OSError('no database')\n"
        "    yield\n"
        "app = App(lifespan=lifespan)\n"
    )
    assert exit_code("run", "failing:app", "--bind", "127.0.0.1:0") == 1
    assert complaint(capsys) == "the app fails with OSError: no database (failing.py:5)"


def test_without_watchfiles_nothing_reloads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert exit_code("run", "demo:app", "--reload") == 1
    assert complaint(capsys) == "--reload needs watchfiles: pip install 'streamrt[reload]'"


@pytest.mark.slow
def test_a_change_restarts_the_server_and_a_mistake_does_not_end_it(tmp_path: Path) -> None:
    module = tmp_path / "demo.py"
    module.write_text(APP)

    def change(source: str) -> Callable[[], object]:
        # Perhaps more than once: a change before the watcher is there is no change to it.
        return lambda: module.write_text(f"# {time.monotonic_ns()}\n{source}")

    with running(tmp_path, "run", "demo:app", "--reload", "--bind", "127.0.0.1:0") as (process, lines):
        wait_for(lines, URL)
        wait_for(lines, URL, change(APP))
        wait_for(lines, r"^streamrt: the module 'demo' fails with SyntaxError", change("x = ("))
        wait_for(lines, URL, change(APP))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
