"""The request that a stream began with: plain values, readable for as long as the stream is known."""

from __future__ import annotations

import itertools
from typing import final
from urllib.parse import parse_qsl

from attrs import field, frozen

from streamrt.wire.dialect import Headers

_ids = itertools.count()


def next_connection_id() -> int:
    """Return a number that no other stream of this process has."""
    return next(_ids)


@final
@frozen(kw_only=True)
class Request:
    """How a stream was asked for.

    Args:
        path: The path, still percent-encoded.
        query_string: What followed the ``?``, still percent-encoded.
        headers: The header lines in the order they came, names in lower case, then those of the header
            tunnel. Not shown in `repr`: they carry credentials.
        peer: Address and port of the other end; None in memory.
        endpoint: ``service.endpoint``.
        connection_id: A number that no other stream of this process has.
        dialect: The negotiated subprotocol, or None.
        transport: What carries the stream: ``"socket"`` a connection of streamrt's own, ``"asgi"`` the
            messages of another server, ``"websocket"`` a client's WebSocket, or ``"memory"``.
    """

    path: str
    query_string: str = field(default="", repr=False)
    headers: Headers = field(default=(), repr=False)
    peer: tuple[str, int] | None = None
    endpoint: str
    connection_id: int
    dialect: str | None = None
    transport: str

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's keys and values, decoded, in the order they came."""
        return parse_qsl(self.query_string, keep_blank_values=True)

    def header(self, name: str) -> str | None:
        """Return the first header of a name, whatever its case; None when there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key == wanted), None)
