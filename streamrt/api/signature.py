"""Reading a handler's annotations: which stream it takes, what its handshake is, what it returns.

Everything wrong is a `TypeError` at import that names the handler and its place, says what was
expected and what is there.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, final

from attrs import frozen

from .stream import StreamIn, StreamInOut, StreamOut

SHAPES: dict[type[Any], str] = {
    StreamIn: "StreamIn[Message]",
    StreamOut: "StreamOut[Message]",
    StreamInOut: "StreamInOut[In, Out]",
}


@final
@frozen
class Signature:
    """What a handler's annotations say.

    Args:
        handshake: The handshake class, or None for a handler that takes only a stream.
        messages: The types in the stream's brackets.
        returns: The return type; None for nothing.
    """

    handshake: type[Any] | None
    messages: tuple[Any, ...]
    returns: Any


def read_signature(handler: Callable[..., Any], stream_type: type[Any], decorator: str) -> Signature:
    """Read the signature of a handler that is declared with a decorator.

    Args:
        handler: The function.
        stream_type: The stream class that the decorator is for.
        decorator: The decorator's name, for errors.

    Raises:
        TypeError: The handler does not fit.
    """
    expected = f"`async def {{}}([handshake: Handshake, ]stream: {SHAPES[stream_type]})`"

    def misfit(what: str) -> TypeError:
        name = getattr(handler, "__name__", "handler")
        return TypeError(f"{where(handler)}: @{decorator} needs {expected.format(name)}, but {what}")

    if inspect.isasyncgenfunction(handler):
        raise misfit("this is an async generator: send with `await stream.send(...)`, and do not yield")
    if not inspect.iscoroutinefunction(handler):
        raise misfit("this is not an `async def` function")
    hints = resolve_hints(handler)
    parameters = list(inspect.signature(handler).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not 1 <= len(positional) == len(parameters) <= 2:
        raise misfit(f"this takes {show_parameters(handler)}")
    missing = next((p.name for p in parameters if p.name not in hints), None)
    if missing is not None:
        raise misfit(f"the parameter {missing!r} has no annotation")
    stream = hints[parameters[-1].name]
    origin = typing.get_origin(stream) or stream
    if origin is not stream_type:
        raise misfit(f"the parameter {parameters[-1].name!r} is {show(stream)}")
    if origin is stream:
        raise misfit(f"{show(stream)} does not say which messages: write {SHAPES[stream_type]}")
    handshake = hints[parameters[0].name] if len(parameters) == 2 else None
    if handshake is not None and not isinstance(handshake, type):
        raise misfit(f"the handshake is {show(handshake)}, which is not a class")
    returns = hints.get("return")
    returns = None if returns is type(None) else returns
    if returns is not None and stream_type is not StreamIn:
        raise misfit(f"it returns {show(returns)}: only a @stream_in handler has a response")
    return Signature(handshake, typing.get_args(stream), returns)


def resolve_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's annotations, resolved.

    Raises:
        TypeError: A name in them cannot be found, or they are no types.
    """
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{where(function)}: the annotation {error.name!r} cannot be resolved. Types of messages and "
            "handshakes belong at the top level of a module, not inside a function or under `if TYPE_CHECKING:`"
        ) from error
    except (TypeError, AttributeError, SyntaxError) as error:
        raise TypeError(f"{where(function)}: an annotation cannot be read: {error}") from error


def where(function: Callable[..., Any]) -> str:
    """Return a function's name and place, for errors: ``chat.app.chat (chat/app.py:12)``."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(function)
    return f"{function.__module__}.{function.__qualname__} ({code.co_filename}:{code.co_firstlineno})"


def show_parameters(function: Callable[..., Any]) -> str:
    """Return the parameters of a function, without their types: ``(handshake, stream)``."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def show(annotation: Any) -> str:
    """Return a type as its author wrote it, or nearly."""
    return inspect.formatannotation(annotation)
