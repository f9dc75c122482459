"""Frames: what comes out of the bytes of a client, what is refused and why, and what goes out to it."""

import gc
import importlib.util
import itertools
import random
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Iterable, Sequence
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from websockets.utils import apply_mask

from streamrt.wire.deflate import Deflate
from streamrt.wire.frames import (
    FrameReader,
    PeerClose,
    Violation,
    close_frame,
    compressed_frame,
    data_frame,
    ping_frame,
    pong_frame,
)

MIB = 1 << 20
CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
MASK = b"\x37\xfa\x21\x3d"
TAIL = b"\x00\x00\xff\xff"


def sent(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client writes it, right or wrong."""
    first, size = fin << 7 | rsv << 4 | opcode, len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + MASK + apply_mask(payload, MASK)


def fragments(opcode: int, *payloads: bytes, rsv: int = 0) -> bytes:
    last = len(payloads) - 1
    return b"".join(
        sent(CONT if index else opcode, payload, fin=index == last, rsv=0 if index else rsv)
        for index, payload in enumerate(payloads)
    )


def fed(*pieces: bytes, max_message_bytes: int = MIB, deflate: PerMessageDeflate | None = None) -> FrameReader:
    reader = FrameReader(max_message_bytes, deflate)
    for piece in pieces:
        reader.feed(piece)
    return reader


def cut(wire: bytes, size: int) -> list[bytes]:
    return [wire[start : start + size] for start in range(0, len(wire), size)]


def read_in_pieces(reader: FrameReader, pieces: Iterable[bytes]) -> list[str | bytes]:
    messages: list[str | bytes] = []
    for piece in pieces:
        reader.feed(piece)
        messages += reader.read(1000)
    return messages


def negotiated(offer: str = "permessage-deflate; client_max_window_bits") -> PerMessageDeflate:
    answer = Deflate(window_bits=15).negotiate([offer])
    assert answer is not None
    return answer[1]


def deflated(payload: bytes, *, level: int = 6, memory_level: int = 8, window_bits: int = 15) -> bytes:
    """A message as a client compresses it, without the context of others."""
    compressor = zlib.compressobj(level, wbits=-window_bits, memLevel=memory_level)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def finished(payload: bytes) -> bytes:
    """A message that ends with a final block, as RFC 7692 allows in 7.2.3.4."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)


# Messages


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
@pytest.mark.parametrize("piece", [10**6, 1000, 7])
def test_a_message_of_any_length_comes_out_whole(size: int, piece: int) -> None:
    letters = ("äöü€" * size)[:size]
    octets = bytes(range(256)) * (size // 256) + bytes(size % 256)
    reader = FrameReader(MIB)
    wire = sent(TEXT, letters.encode()) + sent(BINARY, octets)
    assert read_in_pieces(reader, cut(wire, piece)) == [letters, octets]
    assert reader.end is None


def test_messages_come_out_in_the_order_they_were_sent() -> None:
    texts = [f"message {number}" for number in range(1000)]
    reader = fed(b"".join(sent(TEXT, text.encode()) for text in texts))
    assert reader.read(10_000) == texts
    assert reader.read(10_000) == []


def test_text_is_str_and_binary_is_bytes_whether_in_fragments_or_not() -> None:
    reader = fed(sent(TEXT, b"a"), sent(BINARY, b"a"), fragments(TEXT, b"a", b"b"), fragments(BINARY, b"a", b"b"))
    messages = reader.read(10)
    assert messages == ["a", b"a", "ab", b"ab"]
    assert [type(message) for message in messages] == [str, bytes, str, bytes]


def test_what_is_fed_is_only_looked_at_by_read() -> None:
    reader = fed(sent(PING, b"?"), b"no frame at all")
    assert (reader.pings, reader.end) == ([], None)
    assert reader.read(1) == []
    assert reader.pings == [b"?"]
    assert isinstance(reader.end, Violation)


def test_no_bytes_are_no_message() -> None:
    reader = fed(b"", b"")
    assert reader.read(1) == []
    assert reader.end is None


@pytest.mark.parametrize("between", [b"", sent(PING, b"?"), sent(PONG)], ids=["plain", "pings", "pongs"])
@pytest.mark.parametrize("message", [sent(TEXT, b"a"), fragments(TEXT, b"", b"a")], ids=["whole", "fragments"])
def test_read_stops_exactly_after_as_many_messages_as_asked(message: bytes, between: bytes) -> None:
    reader = fed((message + between) * 5)
    assert [len(reader.read(most)) for most in (0, 1, 0, 3, 3, 3)] == [0, 1, 0, 3, 1, 0]


def test_what_was_read_before_a_ping_counts_too() -> None:
    reader = fed(sent(TEXT, b"a") * 2 + sent(PING) + sent(TEXT, b"b") * 5)
    assert [reader.read(3) for _ in range(3)] == [["a", "a", "b"], ["b", "b", "b"], ["b"]]


def test_what_stands_behind_the_last_message_asked_for_is_read_next_time() -> None:
    wire = sent(TEXT, b"a") + sent(PING, b"1") + sent(TEXT, b"b") + sent(PING, b"2") + sent(CLOSE)
    reader = fed(wire)
    assert (reader.read(1), reader.pings, reader.end) == (["a"], [], None)
    assert (reader.read(1), reader.pings, reader.end) == (["b"], [b"1"], None)
    assert (reader.read(1), reader.pings, reader.end) == ([], [b"1", b"2"], PeerClose(1005, ""))


def test_lengths_may_be_longer_than_they_need_to_be() -> None:
    """RFC 6455, 5.2, wants the shortest; nobody is hurt by another, and websockets takes it too."""
    masked = MASK + apply_mask(b"abc", MASK)
    reader = fed(b"\x81\xfe\x00\x03" + masked + b"\x81\xff" + bytes(7) + b"\x03" + masked)
    assert reader.read(9) == ["abc", "abc"]
    assert reader.end is None


def test_it_reads_the_same_where_websockets_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = importlib.util.find_spec("streamrt.wire.frames")
    assert spec is not None
    assert spec.loader is not None
    uncompiled = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "streamrt.wire.frames", uncompiled)  # where attrs looks for annotations
    spec.loader.exec_module(uncompiled)
    assert uncompiled.apply_mask is apply_mask
    reader = uncompiled.FrameReader(MIB)
    reader.feed(sent(TEXT, b"hello") + sent(BINARY, b"x" * 1000))
    assert reader.read(9) == ["hello", b"x" * 1000]


# Fragments


@pytest.mark.parametrize("piece", [10**6, 1])
@pytest.mark.parametrize("cuts", [*itertools.combinations_with_replacement(range(12), 2)])
def test_text_may_be_cut_into_fragments_anywhere(cuts: tuple[int, int], piece: int) -> None:
    encoded = "aä€😀z".encode()
    assert len(encoded) == 11
    first, second = cuts
    wire = fragments(TEXT, encoded[:first], encoded[first:second], encoded[second:])
    assert read_in_pieces(FrameReader(MIB), cut(wire + wire, piece)) == ["aä€😀z"] * 2


def test_control_frames_may_come_between_fragments() -> None:
    reader = fed(
        sent(TEXT, b"one, ", fin=False),
        sent(PING, b"1"),
        sent(CONT, b"two, ", fin=False),
        sent(PONG, b"2"),
        sent(PING, b"3"),
        sent(CONT, b"three"),
    )
    assert reader.read(9) == ["one, two, three"]
    assert (reader.pings, reader.pongs, reader.end) == ([b"1", b"3"], [b"2"], None)


def test_messages_without_fragments_go_on_after_one_in_fragments() -> None:
    reader = fed(sent(TEXT, b"a") + fragments(TEXT, b"b", b"c") + sent(TEXT, b"d") + fragments(BINARY, b"", b""))
    assert reader.read(9) == ["a", "bc", "d", b""]
    reader.feed(sent(CONT))
    assert (reader.read(9), reader.end) == ([], Violation(1002, NOT_BEGUN))


# Control frames


def test_pings_and_pongs_keep_their_order_and_whoever_answers_clears_them() -> None:
    reader = fed(sent(PING, b"1"), sent(PONG, b"2"), sent(PING, bytes(125)), sent(PONG))
    assert reader.read(1) == []
    assert (reader.pings, reader.pongs) == ([b"1", bytes(125)], [b"2", b""])
    reader.pings.clear()
    reader.feed(sent(PING, b"4"))
    assert reader.read(1) == []
    assert reader.pings == [b"4"]


def test_the_limit_of_messages_is_none_of_control_frames() -> None:
    reader = fed(sent(TEXT, b"abc", fin=False), sent(PING, bytes(125)), sent(CONT), max_message_bytes=3)
    assert reader.read(9) == ["abc"]
    assert (reader.pings, reader.end) == ([bytes(125)], None)


@pytest.mark.parametrize(
    ("payload", "close"),
    [
        (b"", PeerClose(1005, "")),
        (b"\x03\xe8", PeerClose(1000, "")),
        (b"\x03\xe8done", PeerClose(1000, "done")),
        (b"\x0f\xa0" + "größer".encode(), PeerClose(4000, "größer")),
        (b"\x03\xe9" + b"x" * 123, PeerClose(1001, "x" * 123)),
    ],
)
def test_a_close_ends_it_with_its_code_and_reason(payload: bytes, close: PeerClose) -> None:
    reader = fed(sent(TEXT, b"before") + sent(CLOSE, payload) + sent(TEXT, b"behind"))
    assert reader.read(9) == ["before"]
    assert reader.end == close
    assert isinstance(reader.end, PeerClose)
    assert type(reader.end.code) is int


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_every_code_that_may_be_sent_is_taken(code: int) -> None:
    reader = fed(sent(CLOSE, code.to_bytes(2, "big")))
    assert reader.read(1) == []
    assert reader.end == PeerClose(code, "")


def test_a_close_may_come_between_fragments() -> None:
    """A client that gives up in the middle of a message has done nothing wrong (RFC 6455, 5.4 and 5.5)."""
    reader = fed(sent(TEXT, b"begun", fin=False), sent(CLOSE, b"\x03\xe8"), sent(CONT, b" and done"))
    assert reader.read(9) == []
    assert reader.end == PeerClose(1000, "")


@pytest.mark.parametrize("last", [sent(CLOSE, b"\x03\xe8"), sent(3)], ids=["close", "violation"])
def test_what_follows_the_end_is_ignored(last: bytes) -> None:
    behind = sent(CLOSE, b"\x03\xe9") + sent(PING) + sent(TEXT, b"a") + b"\xff" * 50
    reader = fed(last + behind)
    assert reader.read(9) == []
    end = reader.end
    assert end is not None
    reader.feed(behind)
    assert reader.read(9) == []
    assert (reader.end, reader.pings) == (end, [])


# Violations


def opened(length: int) -> bytes:
    """The header of a text with a 64-bit length, and nothing behind it."""
    return b"\x81\xff" + length.to_bytes(8, "big")


def invalid_code(code: int) -> tuple[bytes, int, str]:
    reason = f"a Close must have a code that may be sent, or nothing, not {code}"
    return sent(CLOSE, code.to_bytes(2, "big") + b"why"), 1002, reason


def opcode_reason(opcode: int) -> str:
    return f"an opcode must be one of 0, 1, 2, 8, 9 and 10, not {opcode}"


NOT_MASKED = "a client's frames must be masked, and this one is not"
NOT_WHOLE = "a control frame must be whole, not a fragment"
LONG_CONTROL = "a control frame may have 125 bytes, not more"
NOT_BEGUN = "a message must begin with text or binary, not with a continuation"
NOT_CONTINUED = "a message in fragments must be continued, not followed by another"
TOO_BIG = "a message may have 1048576 bytes"
BAD_START = "text must be UTF-8: invalid start byte"
BAD_CONTINUATION = "text must be UTF-8: invalid continuation byte"
BAD_END = "text must be UTF-8: unexpected end of data"

VIOLATIONS: list[tuple[bytes, int, str]] = [
    *((sent(TEXT, b"a", rsv=rsv), 1002, f"reserved bits must be 0, not {rsv:03b}") for rsv in range(1, 8)),
    (sent(PING, rsv=4), 1002, "reserved bits must be 0, not 100"),
    (fragments(TEXT, b"a", rsv=4), 1002, "reserved bits must be 0, not 100"),
    *((sent(opcode), 1002, opcode_reason(opcode)) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    (b"\x81\x01a", 1002, NOT_MASKED),
    (b"\x89\x00", 1002, NOT_MASKED),
    (b"\x88\x00", 1002, NOT_MASKED),
    *((sent(opcode, fin=False), 1002, NOT_WHOLE) for opcode in (CLOSE, PING, PONG)),
    *((sent(opcode, bytes(126)), 1002, LONG_CONTROL) for opcode in (CLOSE, PING, PONG)),
    (sent(PING, bytes(65536)), 1002, LONG_CONTROL),
    (sent(CONT, b"a"), 1002, NOT_BEGUN),
    (sent(CONT, b"a", fin=False), 1002, NOT_BEGUN),
    (sent(TEXT, b"a", fin=False) + sent(TEXT, b"b"), 1002, NOT_CONTINUED),
    (sent(TEXT, b"a", fin=False) + sent(BINARY, b"b", fin=False), 1002, NOT_CONTINUED),
    (sent(CLOSE, b"\x03"), 1002, "a Close must have a code that may be sent, or nothing, not one byte"),
    *map(invalid_code, (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)),
    (sent(CLOSE, b"\x03\xe8\xff"), 1007, BAD_START),
    (sent(CLOSE, b"\x03\xe8\xe2\x82"), 1007, BAD_END),
    (sent(TEXT, b"\xff"), 1007, BAD_START),
    (sent(TEXT, b"a\xc3"), 1007, BAD_END),
    (sent(TEXT, b"\xc3("), 1007, BAD_CONTINUATION),
    (sent(TEXT, b"\xed\xa0\x80"), 1007, BAD_CONTINUATION),  # half a surrogate pair
    (sent(TEXT, b"\xc0\x80"), 1007, BAD_START),  # longer than it needs to be
    (sent(TEXT, b"\xf4\x90\x80\x80"), 1007, BAD_CONTINUATION),  # above U+10FFFF
    (fragments(TEXT, b"\xe2\x82", b"\xac", b"\xe2"), 1007, BAD_END),
    (sent(TEXT, b"a", fin=False) + sent(CONT, b"\xff", fin=False), 1007, BAD_START),
    (sent(TEXT, b"\xe2\x82", fin=False) + sent(CONT, b"(", fin=False), 1007, BAD_CONTINUATION),
    (opened(MIB + 1), 1009, TOO_BIG),
    (opened(1 << 63), 1009, TOO_BIG),
    (opened((1 << 64) - 1), 1009, TOO_BIG),
    (sent(TEXT, bytes(MIB), fin=False) + sent(CONT, b"a"), 1009, TOO_BIG),
]


@pytest.mark.parametrize("piece", [10**7, 1000, 1])
@pytest.mark.parametrize(("wire", "code", "reason"), VIOLATIONS, ids=[wire[:9].hex() for wire, _, _ in VIOLATIONS])
def test_a_violation_ends_it_with_the_code_and_the_words_to_close_with(
    wire: bytes, code: int, reason: str, piece: int
) -> None:
    if len(wire) > 100_000:
        piece = max(piece, 1000)
    reader = FrameReader(MIB)
    assert read_in_pieces(reader, cut(sent(TEXT, b"before") + wire, piece)) == ["before"]
    assert reader.end == Violation(code, reason)
    assert isinstance(reader.end, Violation)
    assert type(reader.end.code) is int
    assert len(reason.encode()) <= 123


@pytest.mark.parametrize(
    "head",
    [b"\xf1\xff", b"\x83\xff", b"\x81\x7f", b"\x09\x80", b"\x89\xfe", b"\x89\xff", b"\x80\xff"],
    ids=["reserved bits", "opcode", "not masked", "fragment of a ping", "long ping", "longer ping", "not begun"],
)
def test_what_the_first_two_bytes_tell_is_not_waited_for(head: bytes) -> None:
    reader = fed(head)
    assert reader.read(1) == []
    assert isinstance(reader.end, Violation)
    assert reader.end.code == 1002


def test_a_fragment_that_is_no_utf8_is_found_before_the_message_is_whole() -> None:
    reader = fed(sent(TEXT, b"\xe2\x82", fin=False))
    assert (reader.read(1), reader.end) == ([], None)
    reader.feed(sent(CONT, b"\x28", fin=False))
    assert (reader.read(1), reader.end) == ([], Violation(1007, BAD_CONTINUATION))


# Limits


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [0, 1, 125, 126, 1000, 65535, 65536, 100_000])
def test_a_message_may_have_exactly_as_many_bytes_as_the_limit(limit: int, opcode: int) -> None:
    reader = fed(sent(opcode, b"x" * limit) * 2, max_message_bytes=limit)
    assert [len(message) for message in reader.read(9)] == [limit, limit]
    assert reader.end is None
    reader = fed(sent(opcode, b"x" * (limit + 1)), max_message_bytes=limit)
    assert (reader.read(9), reader.end) == ([], Violation(1009, f"a message may have {limit} bytes"))


@pytest.mark.parametrize(
    ("sizes", "fits"), [((4, 3, 3), True), ((10, 0, 0), True), ((0, 10), True), ((4, 3, 4), False)]
)
def test_the_fragments_of_a_message_share_its_limit(sizes: Sequence[int], fits: bool) -> None:
    wire = fragments(BINARY, *map(bytes, sizes))
    reader = fed(wire, wire, max_message_bytes=10)
    assert reader.read(9) == ([bytes(10)] * 2 if fits else [])
    assert reader.end == (None if fits else Violation(1009, "a message may have 10 bytes"))


def test_a_frame_that_is_too_big_is_refused_before_its_payload_is_there() -> None:
    reader = fed(sent(TEXT, bytes(6), fin=False), max_message_bytes=10)
    assert (reader.read(1), reader.end) == ([], None)
    reader.feed(b"\x80\x85")
    assert (reader.read(1), reader.end) == ([], Violation(1009, "a message may have 10 bytes"))


# Memory


NOISE = 50_000
"""Bytes that are held by no reader: what coverage notes of lines it has not seen, above all."""


class Held:
    """The bytes that were allocated since it was entered: those still held, and the most there were at once."""

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.now, self.peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()


def test_an_idle_reader_holds_next_to_nothing() -> None:
    readers: list[FrameReader] = []
    FrameReader(MIB).read(1)
    with Held() as held:
        for _ in range(100):
            reader = fed(sent(PING) * 10 + fragments(TEXT, *([b"x" * 1000] * 10)))
            assert len(reader.read(9)) == 1
            reader.pings.clear()
            readers.append(reader)
    assert held.now / len(readers) < 600


@pytest.mark.parametrize("rest", [b"", b"\x81", sent(TEXT, b"torn")[:-1]], ids=["nothing", "a byte", "a torn frame"])
@pytest.mark.parametrize("piece", [2 * MIB, 10_000])
def test_the_buffer_of_a_big_message_is_let_go(piece: int, rest: bytes) -> None:
    pieces = cut(sent(BINARY, bytes(MIB)) + rest, piece)
    reader = FrameReader(MIB)
    with Held() as held:
        assert len(read_in_pieces(reader, pieces)) == 1
    assert held.now < NOISE


def test_a_big_frame_that_comes_in_pieces_is_not_copied_for_each() -> None:
    """Or the time it takes would grow with the square of its length."""
    pieces = cut(sent(BINARY, bytes(4 * MIB)), 65536)
    reader = FrameReader(4 * MIB)
    with Held() as held:
        assert read_in_pieces(reader, pieces[:-1]) == []
    assert 4 * MIB - 65536 <= held.peak < 5 * MIB


def test_what_is_unread_is_not_held_together_with_what_is_read() -> None:
    with Held() as held:
        reader = fed(sent(TEXT, b"x" * 10_000))
        for _ in range(100):
            reader.feed(sent(TEXT, b"x" * 10_000))
            assert len(reader.read(1)) == 1  # one stays behind, always
    assert held.now < NOISE


@pytest.mark.parametrize("last", [sent(CLOSE), b"\xff\xff"], ids=["close", "violation"])
def test_nothing_is_held_after_the_end(last: bytes) -> None:
    wire = fragments(TEXT, bytes(MIB // 2), b"")[:-6] + last + bytes(MIB)
    rest = bytes(MIB)
    with Held() as held:
        reader = fed(wire, rest[:-1])
        assert (reader.read(9), reader.end is None) == ([], False)
        reader.feed(rest[1:])
    assert held.now < NOISE


def test_fragments_without_end_take_no_memory() -> None:
    empty = sent(CONT, fin=False) * 2000
    reader = fed(sent(TEXT, fin=False))
    with Held() as held:
        for _ in range(5):
            reader.feed(empty)
            assert reader.read(1) == []
    assert reader.end is None
    assert held.now < NOISE


def test_many_short_fragments_take_no_more_memory_than_their_bytes() -> None:
    wire = sent(CONT, "€".encode(), fin=False) * 5000
    reader = fed(sent(TEXT, fin=False))
    with Held() as held:
        for piece in cut(wire, 4096):
            reader.feed(piece)
            assert reader.read(1) == []
    assert held.now < NOISE
    reader.feed(sent(CONT))
    assert reader.read(1) == ["€" * 5000]


def test_a_frame_that_stays_torn_goes_with_its_reader() -> None:
    """Without the help of the garbage collector: a cycle would keep a message of a client that is long gone."""

    torn = sent(BINARY, bytes(MIB))[:-1]
    gc.disable()
    try:
        with Held() as held:
            reader = fed(torn[:100], torn[100:])
            assert reader.read(1) == []
            del reader
    finally:
        gc.enable()
    assert held.now < NOISE


# Compression


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ([], None),
        ([""], None),
        ([","], None),
        (["x-webkit-deflate-frame"], None),
        (["permessage-bzip2, permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
        (["permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
        ([" permessage-deflate\t"], "permessage-deflate; server_max_window_bits=12"),
        (
            ["permessage-deflate; client_max_window_bits"],
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            ["permessage-deflate; client_max_window_bits=15; server_max_window_bits=15"],
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            ['permessage-deflate; client_max_window_bits="10"; server_max_window_bits=9'],
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            ["permessage-deflate; client_max_window_bits=8"],
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=8",
        ),
        (
            ["permessage-deflate; server_no_context_takeover; client_no_context_takeover"],
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12",
        ),
        (["permessage-deflate; server_max_window_bits=8"], None),
        (
            ["permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10"],
            "permessage-deflate; server_max_window_bits=10",
        ),
        (
            ["permessage-deflate; server_max_window_bits=10, permessage-deflate; server_max_window_bits=9"],
            "permessage-deflate; server_max_window_bits=10",
        ),
        (["permessage-deflate; server_max_window_bits"], None),
        (["permessage-deflate; server_max_window_bits=16"], None),
        (["permessage-deflate; server_max_window_bits=09"], None),
        (["permessage-deflate; client_max_window_bits=7"], None),
        (["permessage-deflate; server_no_context_takeover=1"], None),
        (["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
        (["permessage-deflate; level=9"], None),
        (["permessage-deflate;"], None),
        (["permessage-deflate; =", "permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
        (["permessage-deflate; level=9", "permessage-deflate"], "permessage-deflate; server_max_window_bits=12"),
    ],
)
def test_the_first_offer_that_can_be_met_is_accepted(offers: list[str], answer: str | None) -> None:
    negotiated = Deflate().negotiate(offers)
    assert (None if negotiated is None else negotiated[0]) == answer


def test_a_client_that_does_not_let_us_choose_its_window_has_the_largest() -> None:
    negotiated = Deflate(window_bits=9).negotiate(["permessage-deflate"])
    assert negotiated is not None
    assert (negotiated[1].remote_max_window_bits, negotiated[1].local_max_window_bits) == (15, 9)


def test_every_connection_has_an_extension_of_its_own() -> None:
    deflate = Deflate()
    extensions = [answer[1] for _ in range(2) if (answer := deflate.negotiate(["permessage-deflate"]))]
    assert len(set(map(id, extensions))) == 2


@given(st.lists(st.text('permssag-dflt;=," \\8é\x00') | st.text()))
def test_no_offer_makes_the_negotiation_fail(offers: list[str]) -> None:
    answer = Deflate().negotiate(offers)
    assert answer is None or answer[0].startswith("permessage-deflate")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_bits": 8}, "window_bits must be a whole number, from 9 to 15, not 8"),
        ({"window_bits": 16}, "window_bits must be a whole number, from 9 to 15, not 16"),
        ({"window_bits": 12.0}, "window_bits must be a whole number, from 9 to 15, not 12.0"),
        ({"memory_level": 0}, "memory_level must be a whole number, from 1 to 9, not 0"),
        ({"memory_level": 10}, "memory_level must be a whole number, from 1 to 9, not 10"),
        ({"memory_level": True}, "memory_level must be a whole number, from 1 to 9, not True"),
        ({"threshold": -1}, "threshold must be a whole number, 0 or more, not -1"),
        ({"threshold": None}, "threshold must be a whole number, 0 or more, not None"),
    ],
)
def test_a_number_beyond_its_range_is_said(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole text is compared
        Deflate(**options)
    assert str(caught.value) == message


def test_every_number_within_its_range_is_taken() -> None:
    for window_bits, memory_level in itertools.product(range(9, 16), range(1, 10)):
        negotiated = Deflate(window_bits=window_bits, memory_level=memory_level, threshold=0).negotiate(
            ["permessage-deflate"]
        )
        assert negotiated is not None
        answer, deflate = negotiated
        assert answer == f"permessage-deflate; server_max_window_bits={window_bits}"
        assert compressed_frame(b"a" * 100, deflate)[:1] == b"\xc1"


@pytest.mark.parametrize(("window_bits", "memory_level"), [(9, 1), (9, 9), (12, 5), (15, 8), (15, 1)])
def test_a_connection_that_compresses_holds_what_the_docstring_says(window_bits: int, memory_level: int) -> None:
    deflate = Deflate(window_bits=window_bits, memory_level=memory_level)
    count, message = 20, random.Random(1).randbytes(40_000)
    wire = sent(BINARY, deflated(message, window_bits=window_bits), rsv=4)
    readers: list[tuple[FrameReader, PerMessageDeflate]] = []
    with Held() as held:
        for _ in range(count):
            answer = deflate.negotiate(["permessage-deflate; client_max_window_bits"])
            assert answer is not None
            readers.append((FrameReader(MIB, answer[1]), answer[1]))
            assert read_in_pieces(readers[-1][0], [wire]) == [message]
            compressed_frame(message, answer[1])
    said = (1 << (window_bits + 2)) + (1 << (memory_level + 9)) + (1 << window_bits)
    assert said <= held.now / count < said + 18_000


def test_compressed_and_plain_messages_may_follow_one_another() -> None:
    wire = sent(TEXT, deflated(b"one"), rsv=4) + sent(TEXT, b"two") + sent(BINARY, deflated(b"three"), rsv=4)
    assert fed(wire * 2, deflate=negotiated()).read(9) == ["one", "two", b"three"] * 2


@pytest.mark.parametrize("piece", [10**6, 1])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_compressed_message_may_be_cut_into_fragments_anywhere(size: int, piece: int) -> None:
    text = "äöü, and so on: " * 20
    wire = fragments(TEXT, *cut(deflated(text.encode()), size), rsv=4)
    reader = FrameReader(MIB, negotiated())
    assert read_in_pieces(reader, cut(wire + sent(PING) + wire, piece)) == [text, text]


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_no_context_takeover"])
@pytest.mark.parametrize("size", [1, 3, 7, 8, 100])
def test_a_message_may_end_with_a_final_block(size: int, offer: str) -> None:
    """RFC 7692, 7.2.3.4, has this example. What comes next begins with an empty window."""
    hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00"
    assert zlib.decompressobj(wbits=-15).decompress(hello) == b"Hello"
    wire = fragments(TEXT, *cut(hello + b"\x00", size), rsv=4) + fragments(TEXT, hello, hello, b"\x00", rsv=4)
    reader = fed((wire + sent(TEXT, deflated(b"bye"), rsv=4)) * 2, deflate=negotiated(offer))
    assert reader.read(9) == ["Hello", "HelloHello", "bye"] * 2
    assert reader.end is None


def test_a_message_may_end_with_a_final_block_and_without_the_empty_one_behind_it() -> None:
    """It has to be there, but nothing is lost without it."""
    wire = sent(TEXT, finished(b"Hello"), rsv=4) + sent(TEXT, deflated(b"bye"), rsv=4)
    assert fed(wire * 2, deflate=negotiated()).read(9) == ["Hello", "bye"] * 2


NOT_INFLATED = "a compressed message must inflate, and this one does not"
TWO_FINAL_BLOCKS = "a compressed frame may have one final block, and this one has more"


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_no_context_takeover"])
@pytest.mark.parametrize(
    ("wire", "code", "reason"),
    [
        (sent(TEXT, b"\xff\xff\xff", rsv=4), 1002, NOT_INFLATED),
        (sent(TEXT, b"\x07", rsv=4), 1002, NOT_INFLATED),  # a block of a kind that there is not
        (sent(TEXT, deflated(b"a" * 5000) + b"\x01\x02\x03\x04", rsv=4), 1002, NOT_INFLATED),
        (sent(TEXT, deflated(b"a"), rsv=4, fin=False) + sent(CONT, b"\x01\x02\x03\x04"), 1002, NOT_INFLATED),
        (sent(TEXT, finished(b"a") + b"\x07", rsv=4), 1002, NOT_INFLATED),
        (sent(TEXT, finished(b"a") + finished(b"b"), rsv=4), 1002, TWO_FINAL_BLOCKS),
        (sent(TEXT, deflated(b"a"), rsv=6), 1002, "reserved bits must be 0, not 110"),
        (sent(TEXT, deflated(b"a"), rsv=5), 1002, "reserved bits must be 0, not 101"),
        (sent(PING, rsv=4), 1002, "reserved bits must be 0, not 100"),
        (sent(11, rsv=4), 1002, opcode_reason(11)),
        (sent(CONT, rsv=4), 1002, "reserved bits must be 0, not 100"),
        (sent(TEXT, deflated(b"a"), rsv=4, fin=False) + sent(CONT, rsv=4), 1002, "reserved bits must be 0, not 100"),
        (sent(TEXT, b"a", fin=False) + sent(TEXT, deflated(b"b"), rsv=4), 1002, NOT_CONTINUED),
        (sent(TEXT, deflated(b"\xff"), rsv=4), 1007, BAD_START),
        (fragments(TEXT, *cut(deflated(b"a" * 99 + b"\xc3"), 3), rsv=4), 1007, BAD_END),
    ],
)
def test_violations_of_compressed_messages(wire: bytes, code: int, reason: str, offer: str) -> None:
    reader = fed(sent(TEXT, deflated(b"before"), rsv=4), wire, deflate=negotiated(offer))
    assert reader.read(9) == ["before"]
    assert reader.end == Violation(code, reason)


@pytest.mark.parametrize("in_fragments", [False, True])
@pytest.mark.parametrize(("level", "memory_level"), [(6, 8), (6, 1), (0, 8), (0, 1), (9, 9)])
@pytest.mark.parametrize("limit", [0, 1, 3, 127, 1000, 2048, 65536, 200_000])
def test_a_message_may_have_as_many_bytes_as_the_limit_when_it_is_inflated(
    limit: int, level: int, memory_level: int, in_fragments: bool
) -> None:
    """Also where it is longer before than after, because it does not compress."""

    def wire(payload: bytes) -> bytes:
        compressed = deflated(payload, level=level, memory_level=memory_level)
        parts = cut(compressed, max(len(compressed) // 3, 1)) if in_fragments else [compressed]
        return fragments(BINARY, *parts, rsv=4)

    noise = random.Random(1).randbytes(limit)
    reader = fed(wire(noise), wire(bytes(limit)), max_message_bytes=limit, deflate=negotiated())
    assert reader.read(9) == [noise, bytes(limit)]
    assert reader.end is None
    for payload in (noise + b"x", bytes(limit + 1)):
        reader = fed(wire(payload), max_message_bytes=limit, deflate=negotiated())
        assert (reader.read(9), reader.end) == ([], Violation(1009, f"a message may have {limit} bytes"))


def test_a_compressed_frame_that_cannot_fit_is_refused_before_its_payload_is_there() -> None:
    reader = fed(b"\xc1\xfe" + (1000 + 62 + 64 + 1).to_bytes(2, "big"), max_message_bytes=1000, deflate=negotiated())
    assert (reader.read(1), reader.end) == ([], Violation(1009, "a message may have 1000 bytes"))


@pytest.mark.parametrize("before", [0, 1000, MIB - 1, MIB], ids=["first", "second", "a byte left", "none left"])
def test_a_bomb_takes_no_more_memory_than_a_message(before: int) -> None:
    compressor = zlib.compressobj(wbits=-15)
    head = compressor.compress(bytes(before)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    bomb = (compressor.compress(bytes(32 * MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    assert len(bomb) < 40_000
    wire = fragments(BINARY, head, bomb, rsv=4)
    reader = FrameReader(MIB, negotiated())
    with Held() as held:
        reader.feed(wire)
        assert reader.read(9) == []
    assert reader.end == Violation(1009, "a message may have 1048576 bytes")
    assert held.peak < 2.5 * MIB
    assert held.now < 100_000  # the window, which the extension holds too, and what was not inflated any more


@pytest.mark.parametrize(
    "again",
    [
        fragments(TEXT, *([finished(b"")] * 10), b"\x00", rsv=4),
        fragments(TEXT, *([b"\x00" + TAIL] * 10), b"\x00", rsv=4),
        sent(TEXT, finished(b"") + (b"\x00" + TAIL) * 400 + b"\x00", rsv=4),
    ],
    ids=["final blocks", "empty blocks", "a final block and then empty ones"],
)
def test_nothing_is_kept_of_what_inflates_to_nothing(again: bytes) -> None:
    reader = FrameReader(MIB, negotiated())
    reader.feed(again)
    assert reader.read(9) == [""]
    with Held() as held:
        for _ in range(100):
            reader.feed(again)
            assert reader.read(9) == [""]
    assert held.now < NOISE


# The other side, by websockets


def client(*extensions: PerMessageDeflate) -> ClientProtocol:
    protocol = ClientProtocol(parse_uri("ws://example.org/"), state=OPEN, max_size=None)
    protocol.extensions = list(extensions)
    return protocol


def received(protocol: ClientProtocol, wire: bytes) -> list[Frame]:
    protocol.receive_data(wire)
    assert protocol.parser_exc is None
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_a_data_frame_is_read_by_a_client(size: int) -> None:
    assert received(client(), data_frame(b"x" * size)) == [Frame(TEXT, b"x" * size)]


def test_frames_for_clients_are_these_bytes() -> None:
    assert data_frame(b"") == b"\x81\x00"
    assert data_frame(b"hi") == b"\x81\x02hi"
    assert data_frame(b"x" * 126)[:5] == b"\x81\x7e\x00\x7ex"
    assert data_frame(b"x" * 65536)[:11] == b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00x"
    assert ping_frame(b"1") == b"\x89\x011"
    assert pong_frame(b"") == b"\x8a\x00"
    assert close_frame(1005, "never on the wire") == b"\x88\x00"
    assert close_frame(1000, "") == b"\x88\x02\x03\xe8"
    assert close_frame(4404, "not_found: no such room") == b"\x88\x19\x11\x34not_found: no such room"


def test_control_frames_are_read_by_a_client() -> None:
    protocol = client()
    wire = ping_frame(b"1") + pong_frame(bytes(125)) + close_frame(4404, "not_found: no such room")
    assert [frame.opcode for frame in received(protocol, wire)] == [PING, PONG, CLOSE]
    assert protocol.close_rcvd is not None
    assert (protocol.close_rcvd.code, protocol.close_rcvd.reason) == (4404, "not_found: no such room")


@given(st.text(st.characters(exclude_categories=[])))
def test_any_reason_makes_a_close_that_can_be_read(reason: str) -> None:
    protocol = client()
    received(protocol, close_frame(1011, reason * 20))
    assert protocol.close_rcvd is not None
    valid = (reason * 20).encode("utf-8", "replace").decode()
    assert valid.startswith(protocol.close_rcvd.reason)
    assert len(protocol.close_rcvd.reason.encode()) >= min(len(valid.encode()), 120)


def test_a_client_and_a_reader_understand_each_other() -> None:
    protocol = client()
    protocol.send_text(b"one")
    protocol.send_ping(b"?")
    protocol.send_text("größ".encode()[:3], fin=False)
    protocol.send_pong(b"!")
    protocol.send_continuation("größ".encode()[3:], fin=True)
    protocol.send_binary(bytes(70_000))
    protocol.send_close(4000, "enough")
    reader = fed(*protocol.data_to_send())
    assert reader.read(9) == ["one", "größ", bytes(70_000)]
    assert (reader.pings, reader.pongs, reader.end) == ([b"?"], [b"!"], PeerClose(4000, "enough"))


MESSAGES = [b"", b"a", b"", b"", "größer ".encode() * 500, bytes(range(128)) * 400, b"a" * 300_000, b"bye"]


@pytest.mark.parametrize("window_bits", [9, 12, 15])
@pytest.mark.parametrize("client_bits", [None, True, 9, 15])
@pytest.mark.parametrize("server_bits", [None, 9, 15])
@pytest.mark.parametrize("client_takeover", [True, False])
@pytest.mark.parametrize("server_takeover", [True, False])
def test_messages_go_round_compressed_whatever_was_negotiated(
    server_takeover: bool, client_takeover: bool, server_bits: int | None, client_bits: int | None, window_bits: int
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not server_takeover,
        client_no_context_takeover=not client_takeover,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
    negotiated = Deflate(window_bits=window_bits).negotiate(
        [build_extension([(factory.name, factory.get_request_params())])]
    )
    assert negotiated is not None
    answer, deflate = negotiated
    [(_, parameters)] = parse_extension(answer)
    protocol = client(factory.process_response_params(parameters, []))
    reader = FrameReader(MIB, deflate)
    for message in MESSAGES:
        protocol.send_text(message)
        protocol.send_text(message[: len(message) // 2], fin=False)
        protocol.send_continuation(message[len(message) // 2 :], fin=True)
        assert read_in_pieces(reader, protocol.data_to_send()) == [message.decode()] * 2
        wire = compressed_frame(message, deflate) + data_frame(b"plain") + ping_frame(b"")
        assert [bytes(frame.data) for frame in received(protocol, wire)] == [message, b"plain", b""]
        protocol.data_to_send()  # the Pong
    assert reader.end is None


def test_a_compressed_frame_is_shorter_and_shorter_still_the_second_time() -> None:
    negotiated = Deflate().negotiate(["permessage-deflate"])
    assert negotiated is not None
    message = random.Random(1).randbytes(1000).hex().encode()
    first, second = (len(compressed_frame(message, negotiated[1])) for _ in range(2))
    assert second < first // 10 < first < len(message)
