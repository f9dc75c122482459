"""How streams are closed on real sockets: by the peer, by the handler, by both, and by who finds a rule broken.

`close_timeout` is larger than any test may take, unless something has to wait for it.
"""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from streamrt import App, Ended, Service, StreamIn
from streamrt.testing import no_tasks_left
from tests.conftest import served
from tests.peers import SocketPeer, closing, connect_socket, frame, text
from tests.stage import BIG, LOST, NEVER, Stream, echoing, returning, stage

pytestmark = pytest.mark.usefixtures("nothing_is_logged_as_an_error")

# By the peer.

SENDABLE = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
"""Codes that a Close may have (RFC 6455, 7.4)."""

UNSENDABLE = [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535]

CLOSES = {
    **{str(code): (closing(code, "für immer"), Ended("peer", code, "für immer")) for code in SENDABLE},
    "no code": (frame(Opcode.CLOSE), Ended("peer", 1005)),
    "as long as may be": (closing(1000, "r" * 123), Ended("peer", 1000, "r" * 123)),
}


@pytest.mark.parametrize(("wire", "ended"), CLOSES.values(), ids=CLOSES)
async def test_a_close_reaches_the_handler_and_is_echoed(tls: bool, wire: bytes, ended: Ended) -> None:
    staged = stage(echoing, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20), connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(wire)
        await staged.over.wait()
        assert await peer.closed() == ended  # which is the end of TCP, not only a Close
    assert staged.ended == [ended]


async def test_all_that_came_before_a_close_is_received_first(tls: bool) -> None:
    received: list[str] = []

    async def handler(stream: Stream) -> None:
        received.extend([message async for message in stream])

    messages = [str(count) for count in range(1000)]
    staged = stage(handler, close_timeout=NEVER, receive_messages=2)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(b"".join(text(f'"{message}"') for message in messages) + closing(4000))
        assert await peer.closed() == Ended("peer", 4000)
        await staged.over.wait()
    assert received == messages
    assert staged.ended == [Ended("peer", 4000)]


DONE = closing(1000, "done")
ODD = {
    "a second Close": DONE + closing(4000, "again"),
    "half a Close": DONE + DONE[:3],
    "messages": DONE + text('"late"'),
    "what is no frame": DONE + b"\xff" * 40_000,
    "the rest of a message": frame(Opcode.TEXT, b'"un', fin=False) + DONE + frame(Opcode.CONT, b'finished"'),
}


@pytest.mark.parametrize("wire", ODD.values(), ids=ODD)
async def test_what_comes_behind_a_close_does_not_count(tls: bool, wire: bytes) -> None:
    received: list[str] = []

    async def handler(stream: Stream) -> None:
        received.extend([message async for message in stream])

    staged = stage(handler, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(text('"early"') + wire)
        [close] = await peer.hear()
        assert close.data == b"\x03\xe8done"
        assert await peer.stream.receive_some() == b""
        await staged.over.wait()
    assert received == ["early"]
    assert staged.ended == [Ended("peer", 1000, "done")]


async def test_a_close_behind_a_burst_is_answered_behind_the_write_that_is_under_way(tls: bool) -> None:
    staged = stage(echoing, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await peer.stream.send_all(text('"x"') * 50 + closing(3000, "that was all"))
        assert await peer.closed() == Ended("peer", 3000, "that was all")


@pytest.mark.parametrize("grace", [0, NEVER])
async def test_a_message_that_is_being_written_is_whole_before_the_answer_to_a_close(tls: bool, grace: float) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send("x" * BIG)
        await trio.sleep_forever()

    # Once the message is out nobody waits for the handler to end.
    staged = stage(handler, send_bytes=2 * BIG, disconnect_grace=grace, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await trio.lowlevel.wait_readable(peer.socket)
        await wait_all_tasks_blocked(0.01)  # the socket takes no more
        await peer.stream.send_all(closing(4000, "enough"))
        assert len(await peer.receive()) == BIG + 2
        assert await peer.closed() == Ended("peer", 4000, "enough")


async def test_a_peer_that_closes_and_does_not_read_the_rest_is_let_go(tls: bool) -> None:
    async def handler(stream: Stream) -> None:
        await stream.send("x" * BIG)
        with pytest.raises(trio.EndOfChannel):
            await stream.receive()

    staged = stage(handler, send_bytes=2 * BIG, send_timeout=NEVER, close_timeout=0.1)
    async with served(staged.app, tls=tls) as url, connect_socket(url + "/stream") as peer:
        await wait_all_tasks_blocked(0.01)
        await peer.stream.send_all(closing(1000, "done"))
        await staged.over.wait()
        while staged.app.host.streams:  # noqa: ASYNC110 - nobody tells
            await trio.lowlevel.checkpoint()
        with pytest.raises(trio.EndOfChannel):
            await peer.receive()
        assert peer.ended == LOST
    assert staged.ended == [Ended("peer", 1000, "done")]


# By the handler.


async def test_closes_that_cross_close(tls: bool) -> None:
    staged = stage(returning, close_timeout=NEVER)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20), connect_socket(url + "/stream") as peer:
        await trio.lowlevel.wait_readable(peer.socket)  # the Close is here, and has not been read
        await peer.stream.send_all(closing(4000, "mine"))
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_peer_that_never_answers_a_close_is_let_go(tls: bool) -> None:
    staged = stage(returning, close_timeout=0.05)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20), connect_socket(url + "/stream") as peer:
        peer.mute = True
        assert await peer.closed() == Ended("peer", 1000)


async def test_a_peer_that_goes_on_sending_behind_a_close_is_let_go(tls: bool) -> None:
    staged = stage(returning, close_timeout=0.05)
    async with served(staged.app, tls=tls) as url, no_tasks_left(20), connect_socket(url + "/stream") as peer:
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.stream.send_all(text('"and more"'))


def first_of_many(**limits: Any) -> App:
    """Answers after the first message, whatever follows."""
    service = Service("test")

    @service.stream_in("/first", expose=True, **limits)
    async def first(stream: StreamIn[str]) -> str:
        return (await stream.receive())[:5]

    return App(service)


@pytest.mark.slow
async def test_an_answer_arrives_though_the_client_still_sends(tls: bool) -> None:
    upload = text('"first' + "x" * 10_000 + '"') * 300
    async with served(first_of_many(close_timeout=NEVER), tls=tls, seconds=60) as url:
        for _ in range(100):
            async with connect_socket(url + "/first") as peer:
                await peer.stream.send_all(upload)
                heard: list[Frame] = []
                while not heard or heard[-1].opcode is not Opcode.CLOSE:
                    heard += await peer.hear()
                assert [bytes(event.data) for event in heard] == [b'"first"', b"\x03\xe8"]
                await peer.stream.send_all(b"".join(peer.protocol.data_to_send()))
                assert await peer.stream.receive_some() == b""


async def test_an_answer_arrives_at_a_client_that_never_pauses(tls: bool) -> None:
    async def send(peer: SocketPeer) -> None:
        await peer.stream.send_all(text('"first"'))
        while True:
            await peer.stream.send_all(text('"and more"') * 1000)

    async with served(first_of_many(close_timeout=NEVER), tls=tls) as url, connect_socket(url + "/first") as peer:
        peer.mute = True  # one task sends
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, peer)
            assert await peer.receive() == '"first"'
            nursery.cancel_scope.cancel()


# Because a rule is broken.

NO_CODE = "a Close must have a code that may be sent, or nothing, not"

VIOLATIONS: dict[str, tuple[bytes, int, str]] = {
    "not masked": (b"\x81\x02{}", 1002, "a client's frames must be masked, and this one is not"),
    "reserved bits": (frame(Opcode.TEXT, b"{}", reserved=2), 1002, "reserved bits must be 0, not 010"),
    "compressed without being asked": (
        frame(Opcode.TEXT, b"{}", reserved=4),
        1002,
        "reserved bits must be 0, not 100",
    ),
    "no such opcode": (frame(3, b"{}"), 1002, "an opcode must be one of 0, 1, 2, 8, 9 and 10, not 3"),
    "a control frame in fragments": (
        frame(Opcode.PING, fin=False),
        1002,
        "a control frame must be whole, not a fragment",
    ),
    "a long control frame": (
        frame(Opcode.PING, b"x" * 126),
        1002,
        "a control frame may have 125 bytes, not more",
    ),
    "an end without a beginning": (
        frame(Opcode.CONT, b"end"),
        1002,
        "a message must begin with text or binary, not with a continuation",
    ),
    "a beginning without an end": (
        frame(Opcode.TEXT, b'"half', fin=False) + text("{}"),
        1002,
        "a message in fragments must be continued, not followed by another",
    ),
    "text that is not UTF-8": (frame(Opcode.TEXT, b'"\xff"'), 1007, "text must be UTF-8: invalid start byte"),
    "text that cannot become UTF-8": (
        frame(Opcode.TEXT, b'"\xff', fin=False),
        1007,
        "text must be UTF-8: invalid start byte",
    ),
    "a message too big": (text("1" * 101), 1009, "a message may have 100 bytes"),
    "fragments too big": (
        frame(Opcode.TEXT, b"1" * 60, fin=False) + frame(Opcode.CONT, b"1" * 60),
        1009,
        "a message may have 100 bytes",
    ),
    "a length that is a threat": (b"\x81\xff\x7f" + b"\xff" * 7, 1009, "a message may have 100 bytes"),
    "a reason that is not UTF-8": (
        frame(Opcode.CLOSE, b"\x03\xe8\xff"),
        1007,
        "text must be UTF-8: invalid start byte",
    ),
    "a Close of one byte": (frame(Opcode.CLOSE, b"\x03"), 1002, f"{NO_CODE} one byte"),
    **{f"a Close with {code}": (closing(code), 1002, f"{NO_CODE} {code}") for code in UNSENDABLE},
}
"""What breaks a rule of RFC 6455, or a limit; and the code and the reason of the answer."""


@pytest.mark.parametrize(("wire", "code", "reason"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_who_breaks_a_rule_is_told_which(tls: bool, wire: bytes, code: int, reason: str) -> None:
    staged = stage(echoing, max_message_bytes=100, close_timeout=NEVER)
    # Behind the peer's end of TCP nothing is left, although close_timeout is not over.
    async with served(staged.app, tls=tls) as url, no_tasks_left(20), connect_socket(url + "/stream") as peer:
        await peer.send('"fine"')
        assert await peer.receive() == '"fine"'
        await peer.stream.send_all(wire)
        assert await peer.closed() == Ended("peer", code, reason)
        await staged.over.wait()
    assert staged.ended == [Ended("runtime", code, reason)]
