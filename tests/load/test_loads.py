"""The load generator: what is counted has been verified."""

import socket
import sys
from contextlib import suppress

import pytest
from websockets.protocol import State
from websockets.server import ServerProtocol

from benchmarks.load import loads, stream, wire
from benchmarks.load.meter import LoadError, Server
from benchmarks.load.stream import TEXT, check_upgrade, client_frame, split_frame

from .fakes import (
    ANOTHERS,
    BURST,
    MINE,
    TICK,
    TOCK,
    UPGRADE,
    answering,
    broadcasting,
    frame,
    measured,
    serving,
    upgraded,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll, cores and /proc are Linux's")


# Frames.


def test_a_frame_is_the_one_of_the_rfc() -> None:
    assert client_frame(b"Hello") == bytes.fromhex("818537fa213d7f9f4d5158")  # RFC 6455, 5.7


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_server_understands_a_frame_of_any_size(size: int) -> None:
    protocol = ServerProtocol(state=State.OPEN)
    protocol.receive_data(client_frame(b"x" * size))
    [received] = protocol.events_received()
    assert getattr(received, "data", None) == b"x" * size


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_is_found_as_soon_as_it_is_whole(size: int) -> None:
    protocol = ServerProtocol(state=State.OPEN)
    protocol.send_text(b"x" * size)
    sent = b"".join(protocol.data_to_send())
    assert wire.frame(b"x" * size) == sent
    assert split_frame(sent) == (TEXT, b"x" * size, len(sent))
    assert split_frame(sent + b"more") == (TEXT, b"x" * size, len(sent))
    for length in {0, 1, 2, 3, 4, 9, len(sent) - 1} & set(range(len(sent))):
        assert split_frame(sent[:length]) is None


@pytest.mark.parametrize("first", [b"\x01\x00", b"\xc1\x00", b"\x81\x80"])
def test_a_frame_in_parts_or_compressed_or_masked_is_none_of_ours(first: bytes) -> None:
    with pytest.raises(LoadError, match="expected a whole message"):
        split_frame(first)


def test_an_upgrade_has_the_right_key_and_no_extensions() -> None:
    check_upgrade(UPGRADE)
    for wrong in (
        UPGRADE.replace(b"101", b"403"),
        UPGRADE.replace(b"s3pP", b"S3pP"),
        UPGRADE + b"\r\nSec-WebSocket-Extensions: permessage-deflate",
    ):
        with pytest.raises(LoadError, match="expected an upgrade"):
            check_upgrade(wrong)


@pytest.mark.parametrize("size", [wire.SMALL, 4096, 65536])
def test_messages_have_the_size_they_should_have(size: int) -> None:
    messages = [wire.flood(size), *wire.ticks(size)]
    assert {len(wire.encode(message)) for message in messages} == {size}
    assert len({str(message) for message in wire.ticks(size)}) == wire.VARIANTS


# What is counted has been verified.


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([ANOTHERS], "expected a text frame of"),
        ([MINE + MINE], "expected one reply to one message"),
        ([MINE, ANOTHERS], "after 15 bytes: expected b'0\",.*, got b'1\","),
        ([MINE, MINE + MINE[:10], ANOTHERS[10:]], r"after (5|15) bytes: expected b'0\",.*, got b'1\","),
        ([MINE, b""], "closed the connection"),
        ([b""], "closed the connection"),
    ],
    ids=["another's", "one too many", "another's later", "torn", "end", "early end"],
)
def test_a_wrong_reply_voids_the_measurement(answers: list[bytes], error: str) -> None:
    with answering(*answers) as server, pytest.raises(LoadError, match=error):
        loads.echo(server, 1, 10)


def test_a_ping_is_no_reply() -> None:
    with answering(b"\x89\x00" + MINE, b"") as server, pytest.raises(LoadError, match="closed the connection"):
        loads.echo(server, 1, 10)


def test_a_flood_is_compared_to_its_last_byte() -> None:
    flood = frame(wire.flood(wire.SMALL))
    with (
        answering(first=flood * 2 + flood[:-1] + b"!") as server,
        pytest.raises(LoadError, match="got "),
    ):
        loads.flood(server, 1, 10)


@pytest.mark.parametrize(
    ("bursts", "error"),
    [
        ([(TOCK + TICK, BURST)], "expected a text frame of"),
        ([(BURST, TOCK + TICK)], r"after \d+ bytes: expected b'0\",.*, got b'1\","),
        ([(BURST, BURST), (BURST, TICK + TICK)], r"after \d+ bytes: expected b'1\",.*, got b'0\","),
        ([(BURST, BURST), (BURST, TOCK), (BURST, BURST)], r"after \d+ bytes: expected b'0\",.*, got b'1\","),
        ([(BURST, BURST), (b"", BURST)], "closed the connection"),
        ([(BURST, BURST), (BURST, BURST), (BURST, TICK)], r"nothing has come for 0\.1 s"),
        ([(BURST, BURST), (BURST * 3, TICK)], "expected what was published, got more"),
    ],
    ids=["order", "another order", "twice", "one is missing", "end", "not to all", "too many"],
)
def test_a_message_that_does_not_reach_every_subscriber_voids_the_measurement(
    bursts: list[tuple[bytes, bytes]], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broadcasting(*bursts) as server, pytest.raises(LoadError, match=error):
        monkeypatch.setattr(stream, "PATIENCE", 0.1)
        loads.broadcast(server, 2, 10, burst=2)


def test_a_broadcast_counts_what_all_subscribers_have(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = list[int]()

    class Window:
        measurement = measured()

        def __init__(self, server: Server, seconds: float) -> None:
            pass

        def is_over(self, done: int) -> bool:
            counted.append(done)
            return len(counted) == 4

    monkeypatch.setattr(loads, "Window", Window)
    with broadcasting(*[(BURST, BURST)] * 6) as server:
        loads.broadcast(server, 2, 10, burst=2)
    assert counted == [0, 4, 8, 12]


def test_who_does_not_read_and_holds_up_the_others_brings_a_figure_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "IMPATIENCE", 0.1)
    with broadcasting((BURST, b"\x88\x00")) as server:  # only one burst, and the other is cut off
        measurement = loads.stall(server, 2, 10, stalled=1, burst=2, size=wire.SMALL, fill=100)
    assert measurement.figure == 0
    assert measurement.beside["cut off"] == 1


@pytest.mark.slow
def test_who_is_not_held_up_gets_messages_and_who_does_not_read_is_not_always_cut_off() -> None:
    with broadcasting(*[(BURST, BURST)] * 3000) as server:
        measurement = loads.stall(server, 2, 0.02, stalled=1, burst=2, size=wire.SMALL, fill=20)
    assert measurement.figure > 0
    assert measurement.beside["cut off"] == 0


ALL = b"".join(frame(tick) for tick in wire.ticks(wire.SMALL))
ONE = len(client_frame(wire.encode(wire.order(0, 1))))


def publishing(listener: socket.socket, answers: list[bytes]) -> None:
    """Serve one subscriber and a publisher: the first order is for all messages, each of the others gets an answer."""
    with upgraded(listener) as subscriber:
        subscriber.sendall(frame(wire.READY))
        with upgraded(listener) as publisher, suppress(OSError):
            publisher.recv(len(client_frame(wire.encode(wire.order(0, wire.VARIANTS)))), socket.MSG_WAITALL)
            subscriber.sendall(ALL)
            for number, answer in enumerate(answers):
                # The orders of the ticks 10 and above have a digit more.
                publisher.recv(ONE + (number >= 10), socket.MSG_WAITALL)
                subscriber.sendall(answer)
            while publisher.recv(4096):
                pass


FRAMES = [frame(tick) for tick in wire.ticks(wire.SMALL)]


@pytest.mark.slow
def test_a_latency_counts_from_when_the_message_was_due() -> None:
    answers = [*FRAMES[:5], b"", FRAMES[5] + FRAMES[6], *FRAMES[7:10]]  # one comes with the next
    with serving(lambda listener: publishing(listener, answers)) as server:
        measurement = loads.latency(server, 1, 0.8, rate=10)
    assert len(measurement.latencies) == 8  # 10 without those of the warm-up
    assert max(measurement.latencies) > 0.1  # it had to wait for the next
    assert measurement.figure == pytest.approx(max(measurement.latencies) * 1000)
    assert measurement.beside == {"too late": 0}


@pytest.mark.slow
def test_what_never_comes_is_as_late_as_can_be() -> None:
    with serving(lambda listener: publishing(listener, [*FRAMES[:9], b""])) as server:
        measurement = loads.latency(server, 1, 0.8, rate=10)
    assert len(measurement.latencies) == 8
    assert max(measurement.latencies) == pytest.approx(0.8)
    assert measurement.beside == {"too late": 0.1}


@pytest.mark.parametrize(
    ("answers", "error"),
    [([FRAMES[1]], "after 15 bytes: expected"), ([FRAMES[0] + FRAMES[1]] * 2, "got more")],
    ids=["another", "too many"],
)
def test_a_message_that_was_not_due_voids_the_latencies(answers: list[bytes], error: str) -> None:
    with (
        serving(lambda listener: publishing(listener, answers)) as server,
        pytest.raises(LoadError, match=error),
    ):
        loads.latency(server, 1, 2, rate=2)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (wire.message("00001"), "expected the next line of"),
        (wire.message("00700"), "expected the next line of"),
        (None, "closed the connection"),
    ],
    ids=["not yet", "another room", "end"],
)
def test_a_line_that_is_not_the_next_voids_the_chat(line: object, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "ROOM", 2)
    monkeypatch.setattr(loads, "TALKERS", 1)

    def serve(listener: socket.socket) -> None:
        with upgraded(listener) as talker:
            with upgraded(listener) as other, suppress(OSError):
                members = (talker, other)
                for member in members:
                    member.sendall(frame(wire.READY))
                size = len(client_frame(wire.encode(wire.message("00000"))))
                for number in range(4):
                    talker.recv(size, socket.MSG_WAITALL)
                    for member in members:
                        member.sendall(frame(wire.message(f"000{number:02}")))
                talker.recv(size, socket.MSG_WAITALL)
                other.sendall(b"" if line is None else frame(line))
                other.shutdown(socket.SHUT_WR)
                while talker.recv(4096):
                    pass

    with serving(serve) as server, pytest.raises(LoadError, match=error):
        loads.chat(server, 2, 10)


def test_a_server_that_has_missed_a_message_is_found_out() -> None:
    with answering(frame({"count": 1})) as server, pytest.raises((LoadError, OSError)):
        loads.count(server, 1, 0.01)


def test_a_close_with_another_code_is_no_good_handshake() -> None:
    with (
        answering(b"\x88\x02\x03\xf3") as server,
        pytest.raises(LoadError, match="expected a Close with 1000"),
    ):
        loads.handshakes(server, 1, 10)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(MINE) as server, pytest.raises(LoadError, match=r"nothing has come for 0\.1 s"):
        monkeypatch.setattr(stream, "PATIENCE", 0.1)
        loads.echo(server, 1, 10)


def event(value: object) -> bytes:
    return wire.frame(b'42["message",' + wire.encode(value) + b"]")


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (
            (wire.frame(b'0{"sid":"x"}'), wire.frame(b'40{"sid":"y"}'), event(wire.message(wire.user(0))), b""),
            "closed the",
        ),
        ((wire.frame(b'0{"sid":"x"}'), wire.frame(b'44{"message":"no"}')), "begins with b'40{', got b'44"),
        ((wire.frame(b'0{"sid":"x"}'), wire.frame(b'40{"sid":"y"}'), wire.frame(b'42["other",1]')), "text frame of"),
    ],
    ids=["right", "refused", "another event"],
)
def test_socket_io_is_spoken_over_a_websocket(answers: tuple[bytes, ...], error: str) -> None:
    first, *rest = answers
    with answering(*rest, first=first, speech="socket.io") as server, pytest.raises(LoadError, match=error):
        loads.echo(server, 1, 10)
