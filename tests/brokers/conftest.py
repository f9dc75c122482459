"""Fixtures of tests that do something to a server: each has one of its own."""

from collections.abc import Generator

import pytest

from tests.brokers.servers import Server, running


@pytest.fixture
def server() -> Generator[Server]:
    with running("valkey") as server:
        yield server
