"""A world for asyncio without sockets or time: the clock jumps when all wait, and the server is the test."""

import asyncio
import json
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from websockets.frames import Close
from websockets.protocol import State

from streamrt.codegen.runtime_asyncio import HeaderFields

R = TypeVar("R")

HIGH_WATER = 1 << 20


class JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing: the time that it was to wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits, and nothing will ever happen"
            self.now += max(0, timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is to do."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run_in_virtual_time(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine, and see that nothing of it is left, and that nothing went wrong where nobody looks."""
    problems: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        result = runner.run(main)
        assert not asyncio.all_tasks(runner.get_loop())
    assert not problems
    return result


async def settled() -> None:
    """Wait until nothing is left to do but what waits for a timer."""
    await asyncio.sleep(1e-6)


class FakeWebSocket:
    """A connection of `websockets` whose other end is the test."""

    def __init__(self, subprotocol: str | None) -> None:
        self.subprotocol = subprotocol
        self.state = State.OPEN
        self.heard: Callable[[], None] | None = None
        self.answers_pings = True
        self.holds = 0
        self.sent: list[dict[str, Any]] = []
        self.pings = 0
        self.closes: list[tuple[int, str]] = []
        self._incoming: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._closed: asyncio.Future[ConnectionClosed] = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()

    # What the client calls.

    async def recv(self) -> str | bytes:
        if self._incoming.empty():
            getter = asyncio.ensure_future(self._incoming.get())
            try:
                await asyncio.wait([getter, self._closed], return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            finally:
                getter.cancel()
            raise self._closed.result()
        return self._incoming.get_nowait()

    async def send(self, data: bytes, /, *, text: bool | None = None) -> None:
        assert self.state is State.OPEN
        self.sent.append({"message" if text else "control": json.loads(data)})
        while self.holds > HIGH_WATER and not self._closed.done():
            self._room.clear()
            await self._room.wait()
        if self._closed.done():
            raise self._closed.result()

    async def ping(self) -> Awaitable[float]:
        self.pings += 1
        if self.answers_pings and self.heard is not None:
            self.heard()
        return asyncio.get_running_loop().create_future()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self.closes.append((code, reason))
        await self.wait_closed()

    def abort(self) -> None:
        self._end(ConnectionClosedError(None, None))

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    # What the test does.

    def deliver(self, data: str | bytes) -> None:
        self._incoming.put_nowait(data)
        if self.heard is not None:
            self.heard()

    @property
    def unread(self) -> int:
        """How many messages the client has not taken."""
        return self._incoming.qsize()

    def vanish(self) -> None:
        """Be closed, before the client has heard of it."""
        self.state = State.CLOSING

    def hold(self, size: int) -> None:
        """Have so many bytes that the network does not take."""
        self.holds = size
        self._room.set()

    def end(self, code: int, reason: str) -> None:
        """Close, or with 1006 lose the connection."""
        received = None if code == 1006 else Close(code, reason)
        kind = ConnectionClosedOK if code == 1000 else ConnectionClosedError
        self._end(kind(received, None))

    def fail(self, code: int, reason: str) -> None:
        """Be closed by `websockets` itself, for what has come."""
        self._end(ConnectionClosedError(None, Close(code, reason)))

    def _end(self, how: ConnectionClosed) -> None:
        self.state = State.CLOSED
        self._room.set()
        if not self._closed.done():
            self._closed.set_result(how)


class FakeServer:
    """What a client connects to: the test answers each attempt, or lets it wait.

    Attributes:
        dialled: The URL and headers of each attempt.
        websocket: The connection that was accepted last.
    """

    websocket: FakeWebSocket

    def __init__(self) -> None:
        self.dialled: list[tuple[str, HeaderFields]] = []
        self._answers: list[asyncio.Future[FakeWebSocket | Exception]] = []

    async def connect(self, url: str, headers: HeaderFields) -> FakeWebSocket:
        self.dialled.append((url, headers))
        self._answers.append(asyncio.get_running_loop().create_future())
        answer = await self._answers[-1]
        if isinstance(answer, Exception):
            raise answer  # here, and not in the future: what follows a throw() into a coroutine escapes coverage
        return answer

    def accept(
        self, subprotocol: str | None = "streamrt.v1", kind: type[FakeWebSocket] = FakeWebSocket
    ) -> FakeWebSocket:
        """Accept the last attempt."""
        self.websocket = kind(subprotocol)
        self._answers[-1].set_result(self.websocket)
        return self.websocket

    @property
    def is_asked(self) -> bool:
        """Whether the last attempt waits for an answer."""
        return not self._answers[-1].done()

    def refuse(self, error: Exception) -> None:
        """Let the last attempt fail."""
        self._answers[-1].set_result(error)
