# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""What a type checker knows of topics. Checked, and never run; see `handlers`."""

from operator import attrgetter
from typing import assert_type

from attrs import frozen

from streamrt import (
    APIError,
    App,
    Attachment,
    Changed,
    Client,
    History,
    Joined,
    Left,
    Member,
    MemoryBroker,
    OpenStream,
    Presence,
    Present,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    Subscription,
    Topic,
)


@frozen
class Said:
    text: str


@frozen
class Whispered(Said):
    to: str


@frozen
class Say:
    text: str


said = Topic("said", Said, history=History(messages=10))
prices = Topic("prices", dict[str, float], when_full="latest", latest_by=len, backlog=10)
assert_type(said, Topic[Said])
assert_type(prices, Topic[dict[str, float]])

Topic("said", Said, latest_by=attrgetter("text"), when_full="latest")
Topic("said", Said, latest_by=lambda message: message.text, when_full="latest")
Topic("said", Said, latest_by=lambda message: message.symbol, when_full="latest")  # type: ignore[attr-defined]
Topic("said", Said, when_full="block")  # type: ignore[arg-type]

service = Service("test")
App(service, broker=MemoryBroker())


@service.stream_in_out(expose=True)
async def chat(stream: StreamInOut[Say, Said]) -> None:
    async with said.attach(stream, key="room", since=None, exclude_self=True) as attachment:
        assert_type(attachment, Attachment)
        assert_type(attachment.position, str | None)
        assert_type(attachment.recovered, bool)
        async for message in stream:
            await said.publish(Said(message.text), key="room", exclude=stream)
            await said.publish(Whispered(message.text, "ada"))
            await said.publish(message)  # type: ignore[arg-type]
            await said.publish(Said(message.text), key=3)  # type: ignore[arg-type]


@service.stream_out(expose=True)
async def others(stream: StreamOut[Say]) -> None:
    async with said.attach(stream):  # type: ignore[arg-type]
        pass


@service.stream_out(expose=True)
async def more(stream: StreamOut[Say | Said]) -> None:
    async with said.attach(stream):
        pass


@service.stream_in(expose=True)
async def upload(stream: StreamIn[Said]) -> None:
    async with said.attach(stream):  # type: ignore[arg-type]
        pass


async def listen(client: Client) -> None:
    async with said.subscribe(key="room", since=History.OLDEST) as messages:
        assert_type(messages, Subscription[Said])
        assert_type(await messages.receive(), Said)
        async for message in messages:
            assert_type(message, Said)
    assert_type(said.statistics().keys["room"].dropped, int)
    async with client.open(chat) as talk, said.attach(talk):  # type: ignore[arg-type]
        pass


@frozen
class Profile:
    nick: str


met = Topic("met", Said, presence=Presence(Profile, leave_after=10, backlog=10))
seen = Topic("seen", Said, presence=Presence())
assert_type(met, Topic[Said, Profile])
assert_type(seen, Topic[Said])
Presence(leave_after="5")  # type: ignore[arg-type]


@service.stream_out(expose=True)
async def meet(stream: StreamOut[Said]) -> None:
    async with met.attach(stream, member="ada", about=Profile("Ada")), met.presence(key="room") as present:
        assert_type(present, Present[Profile])
        assert_type(present.members["ada"], Member[Profile])
        assert_type(await present.receive(), Joined[Profile] | Left[Profile] | Changed[Profile])
        async for change in present:
            match change:
                case Joined(member) | Left(member):
                    assert_type(member.about.nick, str)
                case Changed(member, before):
                    assert_type((member.connections, before), tuple[int, Member[Profile]])
    async with met.attach(stream, member="ada", about="Ada"):  # type: ignore[arg-type]
        pass
    async with seen.attach(stream, member=3):  # type: ignore[arg-type]
        pass
    assert_type((await seen.members())["ada"].about, None)


async def reach(said_by: Said) -> None:
    app = App(service, user=lambda user: user.id)
    assert_type(await app.streams("ada"), list[OpenStream])
    assert_type(await app.streams(user="ada"), list[OpenStream])
    assert_type(await app.disconnect("ada", APIError.permission_denied("banned")), int)
    await app.disconnect("ada", "banned")  # type: ignore[arg-type]
    await app.disconnect("ada")  # type: ignore[call-arg]
