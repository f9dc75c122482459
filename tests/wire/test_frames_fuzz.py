"""Whatever a client sends, a reader does not fail, holds little, and says what websockets says, where that is right."""

import codecs
import struct
import tracemalloc
from collections.abc import Sequence

from attrs import define, field
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from streamrt.wire.deflate import Deflate
from streamrt.wire.frames import FrameReader, PeerClose, Violation

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode
LIMIT = 300


def extension(compress: bool) -> PerMessageDeflate | None:
    answer = Deflate(window_bits=15).negotiate(["permessage-deflate"]) if compress else None
    return None if answer is None else answer[1]


@define
class Outcome:
    """What came out, in order, and the codes it may have ended with; None is going on."""

    messages: list[str | bytes] = field(factory=list[str | bytes])
    pings: list[bytes] = field(factory=list[bytes])
    pongs: list[bytes] = field(factory=list[bytes])
    ends: set[int | None] = field(factory=set[int | None])


def outcome(pieces: list[bytes], mosts: list[int], compress: bool) -> Outcome:
    """What a reader makes of the pieces, each followed by reads of these sizes until it is used up."""
    reader, found = FrameReader(LIMIT, extension(compress)), Outcome()
    for piece in pieces:
        reader.feed(piece)
        full = True
        while full:
            for most in mosts:
                messages = reader.read(most)
                assert len(messages) <= most
                found.messages += messages
                full = len(messages) == most
                if not full:
                    break
    found.pings, found.pongs = reader.pings, reader.pongs
    if reader.end is not None:
        assert isinstance(reader.end, PeerClose | Violation)
        assert len(reader.end.reason.encode()) <= 123
        found.ends = {reader.end.code}
        return found
    found.ends = {None}
    return found


def expected(wire: bytes, compress: bool) -> Outcome:
    """What websockets makes of it, frame by frame and as far as it is right.

    It neither puts messages together nor decodes them, so both is done here. And it differs in this:

    - It looks at most of a header when the payload is there, so that a frame which never becomes whole may have
      been refused by then, and a frame that is wrong twice may be refused for the other fault.
    - The room left in a message bounds control frames too; here it has no limit, and messages are counted.
    - A Close between fragments is a violation to it.
    - What follows a final block of compressed data is lost on it, so that nothing is said from there on.
    """
    deflate, found = extension(compress), Outcome()
    peer = ServerProtocol(state=OPEN, max_size=None)
    peer.extensions = [] if deflate is None else [deflate]
    data = b""  # of the message in fragments
    text, compressed = False, False
    utf8 = codecs.getincrementaldecoder("utf-8")()
    at = 0
    while len(wire) - at >= 2:
        head, size = first_frame(wire[at:])
        peer.receive_data(wire[at : at + size])
        at += size
        opcode = head & 0x0F
        refused: set[int | None] = {1002, 1009} if opcode in (CONT, TEXT, BINARY) else {1002}
        if isinstance(peer.parser_exc, Exception) and (opcode != CLOSE or peer.close_rcvd is None):
            assert peer.close_sent is not None
            found.ends = refused if peer.close_sent.code == 1002 else {peer.close_sent.code}
            return found
        frames = [frame for frame in peer.events_received() if isinstance(frame, Frame)]
        if opcode == CLOSE and peer.close_rcvd is not None:
            found.ends = {int(peer.close_rcvd.code)}
            return found
        if not frames:
            found.ends = {None, *refused}
            return found
        if deflate is not None and deflate.decoder.eof:
            found.ends = set()
            return found
        [frame] = frames
        payload = bytes(frame.data)
        if frame.opcode is PING:
            found.pings.append(payload)
        elif frame.opcode is PONG:
            found.pongs.append(payload)
        else:
            if frame.opcode is not CONT:
                data, text, compressed = b"", frame.opcode is TEXT, bool(head & 0x40)
                utf8.reset()
            room = LIMIT - len(data)
            data += payload
            if len(data) > LIMIT or size > 14 + room + (room // 16 + 64 if compressed else 0):
                found.ends = {1009}
                return found
            try:
                decoded = utf8.decode(payload, frame.fin) if text else ""
            except UnicodeDecodeError:
                found.ends = {1007}
                return found
            assert isinstance(decoded, str)
            if frame.fin:
                found.messages.append(data.decode() if text else data)
    found.ends = {None}
    return found


def first_frame(wire: bytes) -> tuple[int, int]:
    """The first byte of a frame that may be torn, and its size as far as it is there."""
    head, length = wire[0], wire[1] & 0x7F
    extended = {126: 2, 127: 8}.get(length, 0)
    if extended:
        length = int.from_bytes(wire[2 : 2 + extended], "big")
    return head, min(len(wire), 2 + extended + 4 + length)


def same(found: Outcome, wanted: Outcome) -> bool:
    pairs: list[tuple[Sequence[object], Sequence[object]]] = [
        (found.messages, wanted.messages),
        (found.pings, wanted.pings),
        (found.pongs, wanted.pongs),
    ]
    if not wanted.ends:  # nothing is said of what comes behind
        return all(ours[: len(theirs)] == theirs for ours, theirs in pairs)
    return found.ends <= wanted.ends and all(ours == theirs for ours, theirs in pairs)


def serialized(frame: Frame, deflate: PerMessageDeflate | None) -> bytes:
    """A frame as a client sends it, whether it may or not."""
    if deflate is not None:
        frame = deflate.encode(frame)
    data = bytes(frame.data)
    first = frame.fin << 7 | frame.rsv1 << 6 | frame.opcode
    extended = b"" if len(data) < 126 else struct.pack("!H", len(data))
    return bytes((first, 0x80 | (126 if extended else len(data)))) + extended + bytes(4) + data


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Messages in fragments with control frames between, as a client may send them, and whether it compresses."""
    compress = draw(st.booleans())
    deflate = extension(compress)
    payloads = (
        st.binary(max_size=LIMIT + 20)
        | st.text(max_size=60).map(str.encode)
        | st.sampled_from((b"a" * LIMIT, b"a" * (LIMIT + 1)))
    )
    controls = st.lists(st.builds(Frame, st.sampled_from((PING, PONG)), st.binary(max_size=125)), max_size=2)
    wire = b""
    for _ in range(draw(st.integers(0, 4))):
        payload = draw(payloads)
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        opcode = draw(st.sampled_from((TEXT, BINARY)))
        compressed = draw(st.booleans())
        for index, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(payload)], strict=True)):
            for control in draw(controls):
                wire += serialized(control, None)
            frame = Frame(CONT if index else opcode, payload[start:end], fin=index == len(cuts))
            wire += serialized(frame, deflate if compressed else None)
    if draw(st.booleans()):
        close = Close(draw(st.sampled_from((1000, 1001, 4000))), draw(st.text(max_size=20)))
        wire += serialized(Frame(CLOSE, close.serialize()), None)
    return wire, compress


@st.composite
def mutations(draw: st.DrawFn) -> tuple[bytes, bool]:
    """The same with a few bytes changed, put in, left out, or all bytes from somewhere on sent again."""
    wire, compress = draw(conversations())
    changed = bytearray(wire)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.sampled_from(("flip", "set", "insert", "delete", "repeat"))):
            case "flip" if at < len(changed):
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if at < len(changed):
                changed[at] = draw(st.integers(0, 255))
            case "insert":
                changed[at:at] = draw(st.binary(max_size=9))
            case "delete":
                del changed[at : at + draw(st.integers(1, 20))]
            case _:
                changed += changed[at:]
    return bytes(changed), compress


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(cut % (len(wire) + 1) for cut in cuts)
    return [wire[start:end] for start, end in zip([0, *places], [*places, len(wire)], strict=True)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)
MOSTS = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@given(st.lists(st.binary(max_size=300), max_size=12), MOSTS, st.booleans())
def test_arbitrary_bytes_never_make_it_fail(pieces: list[bytes], mosts: list[int], compress: bool) -> None:
    found = outcome(pieces, mosts, compress)
    assert same(found, expected(b"".join(pieces), compress))


@settings(max_examples=150)
@given(conversations(), CUTS, MOSTS)
def test_a_conversation_gives_what_websockets_gives(
    conversation: tuple[bytes, bool], cuts: list[int], mosts: list[int]
) -> None:
    wire, compress = conversation
    found = outcome(split(wire, cuts), mosts, compress)
    event(f"ends with {found.ends}")
    assert same(found, expected(wire, compress))


@settings(max_examples=250)
@given(mutations(), CUTS, MOSTS)
@example((b"\x88\x81\0\0\0\0\0", True), [], [1])
def test_what_is_not_a_conversation_any_more_is_judged_as_websockets_judges_it(
    mutation: tuple[bytes, bool], cuts: list[int], mosts: list[int]
) -> None:
    wire, compress = mutation
    found = outcome(split(wire, cuts), mosts, compress)
    event(f"ends with {found.ends}")
    assert same(found, expected(wire, compress))


@given(mutations(), CUTS, MOSTS)
def test_it_does_not_matter_how_the_bytes_are_cut_and_how_many_messages_are_asked_for(
    mutation: tuple[bytes, bool], cuts: list[int], mosts: list[int]
) -> None:
    wire, compress = mutation
    whole = outcome([wire], [10_000], compress)
    assert outcome(split(wire, cuts), mosts, compress) == whole
    assert outcome([wire[at : at + 1] for at in range(len(wire))], mosts, compress) == whole


@settings(max_examples=30)
@given(mutations(), st.binary(min_size=1, max_size=40), st.integers(100, 5000))
def test_what_it_holds_is_bounded_however_long_the_client_goes_on(
    mutation: tuple[bytes, bool], noise: bytes, piece: int
) -> None:
    wire, compress = mutation
    again = (wire or noise) * (50_000 // len(wire or noise))
    pieces = [again[at : at + piece] for at in range(0, len(again), piece)]

    def most_held(reader: FrameReader) -> int:
        most = 0
        for part in pieces:
            reader.feed(part)
            while len(reader.read(8)) == 8:
                pass
            reader.pings.clear()
            reader.pongs.clear()
            most = max(most, tracemalloc.get_traced_memory()[0])
        return most

    most_held(FrameReader(LIMIT, extension(compress)))  # what coverage notes of lines it has not seen is held too
    reader = FrameReader(LIMIT, extension(compress))
    tracemalloc.start()
    try:
        # A torn frame and a message in buffers with room to spare; a parser; what zlib has for a window of 15 bits.
        assert most_held(reader) < 4 * LIMIT + 4000 + (50_000 if compress else 0)
    finally:
        tracemalloc.stop()


def test_the_reference_itself_finds_faults() -> None:
    """What is compared with has to be able to say no."""
    assert expected(b"\x81\x81\0\0\0\0\xff", compress=False).ends == {1007}
    assert expected(b"\x83\x80\0\0\0\0", compress=False).ends == {1002}
    assert expected(b"\x88\x82\0\0\0\0\x03\xe8", compress=False).ends == {1000}
    assert expected(serialized(Frame(TEXT, bytes(LIMIT + 1)), None), compress=False).ends == {1009}
    found = expected(serialized(Frame(TEXT, b"a"), None) + b"\x89\x80\0\0\0\0", compress=False)
    assert found == Outcome(["a"], [b""], [], {None})
