"""``streamrt call``: talk to a stream from a terminal or a pipe."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, final
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import trio

from streamrt.api.stream import StreamInOut
from streamrt.client.client import Client
from streamrt.errors import APIError
from streamrt.wire.dialect import STREAMRT_V1

from .errors import CommandError

_is_pair = re.compile(r"[^=]+=.*", re.DOTALL).fullmatch
_is_header = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[\t\x20-\x7e]*").fullmatch


def call_stream(url: str, query: Sequence[str], header: Sequence[str], wait: float | None) -> None:
    """Open a stream, send what is typed, print what arrives.

    Raises:
        CommandError: An argument is malformed, the stream is refused, or it ends with an error.
        BrokenPipeError: Nobody reads what is printed.
        KeyboardInterrupt: The user has had enough.
    """
    headers = dict(_pair("--header", text, _is_header) for text in header)
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        client = Client(urlunsplit((parts.scheme, parts.netloc, "", "", "")), headers=headers)
    except ValueError as error:
        raise CommandError(str(error)) from None
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *(_pair("--query", text, _is_pair) for text in query)]
    path = quote(parts.path or "/", safe="/%!$&'()*+,;=:@~")
    talk = _Talk(math.inf if wait is None else wait)
    trio.run(talk.run, client, path, pairs)
    if talk.failure is not None:
        raise talk.failure


def _pair(option: str, text: str, is_valid: Callable[[str], object]) -> tuple[str, str]:
    if not is_valid(text):
        raise CommandError(f"{option} is NAME=VALUE, not {text!r}")
    name, _, value = text.partition("=")
    return name, value


@final
class _Talk:
    """One stream between standard input and standard output.

    The first reason to stop wins: it is kept, and the rest is cancelled, so that nobody has to pick an
    error out of a group.
    """

    def __init__(self, wait: float) -> None:
        self.failure: BaseException | None = None
        self._wait = wait
        self._scope = trio.CancelScope()

    async def run(self, client: Client, path: str, query: list[tuple[str, str]]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._interrupt)
            with self._scope:  # while it connects
                try:
                    async with client.open_path(path, query=query) as stream:
                        await self._exchange(stream)
                except APIError as error:
                    self._stop(CommandError(str(error)))
            nursery.cancel_scope.cancel()

    async def _exchange(self, stream: StreamInOut[Any, Any]) -> None:
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope  # from here on, the stream is left in good order
            nursery.start_soon(self._send_lines, stream)
            try:
                async for message in stream:
                    print(json.dumps(message, ensure_ascii=False), flush=True)  # noqa: T201 - the command's output
            except (APIError, BrokenPipeError) as error:
                self._stop(CommandError(str(error)) if isinstance(error, APIError) else error)
            nursery.cancel_scope.cancel()

    async def _send_lines(self, stream: StreamInOut[Any, Any]) -> None:
        interactive = sys.stdin.isatty()
        async with aclosing(_lines()) as lines:
            async for line in lines:
                try:
                    await stream.send(json.loads(line))
                except (trio.BrokenResourceError, APIError):
                    return  # the receiving side says why
                except (ValueError, RecursionError) as error:
                    complaint = f"this line is not sent: {error}: {line.strip()[:60].decode(errors='replace')}"
                    if not interactive:
                        self._stop(CommandError(complaint))
                        return
                    print(complaint, file=sys.stderr)  # noqa: T201
        if stream.request.dialect == STREAMRT_V1:
            with suppress(trio.BrokenResourceError):  # it has ended, and the receiving side says how
                await stream.send_eof()
        elif interactive:
            self._scope.cancel()  # there is no other way to say that nothing more comes
            return
        await trio.sleep(self._wait)
        self._scope.cancel()

    async def _interrupt(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            await anext(signals)
            self._stop(KeyboardInterrupt())

    def _stop(self, failure: BaseException) -> None:
        self.failure = self.failure or failure
        self._scope.cancel()


async def _lines() -> AsyncGenerator[bytes]:
    """Yield the lines of standard input that are not blank.

    They are read past `sys.stdin`: a thread that waits in there holds its lock, and Python aborts when
    it finds that lock taken on its way out.
    """
    rest = b""
    while chunk := await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65536, abandon_on_cancel=True):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(bytes.strip, lines):
            yield line
    if rest.strip():
        yield rest
