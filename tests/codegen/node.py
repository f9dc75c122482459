"""Node, and the modules that the tests of generated clients need: those of ``node/package.json``."""

import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.players import absent, need

HERE = Path(__file__).parent / "node"
MODULES = HERE / "node_modules"


def need_node() -> str:
    """Return where Node is. Without it the test is skipped, and fails with ``STREAMRT_CLIENTS=required``."""
    if not MODULES.is_dir():
        absent("the modules of tests/codegen/node are not there: `nox -s clients` installs them")
    return need("node")


@contextmanager
def node_directory() -> Generator[Path]:
    """Make a directory for generated files; it is below the modules, where their imports are looked for."""
    need_node()
    (HERE / ".out").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HERE / ".out") as directory:
        yield Path(directory)


def run_node(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of ``tests/codegen/node``, or one of the tools among the modules."""
    return subprocess.run([need_node(), script, *arguments], cwd=HERE, capture_output=True, text=True, check=False)


def check_types(directory: Path) -> str:
    """Return what the TypeScript compiler says of the files of a directory: nothing, if all is well."""
    (directory / "tsconfig.json").write_text('{"extends": "../../tsconfig.json", "include": ["*.ts"]}')
    return run_node("node_modules/typescript/bin/tsc", "-p", str(directory)).stdout
