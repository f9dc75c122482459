"""The cases of the Autobahn TestSuite, played to a real server by kosoku.

They are what RFC 6455 and RFC 7692 ask of a server, as 517 short conversations: framing, fragments, control frames,
UTF-8, closing, large messages (9) and compression (12, 13). The server is `echo.py`, in a process of its own for each
group of cases; as many groups run side by side as there are cores.

    nox -s conformance                             # all of them: three to four minutes on two cores
    nox -s conformance -- 7.1.5                    # one case, with the frames that went back and forth
    nox -s conformance -- '6.4.*' 5.15             # some, likewise
    nox -s conformance -- --reports conformance    # all, and kosoku's own reports, JSON and HTML, are kept there

Without nox it is `python -m tests.conformance.run` in the root of the repository, with the dependency group
``conformance`` installed. It fails when a case fails or is not implemented, when one that is not in `NON_STRICT` passes
only non-strictly, when a group has not the cases that it should have, and when the time is over: nothing outlives
`DEADLINE`.

Reading what kosoku says: a timed case (9, 12, 13) that "did not finish within 480 seconds" may have ended early, for
the text stands for any end but the right one. kosoku lets go of the connection as soon as it has seen a Close each
way, its own answer to the server's Close is never sent, and it does not look at who closes TCP.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import cyclopts
import trio
from attrs import frozen
from rich.console import Console
from rich.table import Table

from streamrt.runtime.scopes import lone_error

DEADLINE = 600
"""Seconds that a run may take: three times what it needs on two cores."""

NON_STRICT = {
    **dict.fromkeys(
        ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
        "a violation ends the stream at once: it does not wait for the echo of the message before it",
    ),
    **dict.fromkeys(
        ("6.4.3", "6.4.4"),
        "text is looked at when its frame is whole, and so a wrong byte is not found before the rest of the frame",
    ),
}
"""Cases that may pass non-strictly, as the RFC allows, each with its reason."""

_VERDICTS = ("passed", "non-strict", "informational", "unimplemented", "failed")
_ROOT = Path(__file__).parents[2]
_KOSOKU = Path(sysconfig.get_path("scripts"), "kosoku")


@final
@frozen
class Group:
    """Cases that have a server of their own.

    Args:
        patterns: Their ids, or globs such as ``12.1.*``.
        count: How many they are; None when somebody chose them.
        at_once: How many of them run at the same time.
    """

    patterns: tuple[str, ...]
    count: int | None = None
    at_once: int = 1

    def __str__(self) -> str:
        return ", ".join(self.patterns)


# One case keeps one core busy, the server and kosoku in turn; only those of the first group mostly wait. The longest
# groups begin early, so that no core is left with one of them at the end.
GROUPS = (
    Group(tuple(f"{number}.*" for number in (1, 2, 3, 4, 5, 6, 7, 10)), 247, at_once=4),
    *(Group((f"12.{number}.*",), 18) for number in (2, 5, 3, 4, 1)),
    *(Group((f"13.{number}.*",), 18) for number in (1, 2, 3, 4, 5, 6, 7)),
    Group(("9.*",), 54),
)


@final
@frozen
class Case:
    """What kosoku found in one case.

    Args:
        id: Such as ``7.1.5``.
        verdict: One of "passed", "non-strict", "informational", "unimplemented" and "failed".
        says: Why, in kosoku's words.
        seconds: How long it took.
        log: What went over the wire; empty where that would be too much.
    """

    id: str
    verdict: str
    says: str
    seconds: float
    log: Sequence[object]

    @classmethod
    def from_report(cls, report: dict[str, Any]) -> "Case":
        """Read kosoku's report of one case."""
        behavior, closing = report["behavior"], report["behaviorClose"]
        verdicts = {"OK": "passed", "NON-STRICT": "non-strict"}
        verdict = verdicts.get(behavior, behavior.lower())
        if verdict not in _VERDICTS or closing not in ("OK", "INFORMATIONAL"):
            verdict = "failed"  # "ERROR" too: no connection, or kosoku itself stumbled over an answer
        says = f"{behavior}: {report['result']} Closing {closing}: {report['resultClose']}"
        return cls(report["id"], verdict, says, report["duration"] / 1000, report["wirelog"])


async def run_groups(groups: Iterable[Group], reports: Path) -> dict[Group, list[Case]]:
    """Run groups, in their order, as many side by side as there are cores.

    Args:
        groups: The groups.
        reports: A directory for kosoku's reports.

    Returns:
        The cases of each group that came to its end before the deadline.

    Raises:
        RuntimeError: The server does not start, or kosoku does not run.
    """
    found: dict[Group, list[Case]] = {}
    pending = iter(groups)

    async def work() -> None:
        for group in pending:  # all workers take from the same iterator
            found[group] = await run_group(group, reports / group.patterns[0].strip(".*"))

    with trio.move_on_after(DEADLINE), lone_error():
        async with trio.open_nursery() as nursery:
            for _ in range(os.cpu_count() or 1):
                nursery.start_soon(work)
    return found


async def run_group(group: Group, reports: Path) -> list[Case]:
    """Run a group against a server of its own; Trio ends both processes, whatever happens.

    Args:
        group: The group.
        reports: A directory for kosoku's reports.

    Returns:
        Its cases.

    Raises:
        RuntimeError: The server does not start, or kosoku does not run.
    """
    command = [sys.executable, "-m", "tests.conformance.echo"]
    with lone_error():
        async with trio.open_nursery() as nursery:
            serve = partial(trio.run_process, command, cwd=_ROOT, stdout=subprocess.PIPE, check=False)
            server: trio.Process = await nursery.start(serve)
            url = await read_line(server)
            options = ["--parallelism", str(group.at_once), "--outdir", str(reports)]
            options += [option for pattern in group.patterns for option in ("--include", pattern)]
            kosoku = await trio.run_process(
                [_KOSOKU, *options, url], capture_stdout=True, capture_stderr=True, check=False
            )
            nursery.cancel_scope.cancel()
    if not (reports / "index.json").exists():
        raise RuntimeError(f"kosoku does not run {group}: {kosoku.stderr.decode().strip()}")
    index = json.loads((reports / "index.json").read_text())
    files = [case["reportfile"] for agent in index.values() for case in agent.values()]
    cases = [Case.from_report(json.loads((reports / file).read_text())) for file in files]
    return sorted(cases, key=lambda case: [int(number) for number in case.id.split(".")])


async def read_line(process: trio.Process) -> str:
    """Return the first line that a process writes.

    Raises:
        RuntimeError: It ends without one.
    """
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        data = await process.stdout.receive_some()
        if not data:
            raise RuntimeError("the server has not started; what it wrote is above")
        line += data
    return line.decode().strip()


def find_faults(groups: Iterable[Group], found: dict[Group, list[Case]]) -> list[str]:
    """Say what must not be; see the top of this file."""
    faults: list[str] = []
    for group in groups:
        if group not in found:
            faults.append(f"{group}: not at its end after {DEADLINE} s")
        elif group.count not in (None, len(found[group])):
            faults.append(f"{group}: {len(found[group])} cases, not {group.count}")
        for case in found.get(group, ()):
            if case.verdict in ("failed", "unimplemented"):
                faults.append(f"{case.id} {case.says}")
            elif case.verdict == "non-strict" and case.id not in NON_STRICT:
                faults.append(f"{case.id} is non-strict, which NON_STRICT does not explain")
    return faults


def tabulate(cases: Iterable[Case], took: float) -> Table:
    """Count the cases by the first number of their ids, and by verdict."""
    table = Table(box=None, padding=(0, 2, 0, 0))  # 80 columns take it
    for heading in ("cases", *_VERDICTS, "seconds"):
        table.add_column(heading, justify="right")
    counts: Counter[tuple[int, str]] = Counter()
    seconds: defaultdict[int, float] = defaultdict(float)
    for case in cases:
        number = int(case.id.split(".")[0])
        counts[number, case.verdict] += 1
        seconds[number] += case.seconds
    for number in sorted(seconds):
        table.add_row(str(number), *(str(counts[number, verdict]) for verdict in _VERDICTS), f"{seconds[number]:.1f}")
    totals = (sum(counts[number, verdict] for number in seconds) for verdict in _VERDICTS)
    table.add_row("all", *map(str, totals), f"{took:.1f}")
    return table


def main(*cases: str, reports: Path | None = None) -> None:
    """Play the cases of the Autobahn TestSuite to streamrt.

    Args:
        *cases: Ids, or globs such as '6.4.*'. Default: all.
        reports: A directory in which kosoku's reports are kept. Default: they are not.
    """
    groups = [Group(cases)] if cases else GROUPS
    console = Console(markup=False, highlight=False, soft_wrap=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found = trio.run(run_groups, groups, reports or Path(temporary))
    ran = [case for group in groups for case in found.get(group, ())]
    for case in ran if cases else ():
        console.print(f"{case.id} {case.verdict}. {case.says}")
        for entry in case.log:
            console.print(f"    {entry}")
    console.print(tabulate(ran, time.monotonic() - began))
    faults = find_faults(groups, found)
    for fault in faults:
        console.print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    cyclopts.run(main)
