"""A stream on its own socket: what it delivers, and when it reads."""

import pytest
from websockets.frames import Opcode

from streamrt import Deflate, Limits
from streamrt.server.socket import SocketTransport
from streamrt.wire.frames import pong_frame
from tests.peers import frame, text
from tests.transports import GONE, QUIET, FakeLine, Reader, Recorder, attached, negotiated, plain


def test_messages_are_delivered_in_batches_of_what_there_is_room_for() -> None:
    receiver = Recorder(room=4)
    transport, _ = attached(receiver)
    transport.take(b"".join(text(str(value)) for value in range(6)))
    assert receiver.calls == [("deliver", "0"), ("deliver", "1", "2", "3")]
    receiver.room = 10
    transport.allow(10)
    assert receiver.calls[2:] == [("deliver", "4", "5")]


def test_what_came_before_there_is_a_receiver_waits_for_it() -> None:
    reading, receiver = Reader(), Recorder()
    transport = SocketTransport(FakeLine(), QUIET)
    transport.read_by(reading)
    transport.take(text("early") + frame(Opcode.PING, b"p"))
    assert reading.calls == []
    transport.attach(receiver)
    assert receiver.calls == [("deliver", "early"), ("answer", pong_frame(b"p"))]
    assert reading.calls == ["resume"]


def test_the_line_is_read_while_there_is_room() -> None:
    reading, receiver = Reader(), Recorder(room=2)
    transport, _ = attached(receiver)
    transport.read_by(reading)
    assert reading.calls == ["resume"]
    transport.take(text("1") + text("2") + text("3"))
    assert reading.calls == ["resume", "pause"]
    receiver.room = 1
    transport.allow(1)  # which "3" takes
    assert reading.calls == ["resume", "pause"]
    transport.allow(5)
    assert reading.calls == ["resume", "pause", "resume"]


def test_who_begins_to_read_when_there_is_no_room_is_left_paused() -> None:
    reading, receiver = Reader(), Recorder(room=1)
    transport, _ = attached(receiver)
    transport.take(text("1"))
    transport.read_by(reading)
    assert reading.calls == []


def test_who_begins_to_read_after_the_end_is_stopped() -> None:
    reading = Reader()
    transport, _ = attached(Recorder())
    transport.take(b"")
    transport.read_by(reading)
    assert reading.calls == ["stop"]


def test_pings_are_answered_behind_the_messages_before_them() -> None:
    receiver = Recorder(room=1)
    transport, _ = attached(receiver)
    transport.take(frame(Opcode.PING, b"a") + text("1") + text("2") + frame(Opcode.PING, b"b"))
    assert receiver.calls == [("deliver", "1"), ("answer", pong_frame(b"a"))]
    receiver.room = 2
    transport.allow(2)
    assert receiver.calls[2:] == [("deliver", "2"), ("answer", pong_frame(b"b"))]


def test_a_flood_of_pings_is_answered_in_one_write() -> None:
    receiver = Recorder()
    transport, _ = attached(receiver)
    transport.take(b"".join(frame(Opcode.PING, b"%d" % number) for number in range(2000)))
    assert receiver.calls == [("answer", b"".join(pong_frame(b"%d" % number) for number in range(2000)))]


async def test_reading_when_there_is_nothing_changes_nothing() -> None:
    async with plain() as stream:
        stream.transport.read()
        assert stream.receiver.calls == []
        await stream.come(text("1"))
        assert stream.receiver.calls == [("deliver", "1")]


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_connection_that_ends_without_a_close_is_lost(how: str) -> None:
    reading = Reader()
    async with plain() as stream:
        stream.transport.read_by(reading)
        if how == "FIN":
            await stream.peer.aclose()
        else:
            stream.vanish()
        await stream.read()
        await stream.transport.wait_closed()
        assert stream.receiver.calls == [GONE, "finish"]
        assert stream.line.closed
        assert reading.calls == ["resume", "stop"]


def test_a_connection_is_lost_only_once() -> None:
    receiver = Recorder()
    transport, line = attached(receiver)
    transport.take(b"")
    transport.take(b"")
    transport.mourn()
    assert (receiver.calls, line.calls) == ([GONE, "finish"], ["reset"])


def test_what_was_read_before_a_cut_is_delivered_when_there_is_room_and_then_the_end() -> None:
    reading, receiver = Reader(), Recorder(room=1)
    transport, _ = attached(receiver)
    transport.read_by(reading)
    transport.take(text("1") + text("2") + text("3"))
    transport.take(b"")
    assert receiver.calls == [("deliver", "1"), GONE]
    receiver.room = 8
    transport.allow(8)
    assert receiver.calls[2:] == [("deliver", "2", "3"), "finish"]
    assert reading.calls == ["resume", "pause", "stop"]


def test_compressed_messages_are_inflated_one_at_a_time() -> None:
    limits = Limits(ping_interval=None, compression=Deflate())
    receiver = Recorder()
    transport, _ = attached(receiver, limits, deflate=negotiated(limits))
    transport.take(text("1") + text("2"))
    assert receiver.calls == [("deliver", "1"), ("deliver", "2")]
