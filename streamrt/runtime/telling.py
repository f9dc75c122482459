"""What a topic tells a client that speaks ``streamrt.v1``, besides its messages: where it is, and what it has missed.

A position goes out in front of the messages that it is behind, and in one piece with them: so a client whose connection
ends among them knows which it has to throw away. Four rules:

- messages that go straight out together are announced together, in one frame, which is made once for all;
- a message that waits in a slot is announced alone, when it leaves: what is dropped before is never announced;
- where slots do not go out in the order of their positions (``"latest"``) nothing is said before the last has gone;
- a message that has no position, because a broker cannot reach its history, goes out without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from attrs import frozen

from streamrt.wire.control import MAX_ANNOUNCED, MAX_ANNOUNCED_BYTES, Gap, gap_frame, position_frame
from streamrt.wire.control import Position as Told
from streamrt.wire.transport import Batch, Frame

from .broker import Channel, Position, Publication


@final
@frozen(eq=False)
class Teller:
    """Makes the controls of one stream that hears a channel.

    Args:
        channel: Which.
        positions: Whether it has a history.
        in_order: Whether slots go out in the order of their positions.
    """

    channel: Channel
    positions: bool
    in_order: bool

    def gap(self, missed: int) -> Frame:
        """Return what says that messages were left out."""
        return gap_frame(Gap(*self.channel, missed))

    def position(self, position: Position, messages: int = 0, *, recovered: bool | None = None) -> Frame:
        """Return what says where the stream is, once it has so many messages."""
        return position_frame(Told(*self.channel, str(position), messages, recovered))

    def announced(self, publications: Sequence[Publication], batch: Batch, behind: Position | None) -> Batch:
        """Return a batch with its positions.

        Args:
            publications: What is in it.
            batch: What is sent to those who are told nothing; others may get it too.
            behind: Where the stream is behind all of it.
        """
        if batch.announced is None:
            frames: list[Frame] = []
            part: list[Frame] = []
            size = 0
            for publication in publications:
                part.append(publication.frame)
                size += len(publication.frame)
                last = publication is publications[-1]
                if last or len(part) == MAX_ANNOUNCED or size >= MAX_ANNOUNCED_BYTES:
                    position = behind if last else publication.position
                    if position is not None:
                        frames.append(self.position(position, len(part)))
                    frames += part
                    part, size = [], 0
            batch.announced = Batch(frames)
        return batch.announced

    def alone(self, publication: Publication) -> Sequence[Frame]:
        """Return the position of one message, if it has any."""
        if publication.position is None:
            return ()
        if publication.announcement is None:
            publication.announcement = self.position(publication.position, 1)
        return (publication.announcement,)

    def ahead(self, publication: Publication, missed: int) -> list[Frame]:
        """Return what is said right before a message that has waited, and before which so many were left out."""
        frames: list[Frame] = []
        if missed:
            frames.append(self.gap(missed))
        if self.positions and self.in_order:
            frames += self.alone(publication)
        return frames

    def behind(self, missed: int, position: Position | None) -> list[Frame]:
        """Return what is said when nothing waits any more: what was left out last, and where the stream is."""
        frames: list[Frame] = []
        if missed:
            frames.append(self.gap(missed))
        if position is not None and (missed or not self.in_order):
            frames.append(self.position(position))
        return frames
