"""The streams that handlers and clients hold: Trio channels of typed messages.

A stream is a codec on a port. The codec runs in the task that calls `receive` or `send`, so that a
message that does not fit raises on the line that asked for it, and who does not read does not pay. The
port moves payloads, and knows how the stream ends.

The classes are named from the side of whoever holds them: the client of a `StreamIn` endpoint holds
a `StreamOut`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Generic, TypeVar, cast, final

import trio
from attrs import frozen

from streamrt.errors import APIError, Ended
from streamrt.wire.codec import Codec
from streamrt.wire.transport import Frame, Payload

from .request import Request

In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)
Response_co = TypeVar("Response_co", covariant=True)


@final
@frozen
class TopicPosition:
    """Where a client's stream is in a topic that its endpoint hears, as the server has told.

    Args:
        topic: The name of the topic.
        key: The key under which it is heard.
        position: Behind the last message of it that was received; None when the topic keeps no history.
        recovered: Whether everything has come since the position that was offered with ``resume``.
        missed: How many messages were left out because this end reads too slowly, since the stream was opened.
        losses: How often the server may have missed messages itself, nobody knows how many.
    """

    topic: str
    key: str
    position: str | None = None
    recovered: bool = False
    missed: int = 0
    losses: int = 0


class Port(ABC):
    """What a stream stands on: one end of an open connection, without its types."""

    __slots__ = ()

    request: Request
    ended: Ended | None
    draining: trio.Event

    @property
    @abstractmethod
    def positions(self) -> Mapping[tuple[str, str], TopicPosition]:
        """Where a client is in topics, by topic and key; see `Stream.positions`."""

    @property
    @abstractmethod
    def round_trip_time(self) -> float | None:
        """Seconds; see `Stream.round_trip_time`."""

    @abstractmethod
    async def receive(self) -> Payload:
        """Return the next message; raise as `StreamIn.receive` does."""

    @abstractmethod
    async def send(self, frame: Frame) -> None:
        """Queue or write one message; raise as `StreamOut.send` does."""

    @property
    @abstractmethod
    def half_closes(self) -> bool:
        """Whether the other end can be told that no more messages come, while it may still send some."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Send no more messages, and say so; see `StreamInOut.send_eof`."""

    @abstractmethod
    async def aclose(self) -> None:
        """End this side; see `Stream.aclose`."""


class Stream(trio.abc.AsyncResource):
    """What every stream has, whichever way its messages go."""

    __slots__ = ("_port",)

    def __init__(self, port: Port) -> None:
        self._port = port

    @property
    def request(self) -> Request:
        """The request that the stream began with."""
        return self._port.request

    @property
    def ended(self) -> Ended | None:
        """Who ended the stream, and why; None while it is open.

        In a handler's ``finally`` it is set when the peer or the runtime ended the stream. It is still
        None when the handler itself is ending it, by returning, by an exception or because a scope
        around it was cancelled: that is not over yet.
        """
        return self._port.ended

    @property
    def draining(self) -> trio.Event:
        """Set when the server begins to shut down: finish soon, before you are cancelled.

        A client's is set when the server says so, which takes the dialect ``streamrt.v1``.
        """
        return self._port.draining

    @property
    def positions(self) -> tuple[TopicPosition, ...]:
        """Where a client's stream is in the topics that it hears, also when it has ended.

        Give it to `Client.open` as `resume`, to go on from there with a new stream. Empty for a handler, and where the
        dialect ``streamrt.v1`` is not spoken.
        """
        return tuple(self._port.positions.values())

    @property
    def round_trip_time(self) -> float | None:
        """Seconds from the last heartbeat's ping to its answer.

        None before the first, which comes after `Limits.ping_interval`, and where the transport sends none.
        """
        return self._port.round_trip_time

    async def aclose(self) -> None:
        """End the stream from this side: what was sent still goes out, then Close 1000.

        A StreamIn handler only stops receiving, because its response comes when it returns. Leaving the handler, or the
        client's block, does the same as closing, so this is for ending a stream before that.
        """
        await self._port.aclose()


def port_of(stream: Stream) -> Port:
    """Return what a stream stands on."""
    return stream._port  # pyright: ignore[reportPrivateUsage] - it is ours, and not the handlers'


@final
class StreamIn(Stream, trio.abc.ReceiveChannel[In_co], Generic[In_co]):
    """A stream of messages that come in; iterate over it, or call `receive`.

    In an endpoint: messages from the client. In a client: the messages of a `StreamOut` endpoint.
    """

    __slots__ = ("_decode",)

    def __init__(self, port: Port, incoming: Codec[In_co]) -> None:
        super().__init__(port)
        self._decode = incoming.decode

    async def receive(self) -> In_co:
        """Wait for the next message.

        Raises:
            InvalidMessage: A message came that does not fit its type. You may go on receiving.
            trio.EndOfChannel: The other end has closed, or is gone, and everything that had arrived was
                received. A client gets the `APIError` instead when the server ended the stream with one.
            trio.ClosedResourceError: This end has closed the stream.
        """
        return self._decode(await self._port.receive())


@final
class StreamOut(Stream, trio.abc.SendChannel[Out_contra], Generic[Out_contra]):
    """A stream of messages that go out."""

    __slots__ = ("_encode",)

    def __init__(self, port: Port, outgoing: Codec[Out_contra]) -> None:
        super().__init__(port)
        self._encode = outgoing.encode

    async def send(self, value: Out_contra) -> None:
        """Send one message; wait when the peer does not read as fast.

        It returns when the message is on its way, not when it has arrived.

        Raises:
            EncodeError: The value does not fit its type. Nothing was sent.
            trio.BrokenResourceError: The other end has closed, or is gone.
            trio.ClosedResourceError: This end has closed the stream.
            ResourceExhausted: The peer has not read for `send_timeout`. The stream has been ended.
        """
        await self._port.send(Frame(self._encode(value)))


@final
class StreamInOut(Stream, trio.abc.ReceiveChannel[In_co], trio.abc.SendChannel[Out_contra], Generic[In_co, Out_contra]):
    """A stream of messages both ways, each at its own pace."""

    __slots__ = ("_decode", "_encode")

    def __init__(self, port: Port, incoming: Codec[In_co], outgoing: Codec[Out_contra]) -> None:
        super().__init__(port)
        self._decode = incoming.decode
        self._encode = outgoing.encode

    async def receive(self) -> In_co:
        """Wait for the next message; see `StreamIn.receive`."""
        return self._decode(await self._port.receive())

    async def send(self, value: Out_contra) -> None:
        """Send one message; see `StreamOut.send`."""
        await self._port.send(Frame(self._encode(value)))

    async def send_eof(self) -> None:
        """Say that no more messages come from this end, and go on receiving: the other end's loop over them ends.

        Only `aclose` may follow. To say it again does nothing.

        Raises:
            FailedPrecondition: The other end speaks ``encore-ws`` (`Request.dialect`), and cannot be told.
            trio.BrokenResourceError: The other end has closed, or is gone.
            trio.ClosedResourceError: This end has closed the stream.
        """
        await self._port.send_eof()


@final
class StreamOutWithResponse(Stream, trio.abc.SendChannel[Out_contra], Generic[Out_contra, Response_co]):
    """What the client of a `StreamIn` endpoint holds: messages out, then one response back."""

    __slots__ = ("_encode", "_response")

    def __init__(self, port: Port, outgoing: Codec[Out_contra], response: Codec[Response_co] | None) -> None:
        super().__init__(port)
        self._encode = outgoing.encode
        self._response = response

    async def send(self, value: Out_contra) -> None:
        """Send one message; see `StreamOut.send`."""
        await self._port.send(Frame(self._encode(value)))

    async def send_eof(self) -> None:
        """Say that no more messages come, as `response` does first; see `StreamInOut.send_eof`."""
        await self._port.send_eof()

    async def response(self) -> Response_co:
        """Say that no more messages come, and wait for the endpoint's response, or until it has ended well.

        Call it once. It ends when the stream does, so it never hangs on a server that is gone. Over ``encore-ws``
        there is no way to end one direction alone, so there the handler must know from the messages when it has
        them all.

        Raises:
            APIError: The endpoint ended with this error, or the connection was lost (`Unavailable`).
            DataLoss: The stream ended well, but without the response.
        """
        if self._port.half_closes:
            with suppress(trio.BrokenResourceError):  # it has ended, and `receive` knows better how
                await self._port.send_eof()
        try:
            payload = await self._port.receive()
        except trio.EndOfChannel:
            if self._response is None:
                return cast("Response_co", None)
            raise APIError.data_loss("the stream ended without its response") from None
        # An endpoint without a response sends nothing: the port takes no message from it.
        return cast("Codec[Response_co]", self._response).decode(payload)
