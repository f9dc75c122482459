# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What a type checker knows of generated clients. Checked, and never run; see `handlers.py`.

`streamrt gen client services:app --lang python -o services_client.py` writes the one, and the same with
`python-asyncio` and `services_asyncio.py` the other.
"""

from typing import Literal, assert_type

from streamrt import Client, StreamIn, StreamInOut, StreamOutWithResponse
from tests.type_tests.generated import services_asyncio as asyncio_client
from tests.type_tests.generated.services_client import (
    Chunk,
    Here,
    LogRow,
    Room,
    Tail,
    Upload,
    Uploaded,
    Whisper,
    Whispered,
    chat,
    streaming,
    ticker,
)


async def endpoints_are_opened_as_the_servers_own(client: Client) -> None:
    async with client.open(chat.private_chat, Room("ada+bob")) as talk:
        assert_type(talk, StreamInOut[Whispered | Here, Whisper])
        await talk.send(Whisper("hello"))
        await talk.send(Chunk("hello"))  # type: ignore[arg-type]
        message = await talk.receive()
        if message.kind == "here":
            assert_type(message, Here)
    async with client.open(streaming.upload, Upload()) as upload:
        assert_type(upload, StreamOutWithResponse[Chunk, Uploaded])
        assert_type(await upload.response(), Uploaded)
    async with client.open(streaming.logs, Tail(rows=3)) as logs:
        assert_type(logs, StreamIn[LogRow])
    client.open(ticker.prices, Tail(rows=3))  # type: ignore[misc]
    client.open(streaming.logs)  # type: ignore[arg-type]


async def a_handshake_is_given_as_arguments(client: asyncio_client.Client) -> None:
    client.chat.private_chat()  # type: ignore[call-arg]
    client.chat.private_chat(names=1)  # type: ignore[arg-type]
    client.chat.private_chat(names="ada+bob", since=None, reconnect=asyncio_client.Reconnect(queue=3), on=print)
    client.ticker.prices(reconnect=True)  # type: ignore[arg-type]


async def messages_are_typed_dicts(client: asyncio_client.Client) -> None:
    async with client.chat.private_chat(names="ada+bob") as talk:
        await talk.send({"msg": "hello"})
        await talk.send({"text": "hello"})  # type: ignore[typeddict-unknown-key, typeddict-item]
        async for message in talk:
            assert_type(message, asyncio_client.Whispered | asyncio_client.Here)
            if message["kind"] == "here":
                assert_type(message["position"], str)
            else:
                assert_type(message["by"], str)
    async with client.streaming.upload() as upload:
        assert_type(upload, asyncio_client.StreamOutWithResponse[asyncio_client.Chunk, asyncio_client.Uploaded])
        await upload.send({"data": "x"})
        response = await upload.response()
        assert_type(response["success"], bool)
    async with client.streaming.logs(rows=3) as logs:
        assert_type(logs, asyncio_client.StreamIn[asyncio_client.LogRow])
        await logs.send({})  # type: ignore[attr-defined]


async def errors_and_events_are_values(client: asyncio_client.Client) -> None:
    def on(event: asyncio_client.StreamEvent) -> None:
        match event:
            case asyncio_client.Lost(error, pause):
                assert_type(error, asyncio_client.StreamError)
                assert_type(pause, float)
            case asyncio_client.Recovered(recovered=recovered):
                assert_type(recovered, bool)
            case _:
                pass

    async def headers(attempt: asyncio_client.HeadersAttempt) -> dict[str, str]:
        return {"authorization": f"Bearer {attempt.rejected}"}

    fresh = asyncio_client.Client("ws://localhost", headers=headers)
    async with fresh.ticker.prices(on=on) as prices:
        ended = await prices.closed()
        if ended.error is not None and ended.error.code == "unavailable":
            code: Literal["unavailable"] = ended.error.code
            assert code
