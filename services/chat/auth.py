"""Who is calling. A demo: it believes every name, where a real one would check a signature or a session."""

from typing import Annotated

from attrs import frozen

from streamrt import APIError, Header


@frozen
class Credentials:
    """Where a token may be.

    Args:
        authorization: ``Bearer <token>``, from the header of that name.
        token: The token, from the query: a browser's WebSocket cannot set headers.
    """

    authorization: Annotated[str | None, Header("authorization")] = None
    token: str | None = None


@frozen
class User:
    """Who is calling."""

    name: str


async def authenticate(credentials: Credentials) -> User:
    """Take the token for the user's name.

    Raises:
        APIError: There is no usable token.
    """
    scheme, _, token = (credentials.authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        token = credentials.token or ""
    if not token.isalnum():
        raise APIError.unauthenticated("a token is needed: letters and digits, as in `Bearer ada`")
    return User(token)
