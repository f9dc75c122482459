"""The public face: exactly these names, each of them says that it is streamrt's, and each tells what it is."""

import inspect
import pkgutil
import types

import pytest

import streamrt

PUBLIC = """
    APIError App Attachment Back Broker Changed Client Cookie Deflate Draining EncodeError Ended Endpoint Fault Gap
    get_auth_data get_client get_resources Header HeadersAttempt History InvalidMessage Joined KeyStatistics Left
    Limits Lost Member MemoryBroker OpenStream Presence Present Query Reconnect Recovered remote Request serve
    Service StreamIn StreamInEndpoint StreamInOut StreamInOutEndpoint StreamOut StreamOutEndpoint
    StreamOutWithResponse Subscription Topic TopicPosition TopicStatistics
""".split()
ALIASES = {"StreamEvent": streamrt.Lost | streamrt.Back | streamrt.Recovered | streamrt.Gap | streamrt.Draining}


def test_the_public_names_are_exactly_these() -> None:
    names = [name for name, value in vars(streamrt).items() if not name.startswith("_") and not inspect.ismodule(value)]
    assert sorted(names, key=str.casefold) == sorted([*PUBLIC, *ALIASES], key=str.casefold)


def test_all_other_names_are_modules_of_streamrt() -> None:
    modules = {name for name, value in vars(streamrt).items() if isinstance(value, types.ModuleType)}
    assert modules <= {module.name for module in pkgutil.iter_modules(streamrt.__path__)}


def test_an_alias_is_what_it_stands_for() -> None:
    assert {name: getattr(streamrt, name) for name in ALIASES} == ALIASES


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_says_where_it_is_to_be_imported_from(name: str) -> None:
    value = getattr(streamrt, name)
    assert value.__module__ == "streamrt"
    assert value.__qualname__ == name


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_that_is_a_sentence(name: str) -> None:
    doc = inspect.getdoc(getattr(streamrt, name))
    assert doc is not None
    assert doc.split("\n\n")[0].rstrip().endswith((".", ":", "."))


def test_an_error_is_seen_with_its_public_name() -> None:
    assert str(streamrt.StreamIn[int]) == "streamrt.StreamIn[int]"
