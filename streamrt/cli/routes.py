"""``streamrt routes``: a table of an app's streams."""

from __future__ import annotations

import re

from rich.console import Console
from rich.table import Table

from streamrt.api.endpoint import Endpoint, StreamInEndpoint
from streamrt.api.signature import show
from streamrt.app import App

HEADINGS = ("PATH", "ENDPOINT", "STREAM", "HANDSHAKE", "ACCESS")
BROKEN = ("STREAM", "HANDSHAKE")
"""The columns that a narrow terminal may break, between words: the others are there to be copied."""

PIPED = 10_000
"""Columns when nobody looks: a line of a table that is read by a program is never folded."""


def print_routes(app: App) -> None:
    """Print one row for each endpoint, in the order they were declared."""
    rows = [
        (endpoint.path, endpoint.qualified_name, _stream(endpoint), _handshake(endpoint), _access(endpoint))
        for endpoint in app.host.endpoints
    ]
    columns = [(heading, *texts) for heading, *texts in zip(HEADINGS, *rows, strict=True)]
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    gaps = 2 * (len(HEADINGS) - 1)
    is_narrow = console.width < gaps + sum(max(map(len, column)) for column in columns)
    table = Table(box=None, pad_edge=False)
    widths: list[int] = []
    for column in columns:
        pieces = " ".join(column).split() if is_narrow and column[0] in BROKEN else column
        widths.append(max(map(len, pieces)))
        table.add_column(column[0], width=widths[-1])
    for row in rows:
        table.add_row(*row)
    console.width = max(console.width, gaps + sum(widths))  # what does not fit at all, the terminal breaks
    console.print(table)


def _stream(endpoint: Endpoint) -> str:
    """Return what the handler takes and returns: ``In[Chunk] -> Stored``."""
    incoming, outgoing = (codec and _name(codec.type) for codec in (endpoint.incoming, endpoint.outgoing))
    kind = endpoint.stream_type.__name__.removeprefix("Stream")
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
    return ("public" if endpoint.expose else "private") + (" auth" if endpoint.auth else "")
