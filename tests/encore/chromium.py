"""Plays scenarios in Chromium, each in a page of its own that is closed behind it: as `node.mjs`, line by line.

A process of its own, because Playwright brings an event loop along.
"""

import json
import sys

from playwright.sync_api import Browser, Error, sync_playwright

PLAY = """
async ([url, scenario, parameters]) => {
    const { play } = await import(url + "/scenarios.mjs");
    return play(WebSocket, url, scenario, parameters);
}
"""


def play(browser: Browser, url: str, scenario: str, parameters: list[object], page: str | None = None) -> object:
    """Play one scenario in a page that the server has given, or that of another URL."""
    tab = browser.new_page()
    uncaught: list[Error] = []
    tab.on("pageerror", lambda error: uncaught.append(error))  # Playwright marks the function
    tab.goto(f"{page or url}/page")
    seen: object = tab.evaluate(PLAY, [url, scenario, parameters])
    tab.close()
    if uncaught:
        raise uncaught[0]
    return seen


def main(executable: str) -> None:
    # Chromium's sandbox does not run as root, as tests in a container do; and it sees this server only.
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"]) as browser:
            for line in sys.stdin:
                print(json.dumps(play(browser, **json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
