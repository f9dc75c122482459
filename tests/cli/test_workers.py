"""Several workers behind one port, as their users see them."""

import os
import secrets
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from streamrt import APIError, Client, Service, StreamInOut
from streamrt.cli import main
from tests.brokers import site
from tests.brokers.servers import Server, free_port
from tests.cli.test_cli import PATIENCE, URL, Lines, running, wait_for

APP = """
import os
from attrs import frozen
from streamrt import App, Service, StreamInOut, Topic

@frozen
class Said:
    by: int
    number: int

api = Service("api")
said = Topic("said", Said, backlog=100_000, backlog_bytes=1 << 30)

@api.stream_in_out("/talk", expose=True)
async def talk(stream: StreamInOut[Said, Said]) -> None:
    async with said.attach(stream):
        await stream.send(Said(os.getpid(), -1))
        async for message in stream:
            await said.publish(message)

app = App(api)
"""


@attrs.frozen
class Said:
    by: int
    number: int


@Service("api").stream_in_out("/talk", expose=True)
async def talk(stream: StreamInOut[Said, Said]) -> None:
    """Be for clients what the workers have."""


@attrs.define(eq=False)
class Voice:
    """One socket, and what it hears."""

    stream: Any
    worker: int
    heard: list[Said] = attrs.Factory(list[Said])
    error: Exception | None = None
    news: trio.Event = attrs.Factory(trio.Event)

    async def listen(self) -> None:
        try:
            async for said in self.stream:
                self.heard.append(said)
                self.tell()
        except (APIError, trio.BrokenResourceError) as error:
            self.error = error
        self.tell()

    def tell(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def has_heard(self, count: int) -> None:
        while len(self.heard) < count:
            assert self.error is None
            await self.news.wait()

    async def is_over(self) -> None:
        while self.error is None:
            await self.news.wait()


@asynccontextmanager
async def voices(address: str, count: int) -> AsyncGenerator[list[Voice]]:
    """Open so many sockets, each of which is attached when it is there."""
    client = Client(f"http://{address}")

    async def speak(task_status: trio.TaskStatus[Voice]) -> None:
        async with client.open(talk) as stream:
            voice = Voice(stream, (await stream.receive()).by)
            task_status.started(voice)
            await voice.listen()

    async with trio.open_nursery() as nursery:
        yield [await nursery.start(speak) for _ in range(count)]
        nursery.cancel_scope.cancel()


@contextmanager
def served(
    directory: Path, *arguments: str, workers: int, drain: float = 1, app: str = APP
) -> Generator[tuple[str, "subprocess.Popen[str]", Lines]]:
    (directory / "demo.py").write_text(app)
    several = ["--workers", str(workers), "--bind", "127.0.0.1:0", "--drain", str(drain)]
    with running(directory, "run", "demo:app", *several, *arguments) as (process, lines):
        addresses = {wait_for(lines, URL) for _ in range(workers)}
        assert len(addresses) == 1
        yield addresses.pop(), process, lines


@pytest.mark.slow
def test_all_workers_hear_all_messages_and_one_that_is_killed_takes_nobodys_with_it(
    tmp_path: Path, valkey: Server
) -> None:
    with served(tmp_path, "--broker", valkey.url, workers=4) as (address, process, lines):

        async def talk_and_listen() -> None:
            with trio.fail_after(90):
                async with voices(address, 400) as everyone:
                    publishers = {voice.worker: voice for voice in everyone}  # one in each worker
                    assert len(publishers) == 4

                    async def publish(by: int, numbers: range) -> None:
                        for number in numbers:
                            await publishers[by].stream.send(Said(by, number))

                    async with trio.open_nursery() as nursery:
                        for by in publishers:
                            nursery.start_soon(publish, by, range(25))
                    for voice in everyone:
                        await voice.has_heard(100)
                        for by in publishers:
                            assert [said.number for said in voice.heard if said.by == by] == list(range(25))

                    victim = everyone[0].worker
                    survivors = [voice for voice in everyone if voice.worker != victim]
                    async with trio.open_nursery() as nursery:
                        for by in publishers:
                            if by != victim:
                                nursery.start_soon(publish, by, range(25, 50))
                        os.kill(victim, signal.SIGKILL)
                    for voice in survivors:
                        await voice.has_heard(175)
                        for by in publishers:
                            expected = range(25 if by == victim else 50)
                            assert [said.number for said in voice.heard if said.by == by] == list(expected)
                    for voice in everyone:
                        if voice.worker == victim:
                            await voice.is_over()
                    await trio.to_thread.run_sync(wait_for, lines, rf"worker {victim} has ended \(signal 9\)")
                    await trio.to_thread.run_sync(wait_for, lines, URL)

                    process.send_signal(signal.SIGTERM)
                    for voice in survivors:
                        await voice.is_over()
                        assert voice.stream.ended.code == 1012

        trio.run(talk_and_listen)
        assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_members_of_a_worker_that_is_killed_leave_and_a_user_is_sent_away_in_all_workers(
    tmp_path: Path, valkey: Server
) -> None:
    options = {"lease": 3.0, "prefix": secrets.token_hex(4)}
    app = f"{Path(site.__file__).read_text(encoding='utf-8')}\napp = Site({valkey.url!r}, {options!r}).app\n"
    endpoints = site.Site(valkey.url)
    with served(tmp_path, workers=2, app=app) as (address, _process, _lines):

        def client(user: str) -> Client:
            return Client(f"http://{address}", headers={"user": user})

        async def see() -> None:
            with trio.fail_after(60):
                async with AsyncExitStack() as stack:
                    watchers = [
                        await stack.enter_async_context(client("watcher").open(endpoints.watch)) for _ in range(16)
                    ]
                    by: dict[str, int] = {}
                    streams: dict[str, Any] = {}
                    for number in range(40):
                        name = str(number)
                        streams[name] = await stack.enter_async_context(client(name).open(endpoints.join))
                        by[name] = (await streams[name].receive()).worker
                    twice = [await stack.enter_async_context(client("twice").open(endpoints.join)) for _ in range(16)]
                    everywhere = {(await stream.receive()).worker for stream in twice}
                    assert set(by.values()) == everywhere
                    victim, _survivor = sorted(everywhere)
                    there = dict.fromkeys(by, 1)
                    for watcher in watchers:
                        await is_told(watcher, {**there, "twice": 16})

                    admin = await stack.enter_async_context(client("admin").open(endpoints.ban))
                    await admin.send("twice")
                    assert (await admin.receive()).count == 16
                    for stream in twice:
                        with pytest.raises(APIError.PermissionDenied, match="banned"):
                            await stream.receive()
                    for watcher in watchers:
                        await is_told(watcher, there)

                    os.kill(victim, signal.SIGKILL)
                    staying = {name for name, worker in by.items() if worker != victim}
                    for watcher in watchers:
                        try:
                            told = await is_told(watcher, dict.fromkeys(staying, 1))
                        except (APIError, trio.BrokenResourceError):  # it was in that worker
                            continue
                        assert all(names.keys() >= staying for names in told)
                        survived.append(watcher)
                    assert 0 < len(survived) < len(watchers)

        survived: list[Any] = []
        trio.run(see)


async def is_told(watcher: Any, expected: dict[str, int]) -> list[dict[str, int]]:
    """Wait until a watcher has been told that these are there; return what it was told before."""
    told: list[dict[str, int]] = []
    while not told or told[-1] != expected:
        told.append((await watcher.receive()).names)
    return told


@pytest.mark.slow
def test_workers_do_not_outlive_their_parent(tmp_path: Path, valkey: Server) -> None:
    with served(tmp_path, "--broker", valkey.url, workers=2) as (address, process, _lines):

        async def see() -> None:
            with trio.fail_after(30):
                async with voices(address, 1) as [voice]:
                    process.kill()
                    await voice.is_over()
                    assert voice.stream.ended.code == 1012

        trio.run(see)


@pytest.mark.slow
def test_a_worker_that_fails_at_its_start_ends_all(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text(APP)
    arguments = ("run", "demo:app", "--workers", "2", "--bind", "127.0.0.1:0")
    with running(tmp_path, *arguments, "--broker", f"redis://127.0.0.1:{free_port()}") as (process, lines):
        wait_for(lines, "streamrt: the app fails with BrokerError: cannot connect to redis://127.0.0.1")
        wait_for(lines, "streamrt: a worker failed at its start, with exit code 1")
        assert process.wait(PATIENCE) == 1


@pytest.mark.slow
def test_who_interrupts_twice_ends_the_drain(tmp_path: Path, valkey: Server) -> None:
    own = APP.replace("App(api)", f"App(api, broker=RedisBroker({valkey.url!r}))")
    own = own.replace("import os", "import os\nfrom streamrt.brokers import RedisBroker")
    with served(tmp_path, app=own, workers=2, drain=60) as (address, process, _lines):

        async def see() -> None:
            with trio.fail_after(30):
                async with voices(address, 1) as [voice]:
                    process.send_signal(signal.SIGINT)
                    await voice.stream.draining.wait()
                    process.send_signal(signal.SIGINT)
                    await voice.is_over()

        trio.run(see)
        assert process.wait(PATIENCE) == 0


def test_who_reloads_has_the_broker_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr("watchfiles.run_process", lambda *_, **options: ran.append(options["target"]))
    monkeypatch.setenv("STREAMRT_BROKER", "")
    with pytest.raises(SystemExit):
        main(["run", "demo:app", "--reload", "--broker", "redis://:secret@localhost"])
    assert os.environ["STREAMRT_BROKER"] == "redis://:secret@localhost"
    [command] = ran
    assert "secret" not in command


# What is refused before anything runs.


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["run", *arguments])
    assert caught.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("broker", ["", "MemoryBroker()"])
def test_workers_whose_topics_nothing_connects_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broker: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"app_{len(broker)}"
    (tmp_path / f"{name}.py").write_text(
        "from streamrt import App, MemoryBroker, Service, Topic\n"
        "topics = [Topic('everywhere', int), Topic('only here', int, local=True)]\n"
        f"app = App(broker={broker or None})\n"
    )
    error = refused(capsys, f"{name}:app", "--workers", "2")
    assert "everywhere" in error
    assert "only here" not in error
    assert "each of 2 workers would have its own" in error
    assert "--broker redis://localhost:6379" in error
    assert "local=True" in error


@pytest.mark.parametrize("broker", ["", "MemoryBroker()"])
def test_workers_whose_users_nothing_connects_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broker: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("streamrt.cli.workers.declared_topics", list)
    name = f"users_{len(broker)}"
    (tmp_path / f"{name}.py").write_text(
        f"from streamrt import App, MemoryBroker\napp = App(broker={broker or None}, user=str)\n"
    )
    error = refused(capsys, f"{name}:app", "--workers", "2")
    assert (
        "the app tells users apart, App(user=...), and each of 2 workers would know, and disconnect, its own" in error
    )
    assert "--broker redis://localhost:6379" in error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "0"], "--workers is 1 or more, not 0"),
        (["--workers", "2", "--reload"], "--reload serves with one process"),
        (["--broker", "http://localhost"], "--broker: the URL of a broker is like redis://host:6379/0"),
        (["--workers", "2", "--bind", "nonsense"], "an address is like 127.0.0.1:8000, not 'nonsense'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("streamrt.cli.workers.declared_topics", list)
    (tmp_path / "no_topics.py").write_text("from streamrt import App\napp = App()\n")
    assert told in refused(capsys, "no_topics:app", *arguments)


def test_an_address_that_is_taken_is_refused(tmp_path: Path, valkey: Server) -> None:
    (tmp_path / "taken.py").write_text("from streamrt import App\napp = App()\n")
    address = f"127.0.0.1:{valkey.port}"
    with running(tmp_path, "run", "taken:app", "--workers", "2", "--bind", address) as (process, lines):
        wait_for(lines, f"streamrt: cannot listen on {address}: ")
        assert process.wait(PATIENCE) == 1
