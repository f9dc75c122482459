"""The URL of a broker: what each part means, and what is told about one that is wrong."""

import pytest

from streamrt.brokers import RedisBroker
from streamrt.brokers.address import Address


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("redis://localhost", Address("one", (("localhost", 6379),)), "redis://localhost:6379"),
        ("valkey://localhost", Address("one", (("localhost", 6379),)), "redis://localhost:6379"),
        (
            "rediss://ada:p%40ss@[::1]:7000/3",
            Address("one", (("::1", 7000),), tls=True, db=3, username="ada", password="p@ss"),
            "rediss://[::1]:7000/3",
        ),
        ("valkeys://:secret@h", Address("one", (("h", 6379),), tls=True, password="secret"), "rediss://h:6379"),
        (
            "redis+sentinel://a,b:1/main/2",
            Address("sentinel", (("a", 26379), ("b", 1)), name="main", db=2),
            "redis+sentinel://a:26379,b:1/main/2",
        ),
        ("redis+cluster://a,b:1", Address("cluster", (("a", 6379), ("b", 1))), "redis+cluster://a:6379,b:1"),
    ],
)
def test_each_part_has_its_meaning_and_the_password_is_not_shown(url: str, address: Address, shown: str) -> None:
    assert Address.parse(url) == address
    assert str(address) == shown
    assert "secret" not in repr(address)
    assert repr(RedisBroker(url)) == f"<RedisBroker {shown}>"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "the scheme is ''"),
        ("http://localhost", "the scheme is 'http'"),
        ("redis+proxy://localhost", "the scheme is 'redis+proxy'"),
        ("redis://[::1", "this is none"),
        ("redis://", "there is no host and port in ''"),
        ("redis://h:port", "there is no host and port in 'h:port'"),
        ("redis://h:99999", "there is no host and port in 'h:99999'"),
        ("redis://a,b", "there are several hosts"),
        ("redis://h/main", "the path is '/main'"),
        ("redis://h/1/2", "the path is '/1/2'"),
        ("redis://h/²", "the path is '/²'"),
        ("redis://h?db=1", "there is a '?' or a '#' in it"),
        ("redis+sentinel://h", "the name of the primary is missing"),
        ("redis+cluster://h/1", "the path is '/1'"),
    ],
)
def test_a_wrong_one_is_told_with_what_it_should_be_like(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"the URL of a broker is like redis(\+\w+)?://host") as caught:
        Address.parse(url)
    assert told in str(caught.value)


def test_what_is_wrong_with_the_rest_of_it_does_not_tell_the_password() -> None:
    with pytest.raises(ValueError, match="the path is '/x'") as caught:
        Address.parse("redis://:secret@h/x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"when_down": "wait"}, "when_down is 'fail' or 'deliver_locally', not 'wait'"),
        ({"ping_interval": 0}, "ping_interval must be more than 0 seconds, not 0"),
        ({"ping_timeout": -1}, "ping_timeout must be more than 0 seconds, not -1"),
        ({"lease": 0}, "lease must be more than 0 seconds, not 0"),
        ({"max_pause": float("nan")}, "max_pause must be more than 0 seconds, not nan"),
        ({"prefix": ""}, "the prefix must be a text without '{', not ''"),
        ({"prefix": "{a}"}, "the prefix must be a text without '{', not '{a}'"),
    ],
)
def test_an_option_that_is_out_of_range_is_told(option: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=r"must|is") as caught:
        RedisBroker("redis://localhost", **option)  # type: ignore[arg-type]
    assert str(caught.value) == told


def test_for_tls_there_is_trust_in_what_the_system_trusts() -> None:
    assert RedisBroker("rediss://localhost")._options.tls is not None
    assert RedisBroker("redis://localhost")._options.tls is None
