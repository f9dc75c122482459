"""Lines: bytes in and out of a real connection, and its two ends."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from streamrt.server.line import BROKEN, Condition, Line, PlainLine, TLSLine
from tests.peers import CERTIFICATES

BIG = bytes(range(256)) * 40_000  # 10 MB, more than the kernel holds


@asynccontextmanager
async def connection() -> AsyncGenerator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Connect two ends over TCP."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        host, port = listener.socket.getsockname()
        async with await trio.open_tcp_stream(host, port) as client, await listener.accept() as server:
            yield server, client


@asynccontextmanager
async def plain() -> AsyncGenerator[tuple[PlainLine, trio.SocketStream]]:
    async with connection() as (server, client):
        line = PlainLine(server)
        try:
            yield line, client
        finally:
            line.reset()


@asynccontextmanager
async def tls() -> AsyncGenerator[tuple[TLSLine, trio.SSLStream[trio.SocketStream]]]:
    async with connection() as (server, client):
        ours = trio.SSLStream(server, CERTIFICATES.serving, server_side=True, https_compatible=True)
        theirs = trio.SSLStream(client, CERTIFICATES.trusting, server_hostname="127.0.0.1", https_compatible=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)
            nursery.start_soon(theirs.do_handshake)
        line = TLSLine(ours)
        try:
            yield line, theirs
        finally:
            line.reset()


async def read_all(stream: trio.abc.ReceiveStream) -> tuple[bytes, bool]:
    """Read to the end, and tell whether that was an orderly one."""
    received = bytearray()
    try:
        while data := await stream.receive_some():
            received += data
    except trio.BrokenResourceError:
        return bytes(received), False
    return bytes(received), True


async def test_what_the_socket_takes_is_sent_at_once() -> None:
    async with plain() as (line, client):
        assert line.send_nowait(b"hello")
        assert not line.rest
        assert await client.receive_some() == b"hello"


async def test_what_it_does_not_take_is_the_rest_and_goes_out_with_a_flush() -> None:
    async with plain() as (line, client):
        assert not line.send_nowait(BIG)
        assert 0 < len(line.rest) < len(BIG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.flush)
            received = bytearray()
            while len(received) < len(BIG):
                received += await client.receive_some()
        assert received == BIG
        assert not line.rest


async def test_a_full_socket_takes_nothing() -> None:
    async with plain() as (line, _):
        while line.send_nowait(b"x" * 1000):
            pass
        while line.rest.nbytes < 1000:  # the kernel may find room for a little more
            line.rest = memoryview(b"")
            line.send_nowait(b"x" * 1000)
        assert line.rest == b"x" * 1000


async def test_a_send_that_was_cancelled_goes_on_exactly_where_it_was() -> None:
    async with plain() as (line, client):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.send, BIG)
                await wait_all_tasks_blocked(0.01)
                scope.cancel()
        assert 0 < len(line.rest) < len(BIG)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.flush)
            received = bytearray()
            while len(received) < len(BIG):
                received += await client.receive_some()
        assert received == BIG


async def test_a_cancelled_send_has_not_begun() -> None:
    async with plain() as (line, client):
        with trio.CancelScope() as scope:
            scope.cancel()
            await line.send(b"hello")
        assert scope.cancelled_caught
        line.close()
        assert await read_all(client) == (b"", True)


async def test_receiving_waits_for_bytes_and_for_the_end() -> None:
    async with plain() as (line, client):
        assert line.receive_nowait() is None
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await line.receive() == b"hello"

            nursery.start_soon(receive)
            await wait_all_tasks_blocked(0.01)
            await client.send_all(b"hello")
        await client.send_eof()
        assert await line.receive() == b""


async def test_who_waits_for_the_socket_can_be_interrupted_and_the_socket_stays_open() -> None:
    async with plain() as (line, client):
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await line.receive()

            nursery.start_soon(receive)
            await wait_all_tasks_blocked(0.01)
            line.interrupt()
        await client.send_all(b"hello")
        assert await line.receive() == b"hello"


async def test_a_close_delivers_what_was_written_although_input_is_unread() -> None:
    async with plain() as (line, client):
        await client.send_all(b"unread" * 1000)
        await trio.lowlevel.wait_readable(line.fileno())
        line.send_nowait(b"the answer")
        line.close()
        line.close()
        assert line.closed
        assert await read_all(client) == (b"the answer", True)


async def test_a_close_does_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrt.server.line.LAST_READS", 1)
    async with plain() as (line, client):
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await client.send_all(BIG)

            nursery.start_soon(flood)
            await wait_all_tasks_blocked(0.01)
            line.close()  # with more to read than it reads, the kernel resets the connection


async def test_a_reset_is_an_rst() -> None:
    async with plain() as (line, client):
        line.reset()
        line.reset()
        line.close()
        assert await read_all(client) == (b"", False)


async def test_after_a_shutdown_the_peer_sees_the_end_and_can_still_send() -> None:
    async with plain() as (line, client):
        line.shutdown()
        assert await read_all(client) == (b"", True)
        await client.send_all(b"still here")
        assert await line.receive() == b"still here"


async def test_a_line_whose_peer_is_gone_is_broken_and_can_be_closed() -> None:
    async with plain() as (line, client):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()
        with pytest.raises(BROKEN):
            await line.receive()
        with pytest.raises(BROKEN):
            while True:
                await line.send(b"x")
        line.shutdown()
        line.close()


@pytest.mark.parametrize("kind", [plain, tls])
async def test_the_kernel_knows_the_condition_of_a_connection(kind: object) -> None:
    async with kind() as (line, client):  # type: ignore[operator]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send, b"hello")
            assert await client.receive_some() == b"hello"
        with trio.fail_after(10):
            while line.condition().outstanding:  # noqa: ASYNC110 - the kernel tells nobody
                await trio.lowlevel.checkpoint()
        assert line.condition().acknowledged >= 5
        assert not line.condition().departed
        stream = client if isinstance(client, trio.SocketStream) else client.transport_stream
        await stream.send_eof()
        await trio.lowlevel.wait_readable(line._socket)
        assert line.condition().departed


async def test_a_peer_that_takes_nothing_leaves_bytes_outstanding() -> None:
    async with plain() as (line, _):
        line.send_nowait(BIG)
        condition = line.condition()
        assert condition is not None
        assert condition.outstanding
        assert condition.acknowledged < len(BIG)


async def test_the_condition_of_what_is_not_tcp_is_unknown() -> None:
    one, other = socket.socketpair()
    with other:
        line = _unix(one)
        assert line.condition() is None
        line.close()


def _unix(one: socket.socket) -> Line:
    class Stream:
        socket = trio.socket.from_stdlib_socket(one)

    return PlainLine(Stream())  # type: ignore[arg-type]


async def test_where_the_kernel_does_not_tell_the_condition_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with plain() as (line, _):
        assert isinstance(line.condition(), Condition)
        monkeypatch.delattr(socket, "TCP_INFO")
        assert line.condition() is None


async def test_bytes_go_both_ways_through_tls() -> None:
    async with tls() as (line, client), trio.open_nursery() as nursery:
        nursery.start_soon(line.send, b"hello")
        assert await client.receive_some() == b"hello"
        nursery.start_soon(client.send_all, b"hello yourself")
        assert await line.receive() == b"hello yourself"
        await line.flush()


async def test_nothing_follows_a_write_through_tls_that_was_interrupted() -> None:
    async with tls() as (line, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.send, BIG)
                await wait_all_tasks_blocked(0.01)
                assert line.rest
                scope.cancel()
        with pytest.raises(trio.BrokenResourceError, match="interrupted"):
            await line.flush()


async def test_writes_through_tls_take_turns() -> None:
    async with tls() as (line, client):
        received = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.send, BIG)
            await wait_all_tasks_blocked(0.01)
            nursery.start_soon(line.send, b"behind")
            nursery.start_soon(line.flush)
            while len(received) < len(BIG) + 6:
                received += await client.receive_some()
        assert received == BIG + b"behind"
