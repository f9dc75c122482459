"""What the pages are served as, and that the client they use is the app's."""

from collections.abc import MutableMapping
from typing import Any

import pytest
import trio
from attrs import frozen

from services import app
from services.pages import FILES, HERE, POLICY
from streamrt.cli import main

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@frozen
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


async def fetch(path: str, method: str = "GET", **headers: str) -> Response:
    """Ask the app for a page, as a server would."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": method, "path": path, "headers": fields}, trio.sleep_forever, send)
    [start, body] = sent
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], told, body["body"])


@pytest.mark.parametrize("path", FILES)
async def test_each_page_is_served_as_what_it_is(path: str) -> None:
    file = HERE / FILES[path]
    response = await fetch(path)
    assert response.status == 200
    assert response.body == file.read_bytes()
    assert response.headers["content-type"] == f"{KINDS[file.suffix]}; charset=utf-8"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["content-security-policy"] == POLICY.decode()
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", FILES)
async def test_head_is_get_without_the_body(path: str) -> None:
    whole, head = await fetch(path), await fetch(path, "HEAD")
    assert (head.status, head.headers, head.body) == (whole.status, whole.headers, b"")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/elsewhere",
        "/pages.py",
        "/index.html",
        "/client.d.ts",
        "/../README.md",
        "/%2e%2e/README.md",
        "/ticker/",
    ],
)
async def test_nothing_else_is_served(path: str) -> None:
    response = await fetch(path)
    assert (response.status, response.headers["content-type"]) == (404, "text/plain; charset=utf-8")
    assert response.body == b"there is no such page: / lists those that there are\n"
    assert (await fetch(path, "HEAD")).body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_a_page_can_only_be_read(method: str) -> None:
    response = await fetch("/upload", method)
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
    assert response.body == b"pages can only be read\n"


async def test_who_has_a_page_already_is_sent_none() -> None:
    page = await fetch("/")
    same = await fetch("/", if_none_match=page.headers["etag"])
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", page.headers["etag"])
    assert "content-length" not in same.headers
    other = await fetch("/rooms", if_none_match=page.headers["etag"])
    assert other.status == 200


async def test_the_list_has_every_page() -> None:
    listed = (await fetch("/")).body.decode()
    pages = [path for path, name in FILES.items() if name.endswith(".html") and path != "/"]
    assert len(pages) == listed.count("<a href=") == 5
    for path in pages:
        assert f'<a href="{path}">' in listed
        assert '<a href="/">' in (await fetch(path)).body.decode()


def test_no_page_has_anything_that_its_policy_forbids() -> None:
    pages = [path.read_text(encoding="utf-8") for path in HERE.rglob("*.html")]
    assert len(pages) == 6
    for text in pages:
        assert not any(what in text for what in ("<style", "style=", "onclick=", "http:", "https:"))
        assert text.count("<script") == text.count('<script type="module" src="/')


def test_the_client_is_that_of_the_app() -> None:
    command = ["gen", "client", "services:app", "--lang", "javascript", "-o", str(HERE / "client.js")]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--check"])
    assert ended.value.code == 0  # otherwise it has said what to run
