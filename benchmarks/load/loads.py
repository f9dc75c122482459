"""The loads: raw sockets, one `select.epoll`, and nothing in a loop that could be done before it.

Each takes a server, how many connections and how many seconds, and returns what it measured. The rules of this file:

- What is counted has been verified. The first reply of a stream is parsed; all replies to one message are the
  same bytes, so from then on every byte that comes is compared with them.
- It must not be what is measured: each measurement tells what share of the time this process was at work.
- Every wait ends: after a while without any progress the server is given up.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import final

from attrs import define, evolve

from . import wire
from .meter import LoadError, Measurement, Meter, Server, Window, resident_bytes
from .stream import (
    CLOSE,
    PARALLEL,
    Opening,
    Stream,
    Stuck,
    client_frame,
    compare,
    connect,
    opened,
    same,
    split_frame,
    wait,
)

IMPATIENCE = 5.0
"""Seconds without any progress after which subscribers are said to be held up by others that do not read."""

ROOM = 20
"""Members of a room."""

TALKERS = 2
"""Members of a room that talk."""

_CHUNK = 1 << 18  # what is read or written at once where one stream takes or gives all it can
_DONE = (1000).to_bytes(2)
_AHEAD = 2  # bursts that are under way at a time: nobody idles, and nobody has to keep more than that for a subscriber
_LINES = 4  # different messages that a talker has


def echo(
    server: Server, connections: int, seconds: float, *, in_flight: int = 1, size: int = wire.SMALL
) -> Measurement:
    """Measure messages a second that go out and come back, with so many in flight on each connection."""
    with opened(server, "/echo", connections) as streams, select.epoll() as poll:
        loops: dict[int, _Loop] = {}
        for number, stream in enumerate(streams):
            loop = _Loop.begin(stream, number, in_flight, size)
            loops[stream.sock.fileno()] = loop
            poll.register(stream.sock, select.EPOLLIN)
        for loop in loops.values():
            loop.send(in_flight)
        window = Window(server, seconds)
        done = 0
        while not window.is_over(done):
            for descriptor, _ in wait(poll):
                loop = loops[descriptor]
                chunk = loop.sock.recv(loop.outstanding)
                compare(chunk, loop.replies, loop.offset)
                arrived, loop.offset = divmod(loop.offset + len(chunk), loop.reply_size)
                if arrived:
                    window.latencies.append(time.perf_counter() - loop.sent_at)
                    loop.send(arrived)
                    done += arrived
        # With more in flight than one, nobody has followed which of them a reply answers.
        return window.measurement if in_flight == 1 else evolve(window.measurement, latencies=())


def flood(server: Server, connections: int, seconds: float, *, size: int = wire.SMALL) -> Measurement:
    """Measure messages a second that come over one connection, as fast as they are sent."""
    assert connections == 1
    with opened(server, f"/flood/{size}", 1) as [stream]:
        reply = stream.read_frame()
        stream.check(reply, wire.flood(size))
        replies = reply * (_CHUNK // len(reply) + 2)
        received = 0
        while len(stream.received) > received:
            compare(stream.received[received : received + _CHUNK], replies, received % len(reply))
            received = min(received + _CHUNK, len(stream.received))
        # Woken for every message, this process would have more to do than the server.
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _CHUNK // 4)
        window = Window(server, seconds)
        while not window.is_over(received // len(reply)):
            chunk = stream.sock.recv(_CHUNK)
            compare(chunk, replies, received % len(reply))
            received += len(chunk)
        return window.measurement


def count(server: Server, connections: int, seconds: float, *, size: int = wire.SMALL) -> Measurement:
    """Measure messages a second that a server takes from one connection, until it says how many they were."""
    assert connections == 1
    _count(server, seconds / 4, size)  # to warm up
    return _count(server, seconds, size)


def broadcast(
    server: Server, connections: int, seconds: float, *, burst: int, size: int = wire.SMALL, apart: bool = False
) -> Measurement:
    """Measure messages a second that subscribers of one topic get, counted over all of them.

    The publisher is told when to publish the next burst: when every subscriber has all of one. It is also told
    whether to let others run after each message, so that the messages come apart.
    """
    order = wire.order(0, burst, size=size, apart=apart)
    with (
        opened(server, "/topic", connections) as streams,
        opened(server, "/publish", 1) as [publisher],
        select.epoll() as poll,
    ):
        audience = _Audience.gather(streams, publisher, poll, order)
        window = Window(server, seconds)
        while not window.is_over(audience.delivered):
            audience.advance()
        return window.measurement


def stall(
    server: Server, connections: int, seconds: float, *, stalled: int, burst: int, size: int, fill: int
) -> Measurement:
    """Measure what subscribers get of a topic when some others, which hear it too, read nothing at all.

    Args:
        server: It.
        connections: Who hears the topic, with those that do not read.
        seconds: How long what the others get is measured.
        stalled: How many do not read.
        burst: How many messages are published at a time.
        size: Bytes of each.
        fill: Messages that are published before the clock runs: more than the system keeps for who does not read.

    Returns:
        No messages at all, when nothing has come for `IMPATIENCE`: all are held up. Beside it, by how many MiB the
        server has grown, and what share of those that do not read it has cut off.
    """
    order = wire.order(0, burst, size=size)
    with (
        opened(server, "/topic", connections - stalled) as streams,
        opened(server, "/topic", stalled, receive_buffer=4096) as sleepers,
        opened(server, "/publish", 1) as [publisher],
        select.epoll() as poll,
    ):
        for sleeper in sleepers:
            sleeper.check(sleeper.read_frame(), wire.READY)
        for stream in streams:
            stream.sock.settimeout(IMPATIENCE)
        before = resident_bytes(server)
        meter = Meter(server)
        try:
            audience = _Audience.gather(streams, publisher, poll, order)
            while audience.delivered < fill * len(streams):
                audience.advance(IMPATIENCE)
            window = Window(server, seconds)
            while not window.is_over(audience.delivered):
                audience.advance(IMPATIENCE)
            measurement = window.measurement
        except Stuck:
            measurement = meter.read(0)
        grown = (resident_bytes(server) - before) / (1 << 20)
        cut_off = sum(_is_cut_off(sleeper) for sleeper in sleepers)
    return evolve(measurement, beside={"MiB more": grown, "cut off": cut_off / stalled})


def latency(server: Server, connections: int, seconds: float, *, rate: int) -> Measurement:
    """Measure the milliseconds from when a message is due to when a subscriber has it: the 99th percentile.

    The times are set before, so many a second. A server that is late is not spared the messages that come meanwhile,
    so its delay is in the latency of each of them. What has not come in as long again counts as if it came then.
    """
    with (
        opened(server, "/topic", connections) as streams,
        opened(server, "/publish", 1) as [publisher],
        select.epoll() as poll,
    ):
        messages = _learn(streams, publisher, wire.order(0, wire.VARIANTS))
        size = len(messages) // wire.VARIANTS
        replies = messages * (_CHUNK // len(messages) + 2)
        orders = [publisher.request(wire.encode(wire.order(number, 1))) for number in range(wire.VARIANTS)]
        socks, received = dict[int, socket.socket](), dict[int, int]()
        for stream in streams:
            stream.sock.settimeout(0)
            socks[stream.sock.fileno()], received[stream.sock.fileno()] = stream.sock, 0
            poll.register(stream.sock, select.EPOLLIN)
        warm_up, total = int(rate * seconds / 4), int(rate * seconds * 1.25)
        begin = time.perf_counter()
        due = [begin + number / rate for number in range(total)]
        deadline = due[-1] + seconds
        meter, latencies, missing, sent = Meter(server), list[float](), total * connections, 0
        while missing and (now := time.perf_counter()) < deadline:
            late = sent
            while sent < total and due[sent] <= now:
                sent += 1
            publisher.sock.sendall(b"".join([orders[number % wire.VARIANTS] for number in range(late, sent)]))
            # epoll would wait for whole milliseconds, and publish late.
            select.select([poll], [], [], max((due[sent] if sent < total else deadline) - time.perf_counter(), 0))
            for descriptor, _ in poll.poll(0):
                chunk = socks[descriptor].recv(_CHUNK)
                before = received[descriptor]
                compare(chunk, replies, before % len(messages))
                received[descriptor] = before + len(chunk)
                now = time.perf_counter()
                whole = range(before // size, received[descriptor] // size)
                if whole.stop > sent:
                    raise LoadError("expected what was published, got more")
                latencies += [now - due[number] for number in whole if number >= warm_up]
                missing -= len(whole)
        measurement = meter.read(0)
        for had in received.values():
            latencies += [deadline - due[number] for number in range(max(had // size, warm_up), total)]
        measurement = evolve(measurement, latencies=latencies, beside={"too late": missing / total / connections})
    return evolve(measurement, figure=sorted(latencies)[len(latencies) * 99 // 100] * 1000)


def chat(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure messages a second that members of rooms get, where some talk as soon as they hear themselves."""
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        members: dict[int, _Member] = {}
        known: dict[bytes, tuple[int, int]] = {}  # who says this, and which of its lines it is
        for room in range(connections // ROOM):
            streams = stack.enter_context(opened(server, f"/chat/{room}", ROOM))
            for stream in streams:
                stream.check(stream.read_frame(), wire.READY)
            talkers = range(room * TALKERS, (room + 1) * TALKERS)
            for number, stream in enumerate(streams):
                lines = list[bytes]()
                for line in range(_LINES if number < TALKERS else 0):
                    message = wire.message(f"{talkers[number]:03}{line:02}")
                    lines.append(stream.request(wire.encode(message)))
                    stream.sock.sendall(lines[-1])
                    frame = streams[0].read_frame()
                    streams[0].check(frame, message)
                    for other in streams[1:]:
                        compare(other.read(len(frame)), frame, 0)
                    known[frame] = talkers[number], line
                itself = talkers[number] if lines else None
                members[stream.sock.fileno()] = _Member(stream, itself, lines, dict.fromkeys(talkers, 0))
            for stream in streams:
                stream.sock.settimeout(0)
                poll.register(stream.sock, select.EPOLLIN)
        size = same(list(known))
        for member in members.values():
            member.talk()
        window = Window(server, seconds)
        done = 0
        while not window.is_over(done):
            for descriptor, _ in wait(poll):
                member = members[descriptor]
                done += member.take(known, size, window.latencies)
        return window.measurement


def idle(server: Server, connections: int, seconds: float, *, points: Sequence[int]) -> Measurement:  # noqa: ARG001 - it takes its own time
    """Measure resident bytes of the server for each connection that has nothing to say.

    Each has had one message answered, so that it is known to live. Some others are there from the beginning,
    so that what a server needs only once is not counted.

    Args:
        server: It.
        connections: How many there are at the end.
        seconds: Ignored.
        points: At how many it is also measured.
    """
    beside: dict[str, float] = {}
    with ExitStack() as stack:
        for stream in stack.enter_context(opened(server, "/echo", PARALLEL)):
            _Loop.begin(stream, 0, 1, wire.SMALL)
        before = resident_bytes(server)
        meter = Meter(server)
        there = 0
        for point in sorted({*points, connections}):
            if point <= connections:
                for number, stream in enumerate(stack.enter_context(opened(server, "/echo", point - there))):
                    _Loop.begin(stream, number, 1, wire.SMALL)
                there = point
                beside[f"{point:,}"] = (resident_bytes(server) - before) / point
        # It takes no less memory when it has to wait.
        return evolve(meter.read(0), figure=beside[f"{connections:,}"], waited=0, beside=beside)


def handshakes(server: Server, connections: int, seconds: float) -> Measurement:
    """Measure connections a second that are opened, upgraded and closed, so many at a time side by side."""
    close = client_frame(_DONE, CLOSE)
    opening: dict[int, tuple[Stream, Opening | None]] = {}
    with select.epoll() as poll:

        def begin() -> None:
            stream = Stream(connect(server), server)
            steps = stream.open("/echo")
            next(steps)
            opening[stream.sock.fileno()] = stream, steps
            poll.register(stream.sock, select.EPOLLIN)

        try:
            for _ in range(connections):
                begin()
            window = Window(server, seconds)
            done = 0
            while not window.is_over(done):
                for descriptor, _ in wait(poll):
                    stream, steps = opening[descriptor]
                    stream.fill()
                    if steps is not None and next(steps, stream) is stream:
                        opening[descriptor] = stream, None
                        stream.sock.sendall(close)
                    elif steps is None and (frame := split_frame(stream.received)):
                        if frame[:2] != (CLOSE, _DONE):
                            raise LoadError(f"expected a Close with 1000, got {stream.received!r:.200}")
                        stream.sock.close()  # which takes it out of the epoll, too
                        begin()
                        done += 1
        finally:
            for stream, _ in opening.values():
                stream.sock.close()
    return window.measurement


# Inside.


@final
@define
class _Loop:
    """A stream whose server sends back what it gets; `requests` and `replies` are one message, repeated."""

    sock: socket.socket
    requests: bytes
    request_size: int
    replies: bytes
    reply_size: int
    outstanding: int  # bytes of replies
    offset: int = 0  # in a reply: what has come of it
    sent_at: float = 0

    @classmethod
    def begin(cls, stream: Stream, number: int, in_flight: int, size: int) -> _Loop:
        """Send a message, and learn its reply. Each number has its own, so that none gets another's unnoticed."""
        message = wire.message(wire.user(number), size)
        request = stream.request(wire.encode(message))
        stream.sock.sendall(request)
        reply = stream.read_frame()
        stream.check(reply, message)
        if stream.received:
            raise LoadError(f"expected one reply to one message, got also {stream.received!r:.200}")
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(_CHUNK, 4 * in_flight * len(request)))
        stream.sock.settimeout(0)  # with a timeout, Python polls before each call
        replies = reply * (in_flight + 1)
        return cls(stream.sock, request * in_flight, len(request), replies, len(reply), in_flight * len(reply))

    def send(self, messages: int) -> None:
        """Send so many messages."""
        self.sent_at = time.perf_counter()
        requests = self.requests[: messages * self.request_size]
        if self.sock.send(requests) != len(requests):
            raise LoadError("the server does not read what it should send back")


@final
@define
class _Subscriber:
    """A stream that hears a topic."""

    sock: socket.socket
    bursts: int = 0  # which it has as a whole
    offset: int = 0  # in the next: what has come of it

    def take(self, messages: bytes) -> bool:
        """Read on in a burst; return whether it is whole."""
        chunk = self.sock.recv(len(messages) - self.offset)
        compare(chunk, messages, self.offset)
        self.offset = (self.offset + len(chunk)) % len(messages)
        return self.offset == 0


@final
@define
class _Audience:
    """Streams that hear a topic, and the one that says when something is published."""

    subscribers: dict[int, _Subscriber]
    poll: select.epoll
    publisher: socket.socket
    request: bytes
    burst: int
    messages: bytes
    missing: list[int]  # from how many subscribers, of this burst and of those after it
    bursts: int = 0

    @classmethod
    def gather(
        cls, streams: Sequence[Stream], publisher: Stream, poll: select.epoll, order: dict[str, int]
    ) -> _Audience:
        """Learn what is published, and order the first bursts."""
        messages = _learn(streams, publisher, order)
        subscribers: dict[int, _Subscriber] = {}
        for stream in streams:
            # Woken for every message, this process would have more to do than the server.
            stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(len(messages), _CHUNK // 4))
            stream.sock.settimeout(0)
            subscribers[stream.sock.fileno()] = _Subscriber(stream.sock)
            poll.register(stream.sock, select.EPOLLIN)
        request = publisher.request(wire.encode(order))
        publisher.sock.sendall(request * _AHEAD)
        missing = [len(streams)] * _AHEAD
        return cls(subscribers, poll, publisher.sock, request, order["count"], messages, missing)

    @property
    def delivered(self) -> int:
        """Messages that have come, over all of them; at the end of a burst all have the same."""
        return self.bursts * self.burst * len(self.subscribers)

    def advance(self, patience: float | None = None) -> None:
        """Wait until everybody has the next burst, and order another.

        Args:
            patience: Seconds without any progress. Default: as for everything.
        """
        while self.missing[0]:
            for descriptor, _ in wait(self.poll, patience):
                subscriber = self.subscribers[descriptor]
                if subscriber.take(self.messages):
                    ahead = subscriber.bursts - self.bursts
                    if ahead == len(self.missing):
                        raise LoadError("expected what was published, got more")
                    self.missing[ahead] -= 1
                    subscriber.bursts += 1
        self.bursts += 1
        self.missing = [*self.missing[1:], len(self.subscribers)]
        self.publisher.sendall(self.request)


@final
@define
class _Member:
    """A stream that is in a room."""

    stream: Stream
    itself: int | None  # as a talker
    lines: Sequence[bytes]
    heard: dict[int, int]  # of each talker of the room, which line comes next
    said: int = 0
    said_at: float = 0

    def talk(self) -> None:
        """Say the next line, if it says anything."""
        if self.lines:
            self.said_at = time.perf_counter()
            self.stream.sock.send(self.lines[self.said % _LINES])
            self.said += 1

    def take(self, known: dict[bytes, tuple[int, int]], size: int, latencies: list[float]) -> int:
        """Read what has come; return how many messages."""
        chunk = self.stream.sock.recv(_CHUNK)
        if not chunk:
            raise LoadError("the server closed the connection")
        received = self.stream.received + chunk
        whole = len(received) // size * size
        for begin in range(0, whole, size):
            talker, line = known.get(received[begin : begin + size], (-1, 0))
            if self.heard.get(talker) != line:
                raise LoadError(f"expected the next line of {sorted(self.heard)}, got {received[begin:][:size]!r:.200}")
            self.heard[talker] = (line + 1) % _LINES
            if talker == self.itself:
                latencies.append(time.perf_counter() - self.said_at)
                self.talk()
        self.stream.received = received[whole:]
        return whole // size


def _learn(streams: Sequence[Stream], publisher: Stream, order: dict[str, int]) -> bytes:
    """Wait until all hear the topic, have something published, and return it as it came to everybody."""
    for stream in streams:
        stream.check(stream.read_frame(), wire.READY)
    publisher.sock.sendall(publisher.request(wire.encode(order)))
    frames = [streams[0].read_frame() for _ in range(order["count"])]
    for frame, tick in zip(frames, wire.ticks(order["size"]), strict=False):
        streams[0].check(frame, tick)
    same(frames)
    messages = b"".join(frames)
    for stream in streams[1:]:
        compare(stream.read(len(messages)), messages, 0)
    return messages


def _count(server: Server, seconds: float, size: int) -> Measurement:
    with opened(server, "/count", 1) as [stream]:
        request = stream.request(wire.encode(wire.flood(size)))
        in_block = max(_CHUNK // len(request), 1)
        block = request * in_block
        # What the system holds for a slow server would have to be waited for at the end.
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
        sent = 0
        meter, end = Meter(server), time.perf_counter() + seconds
        while time.perf_counter() < end:
            stream.sock.sendall(block)
            sent += in_block
        stream.sock.sendall(stream.request(wire.encode(wire.LAST)))
        reply = stream.read_frame()
        measurement = meter.read(sent)
        stream.check(reply, {"count": sent})
    return measurement


def _is_cut_off(sleeper: Stream) -> bool:
    """Tell whether the server has closed a connection that was not read: read what there is, but not for ever."""
    sleeper.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sleeper.sock.settimeout(0.5)
    end = time.perf_counter() + IMPATIENCE
    try:
        while time.perf_counter() < end:
            chunk = sleeper.sock.recv(_CHUNK)
            if not chunk or bytes([0x80 | CLOSE]) in chunk:  # nothing else has this byte
                return True
    except ConnectionError:
        return True
    except TimeoutError:
        pass
    return False
