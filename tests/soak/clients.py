"""The clients: good, slow, compressed, rude and vanishing ones.

Each is a function that makes one visit, says how it ended, and raises when the server has not done what it should.
Whatever is random comes from the visit's own dice, so that a seed tells who comes, and what they do.
"""

import socket
import zlib
from contextlib import suppress
from typing import final

import trio
from attrs import frozen
from websockets.frames import Opcode

from streamrt import APIError
from streamrt.runtime.scopes import lone_error
from streamrt.wire.codec import codec
from tests.peers import SocketPeer

from .server import (
    EARLY,
    FLOOD_SIZE,
    LIMITS,
    Enter,
    Order,
    Say,
    echo,
    hasty,
    moody,
    talk_in_room,
    text_of,
    ticker,
    upload,
)
from .visit import BROKEN, CUT, Kind, Visit, code_of, ending_of

_SAY = codec(Say)
_TOO_BIG = LIMITS.max_message_bytes + 1


# Good ones.


async def talk(visit: Visit) -> str:
    """Send a message, and wait until it is back; think, sometimes for longer than the heartbeat has patience."""
    async with visit.client.open(echo) as stream:
        for number in range(visit.dice.randint(1, 20)):
            size = visit.dice.choice((0, 10, 300, 5000))
            await stream.send(Say(number, text_of(number, size)))
            visit.check(await stream.receive(), number, size)
            await visit.pause(5 if visit.dice.random() < 0.02 else 0.3)
    return code_of(stream)


async def pipeline(visit: Visit) -> str:
    """Send faster than is answered, and read at the same time."""
    count, size = visit.dice.randint(20, 300), visit.dice.choice((10, 300, 2000))
    async with visit.client.open(echo) as stream:

        async def send() -> None:
            for number in range(count):
                await stream.send(Say(number, text_of(number, size)))

        with lone_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                for number in range(count):
                    visit.check(await stream.receive(), number, size)
    return code_of(stream)


async def chat(visit: Visit) -> str:
    """Talk in a room, and hear everyone in it, oneself too, each in order."""
    name, room = f"{visit.dice.getrandbits(48):x}", str(visit.dice.randrange(5))
    since = visit.dice.choice((None, "oldest", "nonsense"))
    heard: dict[str, int] = {}
    async with visit.client.open(talk_in_room, Enter(room, name, since)) as stream:
        for number in range(visit.dice.randint(1, 10)):
            await stream.send(Say(number, text_of(number, 300)))
            while heard.get(name) != number:
                message = await stream.receive()
                if message.by == "cut":  # which says anything
                    continue
                visit.check(Say(message.number, message.text), message.number, 300)
                before = heard.get(message.by)
                assert before is None or message.number == before + 1, f"{message.number} came behind {before}"
                heard[message.by] = message.number
            await visit.pause(0.3)
    return code_of(stream)


async def read(visit: Visit) -> str:
    """Read all that was asked for: so little that it takes less than `close_timeout`, busy as this process is."""
    order = Order(visit.dice.randint(0, 30), visit.dice.choice((10, 1000, 10_000, 40_000)))
    async with visit.client.open(ticker, order) as stream:
        number = 0
        async for message in stream:
            visit.check(message, number, order.size)
            number += 1
        assert number == order.count, f"{order.count} messages were to come, not {number}"
        assert code_of(stream) == "1000", f"it ended with {stream.ended}"
        return code_of(stream)


async def give(visit: Visit) -> str:
    """Upload, and get a receipt."""
    order = Order(visit.dice.randint(1, 100), visit.dice.choice((10, 1000, 20_000)))
    checksum = 0
    async with visit.client.open(upload, order) as stream:
        for number in range(order.count):
            text = text_of(number, order.size)
            checksum = zlib.crc32(text.encode(), checksum)
            await stream.send(Say(number, text))
        receipt = await stream.response()
        assert (receipt.count, receipt.checksum) == (order.count, checksum), f"the receipt is {receipt}"
    visit.messages += order.count
    return code_of(stream)


async def be_answered_early(visit: Visit) -> str:
    """Upload more than the server cares to take: its answer must come all the same."""
    async with visit.client.open(hasty) as stream:
        with suppress(trio.BrokenResourceError):
            for number in range(visit.dice.randint(EARLY, 200)):
                await stream.send(Say(number, text_of(number, 2000)))
        receipt = await stream.response()
        assert receipt.count == EARLY, f"the receipt is {receipt}"
    visit.messages += 1
    return code_of(stream)


async def be_failed(visit: Visit) -> str:
    """Be told the error that the handler raises."""
    async with visit.client.open(moody) as stream:
        await stream.send(Say(0, text_of(0, 10)))
        visit.check(await stream.receive(), 0, 10)
        told: APIError | None = None
        try:
            await stream.receive()
        except APIError.FailedPrecondition as error:
            told = error
    assert told is not None, "there was no error"
    assert told.message == "not today", f"the error is {told}"
    return str(told.close_code)


async def be_refused(visit: Visit) -> str:
    """Ask for what there is not."""
    path, error = visit.dice.choice((("/nowhere", APIError.NotFound), ("/ticker?count=many", APIError.InvalidArgument)))
    try:
        async with visit.connect(path):
            raise AssertionError(f"{path} was not refused")
    except error as refusal:
        return f"HTTP {refusal.http_status}"


async def deflate(visit: Visit) -> str:
    """Talk compressed, a few messages at a time."""
    async with visit.connect("/deflated", compressed=True) as peer:
        assert peer.protocol.extensions, "compression was not agreed on"
        sent = 0
        for _ in range(visit.dice.randint(1, 8)):
            size, first = visit.dice.choice((0, 50, 1000, 20_000)), sent
            for _ in range(visit.dice.randint(1, 4)):
                await peer.send(_SAY.encode(Say(sent, text_of(sent, size))).decode())
                sent += 1
            for number in range(first, sent):
                visit.check(_SAY.decode(await peer.receive()), number, size)
            await visit.pause(0.3)
        await peer.close()
        return ending_of(await peer.closed(), 1000)


# Slow ones.


async def sip(visit: Visit) -> str:
    """Read a little now and then, but all of it."""
    order = Order(visit.dice.randint(10, 60), 4000)
    async with visit.connect(f"/ticker?count={order.count}&size={order.size}", receive_buffer=16 * 1024) as peer:
        for number in range(order.count):
            visit.check(_SAY.decode(await peer.receive()), number, order.size)
            await visit.pause(0.1)
        return ending_of(await peer.closed(), 1000)


async def dawdle(visit: Visit) -> str:
    """Read from what never ends, ever more slowly, until one of both has enough of it."""
    async with visit.connect("/flood", receive_buffer=16 * 1024) as peer:
        for number in range(visit.dice.randint(5, 30)):
            try:
                visit.check(_SAY.decode(await peer.receive()), number, FLOOD_SIZE)
            except trio.EndOfChannel:
                break
            await trio.sleep(0.02 * number)
        else:
            await peer.close(1001)
        return ending_of(await peer.closed())


# Rude ones.


def _frame(opcode: int, payload: bytes = b"", *, first: int = 0x80) -> bytes:
    """Return a small masked frame, whatever RFC 6455 thinks of it; a mask of zeros changes nothing."""
    return bytes((first | opcode, 0x80 | len(payload))) + bytes(4) + payload


@final
@frozen
class Offence:
    """What must not be said.

    Args:
        what: Its name.
        data: What is sent.
        code: What it is answered with.
        path: Where it is said.
    """

    what: str
    data: bytes
    code: int
    path: str = "/echo"


OFFENCES = (
    Offence("no mask", b"\x81\x02{}", 1002),
    Offence("a reserved bit", _frame(Opcode.TEXT, b"{}", first=0xC0), 1002),
    Offence("a reserved opcode", _frame(0x3), 1002),
    Offence("half a ping", _frame(Opcode.PING, first=0), 1002),
    Offence("a long ping", bytes((0x89, 0x80 | 126, 0, 126)) + bytes(4 + 126), 1002),
    Offence("the continuation of nothing", _frame(Opcode.CONT, b"{}"), 1002),
    Offence("a text within a text", _frame(Opcode.TEXT, b"{", first=0) + _frame(Opcode.TEXT, b"}"), 1002),
    Offence("half a close code", _frame(Opcode.CLOSE, b"\x03"), 1002),
    Offence("a reserved close code", _frame(Opcode.CLOSE, b"\x03\xed"), 1002),
    Offence("bytes that are no text", _frame(Opcode.TEXT, b"\xff"), 1007),
    Offence("too much", bytes((0x81, 0xFF)) + _TOO_BIG.to_bytes(8, "big") + bytes(4), 1009),
    Offence("too much, inflated", b"", 1009, "/deflated"),
    Offence("not JSON", _frame(Opcode.TEXT, b"{"), 4400),
    Offence("not JSON in bytes", _frame(Opcode.BINARY, b"\xff"), 4400),
    Offence("another message", _frame(Opcode.TEXT, b'{"number":"1"}'), 4400),
    Offence("a word to who only speaks", _frame(Opcode.TEXT, b"{}"), 1003, "/flood"),
)


async def offend(visit: Visit) -> str:
    """Break a rule, sometimes behind messages that are in order, and be told which kind of rule it was."""
    offence = visit.dice.choice(OFFENCES)
    async with visit.connect(offence.path, compressed=offence.path == "/deflated") as peer:
        if offence.path != "/flood":
            for number in range(visit.dice.choice((0, 0, 1, 30))):
                await peer.send(_SAY.encode(Say(number, "")).decode())
        if offence.data:
            await peer.stream.send_all(offence.data)
        else:
            with suppress(*BROKEN):
                await peer.send(_SAY.encode(Say(0, "x" * _TOO_BIG)).decode())
        ended = await peer.closed()
        assert ended.code == offence.code, f"{offence.what} ended with {ended}"
        return str(ended.code)


async def interrupt(visit: Visit) -> str:
    """Close where nobody would: within a message, amid what is asked, with more behind it."""
    code = visit.dice.choice((1000, 1001, 3000, 4999))
    close = _frame(Opcode.CLOSE, code.to_bytes(2, "big"))
    question = _frame(Opcode.TEXT, _SAY.encode(Say(0, "")))
    before = visit.dice.choice((b"", question * 50, _frame(Opcode.TEXT, b"{", first=0)))
    behind = visit.dice.choice((b"", question * 10, visit.dice.randbytes(200), _frame(Opcode.CLOSE)))
    async with visit.connect("/echo") as peer:
        await peer.stream.send_all(before + close + behind)
        ended = await peer.closed()
        assert ended.code == code, f"a Close with {code} amid other things ended with {ended}"
        return str(ended.code)


async def garble(visit: Visit) -> str:
    """Say what is no frame at all."""
    async with visit.connect("/echo") as peer:
        with trio.move_on_after(2), suppress(*BROKEN):  # by chance it may be the beginning of something long
            await peer.stream.send_all(visit.dice.randbytes(visit.dice.randint(1, 5000)))
            return ending_of(await peer.closed())
        peer.vanish()
        return "RST"


async def speak_no_http(visit: Visit) -> str:
    """Say what is no HTTP, or only the beginning of it, or nothing."""
    said = visit.dice.choice((b"", b"GET /echo HTTP/1.1\r\nHost: ", visit.dice.randbytes(300), b"\x16\x03\x01\x02"))
    async with visit.connect_stream() as stream:
        with suppress(*BROKEN):
            await stream.send_all(said)
            while await stream.receive_some():
                pass
        return CUT


async def cut(visit: Visit) -> str:
    """Go with an RST at any moment: while connecting, shaking hands, amid a frame, under a flood."""
    paths = ("/echo", "/flood", "/upload?count=9", "/ticker?count=50&size=10000", "/rooms/1?name=cut&since=oldest")
    path = visit.dice.choice(paths)
    with trio.move_on_after(visit.dice.uniform(0, visit.dice.choice((0.002, 0.01, 0.1, 1)))), suppress(*BROKEN):
        async with visit.connect(path, abrupt=True) as peer:
            await peer.send(_SAY.encode(Say(0, "x" * visit.dice.choice((1, 5000)))).decode())
            await peer.stream.send_all(_frame(Opcode.TEXT, b"{}")[: visit.dice.randint(1, 7)])
            await peer.closed()
    return "RST"


# Vanishing ones.


async def vanish(visit: Visit) -> str:
    """Be good, and then gone."""
    async with visit.connect("/echo") as peer:
        for number in range(visit.dice.randint(0, 10)):
            await peer.send(_SAY.encode(Say(number, "")).decode())
            visit.check(_SAY.decode(await peer.receive()), number, 0)
        await visit.pause(1)
        peer.vanish()
        return "RST"


async def fall_silent(visit: Visit) -> str:
    """Answer no ping: the server must let go."""
    async with visit.connect("/echo") as peer:
        await peer.send(_SAY.encode(Say(0, "")).decode())
        visit.check(_SAY.decode(await peer.receive()), 0, 0)
        return await _be_let_go(peer)


async def turn_deaf(visit: Visit) -> str:
    """Ask for much and read none of it: the server must let go."""
    async with visit.connect("/flood", receive_buffer=16 * 1024) as peer:
        await trio.sleep(LIMITS.send_timeout + LIMITS.ping_timeout)
        return await _be_let_go(peer)


async def half_leave(visit: Visit) -> str:
    """End one direction without a word, and keep the other: the server must let go."""
    async with visit.connect("/echo") as peer:
        peer.socket.shutdown(socket.SHUT_WR)
        return await _be_let_go(peer)


async def stay(visit: Visit) -> str:
    """Be there when the server ends, and be told."""
    async with visit.connect("/echo") as peer:
        return ending_of(await peer.closed(), 1012)


async def _be_let_go(peer: SocketPeer) -> str:
    """Read what comes, answer nothing, and see the end of it."""
    try:
        while await peer.stream.receive_some():
            pass
    except BROKEN:
        pass
    return CUT


KINDS: dict[str, dict[Kind, int]] = {
    "good": {talk: 30, pipeline: 10, chat: 15, read: 10, give: 10, be_answered_early: 8, be_failed: 4, be_refused: 4},
    "compressed": {deflate: 15},
    "slow": {sip: 8, dawdle: 4},
    "rude": {offend: 25, interrupt: 15, garble: 5, speak_no_http: 5, cut: 20},
    "vanishing": {vanish: 8, fall_silent: 6, turn_deaf: 4, half_leave: 6},
}
"""All manners, and how often one of each comes."""
