"""A stream is cancelled at every one of its checkpoints, and nothing is left behind."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from streamrt import App, Request, Service, StreamIn, StreamInOut, StreamOut, get_client
from tests.cancelling import CancelAt


@attrs.frozen
class Number:
    value: int


class Ledger:
    """What was begun and what was finished."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.begun = 0

    @asynccontextmanager
    async def entry(self, name: str) -> AsyncGenerator[None]:
        self.begun += 1
        self.open.append(name)
        try:
            yield
        finally:
            self.open.remove(name)


def representative_app(ledger: Ledger) -> App:
    service = Service("test")

    @service.stream_out()
    async def source(stream: StreamOut[Number]) -> None:
        async with ledger.entry("source"):
            for value in range(6):
                await stream.send(Number(value))
                await trio.sleep(0.01)

    @service.stream_in()
    async def sink(stream: StreamIn[Number]) -> Number:
        total = 0
        async with ledger.entry("sink"):
            async for number in stream:
                total += number.value
                if number.value == 3:
                    break
        return Number(total)

    @service.stream_in_out()
    async def both(stream: StreamInOut[Number, Number]) -> None:
        async with ledger.entry("both"), trio.open_nursery() as nursery:

            async def relay() -> None:
                async with ledger.entry("relay"), get_client().open(source) as numbers:
                    async for number in numbers:
                        await stream.send(number)

            nursery.start_soon(relay)
            async with get_client().open(sink) as total:
                async for number in stream:
                    await total.send(number)
                    if number.value == 3:
                        await stream.send(await total.response())
                        break
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def middleware(request: Request) -> AsyncGenerator[None]:
        async with ledger.entry("middleware"):
            await trio.sleep(0.01)
            yield

    @asynccontextmanager
    async def lifespan(nursery: trio.Nursery) -> AsyncGenerator[str]:
        async with ledger.entry("lifespan"):
            nursery.start_soon(trio.sleep_forever)
            yield "resources"

    return App(service, middleware=[middleware], lifespan=lifespan)


async def scenario(app: App, instrument: CancelAt) -> bool:
    """Talk to the representative handler; return whether it came to its end."""
    endpoint = next(endpoint for endpoint in app.host.endpoints if endpoint.name == "both")
    with trio.CancelScope() as scope:
        instrument.scope = scope
        async with app.client() as client, client.open(endpoint) as talk:  # type: ignore[call-overload]
            for value in range(4):
                await talk.send(Number(value))
            while await talk.receive() != Number(6):
                pass
        instrument.scope = None
    return not scope.cancelled_caught


def run_cancelled_at(step: int, caplog: pytest.LogCaptureFixture) -> bool:
    ledger = Ledger()
    instrument = CancelAt(step)

    async def main() -> bool:
        app = representative_app(ledger)
        with trio.fail_after(60):
            completed = await scenario(app, instrument)
        assert app.host.streams == 0
        return completed

    completed = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[instrument])
    assert ledger.open == []  # every `finally` has run, and trio.run has checked that no task is left
    assert [record.getMessage() for record in caplog.records] == []  # and no error went into a log
    if completed:
        assert ledger.begun == 8  # the lifespan, the middleware of three streams, three handlers, and relay
    return completed


@pytest.mark.slow
def test_cancelled_at_every_checkpoint_a_stream_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Try one checkpoint after the other, until the scenario ends before it is reached.

    And all of it several times, because Trio runs what is ready in an order of its own each time.
    """
    caplog.set_level(logging.WARNING)
    for _ in range(20):
        step = 1
        while not run_cancelled_at(step, caplog):
            step += 1
        assert step > 40
