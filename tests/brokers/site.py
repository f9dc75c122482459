"""A site whose users see who is there: for brokers in the process of a test, and, as it stands here, for workers."""

import os
from typing import Annotated, Any

import attrs
import trio

from streamrt import APIError, App, Header, Left, Presence, Service, StreamInOut, StreamOut, Topic
from streamrt.brokers import RedisBroker

BANNED = APIError.permission_denied("banned")


@attrs.frozen
class Credentials:
    user: Annotated[str, Header()]


async def authenticate(credentials: Credentials) -> str:
    return credentials.user


@attrs.frozen
class There:
    """Who is there, and how often."""

    names: dict[str, int]


@attrs.frozen
class Word:
    """From whom, and what."""

    worker: int
    count: int = 0


@attrs.define(eq=False)
class Site:
    """The app, over a broker, and its endpoints."""

    url: str
    options: dict[str, Any] = attrs.Factory(dict[str, Any])
    app: App = attrs.field(init=False)
    join: Any = attrs.field(init=False)
    watch: Any = attrs.field(init=False)
    ban: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        service = Service("site")
        room = Topic("room", Word, presence=Presence(leave_after=0))

        @service.stream_out("/join", expose=True)
        async def join(stream: StreamOut[Word]) -> None:
            async with room.attach(stream):
                await stream.send(Word(os.getpid()))
                await trio.sleep_forever()

        @service.stream_out("/watch", expose=True)
        async def watch(stream: StreamOut[There]) -> None:
            async with room.presence() as present:
                names = {name: member.connections for name, member in present.members.items()}
                await stream.send(There(dict(names)))
                async for change in present:  # one after the other, though `members` may be ahead
                    names.pop(change.member.name, None)
                    if not isinstance(change, Left):
                        names[change.member.name] = change.member.connections
                    await stream.send(There(dict(names)))

        @service.stream_in_out("/ban", expose=True)
        async def ban(stream: StreamInOut[str, Word]) -> None:
            async for user in stream:
                await stream.send(Word(os.getpid(), await self.app.disconnect(user, BANNED)))

        self.join, self.watch, self.ban = join, watch, ban
        broker = RedisBroker(self.url, **self.options)
        self.app = App(service, auth_handler=authenticate, user=lambda user: user, broker=broker)
