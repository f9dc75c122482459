"""Frames of a server's connection (RFC 6455): bytes that came into messages, messages into bytes that go.

It is sans-I/O: the bytes are handed in and out by whoever has the socket. The rules of this file:

- Two roads. What nearly every frame is (whole, final, masked, not compressed, below 64 KiB) is taken by plain
  indexing, at a seventh of the price. All else goes through the parser of ``websockets``. The fast road never
  judges: it stops in front of what it does not know.
- A frame is refused by its first two bytes where they tell, and by its length otherwise: nothing is buffered for
  a frame that will not be taken.
- What is held is bounded by ``max_message_bytes`` and what was fed last, however many fragments there are and
  whatever compressed data would become.
- Nothing is raised at whoever reads. Inside, violations are raised as ``websockets`` raises them, and become
  a value in one place.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Generator
from typing import final

from attrs import define, field, frozen
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode

from streamrt.errors import CloseCode, truncate_reason

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it is not compiled
    from websockets.utils import apply_mask

MAX_CONTROL_BYTES = 125
"""What a control frame carries at most (RFC 6455, 5.5)."""

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
OPCODES = frozenset(map(int, Opcode))
FINAL, RSV1, RSV, MASKED, LENGTH = 0x80, 0x40, 0x70, 0x80, 0x7F
TEXT_FRAME = FINAL | TEXT
PLAIN = frozenset((TEXT_FRAME, FINAL | BINARY))

TAIL = b"\x00\x00\xff\xff"
"""What is cut from the end of a compressed message (RFC 7692, 7.2.1)."""

Utf8: Callable[[], codecs.IncrementalDecoder] = codecs.getincrementaldecoder("utf-8")


@final
@frozen
class PeerClose:
    """The peer's Close.

    Args:
        code: Its code; 1005 when it had none.
        reason: Its reason, often empty.
    """

    code: int = field(converter=int)
    reason: str


@final
@frozen
class Violation:
    """What the peer did that is against the protocol or a limit, as the Close to answer it with.

    Args:
        code: 1002 the protocol, 1007 text that is not UTF-8, 1009 a message too big.
        reason: What was expected, and what came; at most 123 bytes.
    """

    code: int = field(converter=int)
    reason: str


@define
class _Buffer:
    """What was fed, and how far it is used up. Apart from the reader, which would be a cycle with its parser else."""

    data: bytes | bytearray = b""
    at: int = 0

    def add(self, data: bytes) -> None:
        if not self.data:
            self.data = data
            return
        if isinstance(self.data, bytes):
            self.data = bytearray(self.data)  # grows in place, so that a frame in many pieces stays linear
        self.data += data

    def exactly(self, count: int) -> Generator[None, None, bytes | bytearray]:
        while len(self.data) - self.at < count:
            yield
        start = self.at
        self.at += count
        return self.data[start : self.at]

    def trim(self) -> None:
        if self.at * 2 >= len(self.data):  # what is held is never twice what is unread, and copying stays linear
            self.data = self.data[self.at :]
            self.at = 0


@define
class _Message:
    """The message that is being read."""

    utf8: codecs.IncrementalDecoder | None  # None: binary
    compressed: bool
    fragments: bytearray = field(factory=bytearray)  # a list of texts could take forty times of what came


class _Rsv1(Extension):
    """Lets the parser pass a compressed frame; the reader inflates it."""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        frame.rsv1 = False
        return frame


@final
class FrameReader:
    """Turn what a client sends into messages, pings, and an end.

    Args:
        max_message_bytes: The largest message taken, in bytes, its fragments together and inflated; beyond,
            a `Violation` with 1009.
        deflate: The extension that was negotiated, if any.

    Attributes:
        end: Why there is nothing more to read; None until then. Decided once, and what follows is ignored.
        pings: Payloads of the Pings read, to be answered. Whoever answers them clears the list.
        pongs: Payloads of the Pongs read; likewise.
    """

    __slots__ = ("_buffer", "_decoder", "_deflate", "_frame", "_max", "_message", "end", "pings", "pongs")

    def __init__(self, max_message_bytes: int, deflate: PerMessageDeflate | None = None) -> None:
        self.end: PeerClose | Violation | None = None
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self._max = max_message_bytes
        self._deflate = deflate
        self._decoder = None if deflate is None or deflate.remote_no_context_takeover else deflate.decoder
        self._buffer = _Buffer()
        self._message: _Message | None = None
        self._frame: Generator[None, None, Frame] | None = None  # on the slow road, and not whole yet

    def feed(self, data: bytes) -> None:
        """Take what the socket gave; `read` looks at it."""
        if self.end is None:
            self._buffer.add(data)

    def read(self, most: int) -> list[str | bytes]:
        """Return the next messages, ``str`` for text and ``bytes`` for binary, in order.

        Args:
            most: How many at most. What stands behind the last of them stays unread, a Ping or a Close too.
                Compressed, a kilobyte that came may be a message of ``max_message_bytes``: ask for few at a time.

        Returns:
            Fewer than ``most``: all that was fed has been read, or there is an `end`.
        """
        messages: list[str | bytes] = []
        while self.end is None:
            if self._frame is None and self._message is None:
                self._read_plain(messages, most)
            if len(messages) >= most or not self._read_frame(messages):
                break
        if self.end is not None:
            self._buffer, self._message, self._frame, self._decoder = _Buffer(), None, None, None
        self._buffer.trim()
        return messages

    def _read_plain(self, messages: list[str | bytes], most: int) -> None:
        """Take the fast road, up to the first frame that is not plain, not whole or not right."""
        data, at, limit = self._buffer.data, self._buffer.at, self._max
        size = len(data)
        for _ in range(most - len(messages)):
            if at + 6 > size:  # no whole frame is shorter
                break
            first = data[at]
            length = data[at + 1] - MASKED
            if 0 <= length < 126:
                start = at + 6
            elif length == 126:
                length = data[at + 2] << 8 | data[at + 3]
                start = at + 8
            else:
                break
            end = start + length
            if end > size or length > limit or first not in PLAIN:
                break
            payload = apply_mask(data[start:end], data[start - 4 : start])
            try:
                messages.append(str(payload, "utf-8") if first == TEXT_FRAME else payload)
            except UnicodeDecodeError:
                break
            at = end
        self._buffer.at = at

    def _read_frame(self, messages: list[str | bytes]) -> bool:
        """Take the slow road for one frame; return whether it is over, whole or wrong."""
        try:
            if self._frame is None:
                data, at = self._buffer.data, self._buffer.at
                if len(data) - at < 2:
                    return False
                self._frame = self._begin(data[at], data[at + 1])
            try:
                next(self._frame)
            except StopIteration as whole:
                frame: Frame = whole.value
            else:
                return False
            self._frame = None
            self._take(frame, messages)
        except PayloadTooBig:
            self.end = Violation(CloseCode.TOO_BIG, f"a message may have {self._max} bytes")
        except ProtocolError as error:
            self.end = Violation(CloseCode.PROTOCOL_ERROR, str(error))
        except UnicodeDecodeError as error:
            self.end = Violation(CloseCode.INVALID_TEXT, f"text must be UTF-8: {error.reason}")
        return True

    def _begin(self, first: int, second: int) -> Generator[None, None, Frame]:
        """Look at the first two bytes of a frame, and return its parser."""
        opcode, message = first & 0x0F, self._message
        compressed = bool(first & RSV1) and self._deflate is not None and opcode in (TEXT, BINARY)
        if opcode not in OPCODES:
            raise ProtocolError(f"an opcode must be one of 0, 1, 2, 8, 9 and 10, not {opcode}")
        if first & RSV and not (compressed and first & RSV == RSV1):
            raise ProtocolError(f"reserved bits must be 0, not {first >> 4 & 7:03b}")
        if not second & MASKED:
            raise ProtocolError("a client's frames must be masked, and this one is not")
        if opcode >= CLOSE:
            if not first & FINAL:
                raise ProtocolError("a control frame must be whole, not a fragment")
            if second & LENGTH > MAX_CONTROL_BYTES:
                raise ProtocolError(f"a control frame may have {MAX_CONTROL_BYTES} bytes, not more")
            return Frame.parse(self._buffer.exactly, mask=True, max_size=MAX_CONTROL_BYTES)
        if opcode == CONT and message is None:
            raise ProtocolError("a message must begin with text or binary, not with a continuation")
        if opcode != CONT and message is not None:
            raise ProtocolError("a message in fragments must be continued, not followed by another")
        if message is None:
            message = self._message = _Message(Utf8() if opcode == TEXT else None, compressed)
        room = self._max - len(message.fragments)
        if not message.compressed:
            return Frame.parse(self._buffer.exactly, mask=True, max_size=room)
        # What does not compress is longer on the wire, by 5 bytes a block (RFC 1951, 3.2.4); those of zlib have 127.
        room += room // 16 + 64
        return Frame.parse(self._buffer.exactly, mask=True, max_size=room, extensions=[_Rsv1()])

    def _take(self, frame: Frame, messages: list[str | bytes]) -> None:
        payload = bytes(frame.data)  # no copy: unmasking has made bytes
        if frame.opcode is PING:
            self.pings.append(payload)
        elif frame.opcode is PONG:
            self.pongs.append(payload)
        elif frame.opcode is CLOSE:
            self.end = _peer_close(payload)
        else:
            message = self._message
            assert message is not None
            if message.compressed:
                payload = self._inflate(payload, frame.fin, self._max - len(message.fragments))
            if frame.fin:
                whole = bytes(message.fragments + payload) if message.fragments else payload
                messages.append(whole if message.utf8 is None else str(whole, "utf-8"))
                self._message = None
            else:
                message.fragments += payload
                if message.utf8 is not None:
                    message.utf8.decode(payload)  # only to find now what can no longer become UTF-8

    def _inflate(self, payload: bytes, final: bool, room: int) -> bytes:
        """Inflate a fragment (RFC 7692, 7.2.2)."""
        # PerMessageDeflate.decode inflates without a limit when a message has no room left, and when a final block
        # has come, it takes all that follows for empty messages and keeps what they held.
        deflate = self._deflate
        assert deflate is not None
        decoder = self._decoder or zlib.decompressobj(wbits=-deflate.remote_max_window_bits)
        forget = deflate.remote_no_context_takeover
        try:
            data = decoder.decompress(payload + TAIL if final else payload, room + 1)
            if decoder.eof:  # a final block is allowed (RFC 7692, 7.2.3.4), and what follows begins anew
                rest, forget = decoder.unused_data, True
                decoder = zlib.decompressobj(wbits=-deflate.remote_max_window_bits)
                data += decoder.decompress(rest, room + 1)
        except zlib.error:
            raise ProtocolError("a compressed message must inflate, and this one does not") from None
        if len(data) > room:
            raise PayloadTooBig(None, room)
        if decoder.eof:  # each of them costs a copy of all that follows
            raise ProtocolError("a compressed frame may have one final block, and this one has more")
        self._decoder = None if final and forget else decoder
        return data


def _peer_close(payload: bytes) -> PeerClose:
    try:
        close = Close.parse(payload)
    except ProtocolError:
        came = "one byte" if len(payload) == 1 else int.from_bytes(payload[:2], "big")
        raise ProtocolError(f"a Close must have a code that may be sent, or nothing, not {came}") from None
    return PeerClose(close.code, close.reason)


def data_frame(payload: bytes) -> bytes:
    """Return a message as it goes out: one final text frame, not masked, the same for every client.

    Args:
        payload: The message, UTF-8.
    """
    return _frame(TEXT_FRAME, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return a control of the dialect as it goes out: one final binary frame, not masked."""
    return _frame(FINAL | BINARY, payload)


def compressed_frame(payload: bytes, deflate: PerMessageDeflate) -> bytes:
    """Return a message as one compressed text frame, for the one connection whose extension this is.

    Frames have to be sent in the order they were made: each is compressed with what the ones before held.

    Args:
        payload: The message, UTF-8.
        deflate: What `Deflate.negotiate` returned for the connection.
    """
    return _frame(TEXT_FRAME | RSV1, deflate.encode(Frame(TEXT, payload)).data)


def ping_frame(payload: bytes) -> bytes:
    """Return a Ping; its payload, at most 125 bytes, comes back in a Pong."""
    return _frame(FINAL | PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a Ping, with the payload of it."""
    return _frame(FINAL | PONG, payload)


def close_frame(code: int, reason: str) -> bytes:
    """Return a Close.

    Args:
        code: The close code; 1005 makes a Close without code and reason.
        reason: The reason, cut to 123 bytes of UTF-8 between two characters.
    """
    if code == CloseCode.NO_STATUS:
        return _frame(FINAL | CLOSE, b"")
    return _frame(FINAL | CLOSE, code.to_bytes(2, "big") + truncate_reason(reason).encode())


def _frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((first, size))
    elif size < 1 << 16:
        head = bytes((first, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 127)) + size.to_bytes(8, "big")
    return head + payload
