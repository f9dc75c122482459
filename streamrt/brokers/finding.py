"""Finding the servers of an address: the one it names, the primary of sentinels, or the primaries of a cluster."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, final

import trio
from attrs import evolve, frozen

from streamrt.runtime.scopes import lone_error

from .address import Address
from .connection import Connection, Lost, Options, Place, Refused

SLOTS = 16384
"""Of a cluster."""


@final
@frozen
class Servers:
    """Where what is.

    Args:
        primaries: The servers that take what is written; the first is as good as any.
        slots: In a cluster: the number of the primary that has a slot.
    """

    primaries: Sequence[Place]
    slots: Sequence[int] = ()

    def of(self, tag: bytes) -> int:
        """Return the number of the primary that has the keys with this hash tag."""
        return self.slots[crc_hqx(tag, 0) % SLOTS] if self.slots else 0


async def find(address: Address, options: Options) -> Servers:
    """Find the servers of an address, as they are now.

    Raises:
        Lost: Nobody who knows can be reached.
    """
    if address.kind == "one":
        return Servers(address.hosts)
    if address.kind == "sentinel":  # sentinels have passwords of their own, and as a rule none
        options = evolve(options, username=None, password=None, db=0)
    reasons: list[str] = []
    for place in address.hosts:
        try:
            if address.kind == "sentinel":
                return _read_primary(
                    address.name,
                    await _ask(place, options, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", address.name.encode()),
                )
            return _read_slots(place, await _ask(place, options, b"CLUSTER", b"SLOTS"))
        except (Lost, Refused) as error:
            reasons.append(str(error))
    raise Lost("; ".join(reasons))


async def _ask(place: Place, options: Options, name: bytes, *arguments: bytes) -> Any:
    connection = Connection(place, options)
    answer: Any = None
    with lone_error():
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            with trio.move_on_after(options.timeout) as patience:
                answer = await connection.ask_one(name, *arguments)
            nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        raise Lost(f"{connection}: no answer within {options.timeout:g} s")
    return answer


def _read_primary(name: str, answer: Sequence[bytes] | None) -> Servers:
    if answer is None:
        raise Lost(f"the sentinels know of no primary that is named {name!r}")
    host, port = answer
    return Servers([(host.decode(), int(port))])


def _read_slots(asked: Place, answer: Sequence[Sequence[Any]]) -> Servers:
    places: dict[Place, int] = {}
    slots = [-1] * SLOTS
    for first, last, (host, port, *_), *_ in answer:
        place = (host.decode() if host else asked[0], int(port))
        slots[first : last + 1] = [places.setdefault(place, len(places))] * (last + 1 - first)
    if -1 in slots:
        raise Lost(f"the cluster has no node for {slots.count(-1)} of its slots")
    return Servers(list(places), slots)
