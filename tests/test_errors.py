"""The codes: what each is over HTTP and in a Close frame, what the peer may read, and the way back."""

import re

import pytest

from streamrt.errors import (
    CLASSES,
    MAX_REASON_BYTES,
    APIError,
    CloseCode,
    Ended,
    Fault,
    InvalidMessage,
    NotFound,
    error_from_close,
    error_from_response,
    truncate_reason,
)

CODES = [
    ("canceled", 499, 4499),
    ("unknown", 500, 4500),
    ("invalid_argument", 400, 4400),
    ("deadline_exceeded", 504, 4504),
    ("not_found", 404, 4404),
    ("already_exists", 409, 4409),
    ("permission_denied", 403, 4403),
    ("resource_exhausted", 429, 4429),
    ("failed_precondition", 400, 4400),
    ("aborted", 409, 4409),
    ("out_of_range", 400, 4400),
    ("unimplemented", 501, 4501),
    ("internal", 500, 1011),
    ("unavailable", 503, 4503),
    ("data_loss", 500, 4500),
    ("unauthenticated", 401, 4401),
]
NAMES = [name for name, *_ in CODES]
PUBLIC = [name for name in NAMES if name != "internal"]


def create(code: str, *args: str, **kwargs: object) -> APIError:
    error = getattr(APIError, code)(*args, **kwargs)
    assert isinstance(error, APIError)
    return error


def test_there_are_sixteen_codes() -> None:
    assert list(CLASSES) == NAMES


@pytest.mark.parametrize(("code", "http_status", "close_code"), CODES)
def test_a_code_has_its_http_status_and_its_close_code(code: str, http_status: int, close_code: int) -> None:
    error = create(code, "why")
    assert (error.code, error.http_status, error.close_code) == (code, http_status, close_code)
    assert str(error) == f"{code}: why"
    assert error.args == ("why",)


@pytest.mark.parametrize("code", NAMES)
def test_a_code_has_a_class_to_catch_it_by(code: str) -> None:
    error = create(code)
    cls = getattr(APIError, code.title().replace("_", ""))
    assert type(error) is cls is CLASSES[code]
    assert cls.__doc__
    assert error.message == cls.default_message
    assert error.details is None
    assert error.retry_after is None


@pytest.mark.parametrize("code", ["resource_exhausted", "unavailable"])
def test_what_passes_by_itself_may_say_when(code: str) -> None:
    assert create(code, retry_after=1.5).retry_after == 1.5


def test_an_error_without_a_code_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="has no code of its own"):
        APIError("why")


def test_a_class_of_ones_own_keeps_the_code_of_its_base() -> None:
    class NoRoom(NotFound):
        pass

    error = NoRoom("no such room")
    assert (error.code, error.close_code) == ("not_found", 4404)
    assert CLASSES["not_found"] is APIError.NotFound


# What the peer may read


@pytest.mark.parametrize("code", PUBLIC)
def test_the_body_of_a_refusal_always_has_details(code: str) -> None:
    assert create(code, "why").to_json() == {"code": code, "message": "why", "details": None}
    details = {"room": "lobby"}
    assert create(code, "why", details=details).to_json() == {"code": code, "message": "why", "details": details}


def test_internal_never_shows_its_text_or_details() -> None:
    error = APIError.internal("s3cret", details={"query": "s3cret"})
    assert error.message == "s3cret"  # in the log
    assert error.public().message == "an internal error occurred"
    assert error.reason() == "internal: an internal error occurred"
    assert error.to_json() == {"code": "internal", "message": "an internal error occurred", "details": None}


def test_any_other_error_is_public_as_it_is() -> None:
    error = APIError.not_found("why")
    assert error.public() is error
    assert error.reason() == "not_found: why"


def test_a_reason_that_fits_is_whole() -> None:
    message = "x" * (MAX_REASON_BYTES - len("not_found: "))
    assert APIError.not_found(message).reason() == f"not_found: {message}"


@pytest.mark.parametrize(
    ("reason", "cut"),
    [
        ("", ""),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("é" * 62, "é" * 61),
        ("x" + "é" * 62, "x" + "é" * 61),
        ("€" * 42, "€" * 41),
        ("😀" * 31, "😀" * 30),
        ("\ud800", "?"),
        ("x" * 122 + "\ud800" * 2, "x" * 122 + "?"),
    ],
)
def test_a_reason_is_cut_to_123_bytes_between_two_characters(reason: str, cut: str) -> None:
    assert truncate_reason(reason) == cut
    assert len(cut.encode()) <= MAX_REASON_BYTES == 123


def test_an_invalid_message_tells_all_its_faults() -> None:
    error = InvalidMessage([Fault("$.items[2].qty", "expected an integer"), Fault("$", "missing 'name'")])
    assert isinstance(error, APIError.InvalidArgument)
    assert error.reason() == "invalid_argument: $.items[2].qty: expected an integer; $: missing 'name'"
    assert error.to_json()["details"] == {
        "faults": [
            {"path": "$.items[2].qty", "message": "expected an integer"},
            {"path": "$", "message": "missing 'name'"},
        ]
    }


# The way back


@pytest.mark.parametrize("code", NAMES)
def test_an_error_comes_back_out_of_its_close(code: str) -> None:
    error = create(code, "why: because")
    back = error_from_close(error.close_code, error.reason())
    assert type(back) is type(error)
    assert back.message == ("an internal error occurred" if code == "internal" else "why: because")


@pytest.mark.parametrize("code", [CloseCode.DONE, CloseCode.NO_STATUS])
def test_a_normal_close_is_no_error(code: int) -> None:
    assert error_from_close(code, "not_found: why") is None


@pytest.mark.parametrize(
    ("close_code", "reason", "error"),
    [
        (1001, "", "unavailable: the peer went away"),
        (1001, "see you", "unavailable: see you"),
        (1002, "", "internal: the peer saw a protocol error"),
        (1003, "", "invalid_argument: the peer takes no data of this kind"),
        (1006, "", "unavailable: the connection was lost"),
        (1007, "", "invalid_argument: the peer got text that is not UTF-8"),
        (1008, "", "permission_denied: the peer's policy forbids this"),
        (1009, "", "resource_exhausted: a message was too big for the peer"),
        (1011, "", "internal: an internal error occurred"),
        (1012, "", "unavailable: the service is restarting"),
        (1013, "", "unavailable: the service is overloaded"),
        (4404, "", "not_found: the peer closed with 4404"),
        (4404, "no room", "not_found: no room"),
        (4409, "", "aborted: the peer closed with 4409"),
        (4502, "", "unavailable: the peer closed with 4502"),
        (4400, "not_found: a code that does not fit", "invalid_argument: not_found: a code that does not fit"),
        (4404, "nobody: knows this code", "not_found: nobody: knows this code"),
        (3000, "", "unknown: the peer closed with 3000"),
        (4999, "odd", "unknown: odd"),
    ],
)
def test_any_other_close_is_the_nearest_error(close_code: int, reason: str, error: str) -> None:
    assert str(error_from_close(close_code, reason)) == error


@pytest.mark.parametrize("code", NAMES)
def test_an_error_comes_back_out_of_its_refusal(code: str) -> None:
    error = create(code, "why", details={"room": "lobby"})
    back = error_from_response(error.http_status, error.to_json(), retry_after=2)
    assert type(back) is type(error)
    assert back.to_json() == error.to_json()
    assert back.retry_after == 2


@pytest.mark.parametrize(
    "body",
    [
        None,
        "not_found",
        [],
        {},
        {"code": "not_found"},
        {"code": "no_such", "message": ""},
        {"code": [], "message": ""},
        {"code": "not_found", "message": None},
    ],
)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_argument"),
        (401, "unauthenticated"),
        (403, "permission_denied"),
        (404, "not_found"),
        (409, "aborted"),
        (418, "unknown"),
        (429, "resource_exhausted"),
        (499, "canceled"),
        (500, "unknown"),
        (501, "unimplemented"),
        (502, "unavailable"),
        (503, "unavailable"),
        (504, "deadline_exceeded"),
    ],
)
def test_a_refusal_that_is_not_ours_is_the_nearest_error(status: int, code: str, body: object) -> None:
    error = error_from_response(status, body, retry_after=5)
    assert str(error) == f"{code}: the server refused the connection with HTTP {status}"
    assert error.retry_after == 5


def test_details_that_are_no_object_are_left_out() -> None:
    back = error_from_response(404, {"code": "not_found", "message": "why", "details": ["x"]})
    assert (back.message, back.details) == ("why", None)


def test_an_end_has_a_plain_number_for_its_code() -> None:
    ended = Ended("peer", CloseCode.GOING_AWAY)
    assert re.fullmatch(r"Ended\(by='peer', code=1001, reason=''\)", repr(ended))
