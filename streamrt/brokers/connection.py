"""One connection to a server. This file alone knows coredis, and what it must not be left to do by itself.

- It is coredis's connection that is used, and neither its pool nor its pub/sub: those connect again by themselves, and
  what was published meanwhile is then missing without a word. A connection here has one life, and its end is a `Lost`.
- What is pushed waits in a buffer of coredis that has no bound. So it is taken out as soon as it is there, all of it,
  and until it has been handed on, coredis reads nothing more (`pausing`): then it waits in the socket, and the server.
- coredis's errors come in groups and in layers. Out of here come `Lost` and `Refused`, with one reason.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, cast, final

import anyio
import trio
from attrs import field, frozen
from coredis.connection import TCPConnection, TCPLocation
from coredis.exceptions import (
    AskError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from streamrt.runtime.scopes import leaves

Place: TypeAlias = tuple[str, int]
"""Host and port."""


class Lost(Exception):
    """A connection is over, or cannot be had; its text is the reason."""


class Refused(Exception):
    """A server has done nothing of what it was asked; its text is the reason."""


@final
class Elsewhere(Refused):
    """What was asked for is no longer the business of this server."""


@final
class NoScript(Refused):
    """The server has forgotten a script."""


class Command(Protocol):
    """What can be asked; so much of what coredis calls a request as its connection looks at."""

    @property
    def name(self) -> bytes:
        """The first word."""
        ...

    @property
    def serialized_arguments(self) -> Sequence[bytes]:
        """The others."""
        ...

    @property
    def decode(self) -> None:
        """Answers are bytes."""
        ...


@final
@frozen
class Ask:
    """A command that is known as a whole."""

    name: bytes
    serialized_arguments: Sequence[bytes] = ()
    decode: None = None


@final
@frozen(kw_only=True)
class Options:
    """How to connect.

    Args:
        username: None for that of the password alone.
        password: None where none is needed.
        db: Number of the database.
        tls: None for connections that are not encrypted.
        timeout: Seconds until a server that says nothing counts as none.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None
    timeout: float = 10


_is_ours: ContextVar[bool] = ContextVar("streamrt.brokers.connection", default=False)


def _is_not_ours(_record: logging.LogRecord) -> bool:
    return not _is_ours.get()


# coredis logs each attempt that fails, with its traceback; the broker says it once.
logging.getLogger("coredis").addFilter(_is_not_ours)


class _Wire(TCPConnection):
    """A connection of coredis, and the things of it that only a subclass can reach."""

    async def pushed(self) -> list[list[Any]]:
        """Wait for something that is pushed; return all that has been."""
        buffer = self._push_message_buffer_out
        pushed = [cast("list[Any]", await buffer.receive())]
        while self._push_message_buffer_in.statistics().current_buffer_used:
            pushed.append(cast("list[Any]", buffer.receive_nowait()))
        return pushed

    def release(self) -> None:
        """Close what coredis leaves open when it has not been connected."""
        for stream in (
            self._write_buffer_in,
            self._write_buffer_out,
            self._push_message_buffer_in,
            self._push_message_buffer_out,
            self._streamed_message_buffer_in,
            self._streamed_message_buffer_out,
        ):
            stream.close()

    @property
    def last_error(self) -> BaseException | None:
        """Why it has ended."""
        return self._last_error


@final
class Connection:
    """One connection, from `run` to its end.

    Args:
        place: Where to.
        options: How.
    """

    def __init__(self, place: Place, options: Options) -> None:
        self.place: Place = place
        self._timeout = options.timeout
        self._budget = anyio.CapacityLimiter(1)
        self._wire = _Wire(
            TCPLocation(*place),
            username=options.username,
            password=options.password,
            db=options.db,
            ssl_context=options.tls,
            processing_budget=self._budget,
        )

    def __str__(self) -> str:
        host, port = self.place
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def bytes_read(self) -> int:
        """How much has come in."""
        return self._wire.statistics.bytes_read

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be connected until cancelled.

        Raises:
            Lost: The connection cannot be made, or has ended.
        """
        _is_ours.set(True)
        patience = trio.CancelScope(relative_deadline=self._timeout)
        try:
            async with trio.open_nursery() as nursery:
                with patience:
                    await nursery.start(self._wire.run)
                task_status.started()
        except (Exception, BaseExceptionGroup) as caught:
            if any(not isinstance(leaf, (Exception, trio.Cancelled)) for leaf in leaves(caught)):
                raise
            await trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC120 - coredis puts an error in the place of that
            reason = f"no answer within {self._timeout:g} s" if patience.cancel_called else _reason(caught)
            raise Lost(f"{self}: {reason}") from None
        finally:
            self._wire.release()
        raise self._lost()

    def _lost(self) -> Lost:
        error = self._wire.last_error
        return Lost(f"{self}: {'the connection was closed' if error is None else _reason(error)}")

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Have commands carried out, in their order and with one round trip; return the answers.

        An answer is a `Refused` where the server refuses. Cancelled, the connection is over, and what was done is not
        known.

        Raises:
            Lost: The connection is over. What was done is not known.
        """
        try:
            batch = self._wire.create_request_batch(cast("Any", commands))
        except RedisError:
            raise self._lost() from None
        answers: list[Any] = await batch
        return [self._read(answer) if isinstance(answer, BaseException) else answer for answer in answers]

    async def ask_one(self, name: bytes, *arguments: bytes) -> Any:
        """Have a command carried out.

        Raises:
            Lost: The connection is over.
            Refused: The server refuses.
        """
        [answer] = await self.ask([Ask(name, arguments)])
        if isinstance(answer, Refused):
            raise answer
        return answer

    def say(self, name: bytes, *arguments: bytes) -> None:
        """Have a command carried out whose answer is pushed.

        Raises:
            Lost: The connection is over.
        """
        try:
            self._wire.send_command(name, *arguments)
        except RedisError:
            raise self._lost() from None

    async def pushed(self) -> list[list[Any]]:
        """Wait for something that is pushed; return all that has been.

        Raises:
            Lost: The connection is over.
        """
        try:
            return await self._wire.pushed()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise self._lost() from None

    @asynccontextmanager
    async def pausing(self) -> AsyncGenerator[None]:
        """Read nothing that is pushed for as long as the block lasts."""
        await self._budget.acquire_on_behalf_of(self)
        try:
            yield
        finally:
            self._budget.release_on_behalf_of(self)

    def _read(self, error: BaseException) -> Refused:
        text = f"{self}: {error}"
        match error:
            case NoScriptError():
                return NoScript(text)
            case AskError() | TryAgainError() | ClusterDownError() | ReadOnlyError():
                return Elsewhere(text)
            case ResponseError() if "READONLY" in text:  # from inside of a script, before 7.0
                return Elsewhere(text)
            case ResponseError():
                return Refused(text)
            case _:
                raise self._lost()


def _reason(error: BaseException) -> str:
    """Return what is at the bottom of an error."""
    error = next(leaf for leaf in leaves(error) if isinstance(leaf, Exception))
    while error.__cause__ is not None:
        error = next(leaves(error.__cause__))
    return str(error) or "the connection was closed"  # by the other end, which has no text
