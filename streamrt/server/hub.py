"""One task that reads for all plain sockets, with an epoll of its own.

Trio arms its epoll anew for every wait, and wakes a task for every socket. Here the registrations stay, Trio waits
for one descriptor, the epoll's own, and whatever is ready is read, parsed and handed out in one go. What that wakes
are the handlers.

There is one hub in a Trio run, like Trio's own I/O manager, and it runs as a system task for as long as it has
something to watch: several servers, and an app inside another's server, share it.
"""

from __future__ import annotations

import logging
import select
import time
from contextlib import suppress
from typing import Protocol, final

import trio

_TURN = 0.005
"""Seconds of reading, after which the handlers have their turn."""

_AT_ONCE = 16
"""Sockets that are read before the time is looked at; the kernel lets them take turns."""

_logger = logging.getLogger("streamrt")


class Watched(Protocol):
    """What a hub watches; its calls never wait."""

    def read(self) -> None:
        """Read once: the socket is readable."""
        ...

    def give_up(self) -> None:
        """Let go at once: reading has failed."""
        ...


@final
class Hub:
    """Reads what is readable. Sockets are known by their descriptors."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Watched] = {}
        self._scope = trio.CancelScope()

    def add(self, fd: int, watched: Watched) -> None:
        """Take a socket in, paused."""
        self._watched[fd] = watched

    def pause(self, fd: int) -> None:
        """Read it no more, until `resume`."""
        self._epoll.unregister(fd)

    def resume(self, fd: int) -> None:
        """Read it when it is readable."""
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Let a socket go, which must not be closed before."""
        del self._watched[fd]
        with suppress(FileNotFoundError):  # it was paused
            self.pause(fd)
        if not self._watched:
            self._scope.cancel()
            _current.set(None)

    async def run(self) -> None:
        """Watch until nothing is left to watch."""
        with self._epoll, self._scope:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                end = time.perf_counter() + _TURN
                while self._read_some() and time.perf_counter() < end:
                    pass

    def _read_some(self) -> bool:
        """Read what is ready, if that is not too much at once; return whether there may be more."""
        ready = self._epoll.poll(0, _AT_ONCE)
        for fd, _ in ready:
            if (watched := self._watched.get(fd)) is not None:  # another may just have removed it
                try:
                    watched.read()
                except Exception:  # a fault of one connection must not be all others' end
                    _logger.exception("reading from a connection failed")
                    self._give_up(fd, watched)
        return len(ready) == _AT_ONCE

    def _give_up(self, fd: int, watched: Watched) -> None:
        try:
            watched.give_up()
        except Exception:
            _logger.exception("nor can it be closed")
            if fd in self._watched:
                self.remove(fd)


_current: trio.lowlevel.RunVar[Hub | None] = trio.lowlevel.RunVar("streamrt.hub", None)


def current_hub() -> Hub | None:
    """Return the hub of this Trio run; None where there is no epoll."""
    if not hasattr(select, "epoll"):
        return None
    hub = _current.get()
    if hub is None:
        hub = Hub()
        _current.set(hub)
        trio.lowlevel.spawn_system_task(hub.run)
    return hub
