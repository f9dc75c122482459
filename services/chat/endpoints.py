"""Broadcasting with topics: everyone who is attached hears what is published."""

import trio

from streamrt import APIError, Attachment, History, Presence, Service, StreamInOut, Topic, get_auth_data

from .auth import User
from .types import Here, Join, Room, Said, Say, Whisper, Whispered

MAX_MESSAGE = 16 * 1024
"""Bytes: more than anybody types, and a message is sent once for each member."""

HERE_SECONDS = 5.0
"""How often a member is told its position; what it has heard since, it hears again when it comes back."""

service = Service("chat")
said = Topic("chat.said", Said)
# The history is longer than the backlog: so whoever was cut off for reading nothing finds there what it has missed.
whispered = Topic(
    "chat.whispered",
    Whispered,
    backlog=100,
    backlog_bytes=256 * 1024,
    history=History(messages=500, seconds=600),
    presence=Presence(),
)


@service.stream_in_out("/chat", expose=True, max_message_bytes=MAX_MESSAGE)
async def chat(handshake: Join, stream: StreamInOut[Say, Said]) -> None:
    """Hear everybody else, and be heard by them."""
    async with said.attach(stream, exclude_self=True):
        async for message in stream:
            await said.publish(Said(handshake.id, message.username, message.msg))


@service.stream_in_out("/private-chat/{names}", expose=True, auth=True, max_message_bytes=MAX_MESSAGE)
async def private_chat(handshake: Room, stream: StreamInOut[Whisper, Whispered | Here]) -> None:
    """Talk in a room that only those enter who are named in its path; hear first what was said before."""
    user = get_auth_data(User)
    names = set(handshake.names.split("+"))
    if user.name not in names:
        raise APIError.permission_denied(f"the room {handshake.names} is not for {user.name}")
    room = "+".join(sorted(names))
    async with (
        whispered.attach(stream, key=room, since=handshake.since, exclude_self=not handshake.echo) as attachment,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tell_position, stream, attachment)
        async for message in stream:
            await whispered.publish(Whispered(user.name, message.msg, message.id), key=room)
        nursery.cancel_scope.cancel()


async def tell_position(stream: StreamInOut[Whisper, Whispered | Here], attachment: Attachment) -> None:
    """Tell a member where it is: at once, and later whenever that has changed."""
    told = None
    while True:
        position = attachment.position
        if position is not None and position != told:
            await stream.send(Here(position, recovered=attachment.recovered))
            told = position
        await trio.sleep(HERE_SECONDS)
