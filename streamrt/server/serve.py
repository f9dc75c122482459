"""Hypercorn in Trio mode, as a function to start in a nursery."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import hypercorn.trio
import trio
from hypercorn.config import Config

from streamrt.runtime.host import Host
from streamrt.runtime.scopes import lone_error

from .asgi import Receive, Scope, Send


class Servable(Protocol):
    """An ASGI application that is run by a `Host`: an `App`."""

    @property
    def host(self) -> Host:
        """What runs it."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""


async def serve(
    app: Servable,
    bind: str | Sequence[str] | None = None,
    *,
    config: Config | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    drain_timeout: float = 10,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an app until it is cancelled, or told to shut down.

    Cancelling it closes every stream with 1001 at once. Telling it to shut down drains them first: new
    ones are refused with 503, `stream.draining` is set, and each is closed with 1012 when its share of
    `drain_timeout` is over. That is the app's drain: when several servers run one app, it is for the streams of all.

    Args:
        app: The app.
        bind: ``host:port``, or several; port 0 is a free port. Default: the config's, which by default
            is ``127.0.0.1:8000``.
        config: Anything else that hypercorn can be told: TLS, backlog, logging. It is not changed.
        shutdown_trigger: Returns when the server is to shut down. Default: it never is.
        drain_timeout: Seconds that the drain may take. Default 10.
        task_status: For `nursery.start`, which returns the URLs that are bound.

    Raises:
        OSError: An address cannot be bound.
        Exception: What the app's lifespan, or one of its background tasks, raised.

    Example:
        ```python
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(streamrt.serve, app, "127.0.0.1:0")
        ```
    """
    config = Config() if config is None else copy.copy(config)
    if bind is not None:
        config.bind = [bind] if isinstance(bind, str) else list(bind)
    # Streamrt checks the size itself, and says so to the peer and to the handler; hypercorn tells neither.
    biggest = max((limits.max_message_bytes for limits in app.host.admission.limits.values()), default=0)
    config.websocket_max_message_size = max(config.websocket_max_message_size, biggest + 1)

    async def shutdown() -> None:
        if shutdown_trigger is None:
            await trio.sleep_forever()
        else:
            await shutdown_trigger()
            await app.host.drain(drain_timeout)

    async with app.host.running():
        with app.host.served(), lone_error(), lone_error():  # hypercorn's two nurseries
            await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown, task_status=task_status)  # type: ignore[arg-type]
