"""What goes out of a stream: straight to its transport, or through the outbox and the task that empties it.

The writer takes what is queued in one go, and starts only when something queues for the first time. Who finds the
outbox full waits in a line, in which nobody overtakes. How long is a matter of the peer, and not of the message: all
who wait get the whole `send_timeout` again whenever the peer has read something.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol, final

import trio

from streamrt.api.limits import Limits
from streamrt.errors import CloseCode
from streamrt.wire.transport import Batch, Disconnected, Frame, Transport
from streamrt.wire.waiting import Waiting

from .outbox import Outbox


class Owner(Protocol):
    """Whose messages they are."""

    def check_open(self) -> None:
        """Raise what `send` raises when nothing more can be sent."""
        ...

    def stalled(self) -> Exception:
        """End the stream, because its peer does not read; return what to raise."""
        ...

    def lost(self, gone: Disconnected) -> None:
        """Note that the peer is gone."""
        ...


@final
class Writer:
    """The way out.

    Args:
        owner: The stream.
        transport: What carries it.
        limits: Its limits.

    Attributes:
        outbox: What is queued. It is closed as soon as the stream has ended, and still flushed.
        closing: Whether this end sends no more.
        writing: Whether something that was queued is being written.
        bunching: Whether messages go out faster than one for each turn of the scheduler.
        waiting_room: Where nobody overtakes who waits for room; None before anybody has.
    """

    __slots__ = (
        "_broken",
        "_flushed",
        "_limits",
        "_nursery",
        "_owner",
        "_patient",
        "_transport",
        "bunching",
        "closing",
        "outbox",
        "waiting_room",
        "writing",
    )

    def __init__(self, owner: Owner, transport: Transport, limits: Limits) -> None:
        self._owner = owner
        self._transport = transport
        self._limits = limits
        self.outbox: Outbox = Outbox(limits, self._start)
        self.closing: bool = False
        self.writing: bool = False
        self.bunching: bool = False
        self.waiting_room: trio.StrictFIFOLock | None = None
        self._nursery: trio.Nursery | None = None  # until the task, which starts when something queues
        self._patient: list[trio.CancelScope] = []  # who waits for the peer to read
        self._flushed = Waiting()
        self._broken = False  # what is queued cannot go out any more

    def serve(self, nursery: trio.Nursery) -> None:
        """Start the task there, as soon as there is something to do for it."""
        self._nursery = nursery

    @property
    def over(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.closing or self.outbox.closed

    # Without waiting.

    def send_nowait(self, frame: Frame) -> bool:
        """Send one message if nothing is queued before it, and the transport takes it; return whether it is so."""
        return not self.outbox and not self.writing and self._transport.send_nowait(frame)

    def offer(self, frames: Sequence[Frame]) -> bool:
        """Queue frames with nothing between them and return True; return False when they do not fit."""
        fits = self.outbox.has_room_for(sum(map(len, frames)))
        if fits:
            for frame in frames:
                self.outbox.put(frame)
        return fits

    def say(self, control: Frame) -> None:
        """Send a control behind what was sent before, whether it fits or not: there are few of them."""
        if not self.send_nowait(control):
            self.outbox.put(control)

    def answer(self, frame: Frame) -> bool:
        """Send a control frame, if there is room for it; see `Receiver.answer`."""
        if self.outbox.closed:
            return False
        return self.send_nowait(frame) or self.outbox.offer_urgent(frame)

    def push(self, batch: Batch) -> int:
        """Send messages of a feed, if nothing is queued before them.

        Returns:
            How many of them, the last ones, have to be queued.
        """
        outbox = self.outbox
        if outbox or self.writing or self.closing or outbox.closed:
            return len(batch.frames)
        rest = self._transport.send_batch_nowait(batch)
        if not rest:
            return 0
        outbox.put(rest[0])  # it may be out in part
        return len(rest) - 1

    def push_whole(self, batch: Batch) -> bool:
        """Send messages that must not be parted, if nothing is queued before them; return whether it is so."""
        outbox = self.outbox
        if outbox or self.writing or self.closing or outbox.closed:
            return False
        for frame in self._transport.send_batch_nowait(batch):
            outbox.put(frame)
        return True

    # With patience.

    @property
    def somebody_waits(self) -> bool:
        """Whether who comes now has to stand in line."""
        return self.waiting_room is not None and self.waiting_room.locked()

    async def queue(self, *frames: Frame) -> None:
        """Queue frames with nothing between them when it is their turn, and there is room for them.

        Raises:
            BrokenResourceError: As `StreamOut.send` does, and its other errors too.
        """
        if self.waiting_room is None:
            self.waiting_room = trio.StrictFIFOLock()
        with self._patience() as patience:
            async with self.waiting_room:
                self._owner.check_open()
                while not self.offer(frames):
                    await self.outbox.room()
                    self._owner.check_open()
        if patience.cancelled_caught:
            raise self._owner.stalled()

    async def flush(self) -> None:
        """Wait until all that is queued has gone out, or cannot any more."""
        if not self.outbox and not self.writing:
            return
        with self._patience() as patience:
            if self.outbox.closed:
                self.hurry()
            while (self.outbox or self.writing) and not self._broken:
                await self._flushed.wait()
        if patience.cancelled_caught:
            self._owner.stalled()

    @contextmanager
    def _patience(self) -> Generator[trio.CancelScope]:
        """Wait for as long as the peer takes something every `send_timeout`."""
        with trio.move_on_after(self._limits.send_timeout) as patience:
            self._patient.append(patience)
            try:
                yield patience
            finally:
                if patience in self._patient:
                    self._patient.remove(patience)

    def moved(self) -> None:
        """Give those who wait for the peer to read the whole time again; see `Receiver.moved`."""
        for patience in self._patient:
            patience.deadline = trio.current_time() + self._limits.send_timeout

    def hurry(self) -> None:
        """Wait no longer than `close_timeout`: cut off, a peer that reads slowly has no more time than another."""
        latest = trio.current_time() + self._limits.close_timeout
        for patience in self._patient:
            patience.deadline = min(patience.deadline, latest)
        self._patient.clear()

    # The end.

    def give_up(self) -> None:
        """Flush no more."""
        self._broken = True
        self._flushed.wake_all()

    def lost(self, gone: Disconnected) -> None:
        """Let nothing follow that the peer cannot get any more."""
        if self.writing and gone.code != CloseCode.ABNORMAL:
            self.outbox.clear()  # through TLS nothing can follow a write cut short, no Close either
        else:
            self.give_up()  # also when the end was decided before, and the flush is what is left

    # The task.

    def _start(self) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._write)
            self._nursery = None

    async def _write(self) -> None:
        outbox = self.outbox
        try:
            while True:
                await outbox.filled()
                frames = outbox.take()
                if not frames and outbox.closed:
                    return
                if frames:  # else all of it was taken back
                    self.bunching = len(frames) > 1
                    self.writing = True
                    await self._transport.send(frames)
                    self.writing = False
                    self.moved()
                self._flushed.wake_all()
        except Disconnected as gone:
            self._owner.lost(gone)
            self.give_up()
