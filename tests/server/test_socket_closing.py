"""A stream on its own socket: every order in which it may end."""

import pytest
import trio
import trio.testing
from websockets.frames import Opcode

from streamrt.wire.frames import close_frame, data_frame
from streamrt.wire.transport import Disconnected, Frame
from tests.peers import closing, frame, text
from tests.transports import GONE, Recorder, attached, frames, plain


@pytest.mark.parametrize(
    ("payload", "code", "reason"), [(closing(4000, "bye"), 4000, "bye"), (frame(Opcode.CLOSE), 1005, "")]
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
        await stream.come(closing(1000, "done"))
        assert stream.receiver.calls == [("lost", 1000, "done"), "finish"]
        assert await stream.heard() == close_frame(1000, "done")
        await stream.transport.wait_closed()
        await stream.transport.close(1000, "done")  # there is nothing left to do


async def test_two_closes_that_cross_are_each_others_answer() -> None:
    async with plain() as stream:
        await stream.peer.send_all(closing(1001, "theirs"))
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
        await stream.come(closing(4000, "bye"))
        assert not stream.line.closed
        assert await stream.heard() == big.wire + close_frame(4000, "bye")


async def test_an_answer_that_the_socket_does_not_take_goes_out_when_the_stream_closes() -> None:
    async with plain() as stream, trio.open_nursery() as nursery:
        filled = stream.fill()
        await stream.come(closing(4000, "bye"))
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
        await stream.peer.send_all(closing(4000, "bye"))
        stream.vanish()
        await stream.read()
        assert stream.receiver.calls == [("lost", 4000, "bye"), "finish"]
        assert stream.line.closed


async def test_where_only_a_task_can_write_the_peers_close_is_answered_by_one() -> None:
    receiver = Recorder()
    transport, line = attached(receiver)
    await transport.answer()
    transport.take(closing(4000, "bye"))
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
        transport.take(closing(4000, "bye"))
        nursery.start_soon(transport.answer)
        nursery.start_soon(transport.close, 4000, "bye")
        await trio.testing.wait_all_tasks_blocked()
        assert line.calls == []
        line.writable.set()
    assert line.calls == [data_frame(b"1"), close_frame(4000, "bye"), "close"]


async def test_on_a_plain_line_no_task_has_to_answer() -> None:
    async with plain() as stream:
        stream.fill()
        await stream.come(closing())
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
    transport.take(closing(4000, "bye"))
    transport.allow(1)
    assert receiver.calls.count(("lost", 4000, "bye")) == 1


async def test_a_close_that_cannot_be_sent_finds_the_peers() -> None:
    async with plain() as stream:
        await stream.peer.send_all(closing(4000, "bye"))
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
            await stream.come(closing())
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
