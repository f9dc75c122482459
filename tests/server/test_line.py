"""Lines over real connections: which bytes are out, which are not, and how the peer sees the end."""

import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt.server.line import BROKEN, WRITE_BYTES, Condition, Line, PlainLine, TLSLine
from tests.peers import CERTIFICATES, cut_off

HELD = 256 * 1024
"""Bytes of each socket buffer; one that is set does not grow. Linux doubles it (socket(7))."""

BIG = bytes(range(251)) * 16_000  # 4 MB, more than the kernel holds; no block of it looks like the next


@asynccontextmanager
async def connection() -> AsyncGenerator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Connect two ends over TCP, within ten seconds."""
    with trio.fail_after(10):
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            peer = await trio.open_tcp_stream(*listener.socket.getsockname())
            ours = await listener.accept()
        async with ours, peer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HELD)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HELD)
            yield ours, peer


@asynccontextmanager
async def plain() -> AsyncGenerator[tuple[PlainLine, trio.SocketStream]]:
    async with connection() as (ours, peer):
        line = PlainLine(ours)
        try:
            yield line, peer
        finally:
            line.reset()


@asynccontextmanager
async def tls() -> AsyncGenerator[tuple[TLSLine, trio.SSLStream[trio.SocketStream]]]:
    async with connection() as (ours, tcp):
        served = trio.SSLStream(ours, CERTIFICATES.serving, server_side=True, https_compatible=True)
        peer = trio.SSLStream(tcp, CERTIFICATES.trusting, server_hostname="127.0.0.1", https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.do_handshake)
            nursery.start_soon(peer.do_handshake)
        line = TLSLine(served)
        try:
            yield line, peer
        finally:
            line.reset()


async def read(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        received += await stream.receive_some(size - len(received))
    return bytes(received)


async def read_to_the_end(stream: trio.abc.ReceiveStream) -> tuple[bytes, bool]:
    """Return what came, and whether it ended in good order."""
    received = bytearray()
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        return bytes(received), False
    return bytes(received), True


Connected: TypeAlias = AbstractAsyncContextManager[tuple[Line, trio.abc.Stream]]


async def interrupted(write: Callable[[], Awaitable[None]]) -> None:
    """Begin to write, and cancel it where it has to wait."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def fill(line: PlainLine) -> int:
    """Write until the socket takes no more; return how many bytes it has taken."""
    left = len(BIG)
    while not line.send_nowait(BIG[-left:]) and len(line.rest) < left:
        left = len(line.rest)
    assert line.rest
    return len(BIG) - left


async def acknowledged(line: PlainLine, count: int) -> None:
    """Wait until the peer's system has acknowledged so many bytes, and see that these are all."""
    while (condition := line.condition()) is not None and condition.outstanding:  # noqa: ASYNC110 - nobody tells
        await trio.lowlevel.checkpoint()
    assert condition == Condition(departed=False, outstanding=False, acknowledged=count)


# Writing.


async def test_the_rest_is_exactly_what_the_socket_has_not_taken() -> None:
    async with plain() as (line, peer):
        assert line.send_nowait(BIG[:1000])
        assert bytes(line.rest) == b""
        assert not line.send_nowait(BIG[1000:])
        taken = len(BIG) - len(line.rest)
        assert 1000 < taken < len(BIG)
        assert bytes(line.rest) == BIG[taken:]
        line.shutdown()
        assert await read_to_the_end(peer) == (BIG[:taken], True)


async def test_a_write_that_is_refused_is_all_rest() -> None:
    async with plain() as (line, peer):
        taken = fill(line)  # the last write of which was refused
        assert bytes(line.rest) == BIG[taken:]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.flush)
            assert await read(peer, len(BIG)) == BIG
        assert bytes(line.rest) == b""


async def test_a_flush_goes_on_where_it_was_however_often_it_is_interrupted() -> None:
    async with plain() as (line, peer):
        received = bytearray()
        rests = [len(BIG)]
        await interrupted(lambda: line.send(BIG))
        while line.rest:
            assert bytes(line.rest) == BIG[-len(line.rest) :]
            rests.append(len(line.rest))
            received += await peer.receive_some(HELD)
            await interrupted(line.flush)
        line.shutdown()
        received += (await read_to_the_end(peer))[0]
        assert received == BIG
        assert len(rests) > 2
        assert rests == sorted(rests, reverse=True)


async def test_an_interrupted_writer_may_go_on_too() -> None:
    async with plain() as (line, peer):
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await line.send(BIG)

            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            line.interrupt()
        assert not line.closed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.flush)
            assert await read(peer, len(BIG)) == BIG


async def test_nothing_of_a_flush_in_a_cancelled_scope_goes_out() -> None:
    async with plain() as (line, peer):
        line.rest = memoryview(b"hello")
        with trio.CancelScope() as scope:
            scope.cancel()
            await line.flush()
        assert scope.cancelled_caught
        assert bytes(line.rest) == b"hello"
        await line.flush()
        await line.flush()  # there is nothing
        line.shutdown()
        assert await read_to_the_end(peer) == (b"hello", True)


async def test_each_write_that_a_task_has_waited_for_is_noted_as_progress() -> None:
    async with plain() as (line, peer):
        rests: list[int] = []
        line.moved = lambda: rests.append(len(line.rest))
        assert line.send_nowait(b"at once")
        assert rests == []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send, BIG)
            assert await read(peer, len(BIG) + 7) == b"at once" + BIG
        assert rests[-1] == 0
        assert rests == sorted(set(rests), reverse=True)


# Reading.


async def test_a_read_is_all_that_is_there_then_nothing_then_the_end() -> None:
    async with plain() as (line, peer):
        assert line.receive_nowait() is None
        await peer.send_all(b"hello")
        await trio.lowlevel.wait_readable(line.fileno())
        assert line.receive_nowait() == b"hello"
        assert line.receive_nowait() is None
        await peer.send_eof()
        assert await line.receive() == b""
        assert line.receive_nowait() == b""


async def test_a_read_that_waits_can_be_cancelled_and_loses_nothing() -> None:
    async with plain() as (line, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.receive)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await peer.send_all(b"hello")
        assert await line.receive() == b"hello"


@pytest.mark.parametrize("kind", [plain, tls])
async def test_a_reader_that_is_interrupted_leaves_the_line_open(kind: Callable[[], Connected]) -> None:
    async with kind() as (line, peer):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await line.receive()

            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            line.interrupt()
        assert not line.closed
        if kind is plain:  # TLS is broken by that
            await peer.send_all(b"hello")
            assert await line.receive() == b"hello"


async def test_a_timeout_that_all_sockets_of_the_process_have_is_not_the_lines() -> None:
    async with connection() as (ours, _):
        socket.setdefaulttimeout(1e-6)
        try:
            line = PlainLine(ours)
        finally:
            socket.setdefaulttimeout(None)
        assert line.receive_nowait() is None  # and not a `TimeoutError`
        line.reset()


@pytest.mark.parametrize("end", [PlainLine.close, PlainLine.reset])
async def test_a_closed_line_is_broken_for_all(end: Callable[[PlainLine], None]) -> None:
    async with plain() as (line, _):
        end(line)
        assert line.closed
        assert line.fileno() == -1
        for call in (line.receive_nowait, lambda: line.send_nowait(b"x")):
            with pytest.raises(BROKEN):
                call()
        for wait in (line.receive, lambda: line.send(b"x")):
            with pytest.raises(BROKEN):
                await wait()
        assert line.condition() is None


# The end.


async def test_after_a_shutdown_the_peer_sees_the_end_and_can_still_send() -> None:
    async with plain() as (line, peer):
        line.shutdown()
        assert await read_to_the_end(peer) == (b"", True)
        await peer.send_all(b"still here")
        assert await line.receive() == b"still here"


@pytest.mark.parametrize(("unread", "complete"), [(0, True), (30, True), (31, False)])
async def test_a_close_reads_so_much_and_no_more_so_that_what_was_written_arrives(
    monkeypatch: pytest.MonkeyPatch, unread: int, complete: bool
) -> None:
    monkeypatch.setattr("streamrt.server.line.READ_BYTES", 10)
    monkeypatch.setattr("streamrt.server.line.LAST_READS", 3)
    async with plain() as (line, peer):
        if unread:
            await peer.send_all(b"x" * unread)
            await trio.lowlevel.wait_readable(line.fileno())
        taken = fill(line)  # which is more than the peer's system has room for
        line.close()
        received, orderly = await read_to_the_end(peer)
        assert (received == BIG[:taken]) is orderly is complete


async def test_a_peer_that_has_got_all_sees_a_good_end_whatever_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrt.server.line.LAST_READS", 0)
    async with plain() as (line, peer):
        await peer.send_all(b"never read")
        await trio.lowlevel.wait_readable(line.fileno())
        assert line.send_nowait(b"the answer")
        line.close()
        assert await read_to_the_end(peer) == (b"the answer", True)


async def test_a_reset_does_not_deliver_what_the_peer_has_not_taken() -> None:
    async with plain() as (line, peer):
        taken = fill(line)
        line.reset()
        received, orderly = await read_to_the_end(peer)
        assert len(received) < taken
        assert not orderly


@pytest.mark.parametrize("end", [PlainLine.close, PlainLine.reset])
async def test_a_line_ends_once_and_leaves_the_next_of_its_descriptor_alone(end: Callable[[PlainLine], None]) -> None:
    async with plain() as (line, _):
        one, other = socket.socketpair()
        with one, other:
            descriptor = line.fileno()
            end(line)
            os.dup2(one.fileno(), descriptor)
            line.close()
            line.reset()
            line.shutdown()
            os.write(descriptor, b"hello")
            assert other.recv(5) == b"hello"
            os.close(descriptor)


async def test_a_line_whose_peer_has_reset_it_still_ends_in_peace() -> None:
    async with plain() as (line, peer):
        cut_off(peer.socket)
        with pytest.raises(BROKEN):
            await line.receive()
        with pytest.raises(BROKEN):
            line.send_nowait(b"x")
        line.close()
        assert line.closed


# What the kernel knows.


async def test_what_the_peers_system_has_acknowledged_is_counted_to_the_byte() -> None:
    async with plain() as (line, peer):
        before = line.condition()
        assert before is not None
        assert before == Condition(departed=False, outstanding=False, acknowledged=before.acknowledged)
        for _ in range(3):
            await line.send(b"x" * 1000)
            await read(peer, 1000)
        await acknowledged(line, before.acknowledged + 3000)


async def test_what_the_peer_does_not_take_is_outstanding_and_is_so_no_more_when_it_does() -> None:
    async with plain() as (line, peer):
        before = line.condition()
        assert before is not None
        taken = fill(line)
        condition = line.condition()
        assert condition is not None
        assert condition.outstanding
        assert condition.acknowledged - before.acknowledged < taken
        await read(peer, taken)
        await acknowledged(line, before.acknowledged + taken)


@pytest.mark.parametrize("way", ["closes", "cuts"])
async def test_a_peer_that_has_left_has_departed_although_input_is_unread(way: str) -> None:
    async with plain() as (line, peer):
        await peer.send_all(b"unread")
        await trio.lowlevel.wait_readable(line.fileno())
        cut_off(peer.socket) if way == "cuts" else peer.socket.close()
        while (condition := line.condition()) is not None and not condition.departed:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        assert condition is not None


async def test_of_a_unix_socket_the_kernel_does_not_tell() -> None:
    one, other = socket.socketpair()
    with other:
        line = PlainLine(trio.SocketStream(trio.socket.from_stdlib_socket(one)))
        assert line.send_nowait(b"hello")
        assert other.recv(5) == b"hello"
        assert line.condition() is None
        line.close()
        assert other.recv(5) == b""


async def test_where_there_is_no_tcp_info_the_condition_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with plain() as (line, _):
        assert line.condition() is not None
        monkeypatch.delattr(socket, "TCP_INFO")
        assert line.condition() is None


async def test_of_a_kernel_that_tells_less_the_condition_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with plain() as (line, _):
        monkeypatch.setattr("streamrt.server.line._TCP_INFO", struct.Struct("=B23xI92xQ16xI10000x"))
        assert line.condition() is None


# Through TLS.


async def test_bytes_go_both_ways_through_tls_until_the_peer_ends() -> None:
    async with tls() as (line, peer):
        await line.send(b"hello")
        await line.flush()
        assert await read(peer, 5) == b"hello"
        await peer.send_all(b"hello yourself")
        assert await line.receive() == b"hello yourself"
        await peer.aclose()
        assert await line.receive() == b""


async def test_a_big_write_through_tls_is_noted_piece_by_piece() -> None:
    async with tls() as (line, peer):
        data = BIG[: 3 * WRITE_BYTES + 1]
        rests: list[int] = []
        line.moved = lambda: rests.append(len(line.rest))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send, data)
            assert await read(peer, len(data)) == data
        assert rests == [2 * WRITE_BYTES + 1, WRITE_BYTES + 1, 1, 0]


async def test_after_an_interruption_nobody_can_flush_and_nothing_can_follow() -> None:
    async with tls() as (line, peer):
        await interrupted(lambda: line.send(BIG))
        assert 0 < len(line.rest) < len(BIG)
        with pytest.raises(trio.BrokenResourceError, match="interrupted"):
            await line.flush()
        with pytest.raises(BROKEN):
            await line.send(b"more")
        line.reset()
        received, orderly = await read_to_the_end(peer)
        assert BIG.startswith(received)
        assert not orderly


async def test_who_is_interrupted_while_waiting_for_a_turn_has_written_nothing() -> None:
    async with tls() as (line, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send, BIG)
            await wait_all_tasks_blocked()
            rest = len(line.rest)
            await interrupted(lambda: line.send(b"never"))
            assert len(line.rest) == rest
            nursery.start_soon(line.flush)
            nursery.start_soon(line.send, b"behind")
            assert await read(peer, len(BIG) + 6) == BIG + b"behind"
        await line.flush()


async def test_a_close_delivers_what_was_written_through_tls() -> None:
    async with tls() as (line, peer):
        await line.send(b"the answer")
        line.close()
        assert await read_to_the_end(peer) == (b"the answer", True)
