"""A stream on a socket of its own: frames on a line, and the closing handshake.

Who reads the line is not decided here: the hub, which calls `read`, or a task, which calls `take` with what it has
read. Either way everything from the bytes to the receive channel is one plain call, and when the channel is full the
reading stops: TCP does the rest.

    the peer                          what happens
    --------------------------------- -----------------------------------------------------------------------
    sends a Close                     it is answered at once, or behind the write that is under way, and TCP closed
    breaks a rule                     Close with 1002, 1003, 1007 or 1009; what it still sends is thrown away
    ends or cuts the connection       1006
    does not answer a ping            1006, and an RST
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, final

import trio
from websockets.extensions.permessage_deflate import PerMessageDeflate

from streamrt.api.limits import Limits
from streamrt.errors import APIError, CloseCode
from streamrt.wire.frames import (
    FrameReader,
    PeerClose,
    Violation,
    close_frame,
    compressed_frame,
    ping_frame,
    pong_frame,
)
from streamrt.wire.transport import Batch, Disconnected, Frame, Receiver, Transport

from .heartbeat import Beat, current_heart
from .line import BROKEN, LAST_READS, Line, PlainLine


class Reading(Protocol):
    """Whoever reads a line; paused at first."""

    def pause(self) -> None:
        """Read no more, until `resume`."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...

    def stop(self) -> None:
        """Never read again: the line is about to be closed. Safe to repeat."""
        ...


@final
class SocketTransport(Transport):
    """A stream on a connection that is streamrt's own.

    Args:
        line: The connection, behind the upgrade.
        limits: The stream's limits.
        deflate: The compression that was agreed on.
    """

    __slots__ = (
        "_acknowledged",
        "_asked",
        "_beat",
        "_behind",
        "_close_sent",
        "_closing",
        "_deflate",
        "_flowing",
        "_frames",
        "_gone",
        "_heard",
        "_limits",
        "_line",
        "_peer_close",
        "_ping",
        "_pinged_at",
        "_pings",
        "_plain",
        "_reading",
        "_receiver",
        "_room",
        "_round_trip_time",
        "_stuck",
        "over",
    )

    name = "socket"

    def __init__(self, line: Line, limits: Limits, deflate: PerMessageDeflate | None = None) -> None:
        self._line = line
        self._plain = line if isinstance(line, PlainLine) else None  # reads and writes without waiting
        self._limits = limits
        self._deflate = deflate
        self._frames = FrameReader(limits.max_message_bytes, deflate)
        self._receiver: Receiver | None = None
        self._reading: Reading | None = None
        self._flowing = False
        self._room = 1  # for messages; what it is in fact is known with the first of them
        self._gone: Disconnected | None = None  # the connection is cut
        self._peer_close: PeerClose | None = None
        self._close_sent = False
        self._closing = False  # somebody is sending it
        self._beat: Beat | None = None
        self._pings = 0
        self._pinged_at = 0.0
        self._round_trip_time: float | None = None
        self._heard = False
        self._stuck: memoryview | None = None  # the write that the last ping had to wait for
        self._acknowledged = 0
        self._asked = False  # there was room for the last ping
        self._behind = False  # the last ping stands behind what the peer had not taken yet
        self.over: trio.Event = trio.Event()  # nothing comes in any more

    # What comes in.

    def attach(self, receiver: Receiver) -> None:
        """Begin to deliver; see `Transport.attach`."""
        self._receiver = receiver
        self._line.moved = receiver.moved
        limits = self._limits
        if limits.ping_interval is not None:
            self._beat = current_heart().add(self, limits.ping_interval, limits.ping_timeout)
        self._pump()

    def read_by(self, reading: Reading) -> None:
        """Say who reads the line: from the moment that there is a receiver."""
        self._reading = reading
        if self.over.is_set():
            reading.stop()
        else:
            self._regulate()

    def read(self) -> None:
        """Read once; the line is a plain one, and readable."""
        assert self._plain is not None
        try:
            data = self._plain.receive_nowait()
        except BROKEN:
            data = b""
        if data is not None:
            self.take(data)

    def take(self, data: bytes) -> None:
        """Take what was read; nothing means that the connection has ended."""
        if data:
            self._heard = True
            self._frames.feed(data)
            self._pump()
        else:
            self._cut(Disconnected(CloseCode.ABNORMAL))

    def allow(self, room: int) -> None:
        """Go on delivering; see `Transport.allow`."""
        self._room = room
        self._pump()

    def _pump(self) -> None:
        receiver = self._receiver
        if receiver is not None:
            self._deliver(receiver)
            if not (self._flowing and self._room):
                self._regulate()

    def _deliver(self, receiver: Receiver) -> None:
        frames = self._frames
        while self._room:
            most = self._room if self._deflate is None else 1  # inflated, each may be as big as a message may be
            payloads = frames.read(most)
            if payloads:
                self._room = receiver.deliver(payloads)
            if frames.pings:
                # All of one read in one write, or a flood of pings would make a flood of writes.
                receiver.answer(Frame.ready(b"".join(map(pong_frame, frames.pings))))
                frames.pings.clear()
            if frames.pongs:
                self._measure()
            if len(payloads) < most:
                if frames.end is not None:
                    self._end(frames.end, receiver)
                elif self._gone is not None:
                    receiver.finish()
                return

    def _regulate(self) -> None:
        """Let the line be read while there is room."""
        wanted = self._room > 0 and self._receiver is not None
        if wanted != self._flowing and self._reading is not None and not self.over.is_set():
            self._flowing = wanted
            (self._reading.resume if wanted else self._reading.pause)()

    def _end(self, end: PeerClose | Violation, receiver: Receiver) -> None:
        if isinstance(end, Violation):
            receiver.fail(end.code, end.reason)
        elif self._peer_close is None:
            self._peer_close = end
            receiver.lost(Disconnected(end.code, end.reason))
            self._answer_close()
        receiver.finish()

    def _answer_close(self) -> None:
        """Answer the peer's Close, if that takes no waiting, and be done if that was all."""
        close = self._peer_close
        if close is None:
            return
        if not self._close_sent and self._plain is not None and not self._plain.rest:
            self._close_sent = True
            with suppress(*BROKEN):
                self._plain.send_nowait(close_frame(close.code, close.reason))
        if self._close_sent and not self._line.rest:
            self._stop()
            self._line.close()

    def _cut(self, gone: Disconnected) -> None:
        """Note that the connection is no more; what has been read is still delivered when there is room."""
        if self._gone is None and not self._line.closed:
            self._gone = gone
            self._stop()
            self._line.reset()
            if self._receiver is not None:
                self._receiver.lost(gone)
                self._pump()

    def _stop(self) -> None:
        self.over.set()
        if self._reading is not None:
            self._reading.stop()
        if self._beat is not None:
            self._beat.stop()

    # What goes out.

    def send_nowait(self, frame: Frame) -> bool:
        """Send one message straight to the socket; see `Transport.send_nowait`."""
        line = self._plain
        if line is None or line.rest or self._peer_close is not None:
            return False
        try:
            return line.send_nowait(frame.wire if self._deflate is None else self._wire(frame))
        except BROKEN:
            return False  # the writer finds out the same, and can say it

    def send_batch_nowait(self, batch: Batch) -> Sequence[Frame]:
        """Send messages in one write; see `Transport.send_batch_nowait`."""
        line = self._plain
        if line is None or self._deflate is not None or line.rest or self._peer_close is not None:
            return super().send_batch_nowait(batch)
        try:
            if line.send_nowait(batch.wire):
                return ()
        except BROKEN:  # the writer finds out the same, and can say it
            return batch.frames
        return (Frame.ready(batch.wire),)

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send messages in one write; see `Transport.send`."""
        line = self._line
        if self._peer_close is None and not line.closed:
            # What is left of the first is out in part, or compressed already.
            first = line.rest or self._wire(frames[0])
            try:
                # Joined, even one alone would be copied, for each stream that does not read.
                await line.send(b"".join((first, *map(self._wire, frames[1:]))) if len(frames) > 1 else first)
            except BROKEN:
                self._find_end()
            self._answer_close()
        if self._peer_close is not None:
            raise Disconnected(self._peer_close.code, self._peer_close.reason)
        if self._gone is not None or line.closed:
            raise self._gone or Disconnected(CloseCode.ABNORMAL)

    def _wire(self, frame: Frame) -> bytes:
        if self._deflate is None or frame.is_ready:
            return frame.wire
        assert self._limits.compression is not None
        if len(frame) < self._limits.compression.threshold:
            return frame.wire
        return compressed_frame(frame.payload, self._deflate)

    def _find_end(self) -> None:
        """Look for the peer's Close in what it sent before the line broke."""
        reads = 0 if self._plain is None else LAST_READS
        for _ in range(reads):
            if self._room and not self.over.is_set():
                self.read()
        self._cut(Disconnected(CloseCode.ABNORMAL))

    # The end.

    async def answer(self) -> None:
        """Answer the peer's Close where only a task can, because a write has to wait its turn."""
        close = self._peer_close
        if close is not None and self._plain is None:
            await self.close(close.code, close.reason)

    async def close(self, code: int, reason: str) -> None:
        """Send a Close; see `Transport.close`."""
        line = self._line
        if code == CloseCode.ABNORMAL:  # which is never said (RFC 6455, 7.4.1)
            self.abort(code, reason)
        if not line.closed and not self._closing:
            self._closing = True
            if self._beat is not None:
                self._beat.stop()  # its time is limited from now on, and it may have much to read before our Close
            try:
                await line.flush()
                if not self._close_sent:
                    self._close_sent = True
                    await line.send(close_frame(code, reason))
            except BROKEN:
                self._find_end()
            else:
                if isinstance(self._frames.end, Violation):
                    line.shutdown()  # what the peer still says is not understood, so its end is waited for
                self._answer_close()
            finally:
                self._closing = False

    async def wait_closed(self) -> None:
        """Go on reading until the closing handshake is over; see `Transport.wait_closed`."""
        await self.over.wait()

    def abort(self, code: int, reason: str) -> None:
        """Let go of the socket; see `Transport.abort`.

        The peer gets an RST, unless a Close is on its way: then only what it has not taken yet stands between it
        and that Close.
        """
        line = self._line
        if line.closed:
            return
        if not self._close_sent and self._plain is not None and not line.rest and code != CloseCode.ABNORMAL:
            with suppress(*BROKEN):
                self._close_sent = self._plain.send_nowait(close_frame(code, reason))
        self._stop()
        if self._close_sent and not line.rest:
            line.close()
        else:
            line.reset()

    def give_up(self) -> None:
        """Let go of a connection that cannot be read because of a fault of ours, and end the stream."""
        error = APIError.internal()
        self.abort(error.close_code, error.reason())
        if self._receiver is not None:
            self._receiver.fail(error.close_code, error.reason())
            self._receiver.finish()

    # The heartbeat.

    @property
    def round_trip_time(self) -> float | None:
        """Seconds that the last ping took; see `Transport.round_trip_time`."""
        return self._round_trip_time

    def ping(self) -> None:
        """Send a ping, and begin to listen; see `Patient`."""
        assert self._receiver is not None
        condition = self._line.condition()
        if condition is not None:
            if condition.departed and not self._room:
                self._receiver.lost(Disconnected(CloseCode.ABNORMAL))
            self._acknowledged = condition.acknowledged
            self._behind = condition.outstanding
        self._heard = False
        self._pings += 1
        self._pinged_at = trio.current_time()
        self._asked = self._receiver.answer(Frame.ready(ping_frame(b"%d" % self._pings)))
        self._stuck = self._line.rest

    def _measure(self) -> None:
        if b"%d" % self._pings in self._frames.pongs:
            self._round_trip_time = trio.current_time() - self._pinged_at
        self._frames.pongs.clear()

    def alive(self) -> bool:
        """Return whether there was a sign of life; see `Patient`.

        A peer that reads what it was sent slowly cannot have seen the ping, but shows life by reading. One that
        is not read, because the receive channel is full, or that could not be pinged, because the send channel was,
        is judged by what its system acknowledges.
        """
        if self._heard or (self._stuck and self._line.rest is not self._stuck):
            return True
        could_answer = self._room > 0 and self._asked
        if could_answer and not self._behind:
            return False
        condition = self._line.condition()
        if condition is None:
            return True
        taken = condition.acknowledged > self._acknowledged
        return not condition.departed and (taken or not (could_answer or condition.outstanding))

    def mourn(self) -> None:
        """Let go of a peer that has gone; see `Patient`."""
        condition = self._line.condition()
        mute = condition is None or not condition.departed
        reason = f"no answer to a ping within {self._limits.ping_timeout:g} s" if mute else ""
        self._cut(Disconnected(CloseCode.ABNORMAL, reason))
