"""Where the scenarios are played: Node and Chromium, one process of each for all tests."""

from collections.abc import Generator

import pytest

from tests.players import Player, chromium_command, need

from .app import HERE, Stage, make_stage


@pytest.fixture(scope="session")
def node() -> Generator[Player]:
    command = [need("node"), "--experimental-websocket", "--no-warnings", str(HERE / "node.mjs")]
    yield from Player.running("node", command)


@pytest.fixture(scope="session")
def chromium() -> Generator[Player]:
    yield from Player.running("chromium", chromium_command("tests.encore.chromium"))


@pytest.fixture(params=["node", pytest.param("chromium", marks=pytest.mark.slow)])
def platform(request: pytest.FixtureRequest) -> Player:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def stage() -> Stage:
    return make_stage()
