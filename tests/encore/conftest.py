"""Where the scenarios are played: Node and Chromium, one process of each for all tests."""

import json
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from typing import Any, final

import pytest
import trio

from .app import HERE, Stage, make_stage


@final
class Platform:
    """A process that plays scenarios.

    Args:
        name: Its name.
        command: What runs it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    async def play(self, url: str, scenario: str, *parameters: object, **options: str) -> Any:
        """Play a scenario against the server at a URL, and return what it has seen."""
        command = {"url": url, "scenario": scenario, "parameters": parameters, **options}
        answered = False
        try:
            answer = await trio.to_thread.run_sync(self._ask, json.dumps(command), abandon_on_cancel=True)
            assert answer, f"{self.name} has ended while it played {scenario!r}"
            answered = True
        finally:
            if not answered:
                self.stop()  # an answer that is still to come would be the next one's
        return json.loads(answer)

    def stop(self) -> None:
        """End the process, if there is one; the next scenario gets a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, command: str) -> str:
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(command + "\n")
        process.stdin.flush()
        return process.stdout.readline()


def _running(name: str, command: Sequence[str]) -> Generator[Platform]:
    platform = Platform(name, command)
    yield platform
    platform.stop()


@pytest.fixture(scope="session")
def node() -> Generator[Platform]:
    executable = shutil.which("node")
    if executable is None:
        pytest.skip("there is no node")
    yield from _running("node", [executable, "--experimental-websocket", "--no-warnings", str(HERE / "node.mjs")])


@pytest.fixture(scope="session")
def chromium() -> Generator[Platform]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no chromium")
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed; it is in the dependency group `clients`")
    yield from _running("chromium", [sys.executable, "-m", "tests.encore.chromium", executable])


@pytest.fixture(params=["node", pytest.param("chromium", marks=pytest.mark.slow)])
def platform(request: pytest.FixtureRequest) -> Platform:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def stage() -> Stage:
    return make_stage()
