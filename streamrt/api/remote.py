"""Endpoints that run elsewhere: what a client has to know of them, without the code of their handlers.

They are declared as a class, an attribute for each endpoint, whose type says all: which kind it is, and the types of
its handshake and messages. `streamrt gen client --lang python` writes such classes.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, TypeVar

from .endpoint import (
    Endpoint,
    StreamInEndpoint,
    StreamInOutEndpoint,
    StreamOutEndpoint,
    assemble_endpoint,
    told_at,
)
from .signature import Signature, show

C = TypeVar("C")

_KINDS: tuple[type[Endpoint], ...] = (StreamInEndpoint, StreamOutEndpoint, StreamInOutEndpoint)


def remote(service: str) -> Callable[[type[C]], type[C]]:
    """Declare the endpoints of a service that runs elsewhere, as keys for `Client.open`.

    Each attribute of the class has the type of an endpoint: `StreamInEndpoint[Handshake, Message, Response]`,
    `StreamOutEndpoint[Handshake, Message]` or `StreamInOutEndpoint[Handshake, In, Out]`, with None for what it has not.
    ``Annotated`` adds its path, where that is not ``/<service>.<attribute>``.

    Args:
        service: The name of the service.

    Raises:
        TypeError: An attribute is no endpoint, or one of its types can be no handshake or message.
        ValueError: A path is malformed.

    Example:
        ```python
        @remote("chat")
        class chat:
            private_chat: Annotated[StreamInOutEndpoint[Room, Whisper, Whispered], "/private-chat/{names}"]

        async with client.open(chat.private_chat, Room("ada+bob")) as talk: ...
        ```
    """

    def declare(cls: type[C]) -> type[C]:
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            with told_at(f"{cls.__module__}.{cls.__qualname__}.{name}"):
                setattr(cls, name, _endpoint(service, name, hint))
        return cls

    return declare


def _endpoint(service: str, name: str, hint: Any) -> Endpoint:
    path: str | None = None
    if typing.get_origin(hint) is Annotated:
        path = next((extra for extra in hint.__metadata__ if isinstance(extra, str)), None)
        hint = hint.__origin__
    kind, types = typing.get_origin(hint), typing.get_args(hint)
    if kind not in _KINDS:
        raise TypeError(
            f"expected an endpoint with its types, such as StreamOutEndpoint[None, Message], got {show(hint)}"
        )
    handshake, *messages = types
    returns = messages.pop() if kind is StreamInEndpoint else NoneType
    if not isinstance(handshake, type):
        raise TypeError(f"the handshake is {show(handshake)}, which is not a class")

    async def handler(*_: object) -> None:
        raise TypeError(f"{service}.{name} runs elsewhere: open it with a client")

    signature = Signature(_something(handshake), tuple(messages), _something(returns))
    return assemble_endpoint(kind, signature, handler, service=service, name=name, path=path, options={})


def _something(declared: Any) -> Any:
    """Return a type, or None where there is nothing; a message may well be None."""
    return None if declared is NoneType else declared
