# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What a type checker knows of clients. Checked, and never run; see `handlers.py`."""

from typing import assert_type

from streamrt import Client, Reconnect, StreamIn, StreamInOut, StreamOutWithResponse, TopicPosition
from tests.type_tests.handlers import Done, Join, Said, Say, app, chat, logs, take, upload


async def streams_mirror_those_of_the_handler(client: Client) -> None:
    async with client.open(chat, Join("lobby")) as talk:
        assert_type(talk, StreamInOut[Said, Say])
        await talk.send(Say("hello"))
        await talk.send(Said("me", "hello"))  # type: ignore[arg-type]
        assert_type(await talk.receive(), Said)
    async with client.open(upload) as uploading:
        assert_type(uploading, StreamOutWithResponse[Say, Done])
        await uploading.send(Said("me", "hello"))  # type: ignore[arg-type]
        assert_type(await uploading.response(), Done)
        await uploading.receive()  # type: ignore[attr-defined]
    async with client.open(take, Join("lobby")) as taking:
        assert_type(taking, StreamOutWithResponse[Say, None])
    async with client.open(logs) as listening:
        assert_type(listening, StreamIn[Said])
        assert_type([message async for message in listening], list[Said])
        await listening.send(Said("me", "hello"))  # type: ignore[attr-defined]


async def a_handshake_is_the_endpoints_own(client: Client) -> None:
    client.open(chat)  # type: ignore[arg-type]
    client.open(chat, Say("lobby"))  # type: ignore[misc]
    client.open(logs, Join("lobby"))  # type: ignore[misc]
    client.open(take, Say("lobby"))  # type: ignore[misc]
    client.open(take)  # type: ignore[arg-type]
    client.open(upload, Join("lobby"))  # type: ignore[misc]
    client.open("/rooms/lobby")  # type: ignore[call-overload]


async def options_are_those_of_the_kind(client: Client) -> None:
    client.open(upload, reconnect=Reconnect(), first_message_timeout=1, silence_timeout=1, on=print)
    client.open(logs, reconnect=None, resume=[TopicPosition("chat.said", "lobby")])
    client.open(chat, Join("lobby"), reconnect=Reconnect(queue=1), resume=())
    client.open(upload, resume=())  # type: ignore[call-overload]
    client.open(take, Join("lobby"), resume=())  # type: ignore[call-overload]
    client.open(logs, reconect=Reconnect())  # type: ignore[call-overload]
    client.open(chat, Join("lobby"), reconnect=True)  # type: ignore[call-overload]
    client.open(upload, on=3)  # type: ignore[call-overload]
    client.open_path("/", silence_timeout="1")  # type: ignore[arg-type]


async def in_memory_it_is_the_same_client() -> None:
    async with app.client(headers={"authorization": "Bearer ada"}) as client:
        assert_type(client, Client)
