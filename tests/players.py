"""What plays clients: Node, Chromium, and processes that are told line by line what to do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, final

import pytest
import trio


def absent(missing: str) -> NoReturn:
    """Skip a test because something is not there; with ``STREAMRT_CLIENTS=required``, fail it."""
    if os.environ.get("STREAMRT_CLIENTS") == "required":
        pytest.fail(missing)
    pytest.skip(missing)


def need(name: str) -> str:
    """Return where a program is, or see to it that the test does not pass."""
    executable = shutil.which(name)
    if executable is None:
        absent(f"there is no {name} on PATH")
    return executable


def chromium_command(module: str) -> list[str]:
    """Return what runs a module of ours that plays in Chromium."""
    if find_spec("playwright") is None:
        absent("playwright is not installed; it is in the dependency group `clients`")
    return [sys.executable, "-m", module, need("chromium")]


@final
class Player:
    """A process that does what it is told: a line of JSON in for each thing, and one out when that is done.

    Args:
        name: Its name.
        command: What runs it.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def running(cls, name: str, command: Sequence[str]) -> "Generator[Player]":
        """Yield one, and stop it in the end: a fixture."""
        player = cls(name, command)
        yield player
        player.stop()

    async def play(self, url: str, scenario: str, *parameters: object, **options: str) -> Any:
        """Play a scenario against the server at a URL, and return what it has seen."""
        return await self.ask({"url": url, "scenario": scenario, "parameters": parameters, **options})

    async def ask(self, command: Mapping[str, object]) -> Any:
        """Have something done, and return the answer."""
        answered = False
        try:
            answer = await trio.to_thread.run_sync(self._ask, json.dumps(command), abandon_on_cancel=True)
            assert answer, f"{self.name} has ended while it did {command}"
            answered = True
        finally:
            if not answered:
                self.stop()  # an answer that is still to come would be the next one's
        return json.loads(answer)

    def stop(self) -> None:
        """End the process, if there is one; the next thing is done by a new one."""
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


@asynccontextmanager
async def running(
    *command: str, directory: Path, stderr: int | None = None, **environment: str
) -> AsyncGenerator[trio.Process]:
    """Run a process, whose output can be read, and kill it at the end of the block."""
    everything = {**os.environ, **environment}
    process = await trio.lowlevel.open_process(
        command, cwd=directory, env=everything, stdout=subprocess.PIPE, stderr=stderr
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):  # it is dead: this takes no time
            await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()
