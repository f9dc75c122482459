"""``streamrt run``: serve until a signal, or start again at each change."""

from __future__ import annotations

import signal
import subprocess  # noqa: S404 - the reloader runs this same program
import sys
from collections.abc import Sequence
from functools import partial

import trio

from streamrt.app import App
from streamrt.server.serve import serve

from .errors import CommandError


def run_app(app: App, bind: Sequence[str], drain: float) -> None:
    """Serve an app until SIGINT or SIGTERM, then drain it.

    Raises:
        CommandError: An address cannot be bound.
    """
    try:
        trio.run(partial(serve, app, bind, shutdown_trigger=_signalled, drain_timeout=drain))
    except OSError as error:
        raise CommandError(f"cannot listen on {', '.join(bind)}: {error}") from None


async def _signalled() -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


def run_reloading(target: str, bind: Sequence[str], drain: float) -> None:
    """Serve an app in a process of its own, which starts again when a file changes.

    Raises:
        CommandError: watchfiles is not installed.
    """
    try:
        from watchfiles import run_process  # noqa: PLC0415 - an extra
    except ImportError:
        raise CommandError("--reload needs watchfiles: pip install 'streamrt[reload]'") from None
    binds = [argument for address in bind for argument in ("--bind", address)]
    command = [sys.executable, "-m", "streamrt.cli", "run", target, *binds, "--drain", str(drain)]
    run_process(".", target=subprocess.list2cmdline(command), target_type="command")
