"""What people see of the example services in Chromium, when all goes well and when it does not."""

import re
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import services
from tests.conftest import served
from tests.players import running

from .conftest import Browser, Tab
from .relay import relayed

pytestmark = [pytest.mark.clients, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SECONDS = 90
STATUS = "#status"
SAID = "#said li"
PENDING = "#said .pending"
FORGOTTEN = "The server has forgotten what was said. What it knows follows."


@asynccontextmanager
async def serving() -> AsyncGenerator[str]:
    """Serve the services in this process."""
    async with served(services.app, seconds=SECONDS) as url:
        yield url


# The list of them.


async def test_each_page_is_listed_and_leads_back(browser: Browser) -> None:
    async with serving() as url:
        tab = await browser.open(url)
        for name in await tab.reads("h2 a"):
            await tab.click(f'role=link[name="{name}"]')
            await tab.click("role=link[name=/streamrt examples/]")
            await tab.sees("h1", "streamrt examples")


# Upload.


async def test_an_upload_is_shown_to_its_end_and_with_its_response(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(5_000_000))
    async with serving() as url:
        tab = await browser.open(f"{url}/upload")
        await tab.choose("#file", str(file))
        await tab.press("Upload")
        await tab.sees("#response", 'The server has answered: {"success":true}')
        await tab.sees("#told", "5.0 MB of 5.0 MB sent, all of it")
        await tab.sees(STATUS, "closed")


async def test_an_upload_says_no_more_than_was_sent_and_can_be_canceled_in_the_middle(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(40_000_000))
    async with serving() as server, relayed(server) as way:
        way.hold(after=1_000_000)
        tab = await browser.open(f"{way.url}/upload")
        await tab.choose("#file", str(file))
        await tab.press("Upload")
        await way.holds.wait()
        await tab.sees(STATUS, "open")
        await tab.press("Cancel")
        await tab.sees("#response", "Canceled")
        [told] = await tab.reads("#told")
        assert re.fullmatch(r"\d+\.\d [kM]B of 40\.0 MB sent", told)
        way.cut()
        await tab.press("Upload")  # and again
        await tab.sees("#response", "The server has answered")


async def test_an_upload_that_is_too_large_fails_with_the_servers_words(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(bytes(50_000_000))
    async with serving() as url:
        tab = await browser.open(f"{url}/upload")
        await tab.choose("#file", str(file))
        await tab.press("Upload")
        await tab.sees("#response", "The upload has failed: an upload may have 64000000 characters.")
        await tab.sees(STATUS, "closed. Too much: an upload may have 64000000 characters (4429)")


# Logs.


async def test_a_log_is_shown_row_by_row_to_its_end(browser: Browser) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/logs")
        await tab.fill("#rows", "3")
        await tab.press("Start")
        await tab.sees("#log li", ["Log row 1", "Log row 2", "Log row 3"])
        await tab.sees("#count", "3 of 3 rows")
        await tab.sees(STATUS, "closed")


async def test_a_log_is_stopped_and_started_again(browser: Browser) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/logs")
        await tab.fill("#rows", "10000")
        await tab.press("Start")
        await tab.sees("#count", "2 of 10000 rows")
        await tab.press("Stop")
        await tab.sees(STATUS, "closed")
        assert services.app.host.streams == 0
        await tab.fill("#rows", "1")
        await tab.press("Start")
        await tab.sees("#log li", ["Log row 1"])


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ("1000000", "'rows' must be <= 10000: 1000000 (4400)"),
        ("many", "query parameter 'rows': expected an integer, got 'many' (4400)"),
    ],
)
async def test_a_number_of_rows_that_makes_no_sense_is_told_in_the_servers_words(
    browser: Browser, rows: str, why: str
) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/logs")
        await tab.fill("#rows", rows)
        await tab.press("Start")
        await tab.sees(STATUS, f"closed. The server does not understand: {why}")


# The assistant.


async def test_an_answer_is_stopped_in_the_middle_and_another_one_is_not(browser: Browser) -> None:
    stopped, other = "#answers li:nth-child(2)", "#answers li:nth-child(4)"
    async with serving() as url:
        tab = await browser.open(f"{url}/assistant")
        await tab.sees(STATUS, "open")
        await ask(tab, "What does a topic do?")
        await tab.sees(stopped, " ")  # its second word is there
        await ask(tab, "Why is a stream closed?")
        await tab.click(f"{stopped} >> role=button[name=Stop]")
        await tab.sees(f"{stopped} .foot", "stopped")
        [words] = await tab.reads(f"{stopped} span")
        await tab.sees(f'{other}[aria-busy="false"]', " ")
        assert await tab.reads(f"{stopped} span") == [words]
        assert len(words.split()) < 80
        [whole] = await tab.reads(f"{other} span")
        assert len(whole.split()) >= 25
        await tab.sees(STATUS, "open")


async def test_a_question_too_many_is_turned_down_and_the_stream_goes_on(browser: Browser) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/assistant")
        for number in range(5):
            await ask(tab, f"Question {number}")
        await tab.sees("#answers li:nth-child(10) .foot", "too many answers at a time")
        await tab.click("#answers li:nth-child(2) >> role=button[name=Stop]")
        await tab.sees("#answers li:nth-child(2) .foot", "stopped")
        await ask(tab, "And now?")
        await tab.sees("#answers li:nth-child(12) span", " ")


async def test_an_answer_that_is_lost_says_so_and_the_next_one_comes(browser: Browser) -> None:
    async with serving() as server, relayed(server) as way:
        tab = await browser.open(f"{way.url}/assistant")
        await ask(tab, "What does a topic do?")
        await tab.sees("#answers li:nth-child(2) span", " ")
        way.cut()
        await tab.sees("#answers li:nth-child(2) .foot", "lost with the connection")
        await tab.sees(STATUS, "open")
        await ask(tab, "Are you there?")
        await tab.sees('#answers li:nth-child(4)[aria-busy="false"]', " ")


async def ask(tab: Tab, question: str) -> None:
    await tab.fill("#prompt", question)
    await tab.press("Ask")


# Rooms.


async def test_two_tabs_talk_and_who_comes_late_reads_what_was_said(browser: Browser) -> None:
    async with serving() as url:
        ada = await entered(browser, url, "ada")
        await say(ada, "is anybody there?")
        await ada.sees(SAID, ["adais anybody there?"])
        bob = await entered(browser, url, "bob")
        await bob.sees(SAID, ["adais anybody there?"])
        await say(bob, "I am")
        for tab in (ada, bob):
            await tab.sees(SAID, ["adais anybody there?", "bobI am"])
            await tab.sees(PENDING, [])


async def test_a_tab_that_is_closed_in_mid_message_says_nothing_and_the_other_goes_on(browser: Browser) -> None:
    async with serving() as url, relayed(url) as way:
        ada = await entered(browser, way.url, "ada")
        bob = await entered(browser, url, "bob")
        await say(ada, "so far all is well")
        await bob.sees(SAID, ["adaso far all is well"])
        way.hold(after=100)
        await say(ada, "long " * 200)
        await way.holds.wait()  # the server has the beginning of it
        await ada.close()
        way.cut()
        await say(bob, "she is gone")
        await bob.sees(SAID, ["adaso far all is well", "bobshe is gone"])
        ada = await entered(browser, url, "ada")
        await ada.sees(SAID, ["adaso far all is well", "bobshe is gone"])


async def test_a_lost_connection_comes_back_and_nothing_is_missing_or_there_twice(browser: Browser) -> None:
    async with serving() as url, relayed(url) as way:
        ada = await entered(browser, way.url, "ada")
        bob = await entered(browser, url, "bob")
        await say(ada, "one")
        await bob.sees(SAID, ["adaone"])
        way.hold(after=0)
        await say(ada, "two")  # it is lost on its way
        await way.holds.wait()
        await ada.sees(PENDING, ["adatwo"])
        await say(bob, "three")
        await bob.sees(PENDING, [])
        way.cut()
        said = ["adaone", "bobthree", "adatwo"]
        for tab in (ada, bob):
            await tab.sees(SAID, said)
            await tab.sees(PENDING, [])
        await say(ada, "four")
        for tab in (ada, bob):
            await tab.sees(SAID, [*said, "adafour"])


async def test_a_server_that_was_killed_comes_back_and_nothing_is_missing_or_there_twice(browser: Browser) -> None:
    address = free_address()
    with trio.fail_after(SECONDS):
        async with server_at(address) as url:
            ada, bob = await entered(browser, url, "ada"), await entered(browser, url, "bob")
            await say(ada, "one")
            await say(bob, "two")
            for tab in (ada, bob):
                await tab.sees(SAID, ["adaone", "bobtwo"])
        for tab in (ada, bob):
            await tab.sees(STATUS, "waiting. The server is away: the connection was lost (1006)")
        await say(ada, "three")  # to nobody
        await ada.sees(PENDING, ["adathree"])
        async with server_at(address):
            for tab in (ada, bob):
                await tab.sees(STATUS, "open")
                await tab.sees(SAID, ["adaone", "bobtwo", FORGOTTEN, "adathree"])
                await tab.sees(PENDING, [])
            await say(bob, "four")
            for tab in (ada, bob):
                await tab.sees(SAID, ["adaone", "bobtwo", FORGOTTEN, "adathree", "bobfour"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("eve", "closed. That is not allowed: the room ada+bob is not for eve (4403)"),
        (
            "no name",
            "closed. The server does not know you: a token is needed: letters and digits, as in `Bearer ada` (4401)",
        ),
    ],
)
async def test_who_may_not_enter_reads_why(browser: Browser, name: str, why: str) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/rooms")
        await tab.fill("#name", name)
        await tab.press("Enter")
        await tab.sees(STATUS, why)
        await tab.fill("#name", "bob")
        await tab.press("Enter")
        await tab.sees(STATUS, "open")


async def test_a_server_that_restarts_is_waited_for(browser: Browser) -> None:
    stop = trio.Event()
    async with served(services.app, seconds=SECONDS, shutdown_trigger=stop.wait, drain_timeout=0) as url:
        tab = await entered(browser, url, "ada")
        stop.set()
        await tab.sees(STATUS, "waiting. The server is away: the server is restarting (1012)")
        await tab.press("Leave")
        await tab.sees(STATUS, "closed")


async def test_all_in_a_room_see_who_is_there(browser: Browser) -> None:
    async with serving() as url:
        ada = await entered(browser, url, "ada")
        await ada.sees("#here", ["Here: ada"])
        bob = await entered(browser, url, "bob")
        for tab in (ada, bob):
            await tab.sees("#here", ["Here: ada, bob"])
        await bob.close()
        await ada.sees("#here", ["Here: ada"])
        await ada.press("Leave")
        await ada.sees("#here", [""])


async def entered(browser: Browser, url: str, name: str) -> Tab:
    """Open a tab on the room of ada and bob, and enter."""
    tab = await browser.open(f"{url}/rooms?name={name}")
    await tab.press("Enter")
    await tab.sees(STATUS, "open")
    return tab


async def say(tab: Tab, text: str) -> None:
    await tab.fill("#message", text)
    await tab.press("Say it")


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@asynccontextmanager
async def server_at(address: str) -> AsyncGenerator[str]:
    """Serve the services in a process, which is killed at the end of the block."""
    command = [sys.executable, "-m", "streamrt.cli", "run", "services:app", "--bind", address]
    async with running(*command, directory=ROOT, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        assert b"Running on" in await process.stdout.receive_some()
        yield f"http://{address}"


# The ticker.


async def test_both_boards_show_every_price(browser: Browser) -> None:
    async with serving() as url:
        tab = await browser.open(f"{url}/ticker")
        for board in (".latest", ".every"):
            await tab.sees(f"{board} .board div:nth-child(100)", "JT")
            await tab.sees(f"{board} output", "s behind")
        await tab.sees("#paced", "as fast as they come")


async def test_a_board_says_that_its_stream_has_ended_and_is_opened_again(browser: Browser) -> None:
    async with serving() as server, relayed(server) as way:
        tab = await browser.open(f"{way.url}/ticker")
        await tab.sees(".latest output", "s behind")
        way.cut()
        await tab.sees(".latest output", "Closed. The server is away: the connection was lost (1006)")
        await tab.click('.latest >> role=button[name="Open again"]')
        await tab.sees(".latest output", "s behind")
