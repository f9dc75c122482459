"""What a page sees in Chromium, and a handler sees of a page, which other clients of Encore do not."""

import pytest

from streamrt import Ended
from tests.conftest import served
from tests.players import Player

from .app import Stage
from .test_clients import REFUSED, closed

pytestmark = [pytest.mark.clients, pytest.mark.slow]

FAILED = {"code": 1006, "reason": "", "clean": False}
"""All that a page is told of a connection that did not come to be."""


@pytest.mark.parametrize(("path", "call"), REFUSED.values(), ids=REFUSED)
async def test_a_refusal_is_a_1006_and_ends_the_loop(
    chromium: Player, stage: Stage, path: str, call: dict[str, object]
) -> None:
    async with served(stage.app) as url:
        assert await chromium.play(url, "refusedLoop", path, call) == {"heard": [], "closed": FAILED}


async def test_a_page_of_another_host_is_refused(chromium: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        page = url.replace("127.0.0.1", "localhost")
        seen = await chromium.play(url, "refusedLoop", "/encore.greet", page=page)
    assert seen == {"heard": [], "closed": FAILED}
    assert stage.requests == []


async def test_permessage_deflate_is_offered_and_not_accepted(chromium: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        agreed = await chromium.play(url, "agree", {})
    [request] = stage.requests
    assert request.header("sec-websocket-extensions") == "permessage-deflate; client_max_window_bits"
    assert agreed["extensions"] == ""


async def test_messages_are_compressed_where_the_endpoint_says_so(chromium: Player, stage: Stage) -> None:
    word = "again and " * 10_000
    async with served(stage.app) as url:
        agreed = await chromium.play(url, "agree", {}, "/packed")
        seen = await chromium.play(url, "talk", [word, "short", word], "/packed")
    assert agreed["extensions"].startswith("permessage-deflate")
    assert seen["heard"] == [word, "short", word]


async def test_the_browser_says_where_its_page_is_from_and_the_tunnel_comes_behind(
    chromium: Player, stage: Stage
) -> None:
    call = {"headers": {"user-agent": "mine", "x-name": "ada"}}
    async with served(stage.app) as url:
        await chromium.play(url, "agree", call)
    [request] = stage.requests
    assert request.header("origin") == url
    assert request.headers[-2:] == (("user-agent", "mine"), ("x-name", "ada"))
    assert "Chrome" in (request.header("user-agent") or "")


async def test_a_cookie_is_the_browsers_own(chromium: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        seen = await chromium.play(url, "visit", "session=ada; path=/")
    assert seen == {"heard": [{"word": "ada"}], "closed": closed(1000)}


async def test_a_tab_that_is_closed_is_going_away(chromium: Player, stage: Stage) -> None:
    async with served(stage.app) as url:
        assert await chromium.play(url, "idle") == "here"
        assert await stage.ended.receive() == Ended("peer", 1001)


async def test_of_a_tab_that_is_closed_in_mid_message_whole_messages_are_received(
    chromium: Player, stage: Stage
) -> None:
    word, times = "x" * (1 << 20), 64  # more than the buffers of both ends hold
    async with served(stage.app) as url:
        assert await chromium.play(url, "abandon", word, times) > len(word)
        stage.going_on.set()
        assert await stage.ended.receive() == Ended("peer", 1006)
    assert 0 < len(stage.heard_late) < times
    assert set(stage.heard_late) == {word}
