"""The harness of the load scenarios: that it measures, that it notices a wrong answer, and that it cleans up."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import attrs
import pytest
from rich.console import Console
from websockets.protocol import State
from websockets.server import ServerProtocol

from benchmarks.load import __main__ as command
from benchmarks.load import client, harness, report, wire
from benchmarks.load.client import LoadError, Measurement, Server, check_upgrade, client_frame, split_frame
from benchmarks.load.harness import Outcome
from benchmarks.load.scenarios import NEEDS, OURS, SCENARIOS, Goal, Scenario

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, cores and /proc are Linux's")

ROOT = Path(__file__).parents[1]
OF_THE_TESTS = {"streamrt", "streamrt_hypercorn", "hypercorn", "websockets", "websockets_broadcast", "hypercorn_loop"}
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)


def server_frame(value: object) -> bytes:
    payload = wire.encode(value)
    assert len(payload) < 126
    return bytes([0x81, len(payload)]) + payload


MINE = server_frame(wire.message(wire.user(0)))
ANOTHERS = server_frame(wire.message(wire.user(1)))


@contextmanager
def answering(*answers: bytes, upgrade: bytes = UPGRADE) -> Generator[Server]:
    """Serve one connection: it is upgraded, and whatever comes gets the next answer."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(upgrade + b"\r\n\r\n")
            for answer in answers:
                connection.recv(4096)
                connection.sendall(answer)
            if answers[-1:] != (b"",):
                while connection.recv(4096):
                    pass

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Server(os.getpid(), listener.getsockname()[1])
        finally:
            thread.join()


TICK, TOCK = (server_frame(tick) for tick in wire.TICKS[:2])
BURST = TICK + TOCK


@contextmanager
def broadcasting(*bursts: Sequence[bytes]) -> Generator[Server]:
    """Serve two subscribers and a publisher; for each of its messages, they get the next burst, each its own."""

    def upgraded() -> socket.socket:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(UPGRADE + b"\r\n\r\n")
        return connection

    def serve() -> None:
        with upgraded() as one, upgraded() as other, upgraded() as publisher, suppress(OSError):
            for subscriber in (one, other):
                subscriber.sendall(server_frame(wire.READY))
            for parts in bursts:
                publisher.recv(len(client_frame(wire.encode({"count": 2}))), socket.MSG_WAITALL)
                for subscriber, part in zip((one, other), parts, strict=True):
                    subscriber.sendall(part)
                    if not part:
                        subscriber.shutdown(socket.SHUT_WR)
            while publisher.recv(4096):
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Server(os.getpid(), listener.getsockname()[1])
        finally:
            thread.join()


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def measured(figure: float = 1, *, busy: float = 0, waited: float = 0, latencies: Sequence[float] = ()) -> Measurement:
    return Measurement(figure, busy, waited, latencies)


# Frames.


def test_a_frame_is_the_one_of_the_rfc() -> None:
    assert client_frame(b"Hello") == bytes.fromhex("818537fa213d7f9f4d5158")  # RFC 6455, 5.7


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535])
def test_a_server_understands_a_frame_of_any_size(size: int) -> None:
    protocol = ServerProtocol(state=State.OPEN)
    protocol.receive_data(client_frame(b"x" * size))
    [frame] = protocol.events_received()
    assert getattr(frame, "data", None) == b"x" * size


@pytest.mark.parametrize("size", [0, 125, 126, 65535])
def test_a_frame_is_found_as_soon_as_it_is_whole(size: int) -> None:
    protocol = ServerProtocol(state=State.OPEN)
    protocol.send_text(b"x" * size)
    frame = b"".join(protocol.data_to_send())
    assert split_frame(frame) == (client.TEXT, b"x" * size, len(frame))
    assert split_frame(frame + b"more") == (client.TEXT, b"x" * size, len(frame))
    for length in {0, 1, 2, 3, 4, len(frame) - 1} & set(range(len(frame))):
        assert split_frame(frame[:length]) is None


@pytest.mark.parametrize("first", [b"\x01\x00", b"\xc1\x00", b"\x81\x80", b"\x81\x7f"])
def test_a_frame_in_parts_or_compressed_or_masked_or_huge_is_none_of_ours(first: bytes) -> None:
    with pytest.raises(LoadError, match="expected a whole message"):
        split_frame(first)


def test_an_upgrade_has_the_right_key_and_no_extensions() -> None:
    check_upgrade(UPGRADE)
    for wrong in (
        UPGRADE.replace(b"101", b"403"),
        UPGRADE.replace(b"s3pP", b"S3pP"),
        UPGRADE + b"\r\nSec-WebSocket-Extensions: permessage-deflate",
    ):
        with pytest.raises(LoadError, match="expected an upgrade"):
            check_upgrade(wrong)


def test_messages_have_about_100_bytes_and_all_the_same_length() -> None:
    sizes = {len(wire.encode(wire.message(wire.user(number)))) for number in (0, 7, 4999)}
    assert sizes == {len(wire.encode(wire.FLOOD))}
    assert 95 <= sizes.pop() <= 105


# What is counted has been verified.


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([ANOTHERS], "expected a text frame of"),
        ([MINE + MINE], "expected one reply to one message"),
        ([MINE, ANOTHERS], "after 15 bytes: expected b'0\",.*, got b'1\","),
        ([MINE, MINE + MINE[:10], ANOTHERS[10:]], r"after (5|15) bytes: expected b'0\",.*, got b'1\","),
        ([MINE, b""], "closed the connection"),
        ([b""], "closed the connection"),
    ],
    ids=["another's", "one too many", "another's later", "torn", "end", "early end"],
)
def test_a_wrong_reply_voids_the_measurement(answers: list[bytes], error: str) -> None:
    with answering(*answers) as server, pytest.raises(LoadError, match=error):
        client.echo(server, 1, 10, in_flight=1)


def test_a_ping_is_no_reply() -> None:
    with answering(b"\x89\x00" + MINE, b"") as server, pytest.raises(LoadError, match="closed the connection"):
        client.echo(server, 1, 10, in_flight=1)


def test_a_flood_is_compared_to_its_last_byte() -> None:
    flood = server_frame(wire.FLOOD)
    with (
        answering(upgrade=UPGRADE + b"\r\n\r\n" + flood * 2 + flood[:-1] + b"!") as server,
        pytest.raises(LoadError, match="got "),
    ):
        client.flood(server, 1, 10)


@pytest.mark.parametrize(
    ("bursts", "error"),
    [
        ([(TOCK + TICK, BURST)], "expected a text frame of"),
        ([(BURST, TOCK + TICK)], r"after \d+ bytes: expected b'0\",.*, got b'1\","),
        ([(BURST, BURST), (BURST, TICK + TICK)], r"after \d+ bytes: expected b'1\",.*, got b'0\","),
        ([(BURST, BURST), (BURST, TOCK), (BURST, BURST)], r"after \d+ bytes: expected b'0\",.*, got b'1\","),
        ([(BURST, BURST), (b"", BURST)], "closed the connection"),
        ([(BURST, BURST), (BURST, BURST), (BURST, TICK)], r"nothing has come for 0\.1 s"),
        ([(BURST, BURST), (BURST * 3, TICK)], "expected what was published, got more"),
    ],
    ids=["order", "another order", "twice", "one is missing", "end", "not to all", "too many"],
)
def test_a_message_that_does_not_reach_every_subscriber_voids_the_measurement(
    bursts: list[tuple[bytes, bytes]], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broadcasting(*bursts) as server, pytest.raises(LoadError, match=error):
        monkeypatch.setattr(client, "PATIENCE", 0.1)
        client.broadcast(server, 2, 10, burst=2)


def test_a_broadcast_counts_what_all_subscribers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[int]()

    class Window:
        measurement = measured()

        def __init__(self, server: Server, seconds: float) -> None:
            pass

        def is_over(self, done: int) -> bool:
            counted.append(done)
            return len(counted) == 4

    monkeypatch.setattr(client, "_Window", Window)
    with broadcasting(*[(BURST, BURST)] * 6) as server:
        client.broadcast(server, 2, 10, burst=2)
    assert counted == [0, 4, 8, 12]


def test_a_server_that_has_missed_a_message_is_found_out() -> None:
    with answering(server_frame({"count": 1})) as server, pytest.raises((LoadError, OSError)):
        client.count(server, 1, 0.01)


def test_a_close_with_another_code_is_no_good_handshake() -> None:
    with (
        answering(b"\x88\x02\x03\xf3") as server,
        pytest.raises(LoadError, match="expected a Close with 1000"),
    ):
        client.handshakes(server, 1, 10)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(MINE) as server, pytest.raises(LoadError, match=r"nothing has come for 0\.1 s"):
        monkeypatch.setattr(client, "PATIENCE", 0.1)
        client.echo(server, 1, 10, in_flight=1)


# The scenarios.


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_scenario_compares_streamrt_with_peers_that_take_part(scenario: Scenario) -> None:
    assert scenario.servers[0] == OURS
    assert set(scenario.servers) <= set(NEEDS)
    assert scenario.goals
    assert {goal.peer for goal in scenario.goals} <= {*scenario.servers[1:], None}


@pytest.mark.parametrize(
    ("goal", "less_is_better", "figures", "verdict"),
    [
        (Goal(peer="peer", ratio=3), False, {OURS: 300, "peer": 100}, "met"),
        (Goal(peer="peer", ratio=3), False, {OURS: 299, "peer": 100}, "missed"),
        (Goal(peer="peer", fails_below=0.85), False, {OURS: 100, "peer": 100}, "met"),
        (Goal(peer="peer", fails_below=0.85), False, {OURS: 99, "peer": 100}, "short"),
        (Goal(peer="peer", fails_below=0.85), False, {OURS: 84, "peer": 100}, "missed"),
        (Goal(peer="peer", enough=1000), False, {OURS: 1000, "peer": 3000}, "met"),
        (Goal(peer="peer", enough=1000), False, {OURS: 999, "peer": 999}, "met"),
        (Goal(peer="peer", enough=1000), False, {OURS: 999, "peer": 3000}, "missed"),
        (Goal(enough=32), True, {OURS: 32}, "met"),
        (Goal(enough=32), True, {OURS: 33}, "missed"),
        (Goal(peer="peer"), False, {OURS: 1}, None),
        (Goal(peer="peer"), False, {"peer": 1}, None),
    ],
)
def test_a_goal_is_judged_by_the_medians(
    goal: Goal, less_is_better: bool, figures: Mapping[str, float], verdict: str | None
) -> None:
    scenario = attrs.evolve(SCENARIOS["closed-50"], less_is_better=less_is_better)
    assert scenario.judge(goal, figures) == verdict


# What is told of them.


def outcome(name: str = "closed-50", **measurements: Measurement) -> Outcome:
    scenario = SCENARIOS[name]
    return Outcome(scenario, scenario.connections, {server: [run] for server, run in measurements.items()})


def shown(outcome: Outcome) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        report.show(console, outcome)
    return capture.get()


def test_a_table_has_the_figures_the_ratio_and_the_verdicts() -> None:
    latencies = [number / 1000 for number in range(101)]
    text = shown(outcome(streamrt=measured(30_000, latencies=latencies), hypercorn=measured(8000)))
    assert "30,000 - 30,000" in text
    assert "3.75 x" in text
    assert "50.00 - 99.98" in text
    assert "met: 3 x hypercorn or more" in text
    assert "not measured: 1 x litestar or more (fails below 0.85 x)" in text


def test_what_speaks_against_a_figure_is_told() -> None:
    text = shown(outcome(streamrt=measured(busy=0.95), hypercorn=measured(waited=0.3), litestar=measured(busy=0.9)))
    assert "95%   limited by the load generator" in text
    assert "disturbed 30%" in text
    assert text.count("limited") == 1


def test_a_run_that_was_disturbed_does_not_count_beside_one_that_was_not() -> None:
    made = outcome(streamrt=measured(100, waited=0.3))
    made.measurements["streamrt"] += [measured(300), measured(200, waited=0.01)]
    assert made.medians == {"streamrt": 250}
    assert "2 of 3 runs" in shown(made)


def test_a_scenario_with_fewer_connections_or_failures_says_so() -> None:
    made = outcome("idle", streamrt=measured(), uvicorn=measured())
    made.connections = 900
    made.failures["uvicorn"] = "OSError: [no]"
    text = shown(made)
    assert "only 900 connections" in text
    assert "uvicorn failed: OSError: [no]" in text


@pytest.mark.parametrize(
    ("figure", "failure", "check", "status"),
    [(1, False, False, 0), (1, False, True, 1), (9, False, True, 0), (9, True, False, 1)],
    ids=["missed", "missed and checked", "met", "failed"],
)
def test_the_exit_status_tells_failures_and_if_asked_missed_goals(
    figure: float, failure: bool, check: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = outcome(streamrt=measured(figure), hypercorn=measured())
    if failure:
        made.failures["hypercorn"] = "it did not start"

    def run(*arguments: object) -> Outcome:
        return made

    monkeypatch.setattr(harness, "run", run)
    assert command.main("closed-50", check=check) == status


@pytest.mark.parametrize(("scenario", "peers"), [("none", None), ("idle", "hypercorn,none")])
def test_a_name_that_does_not_exist_is_refused(scenario: str, peers: str | None) -> None:
    with pytest.raises(SystemExit, match="there is no 'none'; there are"):
        command.main(scenario, peers=peers)


# The real thing, as small as it can be.


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_scenario_measures_its_servers_and_leaves_none_of_them(scenario: Scenario) -> None:
    cores, before = os.sched_getaffinity(0), children()
    servers = [server for server in scenario.servers if server in OF_THE_TESTS]
    small = attrs.evolve(scenario, connections=min(scenario.connections, 5))
    outcome = harness.run(small, servers, runs=1, seconds=0.2)
    assert outcome.failures == {}
    assert list(outcome.medians) == servers
    for [run] in outcome.measurements.values():
        assert run.figure > 0 or scenario.name == "idle"  # five streams may fit into what was there
        assert run.busy > 0
        assert bool(run.latencies) == scenario.name.startswith("closed")
    assert children() == before
    assert os.sched_getaffinity(0) == cores


@pytest.mark.slow
def test_a_server_that_does_not_start_is_a_failure_that_says_why() -> None:
    before = children()
    outcome = harness.run(SCENARIOS["closed-50"], ["nothing"], runs=2, seconds=0.2)
    assert outcome.medians == {}
    assert "LoadError: the server nothing does not start" in outcome.failures["nothing"]
    assert "No module named 'benchmarks.load.servers.nothing'" in outcome.failures["nothing"]
    assert children() == before


@pytest.mark.slow
def test_a_run_that_was_disturbed_is_begun_again_but_not_for_ever() -> None:
    waits = iter([0.5, 0.01, 0.5, 0.5, 0.5])

    def load(server: Server, connections: int, seconds: float) -> Measurement:
        return measured(waited=next(waits))

    outcome = harness.run(attrs.evolve(SCENARIOS["closed-50"], load=load), ["hypercorn"], runs=2, seconds=0.2)
    assert [run.waited for run in outcome.measurements["hypercorn"]] == [0.01, 0.5]
    assert next(waits, None) is None


PY_SPY = """#!/bin/sh
for last; do :; done
echo "$0 $*" >"$last"
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("graph.svg", "flamegraph"), ("stacks.txt", "raw")])
def test_a_profile_is_of_the_server_and_does_not_tell_where_this_machine_keeps_its_files(
    name: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, loaded = children(), list[int]()
    (tmp_path / "py-spy").write_text(PY_SPY)
    (tmp_path / "py-spy").chmod(0o700)

    def load(server: Server, connections: int, seconds: float) -> Measurement:
        loaded.append(server.pid)
        return measured()

    def which(program: str, *, path: str) -> str:
        return str(tmp_path / program)

    monkeypatch.setattr(shutil, "which", which)
    harness.profile(attrs.evolve(SCENARIOS["closed-50"], load=load), 0.2, tmp_path / name)
    [pid] = loaded
    options = f"record --pid {pid} --rate 500 --duration 1 --format {shape} --output {name}\n"
    assert (tmp_path / name).read_text().endswith(options)
    assert children() == before


def test_a_profile_without_py_spy_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="a profile needs py-spy"):
        command.main("closed-50", profile=tmp_path / "graph.svg")


@pytest.mark.slow
def test_a_server_ends_by_itself() -> None:
    module = [sys.executable, "-m", "benchmarks.load.servers", "hypercorn", str(min(os.sched_getaffinity(0))), "1"]
    with subprocess.Popen(module, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        assert server.wait(timeout=60) == -signal.SIGALRM


@pytest.mark.slow
def test_the_command_writes_its_figures_to_a_file(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--runs", "1", "--seconds", "0.2", "--peers", "websockets", "--json", str(figures)]
    module = [sys.executable, "-m", "benchmarks.load", "stream-out", *options]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stream-out: " in done.stdout
    scenarios = json.loads(figures.read_text())["scenarios"]
    assert list(scenarios) == ["stream-out"]
    assert list(scenarios["stream-out"]["servers"]) == ["streamrt", "websockets"]
    assert scenarios["stream-out"]["servers"]["streamrt"]["median"] > 0
