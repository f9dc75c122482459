"""Broadcasting with nothing but sets of streams. What that cannot promise is in the README."""

from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TypeVar

import trio

from streamrt import APIError, Service, StreamInOut, get_auth_data

from .auth import User
from .types import Join, Room, Said, Say, Whisper, Whispered

I = TypeVar("I")  # noqa: E741 - what comes in
O = TypeVar("O")  # noqa: E741 - what goes out

MAX_MESSAGE = 16 * 1024
"""Bytes: more than anybody types, and a message is sent once for each member."""

service = Service("chat")

# Sets of streams and not maps by id or name: two tabs of one user are two members.
everyone: set[StreamInOut[Say, Said]] = set()
rooms: dict[frozenset[str], set[StreamInOut[Whisper, Whispered]]] = {}


@service.stream_in_out("/chat", expose=True, max_message_bytes=MAX_MESSAGE)
async def chat(handshake: Join, stream: StreamInOut[Say, Said]) -> None:
    """Hear everybody else, and be heard by them."""
    everyone.add(stream)
    try:
        async for message in stream:
            await broadcast(everyone, stream, Said(handshake.id, message.username, message.msg))
    finally:
        everyone.remove(stream)


@service.stream_in_out("/private-chat/{names}", expose=True, auth=True, max_message_bytes=MAX_MESSAGE)
async def private_chat(handshake: Room, stream: StreamInOut[Whisper, Whispered]) -> None:
    """Talk in a room that only those enter who are named in its path."""
    user = get_auth_data(User)
    names = frozenset(handshake.names.split("+"))
    if user.name not in names:
        raise APIError.permission_denied(f"the room {handshake.names} is not for {user.name}")
    members = rooms.setdefault(names, set())
    members.add(stream)
    try:
        async for message in stream:
            await broadcast(members, stream, Whispered(user.name, message.msg))
    finally:
        members.remove(stream)
        if not members:
            del rooms[names]


async def broadcast(members: AbstractSet[StreamInOut[I, O]], sender: StreamInOut[I, O], message: O) -> None:
    """Send a message to all members but its sender, one after another.

    A member that is gone, or that has not read for so long that its stream was ended, is passed over:
    its own handler takes it out of the set.
    """
    for member in list(members):  # a copy: while one `send` waits, others come and go
        if member is not sender:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, APIError.ResourceExhausted):
                await member.send(message)
