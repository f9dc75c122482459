"""The scenarios of docs/clients.md, played to the asyncio client without sockets and in virtual time."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from streamrt.codegen.runtime_asyncio import (
    Back,
    Draining,
    Gap,
    HeaderFields,
    HeadersAttempt,
    Lost,
    Reconnect,
    Recovered,
    StreamDialer,
    StreamError,
    StreamEvent,
    StreamInOut,
    StreamOptions,
    StreamOutWithResponse,
    StreamTarget,
)
from tests.codegen.asyncio_world import HIGH_WATER, FakeServer, run_in_virtual_time, settled
from tests.codegen.scenarios import Scenario, load

FILLER = {"message": "what makes the connection hold so much"}


class Play:
    """One stream, its program, and the server."""

    def __init__(self, scenario: Scenario) -> None:
        self.server = FakeServer()
        self.dialled = 0
        self.told: list[list[Any]] = []
        self.asked: list[bool] = []
        self.received: list[Any] = []
        self.rejected: list[str] = []
        self.responses: list[Any] = []
        self.is_done = False
        self.failure: StreamError | None = None
        self.reads = scenario.reads and scenario.stream != "in"
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.program: asyncio.Task[None] | None = None
        given = dict(scenario.options)
        headers = {
            None: None,
            "asked": self.ask,
            "faltering": self.falter,
            "failing": self.fail,
            "given": {"authorization": "Bearer ada"},
        }[given.pop("headers", None)]
        dialer = StreamDialer("ws://server", connect=self.server.connect, headers=headers)
        if "reconnect" in given:
            given["reconnect"] = Reconnect(**given["reconnect"])
        options: StreamOptions = {**given, "on": self.tell}  # type: ignore[typeddict-item]
        target = StreamTarget("/x", responds=True)
        self.stream: StreamInOut[Any, Any] | StreamOutWithResponse[Any, Any]
        kind = StreamOutWithResponse[Any, Any] if scenario.stream == "in" else StreamInOut[Any, Any]
        self.stream = kind(dialer, target, options)

    async def ask(self, attempt: HeadersAttempt) -> HeaderFields:
        self.asked.append(attempt.rejected)
        return {"authorization": "Bearer ada"}

    async def falter(self, attempt: HeadersAttempt) -> HeaderFields:
        headers = await self.ask(attempt)
        return await self.fail(attempt) if len(self.asked) == 2 else headers

    async def fail(self, attempt: HeadersAttempt) -> HeaderFields:
        raise LookupError("no token")

    def tell(self, event: StreamEvent) -> None:
        match event:
            case Lost(error, pause):
                self.told.append(["lost", error.code, pytest.approx(pause, abs=1e-4)])
            case Back():
                self.told.append(["back"])
            case Recovered(topic, key, recovered):
                self.told.append(["recovered", topic, key, recovered])
            case Gap(topic, key, missed):
                self.told.append(["gap", topic, key, missed])
            case Draining(within):
                self.told.append(["draining", within])

    async def run(self) -> None:
        try:
            async with self.stream:
                self.entered.set()
                await self.left.wait()
        finally:
            self.entered.set()

    async def read(self) -> None:
        assert isinstance(self.stream, StreamInOut)
        try:
            async for message in self.stream:
                self.received.append(message)
            self.is_done = True
        except StreamError as error:
            self.failure = error

    async def respond(self) -> None:
        assert isinstance(self.stream, StreamOutWithResponse)
        try:
            self.responses.append(await self.stream.response())
        except StreamError as error:
            self.rejected.append(error.code)

    async def note_rejection(self, sending: Coroutine[Any, Any, None]) -> None:
        try:
            await sending
        except StreamError as error:
            self.rejected.append(error.code)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def step(self, name: str, value: Any, rejects: str | None) -> None:
        match name:
            case "dials":
                if value["after"] > 0:
                    await asyncio.sleep(value["after"] - 0.001)
                    assert len(self.server.dialled) == self.dialled, "it is too early"
                    await asyncio.sleep(0.001)
                await settled()
                self.dialled += 1
                assert len(self.server.dialled) == self.dialled
                headers = self.server.dialled[-1][1]
                if "resume" in value:
                    assert json.loads(headers.get("streamrt-resume", "null")) == value["resume"]
                if "rejected" in value:
                    assert self.asked[-1] == value["rejected"]
                    assert len(self.asked) == value.get("asked", self.dialled)
            case "accepts":
                self.server.accept(value)
                await settled()
            case "message":
                self.server.websocket.deliver(json.dumps(value))
            case "text":
                self.server.websocket.deliver(value)
            case "control":
                self.server.websocket.deliver(json.dumps(value).encode())
            case "binary":
                self.server.websocket.deliver(value.encode())
            case "ping":
                assert self.server.websocket.heard is not None
                self.server.websocket.heard()
            case "closes":
                if self.server.is_asked:
                    self.server.refuse(OSError("nobody is there"))
                else:
                    self.server.websocket.end(*value)
                await settled()
            case "waits":
                await asyncio.sleep(value)
            case "holds":
                # It holds that much because of what it was given before.
                self.server.websocket.hold(value)
                if value > HIGH_WATER:
                    assert not isinstance(self.stream, StreamOutWithResponse)
                    await self.stream.send(FILLER["message"])
            case "sends" | "ends":
                sending = self.stream.send(value) if name == "sends" else self.stream.send_eof()
                if rejects is None:
                    self.start(self.note_rejection(sending))
                else:
                    await settled()
                    with pytest.raises(StreamError) as failed:
                        await sending
                    assert failed.value.code == rejects
            case "program":
                await self.act(value)
            case _:
                await settled()
                self.check(name, value)

    async def act(self, what: str) -> None:
        match what:
            case "close":

                async def close() -> None:
                    await self.stream.close()

                self.start(close())
            case "read":
                self.start(self.read())
            case "abort":
                assert self.program is not None
                self.program.cancel()
            case _:
                self.start(self.respond())

    def check(self, name: str, value: Any) -> None:
        match name:
            case "takes":
                assert [of for of in self.server.websocket.sent if of != FILLER] == value
                self.server.websocket.sent.clear()
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
                assert self.stream.ended is None
            case "done":
                assert self.is_done
            case "client_closes":
                [(code, _), *_] = self.server.websocket.closes
                assert value in {None, code}
            case "over":
                assert self.stream.ended is not None
                assert len(self.server.dialled) == self.dialled
                self.check_end(value)
            case _:
                pytest.fail(f"there is no step {name!r}")

    def check_end(self, expected: dict[str, Any] | None) -> None:
        assert self.stream.ended is not None
        error = self.stream.ended.error
        if expected is None:
            assert error is self.failure is None
            return
        assert error is not None
        assert {name: getattr(error, name) for name in expected} == expected
        if self.failure is not None:
            assert self.failure is error


async def play(scenario: Scenario) -> None:
    playing = Play(scenario)
    playing.program = asyncio.create_task(playing.run())
    await playing.entered.wait()
    if playing.reads:
        playing.start(playing.read())
    for step in scenario.steps:
        [(name, value), *more] = step.items()
        try:
            await playing.step(name, value, dict(more).get("rejects"))
        except BaseException as error:
            error.add_note(f"{scenario}: {scenario.when}: {json.dumps(step)[:200]}")
            raise
    playing.left.set()
    playing.server.websocket.abort() if hasattr(playing.server, "websocket") else None
    await asyncio.wait([playing.program])
    if playing.tasks:
        await asyncio.wait(playing.tasks)  # nothing that waits for a stream outlives it


@pytest.mark.parametrize("scenario", load("python-asyncio"), ids=str)
def test_the_client_does_in_each_scenario_what_it_says(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)  # a random pause is as long as it may be
    run_in_virtual_time(play(scenario))
