"""Topics: broadcast that scope guarantees.

A topic is a name and a message type. Who is attached or subscribed hears it until its block ends, however it ends; who
publishes never waits for anyone who reads slowly.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, closing, nullcontext
from typing import Any, Generic, TypeVar, cast, final, get_args
from weakref import WeakSet

import trio
from attrs import frozen

from streamrt.api import context
from streamrt.api.stream import Stream, StreamInOut, StreamOut, port_of
from streamrt.wire.codec import codec
from streamrt.wire.graph import name_of
from streamrt.wire.transport import Frame

from .broker import RESERVED, Channel, History, Publication
from .changes import Present
from .connection import Connection
from .exchange import Exchange, current_exchange, shared_exchange
from .presence import A, Member, Presence
from .room import Terms, WhenFull
from .subscribers import Attachment, Subscription

M = TypeVar("M")

_NO_SEAT = nullcontext()
_declared: WeakSet[Topic[Any, Any]] = WeakSet()


@final
@frozen(kw_only=True)
class KeyStatistics:
    """What is counted of one key of a topic, for as long as somebody is subscribed to it.

    Args:
        subscribers: How many there are now.
        published: Messages since the first of them came.
        delivered: Messages that they were handed, each counted once for each, without those dropped since.
        dropped: Messages that they were not handed, or that were taken back, because they were too far behind.
    """

    subscribers: int
    published: int
    delivered: int
    dropped: int


@final
@frozen(kw_only=True)
class TopicStatistics:
    """What is counted of a topic, in this process; see `KeyStatistics`.

    Args:
        subscribers: How many there are now, of all keys.
        published: Messages that were published in this process, whether anybody was subscribed or not.
        delivered: Of all keys that there ever were.
        dropped: Of all keys that there ever were.
        keys: Those that have subscribers.
    """

    subscribers: int
    published: int
    delivered: int
    dropped: int
    keys: Mapping[str, KeyStatistics]


@final
class Topic(Generic[M, A]):
    """A broadcast of typed messages: what is published is heard by all who are attached or subscribed at that time.

    Each subscriber gets every message, in the order in which its publisher has published, at its own pace; what it
    has not taken is its backlog. No subscriber can make a publisher or another subscriber wait: see `when_full`.

    Args:
        name: Unique among the topics of an application; it names the topic to brokers and in errors.
        message: The type of its messages: whatever a stream can carry.
        when_full: What happens to a subscriber whose backlog is full. ``"disconnect"``: its stream is ended with 4429,
            so that it knows that it has missed something. ``"drop_oldest"`` and ``"drop_newest"``: messages are
            left out, and counted. ``"latest"``: a message takes the place of one before it that is still in the
            backlog; so nobody is sent what is out of date, and the backlog holds one message for each name.
        latest_by: For ``"latest"``: what names a message, like the symbol of a price. Without it, each replaces the
            one before it.
        backlog: Messages that a subscriber may be behind, 1 or more. Default 16384: a burst of ten thousand
            reaches everyone who reads.
        backlog_bytes: The same in bytes of JSON. Default 1 MiB. One message always fits.
        history: What is kept for those who come back, or come late. Default: nothing.
        presence: What is told of who is attached. Default: nothing, and it costs nothing.
        local: Whether the topic is one of this process alone, although the app has a broker: for what means nothing
            elsewhere. Each process then has a topic of its own.

    Raises:
        TypeError: The messages cannot be carried; or `latest_by` is given, and `when_full` is not ``"latest"``.
        ValueError: A limit is less than 1, `when_full` is none of the four, or the name begins with ``streamrt:``.

    Example:
        said = Topic("chat.said", Said)

        @service.stream_in_out("/rooms/{room}", expose=True)
        async def chat(handshake: Join, stream: StreamInOut[Say, Said]) -> None:
            async with said.attach(stream, key=handshake.room):
                async for message in stream:
                    await said.publish(Said(message.text), key=handshake.room)
    """

    def __init__(
        self,
        name: str,
        message: type[M],
        *,
        when_full: WhenFull = "disconnect",
        latest_by: Callable[[M], Hashable] | None = None,
        backlog: int = 16_384,
        backlog_bytes: int = 1 << 20,
        history: History | None = None,
        presence: Presence[A] | None = None,
        local: bool = False,
    ) -> None:
        if not name:
            raise ValueError("a topic needs a name")
        if name.startswith(RESERVED):
            raise ValueError(f"topic {name}: names that begin with {RESERVED!r} are streamrt's own")
        if when_full not in get_args(WhenFull):
            choices = ", ".join(map(repr, get_args(WhenFull)))
            raise ValueError(f"topic {name}: when_full is one of {choices}, not {when_full!r}")
        if latest_by is not None and when_full != "latest":
            raise TypeError(f"topic {name}: latest_by is for when_full='latest', not for {when_full!r}")
        for what, limit in (("backlog", backlog), ("backlog_bytes", backlog_bytes)):
            if isinstance(limit, bool) or not isinstance(cast("object", limit), int) or limit < 1:
                raise ValueError(f"topic {name}: {what} must be a whole number, 1 or more, not {limit!r}")
        self.name: str = name
        self._presence = presence
        self.local: bool = local
        self._terms = Terms(
            name=name,
            codec=codec(message),
            when_full=when_full,
            latest_by=latest_by,
            backlog=backlog,
            backlog_bytes=backlog_bytes,
            history=history,
        )
        _declared.add(self)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"

    @asynccontextmanager
    async def attach(
        self,
        stream: StreamOut[M] | StreamInOut[Any, M],
        *,
        key: str = "",
        since: str | None = None,
        exclude_self: bool = False,
        member: str | None = None,
        about: A | None = None,
        unseen: bool = False,
    ) -> AsyncGenerator[Attachment]:
        """Have a stream hear the topic until the block ends.

        What the stream sends itself and what the topic sends it go out in the order in which that was done. What was
        published before the block ends still goes out.

        Args:
            stream: The stream. It may be attached to several topics and keys, and to one of them twice.
            key: Which part of the topic: a room. Messages that are published under another key are not heard.
            since: The position where the peer was, as it was told by `Attachment.position`: all that was published
                after it is sent first, as fast as the peer reads. However wrong it is, it is no error: nothing is
                sent that was published before, and `Attachment.recovered` is false. `History.OLDEST`: all that is kept.
                Default: the position that the client has offered for this topic and key, if it speaks
                ``streamrt.v1`` and comes back; each that it has offered is taken once.
            exclude_self: Whether the stream does not hear what is published by its own handler, or a task of that.
            member: Whose stream it is, where the topic has a presence. Default: the user, as `App(user=...)` says; a
                stream of nobody is not counted.
            about: What is told about the member, where the presence has a type for that.
            unseen: Whether the stream is not counted, whosever it is.

        Yields:
            Where the stream is in the history, and whether that was recovered.

        Raises:
            BrokenResourceError: The stream has ended; `ClosedResourceError`: it was closed on this side.
            ResourceExhausted: The peer has not read for `send_timeout`.
            Unavailable: The app's broker has no connection.
            TypeError: This is no stream of streamrt that messages go out on; or `member` and `about` are not what the
                topic's presence says.
            EncodeError: What is told about the member does not fit the type that the presence has for it.
        """
        connection = _connection_of(stream)
        exchange, channel, history = self._exchange(), Channel(self.name, key), self._terms.history
        attachment = Attachment(connection, channel, self._terms, exclude_self=exclude_self)
        seat = self._seat(exchange, key, member, about, unseen=unseen)
        if since is None and history is not None:
            since = connection.offered_position(channel)
        await connection.ready()
        with exchange.inside(channel, self._terms, attachment), connection.fed_by(attachment), seat:
            if history is not None:
                attachment.hold()
            await exchange.broker.subscribe(channel)
            if history is not None:
                await attachment.replay(await exchange.broker.replay(channel, since, history))
            yield attachment

    @asynccontextmanager
    async def subscribe(self, *, key: str = "", since: str | None = None) -> AsyncGenerator[Subscription[M]]:
        """Hear the topic in a task of this process, until the block ends.

        Args:
            key: Which part of the topic.
            since: A position, `Subscription.position`, to go on from; or `History.OLDEST`. See `attach`.

        Yields:
            A receive channel.

        Raises:
            Unavailable: The app's broker has no connection.
        """
        subscription: Subscription[M] = Subscription(self._terms)
        exchange, channel, history = self._exchange(), Channel(self.name, key), self._terms.history
        await trio.lowlevel.checkpoint()
        with exchange.inside(channel, self._terms, subscription), closing(subscription):
            await exchange.broker.subscribe(channel)
            if history is not None:
                subscription.replay(await exchange.broker.replay(channel, since, history))
            yield subscription

    @asynccontextmanager
    async def presence(self, *, key: str = "") -> AsyncGenerator[Present[A]]:
        """See who is attached, in all processes, until the block ends.

        Args:
            key: Under which key.

        Yields:
            The members, kept up to date; and a receive channel of what changes from here on.

        Raises:
            TypeError: The topic was declared without a presence.

        Example:
            async with said.presence(key=room) as presence:
                await stream.send(Here(sorted(presence.members)))
                async for change in presence:
                    match change:
                        case Joined(member): await stream.send(Came(member.name))
                        case Left(member): await stream.send(Went(member.name))
        """
        declared, exchange = self._declared_presence(), self._exchange()
        exchange.totals(self._terms)
        await trio.lowlevel.checkpoint()
        with exchange.rosters.inside(self._marked(key), declared) as roster:
            await roster.sync()
            present: Present[A] = Present(roster, declared.backlog)
            with roster.read_by(present), closing(present):
                yield present

    async def members(self, *, key: str = "") -> Mapping[str, Member[A]]:
        """Return who is attached now, in all processes, by name; see `presence`.

        Args:
            key: Under which key.

        Raises:
            TypeError: The topic was declared without a presence.
        """
        async with self.presence(key=key) as presence:
            return presence.members

    async def publish(self, message: M, *, key: str = "", exclude: Stream | None = None) -> None:
        """Send a message to everyone who is attached or subscribed.

        It never waits for a subscriber; with a broker, for that to have the message, and for the message to be back.
        Cancelled, it has published nothing.

        Args:
            message: The message. It is encoded once.
            key: Who gets it: those who are there under the same key.
            exclude: A stream that does not get it.

        Raises:
            EncodeError: The message does not fit the type of the topic. Nothing was published.
            Unavailable: The app's broker cannot publish it, or its connection was lost meanwhile, and nobody knows.
        """
        terms = self._terms
        name = None if terms.latest_by is None else terms.latest_by(message)
        hash(name)  # one that has none is the publisher's fault, and not that of those who are behind
        publication = Publication(
            Frame(terms.codec.encode(message)),
            origin=context.connection_id.get(),
            exclude=None if exclude is None else exclude.request.connection_id,
            name=name,
        )
        await self._exchange().publish(Channel(self.name, key), terms, publication)

    def _declared_presence(self) -> Presence[A]:
        if self._presence is None:
            raise TypeError(f"topic {self.name} has no presence: declare it with Topic(..., presence=Presence())")
        return self._presence

    def _marked(self, key: str) -> Channel:
        """Return where the members of a key are marked."""
        return Channel(f"{RESERVED}presence:{self.name}", key)

    def _seat(
        self, exchange: Exchange, key: str, member: str | None, about: A | None, *, unseen: bool
    ) -> AbstractContextManager[None]:
        """Return what counts a stream, or a block that does nothing."""
        if self._presence is None and member is None and about is None:
            return _NO_SEAT
        presence = self._declared_presence()
        if member == "":
            raise ValueError(f"topic {self.name}: a member needs a name")
        if about is not None and not presence.tells:
            raise TypeError(f"topic {self.name}: its presence tells nothing about a member; Presence(...) takes a type")
        if member is None:
            member = context.user.get()
        if member is None or unseen:
            return _NO_SEAT
        if about is None and presence.tells:
            expected = name_of(presence.about)
            raise TypeError(f"topic {self.name}: its presence tells {expected} of a member: attach(..., about=...)")
        encoded = presence.encode_about(about)
        return exchange.attendance(self._terms, presence).seated(self._marked(key), member, encoded)

    def statistics(self) -> TopicStatistics:
        """Return what is counted of the topic."""
        exchange = self._exchange()
        totals = exchange.totals(self._terms)
        rooms = list(exchange.rooms(self._terms))
        return TopicStatistics(
            subscribers=sum(len(room.subscribers) for room in rooms),
            published=totals.published,
            delivered=totals.delivered + sum(room.delivered for room in rooms),
            dropped=totals.dropped + sum(room.dropped for room in rooms),
            keys={
                room.channel.key: KeyStatistics(
                    subscribers=len(room.subscribers),
                    published=room.published,
                    delivered=room.delivered,
                    dropped=room.dropped,
                )
                for room in rooms
            },
        )

    def _exchange(self) -> Exchange:
        return shared_exchange() if self.local else current_exchange()


def declared_topics() -> Sequence[Topic[Any, Any]]:
    """Return the topics that have been declared in this process, and not been forgotten since, by their names."""
    return sorted(_declared, key=lambda topic: topic.name)


def _connection_of(stream: object) -> Connection:
    if isinstance(stream, (StreamOut, StreamInOut)):
        port = port_of(cast("Stream", stream))
        if isinstance(port, Connection):
            return port
    raise TypeError(
        f"attach(stream) takes a stream of an endpoint or of a client that messages go out on, not {stream!r}"
    )
