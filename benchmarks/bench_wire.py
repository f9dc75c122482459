"""What it costs to turn messages into bytes and back: the codec and the frames, for three sizes of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from attrs import frozen

from benchmarks.load import wire
from benchmarks.load.stream import client_frame
from streamrt.wire.codec import codec
from streamrt.wire.frames import FrameReader, data_frame

Benchmark: TypeAlias = Callable[..., Any]
"""The fixture of pytest-benchmark: it calls a function many times."""

pytestmark = pytest.mark.parametrize("size", [wire.SMALL, 4096, 65536])

BATCH = 64
"""Messages that one read of a socket completes."""


@frozen
class Message:
    """A message of `wire`."""

    user: str
    text: str
    ts: float
    tags: list[str]


messages = codec(Message)


def test_encode(benchmark: Benchmark, size: int) -> None:
    """Write one message."""
    message = Message(**wire.flood(size))
    assert benchmark(messages.encode, message) == wire.encode(wire.flood(size))


def test_decode(benchmark: Benchmark, size: int) -> None:
    """Read one message."""
    payload = wire.encode(wire.flood(size)).decode()
    assert benchmark(messages.decode, payload) == Message(**wire.flood(size))


def test_frame(benchmark: Benchmark, size: int) -> None:
    """Put one message into a frame."""
    payload = wire.encode(wire.flood(size))
    assert benchmark(data_frame, payload) == wire.frame(payload)


def test_parse(benchmark: Benchmark, size: int) -> None:
    """Find the messages in what a client has sent."""
    payload = wire.encode(wire.flood(size))
    received = client_frame(payload) * BATCH
    reader = FrameReader(size)

    def parse() -> list[str | bytes]:
        reader.feed(received)
        return reader.read(BATCH)

    assert benchmark(parse) == [payload.decode()] * BATCH
