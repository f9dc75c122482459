"""How a broker's things are named on the server."""

from __future__ import annotations

from typing import final

from attrs import frozen

from streamrt.runtime.broker import Channel


@final
@frozen
class Keys:
    """The names of one channel on the server.

    Args:
        tag: What decides about the place in a cluster.
        name: What is published to.
        at: The hash.
        log: The stream.
    """

    tag: bytes
    name: bytes
    at: bytes
    log: bytes


@final
@frozen
class Names:
    """How things are named on the server.

    Args:
        space: What all names begin with, so that applications, and databases, do not hear each other.
        sender: This process, for as long as it runs.
    """

    space: bytes
    sender: bytes

    def keys(self, channel: Channel) -> Keys:
        """Return the names of a channel, which no other channel has."""
        topic, key = (name.encode("utf-8", "surrogatepass") for name in channel)
        tag = b"%d:%b:%b" % (len(topic), topic, key)
        name = b"%b:{%b}" % (self.space, tag)
        return Keys(tag.partition(b"}")[0], name, name + b":at", name + b":log")  # a tag ends where servers see its end

    def mark_keys(self, name: bytes, process: str) -> tuple[bytes, bytes, bytes]:
        """Return the keys of the marks of a channel, by its name: the set, the hash of a process, and the position."""
        marks = name + b":marks"
        return marks, b"%b:%b" % (marks, process.encode()), marks + b":at"

    @property
    def processes(self) -> bytes:
        """The processes that live; this and the next two are in one place of a cluster."""
        return self.space + b":{processes}"

    @property
    def ended(self) -> bytes:
        """Those that have ended, and whose marks are to be cleared."""
        return self.processes + b":ended"

    def marked_by(self, process: str) -> bytes:
        """Return the key of the names of all channels where a process may have marks."""
        return b"%b:of:%b" % (self.processes, process.encode())

    def tag(self, name: bytes) -> bytes:
        """Return what decides about the place of a name, or of a key."""
        return name[len(self.space) :].partition(b"{")[2].partition(b"}")[0]

    @property
    def beat(self) -> bytes:
        """What the heartbeat is published to."""
        return b"%b:beat:%b" % (self.space, self.sender.hex().encode())
