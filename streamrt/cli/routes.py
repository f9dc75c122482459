"""``streamrt routes``: a table of an app's streams."""

from __future__ import annotations

import re

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from streamrt.api.endpoint import Endpoint, StreamInEndpoint
from streamrt.api.signature import show
from streamrt.app import App

PIPED = 10_000
"""Columns when nobody looks: a line of a table that is read by a program is never folded."""


def print_routes(app: App) -> None:
    """Print one row for each endpoint, in the order they were declared."""
    table = Table(box=None, pad_edge=False)
    for heading in ("PATH", "ENDPOINT"):  # to be copied, so never broken
        table.add_column(heading, no_wrap=True)
    for heading in ("STREAM", "HANDSHAKE", "ACCESS"):
        table.add_column(heading, overflow="fold")
    for endpoint in app.host.endpoints:
        row = (endpoint.path, endpoint.qualified_name, _stream(endpoint), _handshake(endpoint), _access(endpoint))
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    console.width = max(console.width, Measurement.get(console, console.options.update(width=PIPED), table).minimum)
    console.print(table)


def _stream(endpoint: Endpoint) -> str:
    """Return what the handler takes and returns: ``StreamIn[Chunk] -> Stored``."""
    incoming, outgoing = (codec and _name(codec.type) for codec in (endpoint.incoming, endpoint.outgoing))
    kind = endpoint.stream_type.__name__
    if isinstance(endpoint, StreamInEndpoint):
        return f"{kind}[{incoming}]" + (f" -> {outgoing}" if outgoing else "")
    return f"{kind}[{', '.join(filter(None, (incoming, outgoing)))}]"


def _name(tp: object) -> str:
    return re.sub(r"(?:\w+\.)+(?=\w)", "", show(tp))  # without the modules


def _handshake(endpoint: Endpoint) -> str:
    """Return what a request must and may carry besides its path: ``?since``, ``header token``."""
    fields = () if endpoint.handshake is None else endpoint.handshake.fields
    texts = [
        f"?{field.wire_name}" if field.source == "query" else f"{field.source} {field.wire_name}"
        for field in fields
        if field.source != "path"
    ]
    return ", ".join(texts) or "-"


def _access(endpoint: Endpoint) -> str:
    return ("public" if endpoint.expose else "private") + (", auth" if endpoint.auth else "")
