"""What comes into a stream: its receive channel, filled by a transport that delivers, or by a task that asks one.

Who fills it keeps to the room that there is: a transport that has been told of none delivers nothing until it is
allowed to again, and the task waits.

Where both ends speak ``streamrt.v1``, binary frames are controls (`wire.control`). They are taken out here, so that
nobody else knows of them, and obeyed at once, except for what is about the messages of a topic: that has to wait until
those have been received, and so stands in the channel behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, final

import trio

from streamrt.api.limits import Limits
from streamrt.errors import APIError, CloseCode
from streamrt.wire.backlog import Backlog
from streamrt.wire.control import BrokenControl, Drain, End, Failure, Gap, Notice, Position, read_control
from streamrt.wire.transport import Disconnected, Frame, Payload, PullTransport, Transport, payload_size

from .whereabouts import Whereabouts
from .writer import Writer

_TURN = 64
"""Messages that may be delivered at once where they are thrown away."""


class Owner(Protocol):
    """Whose messages they are."""

    draining: trio.Event

    def fail(self, code: int, reason: str) -> None:
        """End the stream, because the peer has broken a rule."""
        ...

    def lost(self, gone: Disconnected) -> None:
        """Note that the peer is gone."""
        ...


@final
class Reader:
    """The way in: a `Receiver`, which hands on what does not concern it.

    Args:
        owner: The stream.
        writer: Its way out, for what the transport itself has to send.
        transport: What carries it.
        limits: Its limits.
        side: Which end this is.
        controls: Whether both speak ``streamrt.v1``.
        takes_input: Whether the other end may send messages at all.
        told: Is given what a server tells besides messages; see `Connection`.

    Attributes:
        inbox: Messages; at a client also the notices of topics, each behind the message that it is about.
        notices: How many of those there are. The oldest in the inbox never is one.
        held: Whether the transport waits for room.
        whereabouts: Where a client is in topics; None where nobody tells it.
        discarding: Whether this end receives no more.
        error: What the peer says that its Close is about.
    """

    __slots__ = (
        "_controls",
        "_limits",
        "_owner",
        "_peer_done",
        "_sender",
        "_takes_input",
        "_told",
        "_transport",
        "_writer",
        "discarding",
        "error",
        "held",
        "inbox",
        "notices",
        "whereabouts",
    )

    def __init__(
        self,
        owner: Owner,
        writer: Writer,
        transport: Transport,
        limits: Limits,
        *,
        side: Literal["server", "client"],
        controls: bool,
        takes_input: bool,
        told: Callable[[Notice | Drain], None] | None = None,
    ) -> None:
        self._owner = owner
        self._writer = writer
        self._transport = transport
        self._limits = limits
        self._sender: Literal["server", "client"] = "client" if side == "server" else "server"
        self._controls = controls
        self._takes_input = takes_input
        self._told = told
        self._peer_done = False  # it has said that it sends no more
        size = payload_size if side == "server" else _size
        self.inbox: Backlog[Any] = Backlog(limits.receive_messages, limits.receive_bytes, size)
        self.notices: int = 0
        self.held: bool = False
        self.whereabouts: Whereabouts | None = Whereabouts() if controls and side == "client" else None
        self.discarding: bool = False
        self.error: APIError | None = None

    def serve(self, nursery: trio.Nursery) -> None:
        """Begin to fill the channel, by a task there if the transport does not deliver."""
        self._transport.attach(self)
        if isinstance(self._transport, PullTransport):
            nursery.start_soon(self._read, self._transport)

    # What its transport calls.

    def deliver(self, payloads: Sequence[Payload]) -> int:
        """Take a batch; see `Receiver.deliver`."""
        inbox = self.inbox
        if self._controls and bytes in map(type, payloads):
            return self._deliver_each(payloads)
        if not inbox.closed and self._takes_messages():
            inbox.extend(payloads)
            room = inbox.free
            self.held = not room
            return room
        self._refuse_more()
        return _TURN  # for what is thrown away

    def answer(self, frame: Frame) -> bool:
        """Send a control frame, if there is room for it; see `Receiver.answer`."""
        return self._writer.answer(frame)

    def moved(self) -> None:
        """Be patient with the peer; see `Receiver.moved`."""
        self._writer.moved()

    def fail(self, code: int, reason: str) -> None:
        """End the stream; see `Receiver.fail`."""
        self._owner.fail(code, reason)

    def lost(self, gone: Disconnected) -> None:
        """Tell the stream; see `Receiver.lost`."""
        self._owner.lost(gone)

    def finish(self) -> None:
        """End the input behind what was delivered; see `Receiver.finish`."""
        self.inbox.close()

    # What its stream calls.

    def allow(self) -> None:
        """Let the transport go on, which waits for room."""
        self.held = False
        self._transport.allow(self.inbox.free)

    def close(self) -> None:
        """Take no more; what is there can still be received."""
        self.inbox.close()
        if self.held:
            self.held = False
            self._transport.allow(_TURN)  # the peer's Close may be behind what is thrown away

    def discard(self) -> None:
        """Throw away what is there, and what still comes."""
        if not self.discarding:
            self.discarding = True
            self.inbox.take_batch()
            self.close()

    def take_notices(self) -> None:
        """Note what stands behind the message that was taken last."""
        while self.inbox and isinstance(self.inbox.oldest, Notice):
            self.notices -= 1
            self._note(self.inbox.take())

    def take_all(self) -> Sequence[Payload | Notice]:
        """Take what is there, with the notices, which are not noted."""
        self.notices = 0
        return self.inbox.take_batch()

    # What the peer may say.

    def _takes_messages(self) -> bool:
        if not self._takes_input:
            self.fail(CloseCode.UNSUPPORTED_DATA, "this stream takes no messages")
        return self._takes_input

    def _refuse_more(self) -> None:
        """End a stream whose peer sends messages although it has said that it does not."""
        if self._peer_done and not self.discarding and self._takes_messages():
            self.fail(CloseCode.PROTOCOL_ERROR, "'end' must be the last, and a message came behind it")

    def _deliver_each(self, payloads: Sequence[Payload]) -> int:
        """Take a batch in which there are controls."""
        for payload in payloads:
            if isinstance(payload, bytes):
                self._obey(payload)
            else:
                self.deliver((payload,))
        room = _TURN if self.inbox.closed else self.inbox.free
        self.held = not room
        return room

    def _obey(self, payload: bytes) -> Notice | None:
        """Do what a control says, as long as there is somebody to read what comes in; return what stands in line."""
        if self.discarding:
            return None
        whereabouts = self.whereabouts
        try:
            if whereabouts is not None and whereabouts.due is not None:
                raise BrokenControl("the messages of a 'position' must follow it at once, and a control came")
            match read_control(payload, self._sender):
                case Position(messages=0) | Gap() as notice:
                    return notice
                case Position() if self._peer_done:
                    self._refuse_more()
                case Position() as position:
                    assert whereabouts is not None  # no client announces messages
                    whereabouts.due = position
                case End() if self._peer_done:
                    self.fail(CloseCode.PROTOCOL_ERROR, "'end' must be the last, and came twice")
                case End():
                    self._peer_done = True
                    self.close()
                case Failure() as failure:
                    self.error = failure.error()
                case Drain() as drain:
                    self._owner.draining.set()
                    if self._told is not None:
                        self._told(drain)
                case _:
                    pass
        except BrokenControl as broken:
            self.fail(CloseCode.PROTOCOL_ERROR, str(broken))
        return None

    # The task.

    async def _read(self, transport: PullTransport) -> None:
        inbox = self.inbox
        limit = self._limits.max_message_bytes
        whereabouts = self.whereabouts
        try:
            while True:
                for payload in await transport.receive():
                    if payload_size(payload) > limit:
                        self.fail(CloseCode.TOO_BIG, f"a message may have {limit} bytes")
                        return
                    if self._controls and isinstance(payload, bytes):
                        if (notice := self._obey(payload)) is not None:
                            while inbox and not inbox.closed and not inbox.free:
                                await inbox.room()
                            self._put(notice)
                    elif not self._takes_messages():
                        return
                    elif whereabouts is not None and whereabouts.due is not None:
                        await self._hold_back(whereabouts, whereabouts.due, payload)
                    else:
                        while not inbox.closed and not inbox.offer(payload):
                            await inbox.room()
                        if inbox.closed:
                            self._refuse_more()
        except Disconnected as gone:
            self.lost(gone)
        finally:
            inbox.close()

    async def _hold_back(self, whereabouts: Whereabouts, position: Position, payload: Payload) -> None:
        """Take one of the messages that a position has announced, and with the last all of them."""
        try:
            whole = whereabouts.hold_back(payload)
        except BrokenControl as broken:
            self.fail(CloseCode.PROTOCOL_ERROR, str(broken))
            return
        for message in whole:
            while not self.inbox.closed and not self.inbox.offer(message):
                await self.inbox.room()
        if whole:
            self._put(position)

    def _put(self, notice: Notice) -> None:
        """Note something of a topic, once the messages before it have been received."""
        if self.inbox:
            self.inbox.extend((notice,))
            self.notices += 1
        elif not self.discarding:
            self._note(notice)

    def _note(self, notice: Notice) -> None:
        assert self.whereabouts is not None
        self.whereabouts.note(notice)
        if self._told is not None:
            self._told(notice)


def _size(item: Payload | Notice) -> int:
    """Return the bytes of what is in a client's receive channel."""
    return payload_size(item) if isinstance(item, (str, bytes)) else 0
