"""Servers that answer the load generator as a test says, and figures that nobody has measured."""

import os
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress

from benchmarks.load import wire
from benchmarks.load.meter import Measurement, Server
from benchmarks.load.peers import Speech
from benchmarks.load.results import Result, Run
from benchmarks.load.scenarios import SCENARIOS
from benchmarks.load.stream import client_frame

UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)


def frame(value: object) -> bytes:
    return wire.frame(wire.encode(value))


MINE = frame(wire.message(wire.user(0)))
ANOTHERS = frame(wire.message(wire.user(1)))
TICK, TOCK = (frame(tick) for tick in wire.ticks(wire.SMALL)[:2])
BURST = TICK + TOCK
ORDER = len(client_frame(wire.encode(wire.order(0, 2))))


@contextmanager
def serving(serve: Callable[[socket.socket], None], speech: Speech = "websocket") -> Generator[Server]:
    """Run a server in a thread; it is given what listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield Server(os.getpid(), listener.getsockname()[1], speech)
        finally:
            thread.join()


@contextmanager
def answering(*answers: bytes, first: bytes = b"", speech: Speech = "websocket") -> Generator[Server]:
    """Serve one connection: it is upgraded, and after what comes first, whatever comes gets the next answer."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(4096)
            connection.sendall(UPGRADE + b"\r\n\r\n" + first)
            for answer in answers:
                connection.recv(4096)
                connection.sendall(answer)
            if answers[-1:] == (b"",):
                connection.shutdown(socket.SHUT_WR)  # closed with something unread, it would be reset
            while connection.recv(4096):
                pass

    with serving(serve, speech) as server:
        yield server


def upgraded(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.recv(4096)
    connection.sendall(UPGRADE + b"\r\n\r\n")
    return connection


@contextmanager
def broadcasting(*bursts: Sequence[bytes], order: int = ORDER) -> Generator[Server]:
    """Serve two subscribers and a publisher; for each of its messages, they get the next burst, each its own."""

    def serve(listener: socket.socket) -> None:
        with upgraded(listener) as one, upgraded(listener) as other:
            for subscriber in (one, other):
                subscriber.sendall(frame(wire.READY))
            with upgraded(listener) as publisher, suppress(OSError):
                for parts in bursts:
                    publisher.recv(order, socket.MSG_WAITALL)
                    for subscriber, part in zip((one, other), parts, strict=True):
                        subscriber.sendall(part)
                        if not part:
                            subscriber.shutdown(socket.SHUT_WR)
                while publisher.recv(4096):
                    pass

    with serving(serve) as server:
        yield server


def measured(
    figure: float = 1,
    *,
    client: float = 0,
    waited: float = 0,
    latencies: Sequence[float] = (),
    beside: dict[str, float] | None = None,
) -> Measurement:
    return Measurement(figure, client, 0.5, waited, latencies, beside or {})


def result(name: str = "echo-50", **measurements: Measurement | Sequence[Measurement]) -> Result:
    runs = {
        server: [Run.of(run) for run in ([given] if isinstance(given, Measurement) else given)]
        for server, given in measurements.items()
    }
    return Result(name, SCENARIOS[name].connections, runs)
