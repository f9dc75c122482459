"""Who is in a private room: a member is a user, with however many tabs."""

from streamrt import APIError, Changed, StreamOut, get_auth_data

from .auth import User
from .endpoints import service, whispered
from .types import Members, Named


@service.stream_out("/private-chat/{names}/members", expose=True, auth=True)
async def members(handshake: Named, stream: StreamOut[Members]) -> None:
    """Tell those who are named in a room's path who is there: at once, and when somebody comes or goes."""
    user = get_auth_data(User)
    names = set(handshake.names.split("+"))
    if user.name not in names:
        raise APIError.permission_denied(f"the room {handshake.names} is not for {user.name}")
    async with whispered.presence(key="+".join(sorted(names))) as present:
        await stream.send(Members(sorted(present.members)))
        async for change in present:
            if not isinstance(change, Changed):  # of its tabs
                await stream.send(Members(sorted(present.members)))
