"""Path templates and the routing table: what they take, refuse, prefer and give back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt.api.path import PathTemplate, Router, percent_decode


def router_of(*templates: str) -> Router[str]:
    """A router that finds each template's own text."""
    router: Router[str] = Router()
    for template in templates:
        router.add(PathTemplate.parse(template), template)
    return router


# Templates


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("/", ()),
        ("/chat", ()),
        ("/chat/", ()),
        ("/chat.talk", ()),
        ("/rooms/{room}", ("room",)),
        ("/rooms/{room}/messages/{message}", ("room", "message")),
        ("/files/{rest:path}", ("rest",)),
        ("/{rest:path}", ("rest",)),
        ("/{owner}/{rest:path}", ("owner", "rest")),
    ],
)
def test_a_template_knows_its_names_and_its_text(template: str, names: tuple[str, ...]) -> None:
    parsed = PathTemplate.parse(template)
    assert parsed.template == template
    assert parsed.names == names


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("", "must start with '/'"),
        ("chat", "must start with '/'"),
        ("/a//b", "a segment is empty"),
        ("//", "a segment is empty"),
        ("/chat?x=1", "ends before '?'"),
        ("/chat#top", "ends before '#'"),
        ("/a/../b", "resolves '..'"),
        ("/a/.", "resolves '.'"),
        ("/{room", "do not pair up"),
        ("/room}", "do not pair up"),
        ("/}room{", "do not pair up"),
        ("/{{room}}", "do not pair up"),
        ("/{a/b}", "do not pair up"),
        ("/a-{x}", "text or one parameter"),
        ("/{x}.json", "text or one parameter"),
        ("/{x}{y}", "text or one parameter"),
        ("/{}", "'' is not an identifier"),
        ("/{1st}", "'1st' is not an identifier"),
        ("/{a-b}", "'a-b' is not an identifier"),
        ("/{class}", "'class' is not an identifier"),
        ("/{x}/{x}", "'x' is there twice"),
        ("/{x}/{x:path}", "'x' is there twice"),
        ("/{x:int}", "no converter 'int'"),
        ("/{x:}", "no converter ''"),
        ("/{x:path}/y", "nothing can follow '{x:path}'"),
        ("/{x:path}/", "nothing can follow '{x:path}'"),
        ("/100%", "'100%' is not percent-encoded UTF-8"),
        ("/%ff", "'%ff' is not percent-encoded UTF-8"),
    ],
)
def test_a_wrong_template_is_refused_by_name(template: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="path template") as caught:
        PathTemplate.parse(template)
    assert repr(template) in str(caught.value)
    assert wrong in str(caught.value)


# Rendering


@pytest.mark.parametrize(
    ("template", "params", "path"),
    [
        ("/", {}, "/"),
        ("/chat", {}, "/chat"),
        ("/chat/", {}, "/chat/"),
        ("/items:batch/@me", {}, "/items:batch/@me"),
        ("/café", {}, "/caf%C3%A9"),
        ("/caf%C3%A9", {}, "/caf%C3%A9"),
        ("/rooms/{room}", {"room": "lobby"}, "/rooms/lobby"),
        ("/rooms/{room}", {"room": "lobby", "other": "x"}, "/rooms/lobby"),
        ("/rooms/{room}/", {"room": "lobby"}, "/rooms/lobby/"),
        ("/rooms/{room}", {"room": "a/b"}, "/rooms/a%2Fb"),
        ("/rooms/{room}", {"room": "1+1 = 100%?#"}, "/rooms/1%2B1%20%3D%20100%25%3F%23"),
        ("/rooms/{room}", {"room": "ж"}, "/rooms/%D0%B6"),
        ("/rooms/{room}", {"room": ".."}, "/rooms/%2E%2E"),
        ("/rooms/{room}", {"room": "..."}, "/rooms/..."),
        ("/files/{rest:path}", {"rest": "a/b c"}, "/files/a/b%20c"),
        ("/files/{rest:path}", {"rest": "../x"}, "/files/%2E%2E/x"),
        ("/files/{rest:path}", {"rest": ""}, "/files/"),
    ],
)
def test_a_rendered_path_is_percent_encoded(template: str, params: dict[str, str], path: str) -> None:
    assert PathTemplate.parse(template).render(params) == path


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, "'room' is missing"),
        ({"room": ""}, "'room' cannot be empty"),
        ({"room": "\ud800"}, "'room' is not Unicode text"),
    ],
)
def test_a_value_that_fits_no_path_is_refused_by_name(params: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        PathTemplate.parse("/rooms/{room}").render(params)


# Matching


@pytest.mark.parametrize(
    ("template", "path", "params"),
    [
        ("/", "/", {}),
        ("/chat", "/chat", {}),
        ("/chat", "/chat/", {}),
        ("/chat/", "/chat", {}),
        ("/chat", "/ch%61t", {}),
        ("/café", "/caf%C3%A9", {}),
        ("/café", "/café", {}),
        ("/rooms/{room}", "/rooms/lobby", {"room": "lobby"}),
        ("/rooms/{room}", "/rooms/lobby/", {"room": "lobby"}),
        ("/rooms/{room}", "/rooms/a%2Fb", {"room": "a/b"}),
        ("/rooms/{room}", "/rooms/a+b", {"room": "a+b"}),
        ("/rooms/{room}", "/rooms/%D0%B6", {"room": "ж"}),
        ("/{a}/x/{b}", "/1/x/2", {"a": "1", "b": "2"}),
        ("/files/{rest:path}", "/files", {"rest": ""}),
        ("/files/{rest:path}", "/files/", {"rest": ""}),
        ("/files/{rest:path}", "/files/a", {"rest": "a"}),
        ("/files/{rest:path}", "/files/a/b%20c", {"rest": "a/b c"}),
        ("/files/{rest:path}", "/files/a/", {"rest": "a/"}),
        ("/files/{rest:path}", "/files//a", {"rest": "/a"}),
        ("/{rest:path}", "/", {"rest": ""}),
    ],
)
def test_a_path_gives_its_parameters_back(template: str, path: str, params: dict[str, str]) -> None:
    assert router_of(template).match(path) == (template, params)


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/", "/chat"),
        ("/", "//"),
        ("/", ""),
        ("/chat", "chat"),
        ("/chat", "*"),
        ("/chat", "/Chat"),
        ("/chat", "/chat//"),
        ("/chat", "//chat"),
        ("/chat", "/chat/more"),
        ("/rooms/{room}", "/rooms"),
        ("/rooms/{room}", "/rooms/"),
        ("/rooms/{room}", "/rooms//"),
        ("/rooms/{room}", "/rooms/a/b"),
        ("/rooms/{room}/x", "/rooms//x"),
        ("/rooms/{room}", "/rooms/%"),
        ("/rooms/{room}", "/rooms/%4"),
        ("/rooms/{room}", "/rooms/%zz"),
        ("/rooms/{room}", "/rooms/%ff"),
        ("/rooms/{room}", "/rooms/\udcff"),
        ("/files/{rest:path}", "/files/%ff"),
        ("/files/{rest:path}", "/file"),
    ],
)
def test_what_does_not_fit_the_template_matches_nothing(template: str, path: str) -> None:
    assert router_of(template).match(path) is None


def test_an_empty_router_matches_nothing() -> None:
    assert router_of().match("/") is None


TEMPLATES = (
    "/a/b",
    "/a/{x}/c",
    "/a/b/{y}",
    "/a/b/c/d",
    "/{x}/b",
    "/{x}/{y}/{z}/e",
    "/files",
    "/files/{rest:path}",
    "/files/{id}",
    "/files/{id}/raw",
    "/{rest:path}",
)


@pytest.mark.parametrize("templates", [TEMPLATES, TEMPLATES[::-1]], ids=["in order", "reversed"])
@pytest.mark.parametrize(
    ("path", "template", "params"),
    [
        ("/a/b", "/a/b", {}),
        ("/z/b", "/{x}/b", {"x": "z"}),
        ("/a/b/c", "/a/b/{y}", {"y": "c"}),
        ("/a/z/c", "/a/{x}/c", {"x": "z"}),
        ("/a/b/c/d", "/a/b/c/d", {}),
        ("/a/b/c/e", "/{x}/{y}/{z}/e", {"x": "a", "y": "b", "z": "c"}),
        ("/a/b/c/z", "/{rest:path}", {"rest": "a/b/c/z"}),
        ("/a", "/{rest:path}", {"rest": "a"}),
        ("/files", "/files", {}),
        ("/files/", "/files", {}),
        ("/files/7", "/files/{id}", {"id": "7"}),
        ("/files/7/raw", "/files/{id}/raw", {"id": "7"}),
        ("/files/7/parsed", "/files/{rest:path}", {"rest": "7/parsed"}),
        ("/files//raw", "/files/{rest:path}", {"rest": "/raw"}),
        ("/files/b", "/files/{id}", {"id": "b"}),
        ("/", "/{rest:path}", {"rest": ""}),
    ],
)
def test_the_most_specific_from_the_left_wins_in_any_order(
    templates: tuple[str, ...], path: str, template: str, params: dict[str, str]
) -> None:
    assert router_of(*templates).match(path) == (template, params)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/chat", "/chat"),
        ("/chat", "/chat/"),
        ("/", "/"),
        ("/a/{x}", "/a/{y}"),
        ("/a/{x}/c", "/a/{y}/c/"),
        ("/a/{x:path}", "/a/{y:path}"),
        ("/café", "/caf%C3%A9"),
    ],
)
def test_two_templates_for_the_same_paths_are_refused_by_name(first: str, second: str) -> None:
    router = router_of(first)
    with pytest.raises(ValueError, match="matches the same paths") as caught:
        router.add(PathTemplate.parse(second), second)
    assert repr(first) in str(caught.value)
    assert repr(second) in str(caught.value)


def test_parameters_with_different_names_may_share_a_segment() -> None:
    router = router_of("/a/{x}/c", "/a/{y}/d")
    assert router.match("/a/1/c") == ("/a/{x}/c", {"x": "1"})
    assert router.match("/a/1/d") == ("/a/{y}/d", {"y": "1"})


def test_a_value_that_is_false_is_found() -> None:
    router: Router[int] = Router()
    router.add(PathTemplate.parse("/zero"), 0)
    assert router.match("/zero") == (0, {})


# Properties


@given(room=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), rest=st.text())
def test_matching_is_the_inverse_of_rendering(room: str, rest: str) -> None:
    template = PathTemplate.parse("/x/{room}/{rest:path}")
    path = template.render({"room": room, "rest": rest})
    assert path.isascii()
    assert router_of(template.template).match(path) == (template.template, {"room": room, "rest": rest})


@given(st.text(st.one_of(st.sampled_from("/ab%2F"), st.characters())).map("/".__add__))
def test_any_path_either_matches_or_does_not(path: str) -> None:
    found = router_of("/{rest:path}").match(path)
    assert found is None or "%" in path or found[1]["rest"] == path[1:]


def test_percent_decoding_says_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="not percent-encoded: '100%'"):
        percent_decode("100%")
