"""How publications are written down for other processes: in what is published, and in the entries of a stream.

    published:  version SP position SP count LF record*     the position of the first message; "-" without a history
    an entry:   field = version "." bytes of the message, value = record
    a record:   sender, number, origin, exclude, length (big-endian), message
    marks:      version SP "marks" SP position SP process SP count LF change*     the position behind the first change
    a change:   length of the name, 1 + length of the value, or 0 where it was cleared (big-endian), name, value

What has another version is skipped by who cannot read it, and it knows that it has. Streams are named by numbers that
mean something to the sending process alone, and so is what it has sent together: so the process is named too, by what
it has drawn when it started, and others forget them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import final

from attrs import frozen

from streamrt.runtime.broker import Mark, Position, Publication
from streamrt.wire.transport import Frame

VERSION = 1

SENDER_BYTES = 8

MARKS = b"%d marks" % VERSION
"""What an announcement of marks begins with."""

_HEADER = struct.Struct(">8sIQQI")
_SIZES = struct.Struct(">II")


class UnknownVersion(ValueError):
    """What has been written cannot be read: another version of streamrt has, or something else."""


@final
@frozen
class Envelope:
    """What was published together on one channel.

    Args:
        publications: What is in it; their positions are set.
        first: The position of the first; None where no history is kept.
        own: The number that this process has given it; None when another has sent it.
    """

    publications: Sequence[Publication]
    first: Position | None
    own: int | None


def record(publication: Publication, sender: bytes, number: int) -> bytes:
    """Write a publication down."""
    origin = 0 if publication.origin is None else publication.origin + 1
    exclude = 0 if publication.exclude is None else publication.exclude + 1
    payload = publication.frame.payload
    return _HEADER.pack(sender, number, origin, exclude, len(payload)) + payload


def field(publication: Publication) -> bytes:
    """Return what stands beside a record in a stream."""
    return b"%d.%d" % (VERSION, len(publication.frame))


def seal(records: Sequence[bytes]) -> bytes:
    """Return what is published where no history is kept."""
    return b"%d - %d\n%b" % (VERSION, len(records), b"".join(records))


def open_envelope(payload: bytes, me: bytes) -> Envelope:
    """Read what was published.

    Args:
        payload: What came.
        me: How this process is named as a sender.

    Raises:
        UnknownVersion: It cannot be read.
    """
    line, newline, _ = payload[:128].partition(b"\n")
    words = line.split(b" ")
    if not newline or len(words) != 3 or words[0] != b"%d" % VERSION:
        raise UnknownVersion(f"a message begins with {payload[:40]!r}")
    first = None if words[1] == b"-" else Position.parse(words[1].decode("latin-1"))
    publications: list[Publication] = []
    begin, own = len(line) + 1, None
    try:
        for count in range(int(words[2])):
            publication, own, begin = _read(payload, begin, me)
            if first is not None:
                publication.position = Position(first.epoch, first.offset + count)
            publications.append(publication)
    except (struct.error, ValueError) as error:
        raise UnknownVersion(str(error)) from None
    return Envelope(publications, first, own)


def open_marks(payload: bytes) -> Sequence[tuple[Mark, Position]]:
    """Read an announcement of marks: each that has changed, and the position behind that.

    Raises:
        UnknownVersion: It cannot be read.
    """
    line, _, _ = payload[:128].partition(b"\n")
    changes: list[tuple[Mark, Position]] = []
    begin = len(line) + 1
    try:
        _, _, position, process, count = line.decode().split(" ")
        first = Position.parse(position)
        if first is None:
            raise ValueError(f"marks are at {position!r}")
        for number in range(int(count)):
            length, size = _SIZES.unpack_from(payload, begin)
            begin += _SIZES.size
            name, begin = payload[begin : begin + length], begin + length
            value = None if not size else read_text(payload[begin : begin + size - 1])
            begin += max(0, size - 1)
            changes.append((Mark(process, read_text(name), value), Position(first.epoch, first.offset + number)))
    except (struct.error, ValueError) as error:
        raise UnknownVersion(str(error)) from None
    if begin != len(payload):
        raise UnknownVersion(f"marks have {len(payload)} bytes, and not {begin}")
    return changes


def write_text(text: str) -> bytes:
    """Write any text down, as it is."""
    return text.encode("utf-8", "surrogatepass")


def read_text(written: bytes) -> str:
    """Read it again."""
    return written.decode("utf-8", "surrogatepass")


def read_entry(field: bytes, value: bytes, me: bytes) -> Publication:
    """Read an entry of a stream.

    Raises:
        UnknownVersion: It cannot be read.
    """
    if not field.startswith(b"%d." % VERSION) or len(value) < _HEADER.size:
        raise UnknownVersion(f"an entry of a stream has the field {field[:40]!r}")
    return _read(value, 0, me)[0]


def _read(data: bytes, begin: int, me: bytes) -> tuple[Publication, int | None, int]:
    sender, number, origin, exclude, length = _HEADER.unpack_from(data, begin)
    begin += _HEADER.size
    end = begin + length
    if end > len(data):
        raise UnknownVersion(f"a message is {end - len(data)} bytes short")
    publication = Publication(Frame(data[begin:end]))
    if sender != me:
        return publication, None, end
    publication.origin = origin - 1 if origin else None
    publication.exclude = exclude - 1 if exclude else None
    return publication, number, end
