"""Does in Chromium what a person would do, and sees what a person would see: one thing for each line of JSON.

A process of its own, because Playwright brings an event loop along.
"""

import json
import sys
from typing import final

from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

PATIENCE = 30_000
"""Milliseconds until something is not seen."""


@final
class Tabs:
    """Tabs, by name, and what went wrong in them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._context: BrowserContext | None = None
        self._tabs: dict[str, Page] = {}
        self._wrong: list[str] = []

    def open(self, tab: str, url: str) -> None:
        """Open a tab, and notice what its scripts throw and its policy forbids."""
        if self._context is None:
            self._context = self._browser.new_context()
        page = self._tabs[tab] = self._context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self._wrong.append(str(error)))
        page.on("console", lambda said: self._wrong.append(said.text) if "Security Policy" in said.text else None)
        page.goto(url)

    def fill(self, tab: str, where: str, text: str) -> None:
        self._tabs[tab].locator(where).fill(text)

    def choose(self, tab: str, where: str, path: str) -> None:
        self._tabs[tab].locator(where).set_input_files(path)

    def click(self, tab: str, where: str) -> None:
        self._tabs[tab].locator(where).click()

    def press(self, tab: str, key: str) -> None:
        self._tabs[tab].keyboard.press(key)

    def sees(self, tab: str, where: str, text: str | list[str]) -> None:
        """Wait until an element has a text in it, or until there are elements with these texts, and no others."""
        found = expect(self._tabs[tab].locator(where))
        if isinstance(text, list):
            found.to_have_text(text, timeout=PATIENCE)
        else:
            found.to_contain_text(text, timeout=PATIENCE)

    def reads(self, tab: str, where: str) -> list[str]:
        """Return the texts of elements."""
        return self._tabs[tab].locator(where).all_inner_texts()

    def close(self, tab: str) -> None:
        self._tabs.pop(tab).close()

    def end(self) -> list[str]:
        """Close all tabs, and return what went wrong."""
        if self._context is not None:
            self._context.close()
        self._context, self._tabs = None, {}
        wrong, self._wrong = self._wrong, []
        return wrong


def main(executable: str) -> None:
    # Chromium's sandbox does not run as root, as tests in a container do; and it sees this server only.
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"]) as browser:
            tabs = Tabs(browser)
            for line in sys.stdin:
                command = json.loads(line)
                try:
                    answer = {"seen": getattr(tabs, command.pop("do"))(**command)}
                except (AssertionError, Error) as error:
                    answer = {"failed": str(error)}
                print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
