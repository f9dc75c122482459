"""``streamrt run``: serve until a signal, or start again at each change."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence

import trio
from hypercorn.config import Config

from streamrt.app import App
from streamrt.server.serve import serve

from .errors import CommandError, lone, tell

BROKER = "STREAMRT_BROKER"
"""The environment variable for the URL of a broker, which may have a password in it."""

WORKER = "STREAMRT_WORKER"
"""The environment variable that is set for one of several workers: a file descriptor, which ends with their parent."""

_read_address = re.compile(r"unix:.+|fd://[0-9]+|.*:(?P<port>[0-9]{1,5})").fullmatch


def connected(app: App, url: str | None) -> App:
    """Return an app with a broker at a URL; with the one that it has when there is none.

    Raises:
        CommandError: The URL is none, or coredis is not installed.
    """
    if url is not None:
        try:
            from streamrt.brokers import RedisBroker  # noqa: PLC0415 - an extra

            app.host.broker = RedisBroker(url)
        except (ModuleNotFoundError, ValueError) as error:
            raise CommandError(f"--broker: {error}") from None
    return app


def listening(bind: Sequence[str]) -> Config:
    """Return a configuration for addresses.

    Raises:
        CommandError: One is none.
    """
    for address in bind:
        parts = _read_address(address)
        if parts is None or int(parts["port"] or 0) > 65535:
            raise CommandError(f"an address is like 127.0.0.1:8000, not {address!r}")
    config = Config()
    config.bind = list(bind)
    config.errorlog = logging.getLogger("hypercorn.error")  # with all other logs, as the app has set them up
    return config


def log_to_stderr() -> None:
    """Have all logs written to standard error, unless the app has set them up."""
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] [%(levelname)s] %(name)s: %(message)s")


def run_app(app: App, bind: Sequence[str], drain: float) -> None:
    """Serve an app until SIGINT or SIGTERM, then drain it; a second one ends the drain.

    Raises:
        CommandError: An address cannot be bound, or the app's lifespan failed.
        KeyboardInterrupt: The drain was cut short.
    """
    config = listening(bind)
    log_to_stderr()
    try:
        trio.run(_serve, app, config, drain)
    except (Exception, BaseExceptionGroup) as caught:  # noqa: BLE001 - whatever the app raises
        error = lone(caught)
        if not isinstance(error, Exception):
            raise error from None
        if any(frame.name == "create_sockets" for frame in traceback.extract_tb(error.__traceback__)):
            raise CommandError(f"cannot listen on {', '.join(bind)}: {error}") from error
        raise CommandError(f"the app fails with {tell(error)}") from error


async def _serve(app: App, config: Config, drain: float) -> None:
    # Signals are taken before the server says that it runs, so that none of them ends it without a drain.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            told = trio.Event()

            async def listen() -> None:
                await anext(signals)
                told.set()
                await anext(signals)
                raise KeyboardInterrupt

            async def watch_parent(parent: int) -> None:
                await trio.lowlevel.wait_readable(parent)
                told.set()

            nursery.start_soon(listen)
            if WORKER in os.environ:
                nursery.start_soon(watch_parent, int(os.environ.pop(WORKER)))  # which is nobody else's
            await serve(app, config=config, shutdown_trigger=told.wait, drain_timeout=drain)
            nursery.cancel_scope.cancel()


def run_reloading(target: str, bind: Sequence[str], drain: float, broker: str | None) -> None:
    """Serve an app in a process of its own, which starts again when a file changes.

    Raises:
        CommandError: watchfiles is not installed.
    """
    try:
        from watchfiles import run_process  # noqa: PLC0415 - an extra
    except ImportError:
        raise CommandError("--reload needs watchfiles: pip install 'streamrt[reload]'") from None
    if broker is not None:
        os.environ[BROKER] = broker
    binds = [argument for address in bind for argument in ("--bind", address)]
    command = [sys.executable, "-m", "streamrt.cli", "run", target, *binds, "--drain", str(drain)]
    run_process(".", target=shlex.join(command), target_type="command", sigint_timeout=int(drain) + 5)
