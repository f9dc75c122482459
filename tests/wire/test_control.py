"""Controls: what each is on the wire, and what is not one."""

import json
import logging
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.utils import apply_mask

from streamrt import APIError
from streamrt.errors import CLASSES
from streamrt.wire.control import (
    END,
    BrokenControl,
    Drain,
    End,
    Failure,
    Gap,
    Position,
    drain_frame,
    error_frame,
    read_control,
)
from streamrt.wire.frames import close_frame, data_frame

MASK = bytes.fromhex("37fa213d")
TYPED = [(0x81, b'{"text":"hi"}'), (0x82, END.payload)]


def test_a_control_is_a_binary_frame_and_is_never_compressed() -> None:
    assert (END.payload, END.message) == (b'{"type":"end"}', b'{"type":"end"}')
    assert END.wire == b'\x82\x0e{"type":"end"}'
    assert END.is_ready


def test_the_bytes_in_the_document_are_those_on_the_wire() -> None:
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    lines = document.partition("## Bytes")[2].splitlines()
    shown = bytes.fromhex("".join("".join(re.findall(r"\b[0-9a-f]{2}\b(?= |$)", line[:66])) for line in lines))
    masked = [bytes((first, 0x80 | len(payload))) + MASK + apply_mask(payload, MASK) for first, payload in TYPED]
    error = APIError.not_found("no such room")
    server = [data_frame(b'{"count":1}'), close_frame(1000, ""), error_frame(error).wire]
    assert shown == b"".join([*masked, *server, close_frame(error.close_code, error.reason())])


@pytest.mark.parametrize("sender", ["client", "server"])
def test_either_side_may_end(sender) -> None:
    assert read_control(END.payload, sender) == End()


@pytest.mark.parametrize("code", CLASSES)
def test_an_error_travels_whole(code: str) -> None:
    error = CLASSES[code]("é" * 200, details={"room": ["a", 1]}, retry_after=1.5)
    control = read_control(error_frame(error).payload, "server")
    assert isinstance(control, Failure)
    read = control.error()
    assert type(read) is CLASSES[code]
    if code == "internal":
        assert (read.message, read.details, read.retry_after) == ("an internal error occurred", None, None)
    else:
        assert (read.message, read.details, read.retry_after) == ("é" * 200, {"room": ["a", 1]}, 1.5)


def test_of_an_error_only_what_it_has_is_sent() -> None:
    assert error_frame(APIError.not_found("no room")).payload == (
        b'{"type":"error","code":"not_found","message":"no room"}'
    )


def test_an_error_of_a_later_version_is_unknown() -> None:
    control = read_control(b'{"type":"error","code":"teapot","message":"short and stout"}', "server")
    assert isinstance(control, Failure)
    assert str(control.error()) == "unknown: short and stout"


@pytest.mark.parametrize(
    "details", [{"a": object()}, {"a": float("nan")}, {object(): 1}, {"a": {"b"}}], ids=["object", "nan", "key", "set"]
)
def test_details_that_are_no_json_are_left_out_and_that_is_logged(details, caplog) -> None:
    with caplog.at_level(logging.ERROR, "streamrt"):
        frame = error_frame(APIError.not_found("no room", details=details))
    assert json.loads(frame.payload) == {"type": "error", "code": "not_found", "message": "no room"}
    assert "the details of an error are not JSON" in caplog.text


def test_what_cannot_be_utf_8_is_sent_all_the_same() -> None:
    control = read_control(error_frame(APIError.not_found("\ud800")).payload, "server")
    assert control == Failure("not_found", "?")


def test_there_is_no_time_before_now() -> None:
    control = read_control(error_frame(APIError.unavailable(retry_after=-1)).payload, "server")
    assert control == Failure("unavailable", APIError.Unavailable.default_message, retry_after=0)


def test_a_drain_says_within_which_time() -> None:
    assert drain_frame(2.50049).payload == b'{"type":"drain","within":2.5}'
    assert read_control(b'{"type":"drain","within":2}', "server") == Drain(2)


@pytest.mark.parametrize("kind", ["error", "drain", "position", "gap", "", "END", "later"])
def test_what_is_not_for_a_server_is_nothing_to_it_whatever_its_fields(kind: str) -> None:
    assert read_control(json.dumps({"type": kind, "within": "x"}).encode(), "client") is None


def test_keys_of_a_later_version_are_nothing() -> None:
    assert read_control(b' {"more": [1], "type": "end", "type2": 1}\n', "client") == End()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1",
        b"[]",
        b'"end"',
        b"null",
        b"{}",
        b'{"type":1}',
        b'{"type":null}',
        b'{"type":"end"',
        b'{"type":"end"} {}',
        b'{"type":"end","x":NaN}',
        b'{"type":"end","x":"\xff"}',
        b'\xef\xbb\xbf{"type":"end"}',
        '{"type":"end"}'.encode("utf-16"),
        b'{"type":"end","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
@pytest.mark.parametrize("sender", ["client", "server"])
def test_what_is_no_object_with_a_type_is_told_so(payload: bytes, sender) -> None:
    with pytest.raises(BrokenControl, match="must be a JSON object in UTF-8 with a text 'type'"):
        read_control(payload, sender)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"type": "drain"}, r"'drain' is wrong: .*`within`"),
        ({"type": "drain", "within": "2"}, r"'drain' is wrong: .*`\$\.within`"),
        ({"type": "drain", "within": None}, r"\.within"),
        ({"type": "drain", "within": True}, r"\.within"),
        ({"type": "drain", "within": -1}, r"\.within"),
        ({"type": "error", "message": ""}, r"'error' is wrong: .*`code`"),
        ({"type": "error", "code": "not_found"}, r"`message`"),
        ({"type": "error", "code": 5, "message": ""}, r"\.code"),
        ({"type": "error", "code": "not_found", "message": []}, r"\.message"),
        ({"type": "error", "code": "not_found", "message": "", "details": []}, r"\.details"),
        ({"type": "error", "code": "not_found", "message": "", "retry_after": "1"}, r"\.retry_after"),
        ({"type": "error", "code": "not_found", "message": "", "retry_after": -1}, r"\.retry_after"),
    ],
)
def test_a_field_that_is_wrong_is_named(fields, named: str) -> None:
    with pytest.raises(BrokenControl, match=named):
        read_control(json.dumps(fields).encode(), "server")


@given(st.binary() | st.text().map(str.encode))
def test_nothing_else_is_raised_whatever_comes(payload: bytes) -> None:
    with suppress(BrokenControl):
        control = read_control(payload, "server")
        assert control is None or isinstance(control, (End, Failure, Drain, Position, Gap))
