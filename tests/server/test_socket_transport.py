"""A stream on its own socket, without a server: what it delivers, and every order in which it may end.

Where a line has to be read or written without a task it is a real one over loopback, and elsewhere a fake, which is
to the transport what TLS is.
"""

import os
import socket
import struct
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock
from websockets.frames import Frame as PeerFrame
from websockets.frames import Opcode

from streamrt import Deflate, Limits
from streamrt.server.line import Condition, Line, PlainLine
from streamrt.server.socket import SocketTransport
from streamrt.wire.frames import close_frame, data_frame, ping_frame, pong_frame
from streamrt.wire.transport import Disconnected, Frame, Payload

QUIET = Limits(ping_interval=None)
GONE = ("lost", 1006, "")


@attrs.define
class Recorder:
    """A receiver that notes what it is told, and has room for so many messages."""

    room: int = 64
    calls: list[Any] = attrs.Factory(list[Any])
    moves: int = 0

    def deliver(self, payloads: Sequence[Payload]) -> int:
        assert len(payloads) <= self.room or not self.calls  # the first one comes before the room is known
        self.calls.append(("deliver", *payloads))
        self.room = max(0, self.room - len(payloads))
        return self.room

    def answer(self, frame: Frame) -> None:
        assert frame.is_control
        self.calls.append(("answer", frame.wire))

    def moved(self) -> None:
        self.moves += 1

    def fail(self, code: int, reason: str) -> None:
        self.calls.append(("fail", code, reason))

    def lost(self, gone: Disconnected) -> None:
        self.calls.append(("lost", gone.code, gone.reason))

    def finish(self) -> None:
        self.calls.append("finish")


@attrs.define
class Reader:
    """Who reads a line, and notes when it may."""

    calls: list[str] = attrs.Factory(list[str])

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def stop(self) -> None:
        self.calls.append("stop")


class FakeLine(Line):
    """A line on which only tasks write, one after the other: it notes what goes out, and how it ends."""

    def __init__(self) -> None:
        self.closed = False
        self.rest = memoryview(b"")
        self.moved = lambda: None
        self.calls: list[Any] = []
        self.known: Condition | None = None
        self.broken = False
        self.writable = trio.Event()
        self.writable.set()
        self._turns = trio.StrictFIFOLock()

    async def send(self, data: bytes) -> None:
        async with self._turns:
            self.rest = memoryview(data)
            await self.writable.wait()
            if self.broken:
                raise trio.BrokenResourceError
            self.calls.append(data)
            self.rest = memoryview(b"")

    async def flush(self) -> None:
        async with self._turns:
            if self.rest:
                raise trio.BrokenResourceError

    async def receive(self) -> bytes:
        raise NotImplementedError

    def condition(self) -> Condition | None:
        return self.known

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def close(self) -> None:
        self.closed = True
        self.calls.append("close")

    def reset(self) -> None:
        self.closed = True
        self.calls.append("reset")


@attrs.frozen
class Plain:
    """A transport on a real line, and the other end of that."""

    line: PlainLine
    transport: SocketTransport
    receiver: Recorder
    peer: trio.SocketStream

    async def come(self, *frames: bytes) -> None:
        """Send as the peer, and read."""
        await self.peer.send_all(b"".join(frames))
        await self.read()

    async def read(self) -> None:
        await trio.lowlevel.wait_readable(self.line.fileno())
        self.transport.read()

    def fill(self) -> int:
        """Write into the socket, past the line, until it takes no more; return how much."""
        filled = 0
        try:
            while True:
                filled += os.write(self.line.fileno(), bytes(1 << 16))
        except BlockingIOError:
            return filled

    def vanish(self) -> None:
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.peer.socket.close()

    async def heard(self) -> bytes:
        """Everything that the peer hears, to the end."""
        heard = bytearray()
        async for data in self.peer:
            heard += data
        return bytes(heard)


@asynccontextmanager
async def plain(receiver: Recorder | None = None, limits: Limits = QUIET, **options: Any) -> AsyncGenerator[Plain]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as peer:
        line = PlainLine(await listener.accept())
        receiver = Recorder() if receiver is None else receiver
        transport = SocketTransport(line, limits, **options)
        transport.attach(receiver)
        try:
            with trio.fail_after(10):  # noqa: ASYNC100 - it is for the block
                yield Plain(line, transport, receiver, peer)
        finally:
            transport.abort(1006, "")


def attached(receiver: Recorder, limits: Limits = QUIET, **options: Any) -> tuple[SocketTransport, FakeLine]:
    line = FakeLine()
    transport = SocketTransport(line, limits, **options)
    transport.attach(receiver)
    return transport, line


def sent(opcode: Opcode, payload: bytes = b"") -> bytes:
    """A frame as a client writes it."""
    return PeerFrame(opcode, payload).serialize(mask=True)


def text(payload: str) -> bytes:
    return sent(Opcode.TEXT, payload.encode())


def close(code: int = 1000, reason: str = "") -> bytes:
    return sent(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


def frames(*payloads: bytes) -> list[Frame]:
    return [Frame(payload) for payload in payloads]


# What comes in.


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
    transport.take(text("early") + sent(Opcode.PING, b"p"))
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
    transport.take(sent(Opcode.PING, b"a") + text("1") + text("2") + sent(Opcode.PING, b"b"))
    assert receiver.calls == [("deliver", "1"), ("answer", pong_frame(b"a"))]
    receiver.room = 2
    transport.allow(2)
    assert receiver.calls[2:] == [("deliver", "2"), ("answer", pong_frame(b"b"))]


def test_a_flood_of_pings_is_answered_in_one_write() -> None:
    receiver = Recorder()
    transport, _ = attached(receiver)
    transport.take(b"".join(sent(Opcode.PING, b"%d" % number) for number in range(2000)))
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


# What goes out.


async def test_a_message_goes_straight_to_the_socket() -> None:
    async with plain() as stream:
        assert stream.transport.send_nowait(Frame(b"1"))
        await stream.transport.send(frames(b"2", b"3"))
        stream.line.shutdown()
        assert await stream.heard() == data_frame(b"1") + data_frame(b"2") + data_frame(b"3")


async def test_a_message_that_goes_out_in_part_is_finished_by_the_next_send() -> None:
    big, next_one = Frame(bytes(16 << 20)), Frame(b"next")
    async with plain() as stream, trio.open_nursery() as nursery:
        assert not stream.transport.send_nowait(big)
        assert 0 < len(stream.line.rest) < len(big)
        assert not stream.transport.send_nowait(next_one)

        async def send() -> None:
            await stream.transport.send([big, next_one])
            stream.line.shutdown()

        nursery.start_soon(send)
        assert await stream.heard() == big.wire + next_one.wire
        assert stream.receiver.moves > 1  # who waits for the peer to read is told that it does


async def test_without_a_plain_line_a_message_is_a_tasks_to_send() -> None:
    transport, line = attached(Recorder())
    assert not transport.send_nowait(Frame(b"1"))
    assert line.calls == []
    await transport.send(frames(b"1", b"2"))
    assert line.calls == [data_frame(b"1") + data_frame(b"2")]


async def test_nothing_is_sent_after_the_peers_close() -> None:
    transport, line = attached(Recorder())
    transport.take(close(4000, "bye"))
    with pytest.raises(Disconnected) as caught:
        await transport.send(frames(b"1"))
    assert (caught.value.code, caught.value.reason) == (4000, "bye")
    assert line.calls == []


async def test_a_plain_line_takes_nothing_straight_after_the_peers_close() -> None:
    async with plain() as stream:
        stream.fill()
        await stream.come(close())
        assert not stream.transport.send_nowait(Frame(b"1"))
        assert bytes(stream.line.rest) == close_frame(1000, "")


@pytest.mark.parametrize("how", ["cut", "aborted"])
async def test_nothing_is_sent_on_a_line_that_is_no_more(how: str) -> None:
    transport, line = attached(Recorder())
    if how == "cut":
        transport.mourn()
    else:
        transport.abort(1006, "")
    with pytest.raises(Disconnected) as caught:
        await transport.send(frames(b"1"))
    assert caught.value.code == 1006
    assert caught.value.reason == ("no answer to a ping within 20 s" if how == "cut" else "")
    assert line.calls == ["reset"]


async def test_a_line_that_breaks_while_a_message_is_sent_finds_the_peers_close_before() -> None:
    async with plain() as stream:
        await stream.peer.send_all(text("last words") + close(4000, "bye"))
        stream.vanish()
        await trio.lowlevel.wait_readable(stream.line.fileno())
        assert not stream.transport.send_nowait(Frame(b"1"))
        with pytest.raises(Disconnected) as caught:
            await stream.transport.send(frames(b"1"))
        assert (caught.value.code, caught.value.reason) == (4000, "bye")
        assert stream.receiver.calls[:3] == [("deliver", "last words"), ("lost", 4000, "bye"), "finish"]
        assert stream.line.closed


async def test_a_line_that_breaks_without_a_close_is_lost() -> None:
    async with plain() as stream:
        stream.vanish()
        await trio.lowlevel.wait_readable(stream.line.fileno())
        with pytest.raises(Disconnected) as caught:
            await stream.transport.send(frames(b"1"))
        assert caught.value.code == 1006
        assert stream.receiver.calls == [GONE, "finish"]


async def test_what_there_is_no_room_for_is_not_read_when_a_line_breaks() -> None:
    async with plain(Recorder(room=1)) as stream:
        await stream.come(text("1"))
        await stream.peer.send_all(text("2"))
        stream.vanish()
        await trio.lowlevel.wait_readable(stream.line.fileno())
        with pytest.raises(Disconnected):
            await stream.transport.send(frames(b"1"))
        assert stream.receiver.calls == [("deliver", "1"), GONE]


def negotiated(limits: Limits) -> Any:
    assert limits.compression is not None
    agreed = limits.compression.negotiate(["permessage-deflate"])
    assert agreed is not None
    return agreed[1]


def inflated(wire: bytes) -> list[tuple[bool, bytes]]:
    """Take short frames of a server apart: whether each was compressed, and what it held."""
    inflater = zlib.decompressobj(wbits=-15)
    messages: list[tuple[bool, bytes]] = []
    while wire:
        end = 2 + wire[1]
        compressed, payload = bool(wire[0] & 0x40), wire[2:end]
        messages.append((compressed, inflater.decompress(payload + b"\0\0\xff\xff") if compressed else payload))
        wire = wire[end:]
    return messages


async def test_messages_are_compressed_from_the_threshold_on_in_the_order_they_go_out() -> None:
    limits = Limits(ping_interval=None, compression=Deflate(threshold=10))
    async with plain(None, limits, deflate=negotiated(limits)) as stream:
        assert stream.transport.send_nowait(Frame(b"a" * 9))
        assert stream.transport.send_nowait(Frame(b"b" * 10))
        await stream.transport.send(frames(b"c" * 300, b"d", b"b" * 10))
        assert stream.transport.send_nowait(Frame(b"c" * 300))
        stream.line.shutdown()
        assert inflated(await stream.heard()) == [
            (False, b"a" * 9),
            (True, b"b" * 10),
            (True, b"c" * 300),
            (False, b"d"),
            (True, b"b" * 10),
            (True, b"c" * 300),
        ]


async def test_control_frames_are_never_compressed() -> None:
    limits = Limits(ping_interval=None, compression=Deflate(threshold=0))
    ping = ping_frame(bytes(100))
    async with plain(None, limits, deflate=negotiated(limits)) as stream:
        assert stream.transport.send_nowait(Frame.control(ping))
        await stream.transport.send([Frame.control(ping)])
        stream.line.shutdown()
        assert await stream.heard() == ping + ping


# The end.


@pytest.mark.parametrize(
    ("payload", "code", "reason"), [(close(4000, "bye"), 4000, "bye"), (sent(Opcode.CLOSE), 1005, "")]
)
async def test_the_peers_close_is_answered_at_once_and_tcp_closed(payload: bytes, code: int, reason: str) -> None:
    async with plain() as stream:
        await stream.come(text("1"), payload)
        assert stream.receiver.calls == [("deliver", "1"), ("lost", code, reason), "finish"]
        assert stream.transport.over.is_set()
        assert stream.line.closed
        assert await stream.heard() == close_frame(code, reason)


async def test_the_peers_answer_to_our_close_ends_it() -> None:
    async with plain() as stream:
        await stream.transport.close(1000, "done")
        await stream.transport.close(1000, "done")
        assert not stream.transport.over.is_set()
        await stream.come(close(1000, "done"))
        assert stream.receiver.calls == [("lost", 1000, "done"), "finish"]
        assert await stream.heard() == close_frame(1000, "done")
        await stream.transport.wait_closed()
        await stream.transport.close(1000, "done")  # there is nothing left to do


async def test_two_closes_that_cross_are_each_others_answer() -> None:
    async with plain() as stream:
        await stream.peer.send_all(close(1001, "theirs"))
        await stream.transport.close(1000, "ours")
        await stream.read()
        assert stream.receiver.calls == [("lost", 1001, "theirs"), "finish"]
        assert await stream.heard() == close_frame(1000, "ours")


async def test_the_peers_close_is_answered_behind_the_write_that_is_under_way() -> None:
    big = Frame(bytes(16 << 20))
    async with plain() as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(Disconnected) as caught:
                await stream.transport.send([big])
            assert caught.value.code == 4000

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await stream.come(close(4000, "bye"))
        assert not stream.line.closed
        assert await stream.heard() == big.wire + close_frame(4000, "bye")


async def test_an_answer_that_the_socket_does_not_take_goes_out_when_the_stream_closes() -> None:
    async with plain() as stream, trio.open_nursery() as nursery:
        filled = stream.fill()
        await stream.come(close(4000, "bye"))
        assert not stream.line.closed
        nursery.start_soon(stream.transport.close, 1000, "not said, because an answer is under way")
        heard = await stream.heard()
        assert heard[filled:] == close_frame(4000, "bye")
        assert stream.line.closed


async def test_a_close_goes_out_behind_what_an_interrupted_write_has_left() -> None:
    big = Frame(bytes(16 << 20))
    async with plain() as stream, trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            assert not stream.transport.send_nowait(big)
            await stream.transport.send([big])
        nursery.start_soon(stream.transport.close, 1001, "")
        heard = bytearray()
        while len(heard) < len(big.wire) + 4:
            heard += await stream.peer.receive_some()
        assert heard == big.wire + close_frame(1001, "")


async def test_a_peer_that_vanishes_behind_its_close_has_still_closed() -> None:
    async with plain() as stream:
        await stream.peer.send_all(close(4000, "bye"))
        stream.vanish()
        await stream.read()
        assert stream.receiver.calls == [("lost", 4000, "bye"), "finish"]
        assert stream.line.closed


async def test_where_only_a_task_can_write_the_peers_close_is_answered_by_one() -> None:
    receiver = Recorder()
    transport, line = attached(receiver)
    await transport.answer()
    transport.take(close(4000, "bye"))
    assert receiver.calls == [("lost", 4000, "bye"), "finish"]
    assert line.calls == []
    await transport.answer()
    assert line.calls == [close_frame(4000, "bye"), "close"]
    assert transport.over.is_set()


async def test_a_tasks_answer_waits_for_the_write_before_it_and_goes_out_once() -> None:
    transport, line = attached(Recorder())
    line.writable = trio.Event()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(Disconnected):
                await transport.send(frames(b"1"))

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        transport.take(close(4000, "bye"))
        nursery.start_soon(transport.answer)
        nursery.start_soon(transport.close, 4000, "bye")
        await trio.testing.wait_all_tasks_blocked()
        assert line.calls == []
        line.writable.set()
    assert line.calls == [data_frame(b"1"), close_frame(4000, "bye"), "close"]


async def test_on_a_plain_line_no_task_has_to_answer() -> None:
    async with plain() as stream:
        stream.fill()
        await stream.come(close())
        await stream.transport.answer()
        assert bytes(stream.line.rest) == close_frame(1000, "")


async def test_a_violation_ends_the_stream_and_the_peers_end_is_waited_for_behind_our_close() -> None:
    reason = "a client's frames must be masked, and this one is not"
    async with plain() as stream:
        await stream.come(text("1"), data_frame(b"not masked"), text("2"))
        assert stream.receiver.calls == [("deliver", "1"), ("fail", 1002, reason), "finish"]
        await stream.transport.close(1002, reason)
        assert await stream.heard() == close_frame(1002, reason)
        assert not stream.line.closed
        await stream.come(b"still talking")
        assert not stream.transport.over.is_set()
        await stream.peer.aclose()
        await stream.read()
        await stream.transport.wait_closed()
        assert stream.line.closed


def test_a_close_is_told_once_however_often_there_is_room() -> None:
    receiver = Recorder()
    transport, _ = attached(receiver)
    transport.take(close(4000, "bye"))
    transport.allow(1)
    assert receiver.calls.count(("lost", 4000, "bye")) == 1


async def test_a_close_that_cannot_be_sent_finds_the_peers() -> None:
    async with plain() as stream:
        await stream.peer.send_all(close(4000, "bye"))
        stream.vanish()
        await trio.lowlevel.wait_readable(stream.line.fileno())
        await stream.transport.close(1000, "")
        assert stream.receiver.calls[:2] == [("lost", 4000, "bye"), "finish"]
        assert stream.line.closed


async def test_behind_a_broken_write_no_close_can_follow() -> None:
    receiver = Recorder()
    transport, line = attached(receiver)
    line.rest = memoryview(b"interrupted")
    await transport.close(1000, "")
    assert line.calls == ["reset"]
    assert receiver.calls == [GONE, "finish"]


async def test_closing_with_1006_says_nothing() -> None:
    async with plain() as stream:
        await stream.transport.close(1006, "")
        with pytest.raises(trio.BrokenResourceError):
            await stream.heard()
        assert stream.line.closed


async def test_aborting_says_a_close_first_if_that_takes_no_waiting() -> None:
    async with plain() as stream:
        stream.transport.abort(1013, "too busy")
        stream.transport.abort(1013, "too busy")
        assert await stream.heard() == close_frame(1013, "too busy")
        assert stream.transport.over.is_set()


async def test_aborting_behind_our_close_leaves_the_close_on_its_way() -> None:
    async with plain() as stream:
        await stream.transport.close(1000, "")
        stream.transport.abort(1006, "")
        assert await stream.heard() == close_frame(1000, "")


@pytest.mark.parametrize("why", ["1006", "a write is under way", "the Close does not fit", "the Close is not out"])
async def test_aborting_is_an_rst_where_no_close_can_go_before(why: str) -> None:
    async with plain() as stream:
        if why == "a write is under way":
            assert not stream.transport.send_nowait(Frame(bytes(16 << 20)))
        elif why != "1006":
            stream.fill()
        if why == "the Close is not out":
            await stream.come(close())
        stream.transport.abort(1006 if why == "1006" else 1013, "")
        with pytest.raises(trio.BrokenResourceError):
            await stream.heard()
        assert stream.line.closed


async def test_aborting_a_connection_that_is_broken_is_no_error() -> None:
    async with plain() as stream:
        stream.vanish()
        await trio.lowlevel.wait_readable(stream.line.fileno())
        stream.transport.abort(1013, "")
        assert stream.line.closed


def test_aborting_where_only_tasks_write_is_an_rst() -> None:
    transport, line = attached(Recorder())
    transport.abort(1013, "too busy")
    assert line.calls == ["reset"]


# The heartbeat.


async def test_a_peer_is_pinged_and_its_round_trip_measured(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await trio.sleep(10.5)
    assert receiver.calls == [("answer", ping_frame(b"1"))]
    before = transport.round_trip_time
    transport.take(sent(Opcode.PONG, b"1"))
    assert (before, transport.round_trip_time) == (None, 0.5)
    transport.abort(1006, "")
    await trio.sleep(100)
    assert [call[1] for call in receiver.calls if call[0] == "answer"] == [ping_frame(b"1")]  # and no more
    assert line.calls == ["reset"]


async def test_a_peer_that_answers_no_ping_is_given_up(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await transport.wait_closed()
    assert trio.current_time() == 14
    gone = ("lost", 1006, "no answer to a ping within 4 s")
    assert receiver.calls == [("answer", ping_frame(b"1")), gone, "finish"]
    assert line.calls == ["reset"]


async def test_who_has_our_close_before_it_is_not_taken_for_gone(autojump_clock: MockClock) -> None:
    receiver = Recorder()
    transport, line = attached(receiver, Limits(ping_interval=10, ping_timeout=4))
    await trio.sleep(1)
    await transport.close(1000, "")
    await trio.sleep(100)
    assert receiver.calls == []
    assert line.calls == [close_frame(1000, "")]
    transport.abort(1006, "")


async def test_only_the_answer_to_the_last_ping_is_measured(autojump_clock: MockClock) -> None:
    transport, _ = attached(Recorder())
    transport.ping()
    await trio.sleep(1)
    transport.ping()
    transport.take(sent(Opcode.PONG, b"1") + sent(Opcode.PONG, b"unasked"))
    before = transport.round_trip_time
    await trio.sleep(2)
    transport.take(sent(Opcode.PONG, b"unasked") + sent(Opcode.PONG, b"2"))
    assert (before, transport.round_trip_time) == (None, 2)


WAITING = Condition(departed=False, outstanding=True, acknowledged=5)
TAKEN = attrs.evolve(WAITING, acknowledged=6)
WELL = attrs.evolve(WAITING, outstanding=False)


@pytest.mark.parametrize(
    ("room", "at_the_ping", "now", "alive"),
    [
        (0, WAITING, None, True),  # the system does not tell
        (0, WAITING, attrs.evolve(TAKEN, departed=True), False),
        (0, WAITING, WAITING, False),
        (0, WAITING, TAKEN, True),
        (0, WAITING, WELL, True),
        (0, None, WAITING, True),
        # One that is read could have answered, unless the ping is behind what it had not taken yet.
        (9, WELL, WELL, False),
        (9, WELL, TAKEN, False),
        (9, WAITING, WELL, False),
        (9, WAITING, TAKEN, True),
        (9, WAITING, attrs.evolve(TAKEN, departed=True), False),
        (9, WAITING, None, True),
        (9, None, TAKEN, False),
    ],
)
async def test_who_says_nothing_is_judged_by_what_its_system_says(
    room: int, at_the_ping: Condition | None, now: Condition | None, alive: bool
) -> None:
    transport, line = attached(Recorder(room + 1))
    transport.take(text("1"))
    line.known = at_the_ping
    transport.ping()
    line.known = now
    assert transport.alive() is alive


async def test_anything_that_comes_is_a_sign_of_life() -> None:
    transport, line = attached(Recorder())
    line.known = WELL
    transport.ping()
    assert not transport.alive()
    transport.take(text("1")[:1])
    assert transport.alive()
    transport.ping()
    assert not transport.alive()


async def test_a_peer_that_takes_what_the_ping_waits_behind_is_alive() -> None:
    transport, line = attached(Recorder())
    line.rest = memoryview(b"under way")
    transport.ping()
    assert not transport.alive()
    line.rest = line.rest[1:]
    assert transport.alive()


@pytest.mark.parametrize(("room", "departed", "lost"), [(0, True, True), (0, False, False), (9, True, False)])
async def test_who_is_not_read_and_has_departed_is_lost_at_the_next_ping(room: int, departed: bool, lost: bool) -> None:
    receiver = Recorder(room + 1)
    transport, line = attached(receiver)
    transport.take(text("1"))
    line.known = attrs.evolve(WELL, departed=departed)
    transport.ping()
    assert (GONE in receiver.calls) is lost
    assert receiver.calls[-1] == ("answer", ping_frame(b"1"))
