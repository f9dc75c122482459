"""The loads of workers that exchange messages over Redis: how many are delivered, and how late.

Every worker has as many subscribers and as many publishers as the others. What each publisher says, every subscriber
gets, whichever worker either is in, whole and in the publisher's order; nobody promises more. Each publisher has
messages of its own, so that of each that comes it is known whose it is, and which.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import final

from attrs import define, evolve

from . import wire
from .meter import LoadError, Measurement, Meter, Server, Window
from .stream import PARALLEL, PATIENCE, Stream, compare, open_some, same, wait

PUBLISHERS = 4
"""In each worker."""

BURST = wire.VARIANTS // (wire.WORKERS * PUBLISHERS)
"""How many messages a publisher has."""

_ALL = wire.WORKERS * PUBLISHERS
_AHEAD = 2  # bursts of each publisher that are under way at a time
_CHUNK = 1 << 18
_PAUSE = 0.01  # seconds for a worker that has none of the connections to start


def fan_out(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure messages a second that subscribers in all workers get, counted over all of them.

    A publisher is told to publish its next burst when every subscriber has all of one.
    """
    with _relaying(server, connections) as relay:
        orders = [relay.order(publisher, 0, BURST) for publisher in range(_ALL)]
        bursts = [0] * _ALL  # of each publisher, which everybody has
        missing = [[connections] * _AHEAD for _ in range(_ALL)]  # from how many, of the bursts after those
        for publisher, order in enumerate(orders):
            relay.tell(publisher, order * _AHEAD, BURST * _AHEAD)
        window = Window(server, seconds)
        while not window.is_over(sum(bursts) * BURST * connections):
            for descriptor, _ in wait(relay.poll):
                for publisher, number in relay.take(descriptor):
                    burst, line = divmod(number, BURST)
                    if line == BURST - 1:
                        missing[publisher][burst - bursts[publisher]] -= 1
                        if not missing[publisher][0]:
                            bursts[publisher] += 1
                            missing[publisher] = [*missing[publisher][1:], connections]
                            relay.tell(publisher, orders[publisher], BURST)
        return window.measurement


def latency(server: Server, connections: int, seconds: float, *, rate: int) -> Measurement:
    """Measure the milliseconds from when a message is due to when a subscriber has it: the 99th percentile.

    The publishers take turns. All else is as in `loads.latency`.
    """
    with _relaying(server, connections) as relay:
        orders = [[relay.order(publisher, line, 1) for line in range(BURST)] for publisher in range(_ALL)]
        warm_up, total = int(rate * seconds / 4), int(rate * seconds * 1.25)
        begin = time.perf_counter()
        due = [begin + number / rate for number in range(total)]
        deadline = due[-1] + seconds
        meter, latencies, missing, sent = Meter(server), list[float](), total * connections, 0
        awaited = [connections] * total  # how many have not got it
        while missing and (now := time.perf_counter()) < deadline:
            while sent < total and due[sent] <= now:
                line, publisher = divmod(sent, _ALL)
                relay.tell(publisher, orders[publisher][line % BURST], 1)
                sent += 1
            # epoll would wait for whole milliseconds, and publish late.
            until = due[sent] if sent < total else deadline
            select.select([relay.poll], [], [], max(until - time.perf_counter(), 0))
            for descriptor, _ in relay.poll.poll(0):
                numbers = [line * _ALL + publisher for publisher, line in relay.take(descriptor)]
                now = time.perf_counter()
                latencies += [now - due[number] for number in numbers if number >= warm_up]
                missing -= len(numbers)
                for number in numbers:
                    awaited[number] -= 1
        measurement = meter.read(0)
        for number in range(warm_up, total):
            latencies += [deadline - due[number]] * awaited[number]
        measurement = evolve(measurement, latencies=latencies, beside={"too late": missing / total / connections})
    return evolve(measurement, figure=sorted(latencies)[len(latencies) * 99 // 100] * 1000)


@final
@define
class _Subscriber:
    """A stream that hears all publishers."""

    sock: socket.socket
    heard: list[int]  # of each publisher, how many messages
    rest: bytes = b""  # of a message that has not come as a whole


@final
@define
class _Relay:
    """All streams, spread over all workers."""

    publishers: Sequence[Stream]
    subscribers: dict[int, _Subscriber]
    poll: select.epoll
    known: dict[bytes, tuple[int, int]]  # whose message this is, and which
    size: int
    told: list[int]  # of each publisher, how many messages it was told to publish

    def order(self, publisher: int, first: int, count: int) -> bytes:
        """Return the bytes that tell a publisher to publish so many of its messages."""
        return self.publishers[publisher].request(wire.encode(wire.order(publisher * BURST + first, count)))

    def tell(self, publisher: int, order: bytes, count: int) -> None:
        """Send an order."""
        self.told[publisher] += count
        self.publishers[publisher].sock.sendall(order)

    def take(self, descriptor: int) -> list[tuple[int, int]]:
        """Read what has come for a subscriber; return of each message whose it is, and how many came before it."""
        subscriber = self.subscribers[descriptor]
        chunk = subscriber.sock.recv(_CHUNK)
        if not chunk:
            raise LoadError("the server closed the connection")
        received, size, known, heard = subscriber.rest + chunk, self.size, self.known, subscriber.heard
        whole = len(received) // size * size
        taken: list[tuple[int, int]] = []
        for begin in range(0, whole, size):
            publisher, line = known.get(received[begin : begin + size], (-1, 0))
            if publisher < 0 or heard[publisher] % BURST != line or heard[publisher] == self.told[publisher]:
                raise LoadError(f"expected the next message of a publisher, got {received[begin:][:size]!r:.200}")
            taken.append((publisher, heard[publisher]))
            heard[publisher] += 1
        subscriber.rest = received[whole:]
        return taken


@contextmanager
def _relaying(server: Server, connections: int) -> Generator[_Relay]:
    """Open all streams, and have each publisher heard by each subscriber once."""
    with (
        spread(server, "/hear", connections) as streams,
        spread(server, "/tell", _ALL) as publishers,
        select.epoll() as poll,
    ):
        known: dict[bytes, tuple[int, int]] = {}
        relay = _Relay(publishers, {}, poll, known, 0, [0] * _ALL)
        for publisher in range(_ALL):
            publishers[publisher].sock.sendall(relay.order(publisher, 0, BURST))
            frames = [streams[0].read_frame() for _ in range(BURST)]
            for line, frame in enumerate(frames):
                streams[0].check(frame, wire.ticks(wire.SMALL)[publisher * BURST + line])
                known[frame] = publisher, line
            messages = b"".join(frames)
            for stream in streams[1:]:
                compare(stream.read(len(messages)), messages, 0)
        relay.size = same(list(known))
        for stream in streams:
            stream.sock.settimeout(0)
            relay.subscribers[stream.sock.fileno()] = _Subscriber(stream.sock, [0] * _ALL)
            poll.register(stream.sock, select.EPOLLIN)
        yield relay


@contextmanager
def spread(server: Server, path: str, connections: int) -> Generator[list[Stream]]:
    """Open streams until each worker has its part of them, and close those that are too many; the workers take turns.

    Raises:
        LoadError: Some workers get nothing, or not enough.
    """
    part = connections // wire.WORKERS
    workers: dict[bytes, list[Stream]] = {}
    with ExitStack() as stack:
        progress = time.perf_counter()
        while (missing := connections - sum(map(len, workers.values()))) > 0:
            for stream in open_some(server, path, min(PARALLEL, missing), stack):
                streams = workers.setdefault(_worker(stream), [])
                if len(streams) < part:
                    streams.append(stream)
                    progress = time.perf_counter()
                else:
                    stream.sock.close()
            if len(workers) > wire.WORKERS or time.perf_counter() > progress + PATIENCE:
                there = " and ".join(str(len(streams)) for streams in workers.values())
                raise LoadError(f"expected {part} streams in each of {wire.WORKERS} workers, got {there}")
            if len(workers) < wire.WORKERS:
                time.sleep(_PAUSE)
        yield [stream for turn in zip(*workers.values(), strict=True) for stream in turn]


def _worker(stream: Stream) -> bytes:
    """Return what a worker says first, in which it is the user."""
    frame = stream.read_frame()
    found = re.search(rb'"user":"([0-9]{5})"', frame)
    stream.check(frame, wire.message(found[1].decode() if found else ""))
    return frame
