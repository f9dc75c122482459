"""``streamrt call``: talk to a stream from a terminal or a pipe."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import trio

from streamrt.api.stream import StreamInOut
from streamrt.client.client import Client
from streamrt.errors import APIError
from streamrt.runtime.scopes import lone_error

from .errors import CommandError


def call_stream(url: str, query: Sequence[str], header: Sequence[str], wait: float | None) -> None:
    """Open a stream, send what is typed, print what arrives.

    Raises:
        CommandError: An argument is malformed, the stream is refused, or it ends with an error.
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *(_pair("--query", text) for text in query)]
    headers = [_pair("--header", text) for text in header]
    try:
        client = Client(urlunsplit((parts.scheme, parts.netloc, "", "", "")), headers=headers)
    except ValueError as error:
        raise CommandError(str(error)) from None
    try:
        trio.run(partial(_talk, client, parts.path or "/", pairs, math.inf if wait is None else wait))
    except APIError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        pass


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CommandError(f"{option} is NAME=VALUE, not {text!r}")
    return name, value


async def _talk(client: Client, path: str, query: list[tuple[str, str]], wait: float) -> None:
    async with client.open_path(path, query=query) as stream:
        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send_lines, stream, nursery.cancel_scope, wait)
                async for message in stream:
                    print(json.dumps(message, ensure_ascii=False), flush=True)  # noqa: T201 - the command's output
                nursery.cancel_scope.cancel()


async def _send_lines(stream: StreamInOut[Any, Any], done: trio.CancelScope, wait: float) -> None:
    interactive = sys.stdin.isatty()
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        if not line.strip():
            continue
        try:
            await stream.send(json.loads(line))
        except trio.BrokenResourceError:
            return  # the receiving side says why
        except ValueError as error:
            complaint = f"this line is not sent: {error}: {line.strip()[:60]}"
            if not interactive:
                raise CommandError(complaint) from None
            print(complaint, file=sys.stderr)  # noqa: T201
    if not interactive:
        await trio.sleep(wait)
    done.cancel()
