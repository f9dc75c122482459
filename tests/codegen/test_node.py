"""Generated clients that run: in Node, against scenarios without sockets and time, and against real servers."""

import os
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import trio

from streamrt.codegen.typescript import generate_client
from tests.codegen import live, scenarios
from tests.codegen.node import HERE, need_node, node_directory
from tests.conftest import served
from tests.players import running

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client() -> Generator[str]:
    """The module of a client of the app `live`."""
    with node_directory() as directory:
        module = directory / "client.js"
        module.write_text(generate_client(live.app, "live", "javascript", "gen"))
        yield str(module)


async def run_tests(file: str, **environment: str) -> str:
    """Run tests of Node, and return what failed."""
    command = [need_node(), "--test", "--test-reporter=spec", "--test-timeout=20000", file]
    done = await trio.run_process(
        command, cwd=HERE, env={**os.environ, **environment}, capture_stdout=True, capture_stderr=True, check=False
    )
    output = done.stdout.decode() + done.stderr.decode()
    assert "tests 0" not in output
    return "" if done.returncode == 0 else output


@pytest.mark.clients
@pytest.mark.slow
async def test_the_client_does_in_each_scenario_what_it_says(client: str) -> None:
    assert await run_tests("scenarios.test.js", CLIENT=client, SCENARIOS=str(scenarios.FILE)) == ""


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["streamrt.v1", "encore-ws"])
async def test_the_client_gets_along_with_a_real_server(client: str, dialect: str) -> None:
    async with served(live.app, seconds=60) as url:
        assert await run_tests("live.test.js", CLIENT=client, URL=url, DIALECT=dialect) == ""


@pytest.mark.clients
@pytest.mark.slow
async def test_the_client_comes_back_when_the_server_was_killed(client: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = [sys.executable, "-m", "streamrt.cli", "run", "tests.codegen.live:app", "--bind", address]
    with trio.fail_after(60):
        async with running(need_node(), "returning.js", directory=HERE, CLIENT=client, URL=f"ws://{address}") as node:
            seen = lines_of(node)
            async with running(*server, directory=HERE, PYTHONPATH=str(ROOT)):
                assert await until(seen, "message 0") <= {"lost unavailable"}  # it was quicker than the server
            assert await anext(seen) == "lost unavailable"
            async with running(*server, directory=HERE, PYTHONPATH=str(ROOT)):
                assert await until(seen, "back") <= {"lost unavailable"}
                assert [line async for line in seen] == ["message 0"]
            assert await node.wait() == 0


async def lines_of(process: trio.Process) -> AsyncGenerator[str]:
    """Yield what a process prints."""
    assert process.stdout is not None
    rest = b""
    async for chunk in process.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode()


async def until(lines: AsyncGenerator[str], last: str) -> set[str]:
    """Return what was printed before a line."""
    before = set[str]()
    while (line := await anext(lines)) != last:
        before.add(line)
    return before
