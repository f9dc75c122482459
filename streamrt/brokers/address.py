"""Where a Redis or Valkey is: the URL of one server, of its sentinels, or of a cluster.

    redis://[user:password@]host[:port][/db]
    redis+sentinel://[user:password@]host[:port],host[:port].../name[/db]
    redis+cluster://[user:password@]host[:port],host[:port]...

``rediss`` instead of ``redis`` is the same over TLS, and ``valkey`` and ``valkeys`` are other names for both.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, final
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

Kind: TypeAlias = Literal["one", "sentinel", "cluster"]

_SHAPES: dict[Kind, str] = {
    "one": "redis://host:6379/0",
    "sentinel": "redis+sentinel://host:26379,host:26379/name",
    "cluster": "redis+cluster://host:6379,host:6379",
}
_KINDS: dict[str, Kind] = {"": "one", "sentinel": "sentinel", "cluster": "cluster"}
_SCHEMES: dict[str, bool] = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}  # whether it is TLS


@final
@frozen
class Address:
    """A URL, taken apart.

    Args:
        kind: What is there.
        hosts: Of the server, of the sentinels, or of some nodes of the cluster.
        tls: Whether connections are encrypted.
        name: Of the primary that the sentinels watch.
        db: Number of the database.
        username: None for that of the password alone.
        password: None where none is needed.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    name: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("" if self.kind == "one" else f"+{self.kind}")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = "/".join(["", *([self.name] if self.name else []), *([str(self.db)] if self.db else [])])
        return f"{scheme}://{hosts}{path}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL.

        Raises:
            ValueError: It is none, or something in it is wrong; the text does not tell the password.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise _wrong("one", "this is none") from None
        scheme, _, how = parts.scheme.partition("+")
        kind = _KINDS.get(how)
        if scheme not in _SCHEMES or kind is None:
            raise _wrong("one", f"the scheme is {parts.scheme!r}")
        if parts.query or parts.fragment:
            raise _wrong(kind, "there is a '?' or a '#' in it; in a password they are %3F and %23")
        user, _, places = parts.netloc.rpartition("@")
        username, _, password = user.partition(":")
        default = 26379 if kind == "sentinel" else 6379
        hosts = tuple(_host(kind, place, default) for place in places.split(","))
        if kind == "one" and len(hosts) > 1:
            raise _wrong(kind, "there are several hosts")
        path = [unquote(part) for part in parts.path.split("/")[1:] if part]
        name = path.pop(0) if kind == "sentinel" and path else ""
        if kind == "sentinel" and not name:
            raise _wrong(kind, "the name of the primary is missing")
        db = path.pop(0) if path else "0"
        if path or not (db.isascii() and db.isdecimal()) or (kind == "cluster" and db != "0"):
            raise _wrong(kind, f"the path is {parts.path!r}")
        return cls(kind, hosts, _SCHEMES[scheme], name, int(db), unquote(username) or None, unquote(password) or None)


def _host(kind: Kind, place: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise _wrong(kind, f"there is no host and port in {place!r}")
    return host, default if port is None else port


def _wrong(kind: Kind, what: str) -> ValueError:
    return ValueError(f"the URL of a broker is like {_SHAPES[kind]}, and {what}")
