"""The seam between a stream and what carries it: one abstract class, and a pair of them in memory.

Everything above this file is the same for a socket that streamrt owns, for plain ASGI, for
trio-websocket and for memory. The rules that every transport keeps:

- incoming messages are `str` when they came as text and `bytes` when they came as binary, in batches:
  all that one read of the carrier completed;
- what comes in is delivered (`Receiver`), or asked for where a carrier cannot do that (`PullTransport`);
- one task receives and one task sends, at the same time; `close` comes after the last `send`, and
  `wait_closed` after the last `receive`;
- the end is a `Disconnected` with the peer's close code, and it comes after everything that arrived before it;
- a transport answers the peer's Close by itself;
- `abort` always works, at once, from any state, and may be called again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeAlias, final

import trio

from streamrt.errors import CloseCode

from .backlog import Backlog
from .frames import binary_frame, data_frame

Payload: TypeAlias = str | bytes
"""One incoming message, as it came: text or binary."""


def payload_size(payload: Payload) -> int:
    """Return the bytes of a message on the wire; for text, of its UTF-8."""
    if isinstance(payload, bytes) or payload.isascii():
        return len(payload)
    return len(payload.encode("utf-8", "surrogatepass"))


@final
class Frame:
    """One message on its way out: encoded once, and brought into a carrier's form once.

    The same object goes to every stream that gets the message.
    """

    __slots__ = ("_message", "_wire", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload: bytes = payload
        self._message: Payload | None = None
        self._wire: bytes | None = None

    @classmethod
    def ready(cls, wire: bytes) -> Frame:
        """Create one from its bytes on the wire: a Ping or Pong, or several messages at once."""
        frame = cls(wire)
        frame._wire = wire
        return frame

    @classmethod
    def control(cls, payload: bytes) -> Frame:
        """Create a control of the dialect, which goes out as binary and is never compressed."""
        frame = cls(payload)
        frame._message = payload
        frame._wire = binary_frame(payload)
        return frame

    @property
    def is_ready(self) -> bool:
        """Whether it is not one message, but what goes over the wire as it is."""
        return self._wire is self.payload or self._message is self.payload

    def __len__(self) -> int:
        return len(self.payload)

    @property
    def message(self) -> Payload:
        """The message for carriers that are no sockets: text as `str`, and a control as `bytes`."""
        if self._message is None:
            self._message = self.payload.decode()
        return self._message

    @property
    def wire(self) -> bytes:
        """The message as a WebSocket frame, for carriers that are sockets."""
        if self._wire is None:
            self._wire = data_frame(self.payload)
        return self._wire


@final
class Batch:
    """Messages that go out together, to many streams; for sockets they are joined once."""

    __slots__ = ("_wire", "announced", "frames")

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames: Sequence[Frame] = frames
        self.announced: Batch | None = None
        """The same with the positions of its messages, for those who are told them."""
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """All of them as WebSocket frames, for carriers that are sockets."""
        if self._wire is None:
            self._wire = b"".join([frame.wire for frame in self.frames])
        return self._wire


@final
class Disconnected(Exception):
    """The other end has closed, or is gone.

    Args:
        code: Its close code; 1005 when its Close had none, 1006 when no Close came.
        reason: Its close reason.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code: int = int(code)
        self.reason: str = reason


class Receiver(Protocol):
    """What a transport delivers to: plain calls, which never wait."""

    def deliver(self, payloads: Sequence[Payload]) -> int:
        """Take a batch, all of it; return how many messages more there is room for.

        When that is none, nothing may be delivered until `Transport.allow` is called.
        """
        ...

    def answer(self, frame: Frame) -> bool:
        """Send a control frame between the messages, if there is room for it; return whether there was."""
        ...

    def moved(self) -> None:
        """Note that the peer has made room for some of what is being sent."""
        ...

    def fail(self, code: int, reason: str) -> None:
        """End the stream, because the peer has broken a rule of the carrier."""
        ...

    def lost(self, gone: Disconnected) -> None:
        """Note that the peer is gone; what it had sent may still be delivered."""
        ...

    def finish(self) -> None:
        """Note that nothing is delivered any more."""
        ...


class Transport(ABC):
    """Carries the messages of one stream."""

    __slots__ = ()

    name: ClassVar[str]
    """What carries the stream, for `stream.request.transport`, logs and metrics."""

    @abstractmethod
    def attach(self, receiver: Receiver) -> None:
        """Begin to deliver."""

    def allow(self, room: int) -> None:
        """Go on delivering: there is room again, for so many messages."""

    @property
    def round_trip_time(self) -> float | None:
        """Seconds that the last ping took; None where there was none."""
        return None

    def send_nowait(self, frame: Frame) -> bool:
        """Send one message if the carrier takes all of it this instant; return whether it did.

        The caller sees to it that nothing is queued before it. When it is refused, it may have gone out in part: it
        is the first of the next `send`, unless the stream ends before.
        """
        return False

    def send_batch_nowait(self, batch: Batch) -> Sequence[Frame]:
        """Send as many messages as the carrier takes this instant; return what is left of them.

        As for `send_nowait`, nothing is queued before them, and the first that is left is the first of the next `send`.
        """
        for count, frame in enumerate(batch.frames):
            if not self.send_nowait(frame):
                return batch.frames[count:]
        return ()

    @abstractmethod
    async def send(self, frames: Sequence[Frame]) -> None:
        """Send messages in order, and wait until the carrier has taken them.

        After a cancelled send the transport is fit for `close` and `abort` only, and `close` may have nothing
        to say: a message that is out in part is never followed by another.

        Raises:
            Disconnected: The peer closed or vanished.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Send a Close behind what was sent; does nothing when one was sent, or the peer is gone."""

    @abstractmethod
    async def wait_closed(self) -> None:
        """Throw away what still comes in, until the peer's Close or its end."""

    @abstractmethod
    def abort(self, code: int, reason: str) -> None:
        """Let go of the carrier at once. Safe to repeat, and after `close`.

        A Close goes out before it if none has, and if that takes no waiting.
        """


class PullTransport(Transport):
    """A carrier that cannot deliver by itself, but is asked.

    It calls nothing of its receiver but `lost`, when it learns that the peer is gone although nobody asks: a stream
    whose receive channel is full would not learn it otherwise.
    """

    __slots__ = ()

    @property
    def heard(self) -> float:
        """When the peer was last heard, by Trio's clock, where the carrier sees more of it than `receive` tells."""
        return -math.inf

    def attach(self, receiver: Receiver) -> None:
        """Note whom to tell; see `Transport.attach`. By default, a carrier learns nothing unless it is asked."""

    @abstractmethod
    async def receive(self) -> Sequence[Payload]:
        """Wait for the next batch, at least one message.

        Raises:
            Disconnected: The peer closed or vanished, and everything it sent was received.
        """


_PIPE_MESSAGES = 64
_PIPE_BYTES = 64 * 1024
"""What is under way between two memory transports: about what the kernel holds for a loopback socket."""


class _Pipe:
    """One direction of a memory pair: what is under way, and how it ended."""

    __slots__ = ("closed", "messages", "receiver", "stalled")

    def __init__(self) -> None:
        self.messages: Backlog[Payload] = Backlog(_PIPE_MESSAGES, _PIPE_BYTES, payload_size)
        self.closed: Disconnected | None = None
        self.stalled: trio.Event | None = None
        self.receiver: Receiver | None = None

    def close(self, code: int, reason: str) -> None:
        if self.closed is None:
            self.closed = Disconnected(code, reason)
            self.messages.close()
            self.resume()
            if self.receiver is not None:
                self.receiver.lost(self.closed)

    def resume(self) -> None:
        if self.stalled is not None:
            self.stalled.set()
            self.stalled = None


@final
class MemoryTransport(PullTransport):
    """One end of a pair in memory: see `memory_transports`."""

    __slots__ = ("_incoming", "_outgoing")

    name = "memory"

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def receive(self) -> Sequence[Payload]:
        """Wait for the next batch; see `Transport.receive`."""
        messages = self._incoming.messages
        while not messages:
            if self._incoming.closed is not None:
                self._outgoing.close(self._incoming.closed.code, "")  # the answer to a Close
                raise Disconnected(self._incoming.closed.code, self._incoming.closed.reason)
            await messages.filled()
        return messages.take_batch()

    def attach(self, receiver: Receiver) -> None:
        """Tell the receiver when the other end closes; see `PullTransport`."""
        self._incoming.receiver = receiver

    def send_nowait(self, frame: Frame) -> bool:
        """Send one message if it fits; see `Transport.send_nowait`."""
        return self._offer(frame.message)

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send messages, waiting for room; see `Transport.send`."""
        for frame in frames:
            await self.send_payload(frame.message)

    async def send_payload(self, payload: Payload) -> None:
        """Send one message as text or as binary."""
        pipe = self._outgoing
        while not self._offer(payload):
            if self._incoming.closed is not None:
                raise Disconnected(self._incoming.closed.code, self._incoming.closed.reason)
            if pipe.closed is not None:
                raise trio.ClosedResourceError("this end has sent its Close")
            await (pipe.messages.room() if pipe.stalled is None else pipe.stalled.wait())

    def _offer(self, payload: Payload) -> bool:
        pipe = self._outgoing
        if pipe.closed is not None or pipe.stalled is not None or self._incoming.closed is not None:
            return False
        return pipe.messages.offer(payload)

    async def close(self, code: int, reason: str) -> None:
        """Send a Close; see `Transport.close`."""
        self._outgoing.close(code, reason)
        self._incoming.messages.recheck()  # whoever sends from the other end is told

    async def wait_closed(self) -> None:
        """Read on until the other end has closed too; see `Transport.wait_closed`."""
        while self._incoming.closed is None:
            self._incoming.messages.take_batch()
            await self._incoming.messages.filled()

    def abort(self, code: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        """Let go; see `Transport.abort`. By default the other end sees a lost connection."""
        self._outgoing.close(code, reason)
        self._incoming.close(CloseCode.ABNORMAL, "")

    def stall(self) -> None:
        """Take nothing more from the other end, like a peer that stops reading, until `resume`."""
        if self._incoming.stalled is None and self._incoming.closed is None:
            self._incoming.stalled = trio.Event()

    def resume(self) -> None:
        """Go on taking."""
        self._incoming.resume()


def memory_transports() -> tuple[MemoryTransport, MemoryTransport]:
    """Create two transports that are connected with each other.

    Each direction holds 64 messages and 64 KiB; beyond, `send` waits until the other end receives.
    """
    one, other = _Pipe(), _Pipe()
    return MemoryTransport(one, other), MemoryTransport(other, one)
