"""What goes on the wire besides messages: the subprotocol, and the headers of browsers."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt.errors import APIError
from streamrt.wire.dialect import ENCORE_WS, FORBIDDEN, TUNNEL, select_subprotocol, tunnel, tunnelled_headers


def entry(raw: bytes | str) -> str:
    """The subprotocol entry of a payload, as the generated clients write it."""
    return TUNNEL + base64.urlsafe_b64encode(raw if isinstance(raw, bytes) else raw.encode()).rstrip(b"=").decode()


def refusal_of(offered: str) -> str:
    with pytest.raises(APIError.InvalidArgument) as caught:
        tunnelled_headers([offered])
    return caught.value.message


@pytest.mark.parametrize(
    ("offered", "answer"),
    [
        (["encore-ws"], "encore-ws"),
        (["encore-ws", "encore.dev.headers.e30"], "encore-ws"),
        (["chat", "encore-ws"], "encore-ws"),
        (["encore-ws", "streamrt.v1"], "streamrt.v1"),
        (["streamrt.v1", "encore.dev.headers.e30"], "streamrt.v1"),
        ([], None),
        (["encore.dev.headers.e30"], None),
        (["chat"], None),
        (["Encore-WS"], None),
    ],
)
def test_the_subprotocol_is_answered_exactly_when_it_is_offered(offered: list[str], answer: str | None) -> None:
    assert select_subprotocol(offered) == answer
    assert ENCORE_WS == "encore-ws"


def test_no_headers_at_all_are_e30() -> None:
    assert tunnel({}) == "encore.dev.headers.e30"
    assert tunnelled_headers(["encore-ws", "encore.dev.headers.e30"]) == []


def test_headers_come_in_order_and_with_their_names_in_lower_case() -> None:
    offered = ["encore-ws", entry('{"Authorization": "Bearer ada", "x-room": " lobby\\t"}')]
    assert tunnelled_headers(offered) == [("authorization", "Bearer ada"), ("x-room", "lobby")]


def test_several_entries_are_one_after_the_other() -> None:
    assert tunnelled_headers([entry('{"a": "1"}'), "encore-ws", entry('{"b": "2", "a": "3"}')]) == [
        ("a", "1"),
        ("b", "2"),
        ("a", "3"),
    ]


def test_other_subprotocols_are_no_headers() -> None:
    assert tunnelled_headers(["encore-ws", "encore.dev.headers", "chat"]) == []


@pytest.mark.parametrize("length", range(8))
def test_base64_needs_no_padding(length: int) -> None:
    value = "x" * length
    offered = entry(json.dumps({"a": value}))
    assert "=" not in offered
    assert tunnelled_headers([offered]) == [("a", value)]


def test_the_alphabet_is_the_one_for_urls() -> None:
    offered = entry('{"a": "<<???>>~~"}')
    assert "_" in offered or "-" in offered
    assert tunnelled_headers([offered]) == [("a", "<<???>>~~")]


def test_text_is_utf_8_and_otherwise_latin_1() -> None:
    assert tunnelled_headers([entry('{"a": "é€"}')]) == [("a", "é€")]
    assert tunnelled_headers([entry('{"a": "é"}'.encode("latin-1"))]) == [("a", "é")]


def test_escapes_of_json_are_understood() -> None:
    assert tunnelled_headers([entry(r'{"a": "\"\\\u00e9"}')]) == [("a", '"\\é')]


@pytest.mark.parametrize("name", [*sorted(FORBIDDEN), "sec-fetch-mode", "Sec-WebSocket-Key", "proxy-x", "COOKIE"])
def test_what_a_browser_forbids_is_forbidden(name: str) -> None:
    expected = f"the subprotocol encore.dev.headers.... has the header {name.lower()!r}, which may not be set this way"
    assert refusal_of(entry(json.dumps({name: "x"}))) == expected


def test_the_forbidden_names_are_those_of_the_fetch_standard() -> None:
    assert sorted(FORBIDDEN) == [
        *("accept-charset", "accept-encoding", "access-control-request-headers", "access-control-request-method"),
        *("connection", "content-length", "cookie", "date", "dnt", "expect", "host", "keep-alive", "origin"),
        *("permissions-policy", "referer", "te", "trailer", "transfer-encoding", "upgrade", "via"),
    ]


@pytest.mark.parametrize(
    ("offered", "wrong"),
    [
        (TUNNEL + "?", "is not unpadded base64url"),
        (TUNNEL + "e", "is not unpadded base64url"),
        (TUNNEL + "e30=x", "is not unpadded base64url"),
        (TUNNEL + "e30+/", "is not unpadded base64url"),
        (TUNNEL + "é", "is not unpadded base64url"),
        (TUNNEL, "is not JSON"),
        (entry("{"), "is not JSON"),
        (entry("[" * 100_000), "is not JSON"),
        (entry(b"\xff"), "is not JSON"),
        (entry("[]"), "is not a JSON object"),
        (entry("null"), "is not a JSON object"),
        (entry('"a"'), "is not a JSON object"),
        (entry('{"": "x"}'), "has '', which cannot be a header's name"),
        (entry('{"a b": "x"}'), "has 'a b', which cannot be a header's name"),
        (entry('{"é": "x"}'), "has 'é', which cannot be a header's name"),
        (entry('{"a:": "x"}'), "has 'a:', which cannot be a header's name"),
        (entry('{"a": 1}'), "has no text for the header 'a'"),
        (entry('{"a": null}'), "has no text for the header 'a'"),
        (entry('{"a": ["x"]}'), "has no text for the header 'a'"),
        (entry(r'{"a": "x\r\ncookie: y"}'), "has a line break in the header 'a'"),
        (entry(r'{"a": "\u0000"}'), "has a line break in the header 'a'"),
    ],
)
def test_what_is_no_header_is_refused_with_what_is_wrong(offered: str, wrong: str) -> None:
    assert refusal_of(offered) == f"the subprotocol encore.dev.headers.... {wrong}"


def test_the_error_repeats_no_value() -> None:
    assert "s3cret" not in refusal_of(entry(r'{"authorization": "s3cret\n"}'))


NAMES = st.text(st.sampled_from("abcxyz019!#$%&'*+-.^_`|~"), min_size=1).filter(
    lambda name: name not in FORBIDDEN and not name.startswith(("sec-", "proxy-"))
)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")).map(
    lambda text: text.strip(" \t")
)


@given(st.dictionaries(NAMES, VALUES))
def test_the_tunnel_is_read_as_it_was_written(headers: dict[str, str]) -> None:
    assert tunnelled_headers([tunnel(headers)]) == list(headers.items())


@given(st.text() | st.text().map(lambda text: text.encode("utf-8", "replace")).map(entry))
def test_any_entry_is_headers_or_an_invalid_argument(text: str) -> None:
    try:
        headers = tunnelled_headers([TUNNEL + text, text])
    except APIError.InvalidArgument:
        return
    assert all(name == name.lower() for name, _ in headers)
