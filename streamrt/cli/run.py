"""``streamrt run``: serve until a signal, or start again at each change."""

from __future__ import annotations

import logging
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

_read_address = re.compile(r"unix:.+|fd://[0-9]+|.*:(?P<port>[0-9]{1,5})").fullmatch


def run_app(app: App, bind: Sequence[str], drain: float) -> None:
    """Serve an app until SIGINT or SIGTERM, then drain it; a second one ends the drain.

    Raises:
        CommandError: An address cannot be bound, or the app's lifespan failed.
        KeyboardInterrupt: The drain was cut short.
    """
    for address in bind:
        parts = _read_address(address)
        if parts is None or int(parts["port"] or 0) > 65535:
            raise CommandError(f"an address is like 127.0.0.1:8000, not {address!r}")
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] [%(levelname)s] %(name)s: %(message)s")
    try:
        trio.run(_serve, app, bind, drain)
    except (Exception, BaseExceptionGroup) as caught:  # noqa: BLE001 - whatever the app raises
        error = lone(caught)
        if not isinstance(error, Exception):
            raise error from None
        if any(frame.name == "create_sockets" for frame in traceback.extract_tb(error.__traceback__)):
            raise CommandError(f"cannot listen on {', '.join(bind)}: {error}") from error
        raise CommandError(f"the app fails with {tell(error)}") from error


async def _serve(app: App, bind: Sequence[str], drain: float) -> None:
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")  # with all other logs, as the app has set them up
    # Signals are taken before the server says that it runs, so that none of them ends it without a drain.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def shutdown() -> None:
                await anext(signals)
                nursery.start_soon(insist)

            async def insist() -> None:
                await anext(signals)
                raise KeyboardInterrupt

            await serve(app, bind, config=config, shutdown_trigger=shutdown, drain_timeout=drain)
            nursery.cancel_scope.cancel()


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
    run_process(".", target=shlex.join(command), target_type="command", sigint_timeout=int(drain) + 5)
