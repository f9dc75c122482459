"""The load generator before several workers: each has its part, and everybody hears all publishers in their order."""

import os
import socket
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from benchmarks.load import relay, wire
from benchmarks.load.meter import LoadError, Server

from .fakes import frame, measured, serving, upgraded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, cores and /proc are Linux's")

ADA, BOB = [[frame(tick) for tick in wire.ticks(wire.SMALL)[begin : begin + 2]] for begin in (0, 2)]
"""What two publishers say, two messages each."""

A, B = b"".join(ADA), b"".join(BOB)


@pytest.fixture(autouse=True)
def _two_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_ALL", 2)
    monkeypatch.setattr(relay, "BURST", 2)
    monkeypatch.setattr(relay, "PATIENCE", 0.1)


def joined(listener: socket.socket, stack: ExitStack, workers: Sequence[int]) -> list[socket.socket]:
    """Accept as many, and say in which worker each of them is."""
    there = [stack.enter_context(upgraded(listener)) for _ in workers]
    for connection, worker in zip(there, workers, strict=True):
        connection.sendall(frame(wire.worker(worker)))
    return there


@contextmanager
def relaying(*parts: tuple[bytes, bytes], learnt: Sequence[bytes] = (A, B)) -> Generator[Server]:
    """Serve two subscribers and two publishers in two workers; once all have been heard, come the parts of each."""

    def serve(listener: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            subscribers = joined(listener, stack, [1, 2])
            publishers = joined(listener, stack, [1, 2])
            for publisher, messages in zip(publishers, learnt, strict=True):
                publisher.recv(4096)
                for subscriber in subscribers:
                    subscriber.sendall(messages)
            for publisher in publishers:
                publisher.recv(4096)
            for both in parts:
                for subscriber, part in zip(subscribers, both, strict=True):
                    subscriber.sendall(part)
                    if not part:
                        subscriber.shutdown(socket.SHUT_WR)
            while publishers[0].recv(4096):
                pass

    with serving(serve) as server:
        yield server


def test_a_fan_out_counts_what_everybody_has_however_the_publishers_come_between_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = list[int]()

    class Window:
        measurement = measured()

        def __init__(self, server: Server, seconds: float) -> None:
            pass

        def is_over(self, done: int) -> bool:
            counted.append(done)
            return done == 12

    monkeypatch.setattr(relay, "Window", Window)
    mixed = ADA[0] + BOB[0] + BOB[1] + ADA[1]
    torn = A + mixed[:-30]
    with relaying((torn, mixed + A), (mixed[-30:] + BOB[0], BOB[0])) as server:
        # Three bursts of two messages have come to two; of the fourth, one message.
        relay.fan_out(server, 2, 10)
    assert counted[0] == 0
    assert set(counted) <= {0, 4, 8, 12}


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((ADA[1], A), "expected the next message of a publisher, got .*00001"),
        ((A + ADA[1], A), "expected the next message of a publisher, got .*00001"),
        ((A, ADA[0] * 2), "expected the next message of a publisher, got .*00000"),
        ((A * 3, A), "expected the next message of a publisher, got .*00000"),
        ((frame(wire.message("00009")), A), "expected the next message of a publisher, got .*00009"),
        ((A, b""), "closed the connection"),
    ],
    ids=["order", "one is missing", "twice", "too many", "nobody's", "end"],
)
def test_a_message_that_is_not_the_next_of_its_publisher_voids_the_measurement(
    parts: tuple[bytes, bytes], error: str
) -> None:
    with relaying(parts) as server, pytest.raises(LoadError, match=error):
        relay.fan_out(server, 2, 10)


@pytest.mark.parametrize(
    ("learnt", "error"),
    [([B], "expected a text frame of"), ([A, A], "expected a text frame of")],
    ids=["another", "another's"],
)
def test_what_a_publisher_says_has_to_be_its_own(learnt: list[bytes], error: str) -> None:
    with relaying(learnt=[*learnt, B][:2]) as server, pytest.raises(LoadError, match=error):
        relay.fan_out(server, 2, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "late"), [(10, 0), (8, 0.2)], ids=["all", "two never come"])
def test_a_latency_counts_from_when_the_message_was_due_and_what_never_comes_is_as_late_as_can_be(
    answers: int, late: float
) -> None:
    def serve(listener: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            subscribers = joined(listener, stack, [1, 2])
            publishers = joined(listener, stack, [1, 2])
            for publisher, messages in zip(publishers, (A, B), strict=True):
                publisher.recv(4096)
                for subscriber in subscribers:
                    subscriber.sendall(messages)
            for number in range(answers):
                line, publisher = divmod(number, 2)
                publishers[publisher].recv(4096)
                for subscriber in subscribers:
                    subscriber.sendall((ADA, BOB)[publisher][line % 2])
            while publishers[0].recv(4096):
                pass

    with serving(serve) as server:
        measurement = relay.latency(server, 2, 0.8, rate=10)
    assert len(measurement.latencies) == 16  # 10 messages to 2, without the 2 of the warm-up
    assert measurement.figure == pytest.approx(max(measurement.latencies) * 1000)
    assert measurement.beside == {"too late": pytest.approx(late)}
    assert (max(measurement.latencies) == pytest.approx(0.9)) == (late > 0)  # due 0.1 s before the last


def test_each_worker_has_its_part_and_what_is_too_much_is_closed() -> None:
    worker_of: dict[int, int] = {}
    surplus = list[bytes]()

    def serve(listener: socket.socket) -> None:
        with ExitStack() as stack:
            there = joined(listener, stack, [1, 1, 1, 2])
            surplus.append(there.pop(2).recv(4096))
            there += joined(listener, stack, [2])
            worker_of.update(zip([connection.getpeername()[1] for connection in there], [1, 1, 2, 2], strict=True))
            for connection in there:
                connection.recv(4096)

    with serving(serve) as server, relay.spread(server, "/hear", 4) as streams:
        ports = [stream.sock.getsockname()[1] for stream in streams]
    assert [worker_of[port] for port in ports] == [1, 2, 1, 2]
    assert surplus == [b""]


@pytest.mark.parametrize(
    ("workers", "there"), [([1, 1], "1"), ([1, 2, 3, 3], "1 and 1 and 2")], ids=["too few", "too many"]
)
def test_another_number_of_workers_voids_the_measurement(workers: list[int], there: str) -> None:
    def serve(listener: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            joined(listener, stack, workers)
            while True:
                joined(listener, stack, workers[-1:])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        server = Server(os.getpid(), listener.getsockname()[1])
        expected = rf"expected {len(workers) // 2} streams in each of 2 workers, got {there}$"
        with pytest.raises(LoadError, match=expected), relay.spread(server, "/hear", len(workers)):
            pass
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("greeting", [{"user": "00001"}, ["00001"], wire.message("00001", 4096)])
def test_what_does_not_say_where_it_is_voids_the_measurement(greeting: object) -> None:
    def serve(listener: socket.socket) -> None:
        with upgraded(listener) as connection, suppress(OSError):
            connection.sendall(frame(greeting))
            connection.recv(4096)

    with (
        serving(serve) as server,
        pytest.raises(LoadError, match="expected a text frame of"),
        relay.spread(server, "/hear", 1),
    ):
        pass
