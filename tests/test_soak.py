"""A soak in short; `nox -s soak` is the long one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.clients import KINDS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_six_seconds_of_clients_of_all_manners_leave_nothing_behind() -> None:
    command = [sys.executable, "-m", "tests.soak.run", "--minutes", "0.1", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    visits = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+) ", done.stdout, re.MULTILINE)}
    assert all(visits[kind.__name__] > 0 for kinds in KINDS.values() for kind in kinds)
