"""Clients of Encore, in Node and in Chromium, on the real server: what they see, and what handlers see of them.

The clients are the stand-in of `client.mjs`, which says what it does. What only a browser does is in
`test_browser.py`, and what can be told from the bytes alone in `test_wire.py`.
"""

from typing import Any

import pytest
import trio

from streamrt import Ended
from tests.conftest import served
from tests.players import Player

from .app import Stage

pytestmark = pytest.mark.clients


def closed(code: int, reason: str = "") -> dict[str, Any]:
    """What a client is told of an end by a closing handshake."""
    return {"code": code, "reason": reason, "clean": True}


# Opening.


@pytest.mark.parametrize("call", [{}, {"headers": {}}, {"headers": {"x-name": "ada"}}], ids=["none", "empty", "some"])
async def test_the_dialect_is_answered_exactly_and_no_extension_is(
    platform: Player, stage: Stage, call: dict[str, Any]
) -> None:
    async with served(stage.app) as url:
        agreed = await platform.play(url, "agree", call)
    assert agreed == {"protocol": "encore-ws", "extensions": "", "closed": closed(1005)}


async def test_an_endpoint_without_a_path_is_named_for_its_service_and_itself(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        heard = await platform.play(url, "listen", "/encore.greet")
    assert heard == {"heard": [{"word": "hello"}], "closed": closed(1000)}


@pytest.mark.parametrize("path", ["/encore.greet/", "/encore.greet?", "/encore.greet/?nobody=knows&&x[]=1"])
async def test_a_slash_a_bare_question_mark_and_unknown_keys_make_no_difference(
    platform: Player, stage: Stage, path: str
) -> None:
    async with served(stage.app) as url:
        heard = await platform.play(url, "listen", path)
    assert heard["heard"] == [{"word": "hello"}]


async def test_an_empty_record_of_query_values_is_none(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        heard = await platform.play(url, "listen", "/encore.greet", {"call": {"query": {}}})
    assert heard["heard"] == [{"word": "hello"}]


async def test_a_handshake_arrives_from_the_path_the_query_and_the_headers(platform: Player, stage: Stage) -> None:
    room, rest, plain = "a/b ü%2F?#", ["x", "y/z", "&"], "1+1=2 & 100% ж"
    query = {"plain": plain, "number": -1.5e-7, "flag": False, "ids": [1, 2], "color": "red", "some-query": "q"}
    headers = {"x-name": 'Ada "the\\first" é', "x-tag": ["one", "two"]}
    async with served(stage.app) as url:
        [seen] = await platform.play(url, "handshake", room, rest, {"query": query, "headers": headers})
    assert seen == {
        "room": room,
        "rest": "x/y/z/&",
        "plain": plain,
        "number": -1.5e-7,
        "flag": False,
        "ids": [1, 2],
        "color": "red",
        "renamed": "q",
        "name": headers["x-name"],
        "tags": ["one", "two"],
        "absent": None,
    }


async def test_a_wildcard_may_be_empty_and_a_list_may_hold_one(platform: Player, stage: Stage) -> None:
    query = {"plain": "", "number": 1, "flag": True, "ids": [7], "color": "red", "some-query": "", "absent": "here"}
    headers = {"x-name": "", "x-tag": "one"}
    async with served(stage.app) as url:
        [seen] = await platform.play(url, "handshake", "r", [], {"query": query, "headers": headers})
    assert (seen["rest"], seen["ids"], seen["tags"]) == ("", [7], ["one"])
    assert (seen["plain"], seen["renamed"], seen["name"], seen["absent"]) == ("", "", "", "here")
    assert (seen["flag"], seen["number"]) == (True, 1)


async def test_auth_wins_over_what_the_call_says(platform: Player, stage: Stage) -> None:
    call = {"headers": {"authorization": "mallory"}, "query": {"realm": "nowhere"}}
    auth = {"headers": {"authorization": "ada"}, "query": {"realm": "work"}}
    async with served(stage.app) as url:
        heard = await platform.play(url, "listen", "/members", {"call": call, "auth": auth})
    assert heard["heard"] == [{"id": "ada@work"}]


async def test_auth_is_asked_for_before_every_connection(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        assert await platform.play(url, "rename", ["ada", "bob"]) == [{"id": "ada@home"}, {"id": "bob@home"}]


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "no such path": ("/nowhere", {}),
    "private": ("/private", {}),
    "anonymous": ("/members", {}),
    "unauthenticated": ("/members", {"headers": {"authorization": "nobody"}}),
    "no handshake": ("/session", {}),
    "a forbidden header": ("/encore.greet", {"headers": {"cookie": "session=stolen"}}),
}


@pytest.mark.parametrize(("path", "call"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal_is_an_error_event(platform: Player, stage: Stage, path: str, call: dict[str, Any]) -> None:
    async with served(stage.app) as url:
        assert await platform.play(url, "refused", path, call) == "error"
    assert stage.requests == []


# Talking.


async def test_what_is_sent_before_the_socket_is_open_arrives_in_its_order(platform: Player, stage: Stage) -> None:
    words = ["hello", "", "grüß dich ж", '"quoted" \\ \n', "x" * 100_000, *map(str, range(100))]
    async with served(stage.app) as url:
        assert await platform.play(url, "talk", words) == {"heard": words, "closed": closed(1005)}


async def test_a_close_without_a_code_ends_the_handlers_loop(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        await platform.play(url, "talk", ["one"])
        assert await stage.ended.receive() == Ended("peer", 1005)


async def test_all_messages_come_before_the_close_and_the_loop_ends_behind_it(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        seen = await platform.play(url, "listen", "/rows/5000")
    assert seen == {"heard": [{"count": count} for count in range(5000)], "closed": closed(1000)}


async def test_a_stream_without_messages_ends(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        assert await platform.play(url, "listen", "/rows/0") == {"heard": [], "closed": closed(1000)}


async def test_an_upload_has_one_response_and_is_closed(platform: Player, stage: Stage) -> None:
    parts = [{"text": "a" * 1000}, {"text": "bc"}, {"text": "d", "done": True, "nobody": "knows"}]
    async with served(stage.app) as url:
        seen = await platform.play(url, "upload", parts)
    assert seen == {"response": {"size": 1003}, "again": {"size": 1003}, "closed": closed(1000)}


async def test_a_binary_frame_with_json_is_taken_and_answered_with_text(platform: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        seen = await platform.play(url, "listen", "/ends/receive", {"message": {"word": "bytes"}, "binary": True})
    assert seen == {"heard": [{"word": "before"}], "closed": closed(1000)}


# Ending.

CLOSES: dict[str, tuple[str, object, dict[str, Any]]] = {
    "done": ("/ends/return", None, closed(1000)),
    "a message where none is taken": ("/quiet", {}, closed(1003, "this stream takes no messages")),
    "a message too big": ("/ends/receive", {"word": "x" * 100}, closed(1009, "a message may have 100 bytes")),
    "a bug": ("/ends/bug", None, closed(1011, "internal: an internal error occurred")),
    "an error": ("/ends/error", None, closed(4404, "not_found: no such room")),
    "an error with much to say": ("/ends/long", None, closed(4404, "not_found: " + "ж" * 56)),
    "a message that does not fit": (
        "/ends/receive",
        {"word": 1},
        closed(4400, "invalid_argument: $.word: expected a string, got 1"),
    ),
}


@pytest.mark.parametrize(("path", "message", "end"), CLOSES.values(), ids=CLOSES)
async def test_a_close_tells_its_code_and_reason_and_ends_the_loop(
    platform: Player, stage: Stage, path: str, message: object, end: dict[str, Any]
) -> None:
    options = {} if message is None else {"message": message}
    async with served(stage.app) as url:
        seen = await platform.play(url, "listen", path, options)
    assert seen["closed"] == end
    if message is None:  # otherwise it may be there before the handler is
        assert seen["heard"] == [{"word": "before"}]


async def test_a_restart_of_the_server_is_a_1012(platform: Player, stage: Stage) -> None:
    stop = trio.Event()
    async with served(stage.app, shutdown_trigger=stop.wait, drain_timeout=0) as url:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def listen() -> None:
                seen = await platform.play(url, "listen", "/echo", {"message": {"word": "here"}})
                assert seen == {"heard": [{"word": "here"}], "closed": closed(1012, "the server is restarting")}

            await stage.echoed.wait()
            stop.set()
