"""The broker for several processes and machines, over Redis or Valkey.

What it promises, and how that is made, is in `docs/design/brokers.md`. In short: pub/sub carries, a stream keeps, and
one script does both; everything comes back to its own process the way it goes to others, so there is one order for all.
"""

from __future__ import annotations

import logging
import random
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeAlias, final, get_args

import trio
from attrs import frozen

from streamrt.errors import APIError
from streamrt.runtime.broker import Broker, Channel, History, Mark, Marks, Position, Publication, Replay
from streamrt.runtime.scopes import lone_error
from streamrt.wire.waiting import Waiting

from .address import Address
from .connection import Lost, Options, Refused
from .envelope import SENDER_BYTES
from .hearing import Hearing
from .link import Link
from .marking import Marking
from .names import Names
from .pipe import Unsent

WhenDown: TypeAlias = Literal["fail", "deliver_locally"]

_STABLE = 1.0
"""Seconds that a connection must have lasted for the next attempt to be made at once."""

_FIRST_PAUSE = 0.1
"""Seconds that the first pause between two attempts lasts at most; each is at most twice as long as the one before."""

_logger = logging.getLogger("streamrt")


class BrokerError(Exception):
    """A broker cannot be used: what it connects to cannot be reached, or does not let it in."""


@final
@frozen(kw_only=True)
class BrokerStatistics:
    """What is counted of a broker, in this process.

    Args:
        connected: Whether it is now.
        since: When that began, as of `time.time`.
        reconnects: How often the connection was lost, and made again.
        published: Messages that the server has taken.
        delivered: Messages that have come, one's own too.
        losses: How often a channel may have missed something, and was told.
        round_trip: Seconds that the last heartbeat took, from this process to itself; None before the first.
    """

    connected: bool
    since: float
    reconnects: int
    published: int
    delivered: int
    losses: int
    round_trip: float | None


@final
class RedisBroker(Broker):
    """Carries publications and marks between all processes that name the same server; see `App`.

    It needs Redis 6.2 or later, or Valkey, and ``pip install 'streamrt[redis]'``. It has one connection to publish, in
    a cluster one for each primary, and one to listen, whatever the number of topics.

    Args:
        url: ``redis://user:password@host:6379/0``; ``rediss`` is the same over TLS. For a primary that sentinels watch,
            ``redis+sentinel://host:26379,host:26379/name``; for a cluster, ``redis+cluster://host:6379,host:6379``.
        when_down: What becomes of messages that are published while there is no connection. ``"fail"``: publishing
            raises `APIError.unavailable`, and so does attaching. ``"deliver_locally"``: they are heard in this process,
            and nowhere else, ever; nothing is kept of them.
        prefix: What all names on the server begin with. Applications that are not to hear each other have different
            ones; other databases of a server have other names anyway.
        ping_interval: Seconds between two heartbeats. Default 5.
        ping_timeout: Seconds until a server that says nothing is given up. Default 5. So a connection that is dead is
            noticed after 10 seconds at the latest; and for so long, at most, what is sent cannot be cancelled.
        max_pause: Seconds between two attempts to connect again, at most; each pause is drawn from 0 to its limit, so
            that many processes do not come back at once. Default 5.
        lease: Seconds until the members and streams of a process that was killed, or is cut off, are gone for others at
            the latest; the same in all processes. Default 15. It is renewed every fifth of that, and ends after three.
        ssl_context: For TLS. Default: the certificates that the system trusts.

    Raises:
        ValueError: The URL is none, or one of the others is out of range.

    Example:
        app = App(api, broker=RedisBroker("redis://localhost:6379"))
    """

    def __init__(
        self,
        url: str,
        *,
        when_down: WhenDown = "fail",
        prefix: str = "streamrt",
        ping_interval: float = 5,
        ping_timeout: float = 5,
        max_pause: float = 5,
        lease: float = 15,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        if when_down not in get_args(WhenDown):
            choices = " or ".join(map(repr, get_args(WhenDown)))
            raise ValueError(f"when_down is {choices}, not {when_down!r}")
        for what, seconds in (
            ("ping_interval", ping_interval),
            ("ping_timeout", ping_timeout),
            ("max_pause", max_pause),
            ("lease", lease),
        ):
            if not seconds > 0:
                raise ValueError(f"{what} must be more than 0 seconds, not {seconds!r}")
        if not prefix or "{" in prefix:
            raise ValueError(f"the prefix must be a text without '{{', not {prefix!r}")
        self._address = Address.parse(url)
        if self._address.tls and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self._options = Options(
            username=self._address.username,
            password=self._address.password,
            db=self._address.db,
            tls=ssl_context if self._address.tls else None,
            timeout=ping_timeout,
        )
        self._space = f"{prefix}/{self._address.db}".encode()
        self._local = when_down == "deliver_locally"
        self._interval = ping_interval
        self._timeout = ping_timeout
        self._max_pause = max_pause
        self.lease = lease
        self._hearing = self._deaf()
        self._marking = Marking(self)
        self._link: Link | None = None
        self._is_trying = False  # to connect again, for the first time since the connection was lost
        self._changed = Waiting()  # for those who wait until it has
        self._reason = "it is not running"
        self._since = time.time()
        self._reconnects = 0
        self._published = 0

    def __repr__(self) -> str:
        return f"<RedisBroker {self._address}>"

    def _deaf(self) -> Hearing:
        """Return what hears nothing yet, of a process that nobody else has been."""
        return Hearing(Names(self._space, secrets.token_bytes(SENDER_BYTES)), self._deliver, self._lose, self._announce)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now: what readiness asks for."""
        return self._link is not None

    def statistics(self) -> BrokerStatistics:
        """Return what is counted."""
        return BrokerStatistics(
            connected=self.connected,
            since=self._since,
            reconnects=self._reconnects,
            published=self._published,
            delivered=self._hearing.delivered,
            losses=self._hearing.losses,
            round_trip=None if self._link is None else self._link.round_trip,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Be connected, and connect again whenever that is over; see `Broker.running`.

        Raises:
            BrokerError: There is no first connection.
        """
        self._hearing = self._deaf()
        self.process: str = secrets.token_hex(8)
        with lone_error():
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(self._stay_connected)
                    yield
                    with trio.move_on_after(self._timeout):
                        await self._marking.told()
                finally:
                    nursery.cancel_scope.cancel()
                    self._reason = "it is not running"
                    self._go_down(is_trying=False)
                    self._marking = Marking(self)

    async def _stay_connected(self, *, task_status: trio.TaskStatus[None]) -> None:
        lasted = await self._live(task_status.started)
        if lasted is None:
            raise BrokerError(f"cannot connect to {self._address}: {self._reason}")
        pause = _FIRST_PAUSE
        while True:
            if lasted is not None and lasted >= _STABLE:
                pause = _FIRST_PAUSE
            else:
                await trio.sleep(random.uniform(0, pause))  # noqa: S311 - it is no secret
                pause = min(2 * pause, self._max_pause)
            lasted = await self._live(self._welcome_back)

    async def _live(self, begun: Callable[[], None]) -> float | None:
        """Connect, and be connected until that is over; return how many seconds that was, None if it never was."""
        link = Link(self._address, self._options, self._hearing, self._marking, self._settled, interval=self._interval)
        begin: float | None = None
        lasted: float | None = None
        try:
            with lone_error():
                async with trio.open_nursery() as nursery:
                    await nursery.start(link.run)
                    begin = trio.current_time()
                    self._go_up(link)
                    begun()
        except Lost as lost:
            self._reason = str(lost)
            if begin is not None:
                lasted = trio.current_time() - begin
                _logger.warning("%s: the connection is lost: %s", self._address, self._reason)
        finally:
            self._go_down(is_trying=lasted is not None and lasted >= _STABLE)
        return lasted

    def _go_up(self, link: Link) -> None:
        self._link, self._is_trying, self._since = link, False, time.time()
        self._changed.wake_all()

    def _go_down(self, *, is_trying: bool) -> None:
        if self._link is not None:
            self._since = time.time()
        self._link, self._is_trying = None, is_trying
        self._hearing.end()
        self._marking.end()
        self._changed.wake_all()

    def _welcome_back(self) -> None:
        self._reconnects += 1
        _logger.warning("%s: connected again", self._address)

    async def publish(self, channel: Channel, publication: Publication, history: History | None) -> None:
        """Have a message delivered; see `Broker.publish`. It waits for the server, and for nobody who reads.

        Raises:
            APIError: ``unavailable``: it was not published; or, where the connection was lost meanwhile, nobody knows.
        """
        while (link := await self._linked()) is not None:
            try:
                await link.publish(channel, publication, history)
            except Unsent:
                await self._left(link)
            except Lost as error:
                raise APIError.unavailable("it is not known whether the message was published") from error
            except Refused as error:
                raise APIError.unavailable("the message cannot be published now") from error
            else:
                self._published += 1
                return
        if not self._local:
            raise self._unavailable()
        if channel in self._hearing.ears:
            self._deliver(channel, publication)

    async def subscribe(self, channel: Channel) -> None:
        """Have what is published on a channel delivered from now on; see `Broker.subscribe`.

        Raises:
            APIError: ``unavailable``: there is no connection.
        """
        ear = self._hearing.add(channel)
        while not ear.open and self._hearing.ears.get(channel) is ear:
            if self._link is not None or self._is_trying:
                await ear.waiting.wait()
            elif self._local:
                ear.missed_some = True  # so that it is told of others' messages once there is a connection
                return
            else:
                raise self._unavailable()

    def unsubscribe(self, channel: Channel) -> None:
        """See `Broker.unsubscribe`."""
        self._hearing.remove(channel)

    async def replay(self, channel: Channel, since: str | None, history: History) -> Replay:
        """Return what a history has; see `Broker.replay`.

        Raises:
            APIError: ``unavailable``: there is no connection, or no room for the position.
        """
        if since == History.OLDEST:
            mode, position = b"oldest", None
        else:
            position = Position.parse(since or "")
            mode = b"" if position is None else b"after"
        while (link := await self._linked()) is not None:
            try:
                replay = await link.replay(channel, mode, position, history)
            except Lost:
                await self._left(link)
            except Refused as error:
                raise APIError.unavailable("the history cannot be read now") from error
            else:
                self._hearing.note(channel, history, replay.position)
                return replay
        if not self._local:
            raise self._unavailable()
        return Replay((), Position(secrets.token_hex(4), 0), recovered=False)  # a place in no history

    def mark(self, channel: Channel, name: str, value: str | None) -> None:
        """Set a mark, or clear it, as soon as the server can be told; see `Broker.mark`."""
        self._marking.mark(channel, name, value)

    async def marks(self, channel: Channel) -> Marks:
        """Return all that is marked on a channel; see `Broker.marks`.

        Without a connection, and with ``when_down="deliver_locally"``, these are the marks of this process.

        Raises:
            APIError: ``unavailable``: there is no connection, or no room for the position.
        """
        while (link := await self._linked()) is not None:
            try:
                return await self._marking.marks(channel, link)
            except Lost:
                await self._left(link)
            except Refused as error:
                raise APIError.unavailable("it cannot be read now who is there") from error
        if not self._local:
            raise self._unavailable()
        own = [Mark(self.process, name, value) for name, value in self._marking.own(channel)]
        return Marks(own, Position(secrets.token_hex(4), 0))

    async def _linked(self) -> Link | None:
        """Return the connection, once the attempt is over that is made when one was lost."""
        while self._link is None and self._is_trying:
            await self._changed.wait()
        return self._link

    async def _left(self, link: Link) -> None:
        """Wait until a connection that is over is given up."""
        while self._link is link:
            await self._changed.wait()

    def _unavailable(self) -> APIError:
        error = APIError.unavailable("messages cannot be exchanged now", retry_after=self._max_pause)
        error.__cause__ = BrokerError(f"{self._address}: {self._reason}")
        return error

    # What it does with what comes.

    def _deliver(self, channel: Channel, publication: Publication) -> None:
        if self.deliver is not None:
            self.deliver(channel, publication)

    def _lose(self, channel: Channel, position: Position | None) -> None:
        if self.lose is not None:
            self.lose(channel, position)

    def _announce(self, channel: Channel, mark: Mark, position: Position) -> None:
        self._marking.want()
        if self.announce is not None:
            self.announce(channel, mark, position)

    async def _settled(self) -> None:
        await (trio.lowlevel.checkpoint if self.settle is None else self.settle)()
