"""``streamrt routes``: a table of an app's streams."""

from __future__ import annotations

import rich
from rich.table import Table

from streamrt.api.endpoint import Endpoint
from streamrt.api.signature import show
from streamrt.app import App
from streamrt.wire.codec import Codec


def print_routes(app: App) -> None:
    """Print one row for each endpoint, in the order they were declared."""
    table = Table(box=None, pad_edge=False)
    for heading in ("PATH", "ENDPOINT", "KIND", "ACCESS", "HANDSHAKE", "IN", "OUT"):
        table.add_column(heading, overflow="fold")
    for endpoint in app.host.endpoints:
        table.add_row(
            endpoint.path,
            endpoint.qualified_name,
            endpoint.decorator,
            _access(endpoint),
            _handshake(endpoint),
            _type(endpoint.incoming),
            _type(endpoint.outgoing),
        )
    rich.print(table)


def _access(endpoint: Endpoint) -> str:
    return ("public" if endpoint.expose else "private") + (", auth" if endpoint.auth else "")


def _handshake(endpoint: Endpoint) -> str:
    if endpoint.handshake is None:
        return "-"
    return ", ".join(f"{field.source} {field.wire_name}" for field in endpoint.handshake.fields) or "-"


def _type(codec: Codec[object] | None) -> str:
    return "-" if codec is None else show(codec.type)
