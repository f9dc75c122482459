"""Tabs of one Chromium for all tests."""

from collections.abc import AsyncGenerator, Generator
from typing import Any, final

import pytest

from tests.players import Player, chromium_command


@final
class Tab:
    """What a person does in a tab, and sees there. Places are those of Playwright: ``role=button[name="Enter"]``."""

    def __init__(self, name: str, browser: Player) -> None:
        self._name = name
        self._browser = browser

    async def fill(self, where: str, text: str) -> None:
        await self._do("fill", where=where, text=text)

    async def choose(self, where: str, path: str) -> None:
        await self._do("choose", where=where, path=path)

    async def click(self, where: str) -> None:
        await self._do("click", where=where)

    async def press(self, button: str) -> None:
        """Click on the button of a name."""
        await self.click(f'role=button[name="{button}"]')

    async def sees(self, where: str, text: str | list[str]) -> None:
        """Wait until an element has a text in it, or until there are elements with these texts, and no others."""
        await self._do("sees", where=where, text=text)

    async def reads(self, where: str) -> list[str]:
        """Return the texts of elements as they are now."""
        texts: list[str] = await self._do("reads", where=where)
        return texts

    async def close(self) -> None:
        await self._do("close")

    async def _do(self, what: str, **how: object) -> Any:
        answer = await self._browser.ask({"do": what, "tab": self._name, **how})
        assert "failed" not in answer, answer["failed"]
        return answer["seen"]


@final
class Browser:
    """Opens tabs."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._count = 0

    async def open(self, url: str) -> Tab:
        """Open a page in a tab of its own."""
        self._count += 1
        name = f"tab {self._count}"
        await self._player.ask({"do": "open", "tab": name, "url": url})
        return Tab(name, self._player)


@pytest.fixture(scope="session")
def chromium() -> Generator[Player]:
    yield from Player.running("chromium", chromium_command("tests.pages.browser"))


@pytest.fixture
async def browser(chromium: Player) -> AsyncGenerator[Browser]:
    """Tabs, in which no script may throw and no policy be broken."""
    yield Browser(chromium)
    assert (await chromium.ask({"do": "end"}))["seen"] == []
