"""Where a client is in the topics that its stream hears, as the server tells it.

A position announces the messages behind it, and counts once the last of them is received. So they are held back until
all are there: a connection that ends among them has brought none of them, and who comes back with the position before
is sent all of them again. Nothing is missed, and nothing comes twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import attrs

from streamrt.api.stream import TopicPosition
from streamrt.wire.control import MAX_ANNOUNCED_BYTES, BrokenControl, Notice, Position
from streamrt.wire.transport import Payload, payload_size


@final
class Whereabouts:
    """What one stream of a client knows.

    Attributes:
        positions: By topic and key, the newest last; never changed, but replaced.
        due: The position whose messages are held back.
    """

    __slots__ = ("_held", "_size", "due", "positions")

    def __init__(self) -> None:
        self.positions: Mapping[tuple[str, str], TopicPosition] = {}
        self.due: Position | None = None
        self._held: list[Payload] = []
        self._size = 0

    def hold_back(self, payload: Payload) -> Sequence[Payload]:
        """Take one of the messages that are `due`; return all of them when it is the last.

        Raises:
            BrokenControl: They are too many bytes to be held.
        """
        assert self.due is not None
        if self._size >= MAX_ANNOUNCED_BYTES:
            raise BrokenControl("the messages of a 'position' must have 64 KiB together, and more came behind that")
        self._held.append(payload)
        self._size += payload_size(payload)
        if len(self._held) < self.due.messages:
            return ()
        whole, self._held, self._size, self.due = self._held, [], 0, None
        return whole

    def note(self, notice: Notice) -> None:
        """Note something whose messages have been received."""
        channel = (notice.topic, notice.key)
        known = self.positions.get(channel) or TopicPosition(*channel)
        if isinstance(notice, Position):
            recovered = known.recovered if notice.recovered is None else notice.recovered
            known = attrs.evolve(known, position=notice.position, recovered=recovered)
        else:
            losses = known.losses + (notice.missed == 0)  # nobody knows of how many
            known = attrs.evolve(known, missed=known.missed + notice.missed, losses=losses)
        self.positions = {**{of: at for of, at in self.positions.items() if of != channel}, channel: known}
