"""The scenarios of ``docs/clients.md``, played to the Trio client in virtual time; the server is the test."""

import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from streamrt import (
    APIError,
    Back,
    Client,
    Draining,
    Gap,
    HeadersAttempt,
    Lost,
    Reconnect,
    Recovered,
    Service,
    StreamEvent,
    StreamIn,
    StreamInOut,
    StreamOutWithResponse,
)
from streamrt.errors import error_from_close
from streamrt.wire.dialect import RESUME
from tests.codegen.scenarios import Scenario, load

from .world import Dialled, World

NO_SCRIPT = {4400: 1002}
"""A browser's script may not close with 1002, so the table says what it closes with instead."""

service = Service("scenarios")


@service.stream_in("/x")
async def upload(stream: StreamIn[Any]) -> Any:
    """Never run: the test is the server."""


class Play:
    """One stream and its program."""

    def __init__(self, scenario: Scenario, nursery: trio.Nursery) -> None:
        options = dict(scenario.options)
        headers = {
            "asked": self.ask,
            "faltering": self.falter,
            "failing": self.fail,
            "given": {"authorization": "Bearer ada"},
        }
        self.uploads = scenario.stream == "in"
        self.reads = scenario.reads and not self.uploads
        self.world = World()
        self.client = Client.over(
            self.world,
            headers=headers.get(options.pop("headers", "")),  # type: ignore[arg-type]
            connect_timeout=options.pop("connect_timeout", 10),
        )
        if "reconnect" in options:
            options["reconnect"] = Reconnect(**options["reconnect"])
        self.options = options
        self.nursery = nursery
        self.scope = trio.CancelScope()
        self.entered, self.leaving = trio.Event(), trio.Event()
        self.dials = 0
        self.asked: list[bool] = []
        self.told: list[list[Any]] = []
        self.received: list[Any] = []
        self.responses: list[Any] = []
        self.rejected: list[str] = []
        self.early: list[Any] = []
        self.done = self.said_eof = False
        self.failure: Exception | None = None
        self.stream: StreamInOut[Any, Any] | StreamOutWithResponse[Any, Any] | None = None
        nursery.start_soon(self.program)

    # The program.

    async def ask(self, attempt: HeadersAttempt) -> Mapping[str, str]:
        self.asked.append(attempt.rejected)
        return {"authorization": "Bearer ada"}

    async def falter(self, attempt: HeadersAttempt) -> Mapping[str, str]:
        headers = await self.ask(attempt)
        return await self.fail(attempt) if len(self.asked) == 2 else headers

    async def fail(self, attempt: HeadersAttempt) -> Mapping[str, str]:
        raise RuntimeError("no token")

    def on(self, event: StreamEvent) -> None:
        match event:
            case Lost(error, pause):
                self.told.append(["lost", error.code, pytest.approx(pause)])
            case Back():
                self.told.append(["back"])
            case Recovered(topic, key, recovered):
                self.told.append(["recovered", topic, key, recovered])
            case Gap(topic, key, missed):
                self.told.append(["gap", topic, key, missed])
            case Draining(within):
                self.told.append(["draining", within])

    async def program(self) -> None:
        opened: Any = (
            self.client.open(upload, **self.options, on=self.on)
            if self.uploads
            else self.client.open_path("/x", **self.options, on=self.on)
        )
        with self.scope:
            try:
                async with opened as self.stream:
                    for message in self.early:
                        await self.stream.send(message)
                    self.entered.set()
                    if self.reads:
                        self.nursery.start_soon(self.read)
                    await self.leaving.wait()
            except APIError as error:
                self.failure = error

    async def read(self) -> None:
        assert isinstance(self.stream, StreamInOut)
        with suppress(trio.ClosedResourceError):
            try:
                async for message in self.stream:
                    self.received.append(message)
                self.done = True
            except APIError as error:
                self.failure = error

    async def respond(self) -> None:
        await self.entered.wait()
        assert isinstance(self.stream, StreamOutWithResponse)
        try:
            self.responses.append(await self.stream.response())
        except APIError as error:
            self.rejected.append(error.code)

    async def attempt(self, what: str, message: Any) -> str | None:
        """Send a message, or the end; return the code of what that raises."""
        if self.stream is None:
            self.early.append(message)
            return None
        try:
            await (self.stream.send(message) if what == "sends" else self.stream.send_eof())
        except trio.ClosedResourceError:
            return "failed_precondition" if self.said_eof else "canceled"
        except trio.BrokenResourceError:
            assert self.stream.ended is not None
            error = error_from_close(self.stream.ended.code, self.stream.ended.reason)
            return None if error is None else error.code
        except APIError as error:
            return error.code
        self.said_eof |= what == "ends"
        return None

    # The steps.

    @property
    def server(self) -> Dialled:
        return self.world.dialled[self.dials - 1]

    async def step(self, name: str, value: Any, rejects: str | None) -> None:
        await wait_all_tasks_blocked()
        match name:
            case "dials":
                await self.expect_dial(value)
            case "accepts":
                self.server.accept(value)
            case "message":
                await self.server.ours.send_payload(json.dumps(value, separators=(",", ":")))
            case "text":
                await self.server.ours.send_payload(value)
            case "control":
                await self.server.ours.send_payload(json.dumps(value).encode())
            case "binary":
                await self.server.ours.send_payload(value.encode())
            case "ping":
                self.server.carrier.heard = trio.current_time()
            case "closes":
                await self.server.end(*value)
            case "waits":
                await trio.sleep(value)
            case "holds":
                (self.server.ours.stall if value > 1 << 20 else self.server.ours.resume)()
            case "sends" | "ends":
                assert await self.attempt(name, value) == rejects
            case "program":
                await self.act(value)
            case "takes":
                assert await self.server.taken() == (value, None)
            case "receives":
                assert self.received == value
                self.received.clear()
            case "responds":
                assert self.responses == [value]
            case "rejected":
                assert self.rejected == value
                self.rejected.clear()
            case "told":
                assert self.told == value
                self.told.clear()
                assert self.stream is None or self.stream.ended is None or self.stream.ended.by == "handler"
            case "done":
                assert self.done
            case "client_closes":
                self.leaving.set()  # by then the Close is out
                _, gone = await self.server.taken()
                assert gone is not None
                assert gone.code == (1001 if value is None else NO_SCRIPT.get(value, value))
            case "over":
                assert len(self.world.dialled) == self.dials
                self.expect_end(value)
            case _:
                pytest.fail(f"there is no step {name!r}")

    async def expect_dial(self, value: Any) -> None:
        if value["after"]:
            await trio.sleep(value["after"] - 0.001)
            assert len(self.world.dialled) == self.dials, "it is too early"
            await trio.sleep(0.002)
            await wait_all_tasks_blocked()
        self.dials += 1
        assert len(self.world.dialled) == self.dials
        if "resume" in value:
            resume = dict(self.server.target.headers).get(RESUME)
            assert (None if resume is None else json.loads(resume)) == value["resume"]
        if "rejected" in value:
            assert len(self.asked) == value.get("asked", self.dials)
            assert self.asked[-1] == value["rejected"]

    async def act(self, what: str) -> None:
        match what:
            case "close":
                assert self.stream is not None
                self.nursery.start_soon(self.stream.aclose)
            case "abort":
                self.scope.cancel()
            case "read":
                self.done = False
                self.nursery.start_soon(self.read)
            case _:
                self.nursery.start_soon(self.respond)

    def expect_end(self, expected: Any) -> None:
        ended = None if self.stream is None else self.stream.ended
        if expected is None:
            assert ended is not None
            assert (ended.code, self.failure) == (1000, None)
            return
        if self.scope.cancel_called:
            assert ended is None or ended.by == "scope"
            assert expected == {"code": "canceled", "close_code": None}
            return
        error = self.failure
        if error is None:
            assert ended is not None
            error = error_from_close(ended.code, ended.reason)
        if ended is not None:
            if expected["close_code"] is None:
                assert ended.by != "peer"
            else:
                assert ended.code == expected["close_code"]
        for name, value in expected.items():
            assert name == "close_code" or getattr(error, name) == value


@pytest.mark.parametrize("scenario", load("python"), ids=str)
async def test_the_client_does_in_each_scenario_what_it_says(
    scenario: Scenario, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 1.0)
    async with trio.open_nursery() as nursery:
        play = Play(scenario, nursery)
        for number, step in enumerate(scenario.steps):
            [(name, value)] = [(name, value) for name, value in step.items() if name != "rejects"]
            try:
                await play.step(name, value, step.get("rejects"))
            except AssertionError as error:
                error.add_note(f"{scenario}: {scenario.when}: step {number}: {step}")
                raise
        nursery.cancel_scope.cancel()
