"""What is told of the figures: tables, a report with pictures, growth, and what got slower."""

import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from rich.console import Console

from benchmarks.load import compare, growth, markdown, report
from benchmarks.load.meter import Measurement
from benchmarks.load.peers import OURS, PEERS
from benchmarks.load.results import Result, Results
from benchmarks.load.scenarios import SCENARIOS, Goal, Scenario

from .fakes import measured, result


def results(*given: Result) -> Results:
    return Results.of("python -m benchmarks.load", given)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_a_scenario_compares_streamrt_with_peers_that_take_part(scenario: Scenario) -> None:
    assert scenario.servers[0] == OURS
    assert len(scenario.servers) > (2 if scenario.over_redis else 3)
    assert {goal.peer for goal in scenario.goals} <= {*scenario.servers[1:], None}


@pytest.mark.parametrize(
    ("goal", "less_is_better", "figure", "ratio", "verdict"),
    [
        (Goal(peer="peer", ratio=3), False, 300, 3, "met"),
        (Goal(peer="peer", ratio=3), False, 299, 2.99, "missed"),
        (Goal(peer="peer", fails_below=0.85), False, 100, 1, "met"),
        (Goal(peer="peer", fails_below=0.85), False, 99, 0.99, "short"),
        (Goal(peer="peer", fails_below=0.85), False, 84, 0.84, "missed"),
        (Goal(peer="peer", enough=1000), False, 1000, 0.3, "met"),
        (Goal(peer="peer", enough=1000), False, 999, 1, "met"),
        (Goal(peer="peer", enough=1000), False, 999, 0.3, "missed"),
        (Goal(enough=32), True, 32, None, "met"),
        (Goal(enough=32), True, 33, None, "missed"),
        (Goal(peer="peer"), False, 1, None, None),
        (Goal(peer="peer"), False, None, None, None),
    ],
)
def test_a_goal_is_judged(
    goal: Goal, less_is_better: bool, figure: float | None, ratio: float | None, verdict: str | None
) -> None:
    scenario = attrs.evolve(SCENARIOS["echo-50"], less_is_better=less_is_better)
    assert scenario.judge(goal, figure, ratio) == verdict


def test_a_ratio_is_taken_within_a_round_and_is_above_1_where_streamrt_is_better() -> None:
    rounds = result(
        streamrt=[measured(100), measured(400), measured(90)], ws=[measured(50), measured(100), measured(30)]
    )
    assert rounds.ratios("ws") == [2, 4, 3]
    assert rounds.ratio("ws") == 3
    assert result("idle", streamrt=measured(10), ws=measured(30)).ratio("ws") == 3
    assert result(streamrt=measured(10), ws=measured(0)).ratio("ws") == float("inf")


def test_a_run_that_was_disturbed_does_not_count_beside_one_that_was_not() -> None:
    made = result(
        streamrt=[measured(100, waited=0.3), measured(300), measured(200, waited=0.01)],
        ws=[measured(100), measured(100), measured(50)],
    )
    assert made.figure(OURS) == 250
    assert made.ratios("ws") == [3, 4]
    assert "2 of 3 runs" in shown(made)


def test_without_a_round_that_counts_for_both_the_medians_are_compared() -> None:
    made = result(streamrt=[measured(100, waited=0.3), measured(300)], ws=[measured(100), measured(50, waited=0.3)])
    assert made.ratios("ws") == [3]


def test_a_server_that_failed_has_no_figure() -> None:
    made = Result("echo-50", 50, {OURS: [None], "ws": [None]}, {OURS: "no", "ws": "no"})
    assert made.servers == []
    assert made.figure(OURS) is None
    assert made.ratio("ws") is None
    assert set(made.verdicts().values()) == {None}


# Tables.


def shown(result: Result) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        report.show(console, result)
    return capture.get()


def test_a_table_has_the_figures_the_ratio_and_the_verdicts() -> None:
    latencies = [number / 1000 for number in range(1, 101)]
    text = shown(result(streamrt=measured(30_000, latencies=latencies), hypercorn=measured(8000)))
    assert "30,000 - 30,000" in text
    assert "3.75 x" in text
    assert "50.0" in text
    assert "met: 3 x hypercorn or more" in text
    assert "not measured: 1 x litestar or more (fails below 0.85 x)" in text


def test_figures_that_stand_beside_have_columns_of_their_own() -> None:
    text = shown(result("stalled", streamrt=measured(beside={"MiB more": 3, "cut off": 1})))
    assert text.split("cut off")[0].rstrip().endswith("MiB more")


def test_what_speaks_against_a_figure_is_told() -> None:
    text = shown(result(streamrt=measured(client=0.95), hypercorn=measured(waited=0.3), litestar=measured(client=0.9)))
    assert "95%   limited by the load generator" in text
    assert "disturbed 30%" in text
    assert text.count("limited") == 1


def test_a_scenario_with_fewer_connections_or_failures_says_so() -> None:
    made = result("idle", streamrt=measured(beside={"900": 1}), uvicorn=measured(beside={"900": 1}))
    text = shown(attrs.evolve(made, connections=900, failures={"uvicorn": "OSError: [no]"}))
    assert "only 900 connections" in text
    assert "uvicorn failed: OSError: [no]" in text


# The file, and the report.


def some() -> Results:
    def idle(*each: float) -> Measurement:
        return measured(each[-1], beside=dict(zip(("1,000", "10,000"), each, strict=True)))

    def timed(figure: float, *latencies: float) -> Measurement:
        return measured(figure, latencies=latencies, beside={"too late": 0})

    return results(
        result(streamrt=measured(200, latencies=[0.001]), ws=measured(400, latencies=[0.0005]), trio_tcp=measured(800)),
        result("echo-500", streamrt=measured(100), ws=measured(200)),
        result("fanout-20", streamrt=measured(1000), ws=measured(50)),
        result("fanout-200", streamrt=measured(1000), ws=measured(50)),
        result("fanout-2000", streamrt=measured(1000), ws=measured(0)),
        result("latency-50", streamrt=timed(2, 0.001, 0.002), ws=timed(4, 0.002, 0.004)),
        result("idle", streamrt=idle(1000, 1100), ws=idle(2000, 2200)),
        Result("chat", 500, {OURS: [None]}, {OURS: "LoadError: nothing\nat all"}),
    )


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    some().save(tmp_path / "results.json")
    back = Results.load(tmp_path / "results.json")
    back.save(tmp_path / "again.json")
    assert Results.load(tmp_path / "again.json") == back
    assert [one.ratio("ws") for one in back.results] == [one.ratio("ws") for one in some().results]
    assert json.loads((tmp_path / "results.json").read_text())["machine"]["cores"]
    assert back.versions["python"]


def test_results_stand_beside_earlier_ones_of_the_same_machine() -> None:
    earlier = results(result("chat", streamrt=measured(1)), result(streamrt=measured(1)))
    both = results(result(streamrt=measured(2))).beside(earlier)
    assert [(one.name, one.figure(OURS)) for one in both.results] == [("echo-50", 2), ("chat", 1)]
    assert both.command == "python -m benchmarks.load; python -m benchmarks.load"
    with pytest.raises(ValueError, match="another machine"):
        both.beside(attrs.evolve(earlier, versions={}))


@pytest.mark.parametrize("text", ["", "[]", '{"made": 1}'])
def test_a_file_without_results_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json has no results"):
        Results.load(tmp_path / "other.json")


@pytest.mark.slow
def test_the_report_begins_with_what_falls_short_and_has_every_figure_and_pictures_for_light_and_dark(
    tmp_path: Path,
) -> None:
    markdown.write(some(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    first, ratios, *_ = text.split("\n## ")
    assert "goals that streamrt has here" in first
    assert "**It falls short of these:**" not in first  # no peer of a goal was measured
    assert "the others do not):\n\n- echo-50: ws 2.00 x\n- echo-500: ws 2.00 x\n" in first
    assert "did not do what was asked:** streamrt in chat." in first
    assert "| scenario | ws | *trio_tcp* |" in ratios
    assert "| echo-50 | 0.50 | 0.25 |" in ratios
    assert "| fanout-2000 | ∞ |" in ratios
    assert "streamrt failed: `LoadError: nothing`" in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        f"{name}-{page}.svg" for name in ("ratios", "latency", "memory", "fanout") for page in ("light", "dark")
    }
    for path in tmp_path.glob("*.svg"):
        assert f'srcset="{path.name}"' in text or f'src="{path.name}"' in text


@pytest.mark.slow
def test_the_same_figures_make_the_same_pictures(tmp_path: Path) -> None:
    drawn: list[dict[str, bytes]] = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        markdown.write(some(), tmp_path / name)
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.svg")})
    assert drawn[0] == drawn[1]


def test_the_report_says_which_goals_are_missed(tmp_path: Path) -> None:
    markdown.write(results(result("idle", streamrt=measured(40_000, beside={"10,000": 40_000}))), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Of 1 goals that streamrt has here, 0 are met." in text
    assert "- idle: 40,000, where the goal is 32,768 bytes or less" in text


# Growth.


@pytest.mark.parametrize(
    ("points", "exponent"),
    [([(10, 5), (100, 5), (1000, 5)], 0), ([(10, 20), (100, 200)], 1), ([(2, 12), (4, 48), (8, 192)], 2)],
)
def test_an_exponent_is_the_slope_of_the_logarithms(points: Sequence[tuple[float, float]], exponent: float) -> None:
    assert growth.exponent(points) == pytest.approx(exponent)


def test_growth_is_told_of_servers_that_have_a_figure_at_every_point() -> None:
    [by_connections, by_subscribers, *_] = growth.KINDS
    [ours, theirs] = growth.grown(some(), by_connections)
    assert (ours.server, theirs.server) == (OURS, "ws")
    assert ours.points == [(50, 5000), (500, 10_000)]
    assert [one.server for one in growth.grown(some(), by_subscribers)] == [OURS]  # ws delivered nothing
    assert growth.grown(results(result()), by_connections) == []
    [memory, _] = growth.remembered(some())
    assert memory.points == [(1000, pytest.approx(0.954, 0.001)), (10_000, pytest.approx(10.49, 0.001))]


# What got slower.


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((100, 80), (100, 100), "slower"),
        ((100, 95), (100, 100), "same"),
        ((100, 80), (100, 80), "same"),  # the machine did
        ((100, 100), (100, 80), "faster"),
        ((100, 130), (100, 100), "faster"),
    ],
)
def test_a_change_is_ours_when_the_peers_did_not_change(
    ours: tuple[float, float], theirs: tuple[float, float], verdict: str
) -> None:
    before, after = (results(result(streamrt=measured(a), ws=measured(b))) for a, b in zip(ours, theirs, strict=True))
    [change] = compare.compare(before, after)
    assert change.verdict == verdict


def test_a_cost_that_grows_is_slower() -> None:
    before, after = (results(result("idle", streamrt=measured(figure))) for figure in (100, 130))
    [change] = compare.compare(before, after)
    assert change.verdict == "slower"
    assert change.ratio == pytest.approx(0.769, 0.01)


def test_runs_that_overlap_are_no_change() -> None:
    before = results(result(streamrt=[measured(100), measured(60), measured(101)]))
    after = results(result(streamrt=[measured(80), measured(79), measured(100)]))
    [change] = compare.compare(before, after)
    assert change.verdict == "same"


def test_only_what_is_in_both_is_compared() -> None:
    before = results(result(streamrt=measured()), result("chat", streamrt=measured()), result("out", ws=measured()))
    after = results(result(streamrt=measured()), result("out", ws=measured()))
    changes = compare.compare(before, after)
    assert [change.scenario for change in changes] == ["echo-50"]
    console = Console(width=150)
    with console.capture() as capture:
        compare.show(console, changes)
    assert "echo-50" in capture.get()


def test_a_peer_tells_what_it_needs() -> None:
    assert PEERS[OURS].is_installed
    assert not attrs.evolve(PEERS[OURS], needs=("there_is_no_such_module",)).is_installed
    assert PEERS["ws"].on_node
    assert not attrs.evolve(PEERS["ws"], needs=("there-is-no-such-package",)).is_installed
