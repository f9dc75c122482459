"""One stream of a server: run its handler over a connection, and tell the peer how that went.

    the handler                          the peer sees
    ------------------------------------ --------------------------------------------------------
    returns                              what was sent, the response (StreamIn), Close 1000
    raises APIError                      what was sent, Close with its code and reason
    raises anything else                 what was sent, Close 1011, never the text; it is logged
    is cancelled from outside            Close 1001, at once
    is cancelled because the peer left   nothing: it has left
    is cancelled because of a drain      what was sent, Close 1012

An error never leaves a session: one stream cannot take its neighbours or its server down. Only a
cancellation does, and what is no `Exception`, such as KeyboardInterrupt.
"""

from __future__ import annotations

import logging

import trio

from streamrt.api import context
from streamrt.api.endpoint import StreamInEndpoint
from streamrt.errors import APIError
from streamrt.wire.transport import Frame, Transport

from .admission import Admitted
from .connection import Connection, Stalled
from .scopes import leaves

_logger = logging.getLogger("streamrt")


def connect(admitted: Admitted, transport: Transport, draining: trio.Event) -> Connection:
    """Create the connection that an admitted stream stands on."""
    endpoint, limits = admitted.endpoint, admitted.limits
    return Connection(
        transport,
        admitted.request,
        limits,
        draining=draining,
        side="server",
        takes_input=endpoint.incoming is not None,
        owes_response=isinstance(endpoint, StreamInEndpoint),
        grace=endpoint.disconnect_grace if limits.disconnect_grace is None else limits.disconnect_grace,
    )


async def run_session(admitted: Admitted, connection: Connection) -> None:
    """Run the handler of one stream to its end."""
    name = admitted.endpoint.qualified_name
    async with connection.open():
        try:
            await _run_handler(admitted, connection)
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                if not isinstance(rest, Exception):
                    raise
                _conclude(name, connection, rest)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its own stream only
            _conclude(name, connection, error)


async def _run_handler(admitted: Admitted, connection: Connection) -> None:
    endpoint = admitted.endpoint
    stream = endpoint.stream(connection)
    arguments = (stream,) if endpoint.handshake is None else (admitted.handshake, stream)
    context.connection_id.set(admitted.request.connection_id)
    with connection.scope:
        response = await endpoint.handler(*arguments)
        if isinstance(endpoint, StreamInEndpoint) and endpoint.outgoing is not None and connection.ended is None:
            await connection.send(Frame(endpoint.outgoing.encode(response)))


def _conclude(name: str, connection: Connection, error: Exception) -> None:
    """Decide what the peer is told, and log what it must not be told."""
    errors = [leaf for leaf in leaves(error) if not _is_aftermath(leaf, connection)]
    if not errors:
        return
    public = [leaf for leaf in errors if isinstance(leaf, APIError) and _is_for(leaf, connection)]
    told = public[0] if len(public) == len(errors) else APIError.internal()
    if isinstance(told, APIError.Internal):
        _logger.error("%s: the handler failed", name, exc_info=error)
    connection.conclude(told)


def _is_for(error: APIError, connection: Connection) -> bool:
    """Whether the peer is meant; that another's peer does not read is no matter of this one."""
    return not isinstance(error, Stalled) or error.connection is connection


def _is_aftermath(error: BaseException, connection: Connection) -> bool:
    """Whether an error only says that the stream had ended: a normal way for a handler to notice."""
    return connection.ended is not None and isinstance(error, (trio.BrokenResourceError, trio.EndOfChannel))
