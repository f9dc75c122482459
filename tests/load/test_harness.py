"""The harness of the load scenarios: that it measures, and that it cleans up."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from benchmarks.load import __main__ as command
from benchmarks.load import harness, loads, meter, relay, wire
from benchmarks.load.family import family
from benchmarks.load.meter import Measurement, Server
from benchmarks.load.peers import OURS, PEERS
from benchmarks.load.results import Result, Results
from benchmarks.load.scenarios import SCENARIOS, Scenario

from .fakes import measured, result

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, cores and /proc are Linux's")

ROOT = Path(__file__).parents[2]
INSTALLED = [peer.name for peer in PEERS.values() if peer.speech != "socket.io" and not peer.needs]
"""Those that need nothing that the tests do not have."""


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.parametrize(
    ("figure", "failure", "check", "status"),
    [(1, False, False, 0), (1, False, True, 1), (9, False, True, 0), (9, True, False, 1)],
    ids=["missed", "missed and checked", "met", "failed"],
)
def test_the_exit_status_tells_failures_and_if_asked_missed_goals(  # noqa: PLR0917
    figure: float, failure: bool, check: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = result(streamrt=measured(figure), hypercorn=measured())
    if failure:
        made = attrs.evolve(made, failures={OURS: "it did not start"})

    def run(*arguments: object) -> Result:
        return made

    monkeypatch.setattr(harness, "run", run)
    assert command.main(scenario=["echo-50"], check=check, out=tmp_path) == status


@pytest.mark.parametrize(("scenario", "peer"), [(["none*"], []), (["idle"], ["hypercorn", "none*"])])
def test_a_name_that_does_not_exist_is_refused(scenario: list[str], peer: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"there is no 'none\*'; there are"):
        command.main(scenario=scenario, peer=peer)


@pytest.mark.parametrize("quick", [False, True])
def test_scenarios_and_peers_are_chosen_by_patterns_and_a_quick_run_has_few(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: dict[str, tuple[int, float]] = {}

    def run(scenario: Scenario, servers: list[str], runs: int, seconds: float, report: object) -> Result:
        chosen[scenario.name] = runs, seconds
        assert servers == [name for name in scenario.servers if name in {OURS, "hypercorn", "websockets_trio"}]
        return result(scenario.name, streamrt=measured())

    monkeypatch.setattr(harness, "run", run)
    patterns = [] if quick else ["echo-5*", "chat"]
    assert command.main(scenario=patterns, peer=["hyper*", "websockets_trio"], quick=quick, out=tmp_path) == 0
    expected = (
        [one.name for one in SCENARIOS.values() if one.quick]
        if quick
        else ["echo-50", "echo-50-4k", "echo-50-64k", "echo-500", "chat"]
    )
    assert chosen == dict.fromkeys(expected, (1, 0.4) if quick else (3, 1))
    assert (tmp_path / "results.json").exists()
    assert (tmp_path / "README.md").exists()


def test_two_files_are_compared_and_what_got_slower_is_told_by_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "before.json", tmp_path / "after.json"
    for file, figure in zip(files, (100, 50), strict=True):
        Results.of("", [result(streamrt=measured(figure))]).save(file)
    assert command.main(compare_files=files) == 1
    assert "slower" in capsys.readouterr().out
    assert command.main(compare_files=(files[1], files[0])) == 0
    with pytest.raises(SystemExit, match=r"none\.json"):
        command.main(compare_files=(files[0], tmp_path / "none.json"))


def test_a_report_is_written_again_from_its_file(tmp_path: Path) -> None:
    Results.of("", [result(streamrt=measured())]).save(tmp_path / "figures.json")
    assert command.main(report_of=tmp_path / "figures.json", out=tmp_path / "report") == 0
    assert (tmp_path / "report" / "README.md").read_text().startswith("# streamrt beside its peers")


# The real thing, as small as it can be.


def small(scenario: Scenario) -> Scenario:
    few = loads.ROOM if scenario.name == "chat" else 2 * wire.WORKERS if scenario.over_redis else 5
    return attrs.evolve(scenario, connections=min(scenario.connections, few))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_scenario_measures_streamrt_and_leaves_no_server(scenario: Scenario) -> None:
    cores, before = os.sched_getaffinity(0), children()
    found = harness.run(small(scenario), [OURS], runs=1, seconds=0.2)
    assert found.failures == {}
    [run] = found.counted(OURS)
    assert run.figure > 0 or scenario.name == "idle"  # five streams may fit into what was there
    assert run.client > 0
    assert found.is_timed == scenario.name.startswith(("echo", "latency", "chat", "redis-latency"))
    assert children() == before
    assert os.sched_getaffinity(0) == cores


@pytest.mark.slow
@pytest.mark.parametrize("server", INSTALLED)
def test_a_server_serves_what_it_says(server: str) -> None:
    for name in ("echo-50", "out-64k", "in", "fanout-20", "chat"):
        if SCENARIOS[name].needs <= PEERS[server].serves:
            found = harness.run(small(SCENARIOS[name]), [server], runs=1, seconds=0.1)
            assert found.failures == {}
            assert found.figure(server)


@pytest.mark.slow
def test_a_server_that_does_not_start_is_a_failure_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    monkeypatch.setitem(PEERS, "nothing", attrs.evolve(PEERS[OURS], name="nothing"))
    found = harness.run(SCENARIOS["echo-50"], ["nothing"], runs=2, seconds=0.2)
    assert found.servers == []
    assert found.runs == {"nothing": [None, None]}
    assert "LoadError: the server nothing does not start" in found.failures["nothing"]
    assert "KeyError: 'nothing'" in found.failures["nothing"]
    assert children() == before


@pytest.mark.slow
def test_a_run_that_was_disturbed_is_begun_again_but_not_for_ever() -> None:
    waits = iter([0.5, 0.01, 0.5, 0.5, 0.5])

    def load(server: Server, connections: int, seconds: float) -> Measurement:
        return measured(waited=next(waits))

    found = harness.run(attrs.evolve(SCENARIOS["echo-50"], load=load), ["hypercorn"], runs=2, seconds=0.2)
    assert [run.waited for run in found.runs["hypercorn"] if run] == [0.01, 0.5]
    assert next(waits, None) is None


@pytest.mark.slow
def test_a_server_of_several_processes_is_measured_as_one_and_ends_with_all_of_them() -> None:
    scenario, processes = SCENARIOS["redis-fanout"], list[int]()
    with harness.pinned() as cores, harness.running(scenario, OURS, cores, 1) as server:
        with relay.spread(server, "/hear", wire.WORKERS):  # so that all have started
            processes += map(os.pidfd_open, family(server.pid))
        assert len(processes) == 3 + wire.WORKERS  # with the Valkey, their parent, and the leader
    for process in processes:
        assert select.select([process], [], [], 10) == ([process], [], [])  # it can be read once it is over
        os.close(process)


@pytest.mark.slow
def test_a_server_of_several_processes_ends_by_itself() -> None:
    module = [sys.executable, "-m", "benchmarks.load.servers", OURS, "0", "1", "redis"]
    output = subprocess.DEVNULL
    with subprocess.Popen(module, cwd=ROOT, stdout=output, stderr=output) as server:
        assert server.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.parametrize(("busy", "waited"), [(0.8, 0), (0.4, 0.4)], ids=["their own", "others'"])
def test_processes_that_wait_for_each_other_are_not_disturbed(
    busy: float, waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now)
    monkeypatch.setattr(meter, "family", lambda pid: [pid, pid])
    monkeypatch.setattr(meter, "_busy_seconds", lambda pid: now * busy / 2)
    monkeypatch.setattr(meter, "_idle_seconds", lambda cores: now * (len(cores) - 0.8))
    monkeypatch.setattr(meter, "_waited_seconds", lambda pid: 0)
    watched = meter.Meter(Server(os.getpid(), 0))
    now = 10.0
    measurement = watched.read(50)
    assert measurement.figure == 5
    assert measurement.server == pytest.approx(busy)
    assert measurement.waited == pytest.approx(waited)


PY_SPY = """#!/bin/sh
for last; do :; done
echo "$0 $*" >"$last"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "name", "shape"),
    [
        ("echo-50", "graph.svg", "flamegraph"),
        ("echo-50", "stacks.txt", "raw"),
        ("redis-fanout", "graph.svg", "flamegraph"),
    ],
)
def test_a_profile_is_of_the_server_and_does_not_tell_where_this_machine_keeps_its_files(
    scenario: str, name: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, loaded = children(), list[int]()
    (tmp_path / "py-spy").write_text(PY_SPY)
    (tmp_path / "py-spy").chmod(0o700)

    def load(server: Server, connections: int, seconds: float) -> Measurement:
        loaded.append(family(server.pid)[-1])  # a worker, if there are any
        return measured()

    def which(program: str, *, path: str) -> str:
        return str(tmp_path / program)

    monkeypatch.setattr(shutil, "which", which)
    harness.profile(attrs.evolve(SCENARIOS[scenario], load=load), 0.2, tmp_path / name)
    [pid] = loaded
    options = f"record --pid {pid} --rate 500 --duration 1 --format {shape} --output {name}\n"
    assert (tmp_path / name).read_text().endswith(options)
    assert children() == before


def test_a_profile_without_py_spy_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="a profile needs py-spy"):
        command.main(scenario=["echo-50"], profile=tmp_path / "graph.svg")


@pytest.mark.slow
def test_a_server_ends_by_itself() -> None:
    module = [sys.executable, "-m", "benchmarks.load.servers", "hypercorn", str(min(os.sched_getaffinity(0))), "1"]
    with subprocess.Popen(module, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        assert server.wait(timeout=60) == -signal.SIGALRM


@pytest.mark.slow
def test_the_command_measures_and_writes_its_figures_and_a_report(tmp_path: Path) -> None:
    options = "--scenario out --peer websockets_trio --runs 1 --seconds 0.2 --out".split()
    module = [sys.executable, "-m", "benchmarks.load", *options, str(tmp_path / "found")]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out: " in done.stdout
    results = json.loads((tmp_path / "found" / "results.json").read_text())
    [found] = results["results"]
    assert list(found["runs"]) == ["streamrt", "websockets_trio"]
    assert found["runs"]["streamrt"][0]["figure"] > 0
