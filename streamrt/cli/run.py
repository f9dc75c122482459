"""``streamrt run``: serve until a signal, or start again at each change."""

from __future__ import annotations

import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial

import trio

from streamrt.app import App
from streamrt.server.serve import serve

from .errors import CommandError, lone, tell

_is_address = re.compile(r"(?:.*:[0-9]{1,5}|unix:.+|fd://[0-9]+)").fullmatch


def run_app(app: App, bind: Sequence[str], drain: float) -> None:
    """Serve an app until SIGINT or SIGTERM, then drain it; a second SIGINT ends the drain.

    Raises:
        CommandError: An address cannot be bound, or the app's lifespan failed.
    """
    for address in bind:
        if not _is_address(address) or int(address.rpartition(":")[2].strip("/") or 0 if _has_port(address) else 0) > 65535:
            raise CommandError(f"an address is like 127.0.0.1:8000, not {address!r}")
    try:
        trio.run(partial(serve, app, bind, shutdown_trigger=_signalled, drain_timeout=drain))
    except BaseException as caught:
        error = lone(caught)
        if not isinstance(error, Exception):
            raise error from None
        if isinstance(error, OSError) and any(
            frame.name == "create_sockets" for frame in traceback.extract_tb(error.__traceback__)
        ):
            raise CommandError(f"cannot listen on {', '.join(bind)}: {error.strerror}") from None
        raise CommandError(f"the app failed with {tell(error)}") from error
