"""The examples of the documentation are modules, and their tests pass.

A ```python block whose first line begins a module's docstring is a complete module: it is written to a file and
given to pytest, as a reader would do. All other blocks are fragments, and are not run.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULE = re.compile(r'^```python\n(""".*?)^```$', re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("document", "count"), [("README.md", 1), ("docs/guide.md", 4), ("docs/testing.md", 4)])
def test_the_examples_of_a_document_pass_their_own_tests(document: str, count: int, tmp_path: Path) -> None:
    modules = MODULE.findall((ROOT / document).read_text(encoding="utf-8"))
    assert len(modules) == count
    for number, module in enumerate(modules):
        (tmp_path / f"test_example_{number}.py").write_text(module, encoding="utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
