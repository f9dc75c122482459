# pyright: reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""What a type checker knows of topics. Checked, and never run; see `handlers`."""

from operator import attrgetter
from typing import assert_type

from attrs import frozen

from streamrt import (
    App,
    Attachment,
    Client,
    History,
    MemoryBroker,
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
