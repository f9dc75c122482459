"""An endpoint: one handler, and everything that is known of it before the first stream is opened."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar, cast, final, overload

import attrs
from attrs import frozen

from streamrt.wire.codec import Codec, codec

from .handshake import HandshakeSpec
from .limits import LimitOptions, Limits
from .path import PathTemplate
from .signature import Signature, read_signature, where
from .stream import Port, Stream, StreamIn, StreamInOut, StreamOut

H = TypeVar("H")
I = TypeVar("I")  # noqa: E741 - the field's letter for what comes in
M = TypeVar("M")
O = TypeVar("O")  # noqa: E741 - and for what goes out
R = TypeVar("R")


class EndpointOptions(LimitOptions, total=False):
    """What an endpoint may be declared with, besides the limits; see `Limits` for those.

    Args:
        expose: Reachable from outside. Default False: only from other handlers of the app.
        auth: Only for callers that the app's auth handler has let in. Default False.
        tags: Labels, for middleware and generated clients. Default: none.
        sensitive: Its payloads stay out of logs and traces. Default False.
    """

    expose: bool
    auth: bool
    tags: Sequence[str]
    sensitive: bool


@frozen(eq=False, kw_only=True)
class Endpoint(ABC):
    """What `@service.stream_in`, `.stream_out` and `.stream_in_out` make of a handler.

    It is still callable as the plain function, and it is the key that `Client.open` takes.

    Args:
        service: The name of its service.
        name: The name of the handler.
        template: Where it is found.
        expose: Whether it can be reached from outside the app.
        auth: Whether only callers with auth data reach it.
        tags: Its labels.
        sensitive: Whether its payloads stay out of logs and traces.
        handshake: How the handshake is read; None for a handler without one.
        incoming: The codec of the messages that come in; None when none do.
        outgoing: The codec of the messages that go out, or of the response; None when there is none.
        overrides: The limits that differ from the app's.
        handler: The plain function.
    """

    decorator: ClassVar[str]
    stream_type: ClassVar[type[Any]]
    disconnect_grace: ClassVar[float] = 5
    """Seconds that a handler has once its peer is gone, unless a limit says otherwise."""

    service: str
    name: str
    template: PathTemplate
    expose: bool
    auth: bool
    tags: tuple[str, ...]
    sensitive: bool
    handshake: HandshakeSpec[Any] | None
    incoming: Codec[Any] | None
    outgoing: Codec[Any] | None
    overrides: LimitOptions
    handler: Callable[..., Coroutine[Any, Any, Any]]

    @property
    def qualified_name(self) -> str:
        """``service.name``: how logs, metrics and errors call it."""
        return f"{self.service}.{self.name}"

    @property
    def path(self) -> str:
        """The path template, as it was declared."""
        return self.template.template

    @property
    def doc(self) -> str | None:
        """The handler's docstring, without its indentation."""
        return inspect.getdoc(self.handler)

    def limits(self, app_limits: Limits) -> Limits:
        """Return the limits of its streams: the app's, with its own in their place."""
        return attrs.evolve(app_limits, **self.overrides)

    @staticmethod
    @abstractmethod
    def directions(signature: Signature) -> tuple[Any, Any]:
        """Return the types of what comes in and of what goes out; None for nothing."""

    @abstractmethod
    def stream(self, port: Port) -> Stream:
        """Create the typed stream that the handler is given."""


@final
@frozen(eq=False, kw_only=True)
class StreamInEndpoint(Endpoint, Generic[H, M, R]):
    """An endpoint whose client sends messages, and may get one response."""

    decorator = "stream_in"
    stream_type = StreamIn

    @overload
    def __call__(self: StreamInEndpoint[None, M, R], stream: StreamIn[M], /) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, handshake: H, stream: StreamIn[M], /) -> Coroutine[Any, Any, R]: ...
    def __call__(self, *args: Any) -> Coroutine[Any, Any, R]:
        """Call the plain function."""
        return self.handler(*args)

    @staticmethod
    def directions(signature: Signature) -> tuple[Any, Any]:
        """Messages come in, the response goes out."""
        return signature.messages[0], signature.returns

    def stream(self, port: Port) -> StreamIn[M]:
        """Create the typed stream that the handler is given."""
        return StreamIn(port, cast("Codec[M]", self.incoming))


@final
@frozen(eq=False, kw_only=True)
class StreamOutEndpoint(Endpoint, Generic[H, M]):
    """An endpoint that sends messages to its client."""

    decorator = "stream_out"
    stream_type = StreamOut
    disconnect_grace: ClassVar[float] = 0
    """None at all: with the peer gone there is nobody left to write to."""

    @overload
    def __call__(self: StreamOutEndpoint[None, M], stream: StreamOut[M], /) -> Coroutine[Any, Any, None]: ...
    @overload
    def __call__(self, handshake: H, stream: StreamOut[M], /) -> Coroutine[Any, Any, None]: ...
    def __call__(self, *args: Any) -> Coroutine[Any, Any, None]:
        """Call the plain function."""
        return self.handler(*args)

    @staticmethod
    def directions(signature: Signature) -> tuple[Any, Any]:
        """Messages go out."""
        return None, signature.messages[0]

    def stream(self, port: Port) -> StreamOut[M]:
        """Create the typed stream that the handler is given."""
        return StreamOut(port, cast("Codec[M]", self.outgoing))


@final
@frozen(eq=False, kw_only=True)
class StreamInOutEndpoint(Endpoint, Generic[H, I, O]):
    """An endpoint that exchanges messages with its client."""

    decorator = "stream_in_out"
    stream_type = StreamInOut

    @overload
    def __call__(self: StreamInOutEndpoint[None, I, O], stream: StreamInOut[I, O], /) -> Coroutine[Any, Any, None]: ...
    @overload
    def __call__(self, handshake: H, stream: StreamInOut[I, O], /) -> Coroutine[Any, Any, None]: ...
    def __call__(self, *args: Any) -> Coroutine[Any, Any, None]:
        """Call the plain function."""
        return self.handler(*args)

    @staticmethod
    def directions(signature: Signature) -> tuple[Any, Any]:
        """Messages come in, and messages go out."""
        return signature.messages

    def stream(self, port: Port) -> StreamInOut[I, O]:
        """Create the typed stream that the handler is given."""
        return StreamInOut(port, cast("Codec[I]", self.incoming), cast("Codec[O]", self.outgoing))


def create_endpoint(
    endpoint_type: type[Endpoint],
    service: str,
    path: str | None,
    options: EndpointOptions,
    handler: Callable[..., Any],
) -> Endpoint:
    """Create the endpoint of a handler.

    Args:
        endpoint_type: Which of the three kinds.
        service: The name of its service.
        path: The path template; None for ``/<service>.<handler>``.
        options: What it was declared with.
        handler: The function.

    Raises:
        TypeError: The handler does not fit, or one of its types or options.
        ValueError: The path is malformed, or a limit makes no sense.
    """
    signature = read_signature(handler, endpoint_type.stream_type, endpoint_type.decorator)
    with told_at(where(handler)):
        return assemble_endpoint(
            endpoint_type, signature, handler, service=service, name=handler.__name__, path=path, options=options
        )


def assemble_endpoint(
    endpoint_type: type[Endpoint],
    signature: Signature,
    handler: Callable[..., Any],
    *,
    service: str,
    name: str,
    path: str | None,
    options: EndpointOptions,
) -> Endpoint:
    """Create an endpoint whose types are known; for the arguments and errors see `create_endpoint`."""
    incoming, outgoing = endpoint_type.directions(signature)
    template = PathTemplate.parse(f"/{service}.{name}" if path is None else path)
    overrides = _overrides(options)
    return endpoint_type(
        service=service,
        name=name,
        template=template,
        expose=options.get("expose", False),
        auth=options.get("auth", False),
        tags=_tags(options.get("tags", ())),
        sensitive=options.get("sensitive", False),
        handshake=_handshake(signature.handshake, template),
        incoming=None if incoming is None else codec(incoming),
        outgoing=None if outgoing is None else codec(outgoing),
        overrides=overrides,
        handler=handler,
    )


@contextmanager
def told_at(place: str) -> Generator[None]:
    """Put before what is wrong with a declaration where it is."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{place}: {error}") from error


def _handshake(handshake: type[Any] | None, template: PathTemplate) -> HandshakeSpec[Any] | None:
    if handshake is not None:
        return HandshakeSpec[Any].of(handshake, template.names, f"handshake of {template.template!r}")
    if template.names:
        names = ", ".join(map(repr, template.names))
        raise TypeError(
            f"the path has parameters ({names}), but the handler takes no handshake to put them in: "
            "write `async def f(handshake: Handshake, stream: ...)`"
        )
    return None


def _tags(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags is a list of labels, such as [{tags!r}], not {tags!r}")
    return tuple(tags)


def _overrides(options: EndpointOptions) -> LimitOptions:
    unknown = options.keys() - EndpointOptions.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"unknown option {min(unknown)!r}; there are {', '.join(sorted(EndpointOptions.__annotations__))}"
        )
    overrides: Any = {name: value for name, value in options.items() if name in LimitOptions.__annotations__}
    attrs.evolve(Limits(), **overrides)  # raises for what makes no sense
    return cast("LimitOptions", overrides)
