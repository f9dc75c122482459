"""A stream on its own socket: what goes out, in which order, and what a line does to it that breaks."""

import zlib

import pytest
import trio
import trio.testing

from streamrt import Deflate, Limits
from streamrt.wire.frames import close_frame, data_frame, ping_frame
from streamrt.wire.transport import Batch, Disconnected, Frame
from tests.peers import closing, text
from tests.transports import GONE, Recorder, attached, frames, negotiated, plain


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


async def test_what_is_left_of_a_message_is_not_copied() -> None:
    big = Frame(bytes(16 << 20))
    async with plain() as stream, trio.open_nursery() as nursery:
        assert not stream.transport.send_nowait(big)
        nursery.start_soon(stream.transport.send, [big])
        await trio.testing.wait_all_tasks_blocked()
        assert stream.line.rest.obj is big.wire
        nursery.cancel_scope.cancel()


async def test_a_batch_is_one_write_and_joined_once() -> None:
    batch = Batch(frames(b"1", b"2"))
    async with plain() as one, plain() as other:
        for stream in (one, other):
            assert stream.transport.send_batch_nowait(batch) == ()
            stream.line.shutdown()
            assert await stream.heard() == data_frame(b"1") + data_frame(b"2")
    assert batch.wire is batch.wire


async def test_a_batch_that_goes_out_in_part_is_finished_by_the_next_send() -> None:
    batch, next_one = Batch(frames(bytes(8 << 20), bytes(8 << 20))), Frame(b"next")
    async with plain() as stream, trio.open_nursery() as nursery:
        [rest] = stream.transport.send_batch_nowait(batch)
        assert stream.transport.send_batch_nowait(Batch([next_one])) == [next_one]

        async def send() -> None:
            await stream.transport.send([rest, next_one])
            stream.line.shutdown()

        nursery.start_soon(send)
        assert await stream.heard() == batch.wire + next_one.wire


async def test_a_batch_is_compressed_message_by_message() -> None:
    limits = Limits(ping_interval=None, compression=Deflate(threshold=10))
    async with plain(None, limits, deflate=negotiated(limits)) as stream:
        assert stream.transport.send_batch_nowait(Batch(frames(b"a" * 100, b"b"))) == ()
        stream.line.shutdown()
        assert inflated(await stream.heard()) == [(True, b"a" * 100), (False, b"b")]


async def test_a_batch_for_a_line_that_is_no_more_is_left() -> None:
    batch = Batch(frames(b"1", b"2"))
    async with plain() as stream:
        stream.line.close()
        assert stream.transport.send_batch_nowait(batch) == batch.frames


async def test_without_a_plain_line_a_message_is_a_tasks_to_send() -> None:
    transport, line = attached(Recorder())
    assert not transport.send_nowait(Frame(b"1"))
    assert line.calls == []
    await transport.send(frames(b"1", b"2"))
    assert line.calls == [data_frame(b"1") + data_frame(b"2")]


async def test_nothing_is_sent_after_the_peers_close() -> None:
    transport, line = attached(Recorder())
    transport.take(closing(4000, "bye"))
    with pytest.raises(Disconnected) as caught:
        await transport.send(frames(b"1"))
    assert (caught.value.code, caught.value.reason) == (4000, "bye")
    assert line.calls == []


async def test_a_plain_line_takes_nothing_straight_after_the_peers_close() -> None:
    async with plain() as stream:
        stream.fill()
        await stream.come(closing())
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
        await stream.peer.send_all(text("last words") + closing(4000, "bye"))
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
        assert stream.transport.send_nowait(Frame.ready(ping))
        await stream.transport.send([Frame.ready(ping)])
        stream.line.shutdown()
        assert await stream.heard() == ping + ping
