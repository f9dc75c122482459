"""``streamrt run --workers``: several processes that serve one app, at the same addresses.

The parent binds the addresses and serves nothing; each worker is a ``streamrt run`` of its own, which is given the
sockets. Hypercorn has workers too, and they are not used, because of what it does when one of them ends: after a crash
it ends all others, and on shutdown it kills those that still drain as soon as the first is done.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from typing import final

import trio

from streamrt.app import App
from streamrt.runtime.broker import MemoryBroker
from streamrt.runtime.scopes import lone_error
from streamrt.runtime.topic import declared_topics

from .errors import CommandError
from .load import load_app
from .run import BROKER, WORKER, connected, listening, log_to_stderr

_AT_ONCE = 5
"""Seconds in which a worker that fails has failed at the start, and the next one would too."""

_FAREWELL = 10
"""Seconds that a worker may take longer than its drain: for closing handshakes, and the app's lifespan."""

_logger = logging.getLogger("streamrt")


def run_workers(target: str, bind: Sequence[str], drain: float, workers: int, broker: str | None) -> None:
    """Serve an app with several processes until SIGINT or SIGTERM, then drain all of them; a second one ends the drain.

    A worker that ends meanwhile is replaced.

    Raises:
        CommandError: An address cannot be bound, the app has topics or users and no broker, or a worker fails at its
            start.
    """
    app = connected(load_app(target), broker)  # so that what is wrong with it is told once
    _check_connected(app, workers)
    config = listening(bind)
    log_to_stderr()
    with ExitStack() as stack:
        try:
            sockets = config.create_sockets().insecure_sockets
            for socket in sockets:
                stack.enter_context(socket)
                socket.listen(config.backlog)
        except OSError as error:
            raise CommandError(f"cannot listen on {', '.join(bind)}: {error}") from error
        alive, parent = os.pipe()
        stack.callback(os.close, alive)
        stack.callback(os.close, parent)
        descriptors = [socket.fileno() for socket in sockets]
        binds = [argument for descriptor in descriptors for argument in ("--bind", f"fd://{descriptor}")]
        command = [sys.executable, "-m", "streamrt.cli", "run", target, *binds, "--drain", str(drain)]
        environment = {**os.environ, WORKER: str(alive)}
        if broker is not None:
            environment[BROKER] = broker
        trio.run(_Workers(command, environment, [*descriptors, alive], drain).run, workers)


def _check_connected(app: App, workers: int) -> None:
    if app.host.broker is not None and not isinstance(app.host.broker, MemoryBroker):
        return
    shared = [topic.name for topic in declared_topics() if not topic.local]
    if shared:
        raise CommandError(
            f"there are topics ({', '.join(shared)}), and each of {workers} workers would have its own, which others "
            "do not hear: name what connects them, --broker redis://localhost:6379, or declare them as local=True"
        )
    if app.host.admission.user is not None:
        raise CommandError(
            f"the app tells users apart, App(user=...), and each of {workers} workers would know, and disconnect, its "
            "own streams only: name what connects them, --broker redis://localhost:6379"
        )


@final
class _Workers:
    """Processes that run one command.

    Args:
        command: What they run.
        environment: Of all of them.
        descriptors: What they inherit.
        drain: Seconds that their drain takes.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int], drain: float
    ) -> None:
        self._command = command
        self._environment = environment
        self._descriptors = descriptors
        self._drain = drain
        self._processes: set[trio.Process] = set()
        self._ending = trio.Event()

    async def run(self, workers: int) -> None:
        """Run so many until a signal, and then wait for them."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on, signals, nursery.cancel_scope)
                try:
                    with lone_error():
                        async with trio.open_nursery() as running:
                            for _ in range(workers):
                                running.start_soon(self._keep_one)
                finally:
                    nursery.cancel_scope.cancel()

    async def _end_on(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        while True:
            await anext(signals)
            self._ending.set()
            for process in self._processes:
                process.terminate()
            scope.deadline = min(scope.deadline, trio.current_time() + self._drain + _FAREWELL)

    async def _keep_one(self) -> None:
        while True:
            begin = trio.current_time()
            # In a group of its own: a terminal sends its signals to us alone, and a worker takes a second for a hurry.
            process = await trio.lowlevel.open_process(
                self._command, env=self._environment, pass_fds=self._descriptors, start_new_session=True
            )
            self._processes.add(process)
            try:
                code = await process.wait()
            finally:
                self._processes.discard(process)
                if process.poll() is None:
                    process.kill()
            if self._ending.is_set():
                return
            if code > 0 and trio.current_time() - begin < _AT_ONCE:  # it was not killed
                raise CommandError(f"a worker failed at its start, with exit code {code}")
            _logger.error("worker %d has ended (%s); another takes its place", process.pid, _how(code))


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
