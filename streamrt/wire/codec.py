"""Turn messages into JSON and back, strictly both ways.

The rules of this file, and of the three under it (``types``, ``scalars``, ``hooks``):

- Nothing is guessed: a string is no number, ``true`` is no integer, and ``null`` is only where the type
  says ``None``. What may be read may be written, and the other way round. Keys that are not known are
  ignored when they come, so that a peer can be newer than we are.
- Everything that is wrong with a message is said at once, each fault with its path.
- cattrs is the one door from plain JSON values to messages and back.
- msgspec reads and writes the text. Where it reads a type exactly as our hooks do, it also builds the
  objects, in a fifth of the time. When it refuses a message, the hooks have the word.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from types import NoneType
from typing import Any, Generic, TypeVar, Union, cast, final, get_origin
from uuid import UUID

import attrs
import msgspec

from streamrt.errors import Fault, InvalidMessage
from streamrt.wire.graph import FIELDS, Graph, name_of
from streamrt.wire.hooks import hook_in, hook_out
from streamrt.wire.scalars import Faults, Hook, Wrong

T = TypeVar("T")


@final
class EncodeError(ValueError):
    """A message that was to be sent does not fit the declared type: a bug on this side, not the peer's.

    Args:
        message_type: The declared type.
        faults: Everything that is wrong with the value.
    """

    faults: tuple[Fault, ...]

    def __init__(self, message_type: Any, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(f"not a valid {name_of(message_type)}: {'; '.join(map(str, self.faults))}")


@final
@attrs.frozen(eq=False)
class Codec(Generic[T]):
    """Encode and decode the messages of one type; get one from :func:`codec`.

    Args:
        type: The message type, as it was declared.
    """

    type: Any
    _structure: Hook = attrs.field(repr=False)
    _unstructure: Hook = attrs.field(repr=False)
    _decode_fast: Hook | None = attrs.field(repr=False)

    def encode(self, value: T) -> bytes:
        """Write a message as compact JSON in UTF-8.

        Raises:
            EncodeError: The value does not fit the declared type; the error lists all that is wrong, up to
                100 faults.
        """
        try:
            return _write(self._unstructure(value))
        except Wrong as wrong:
            faults = wrong.faults
        except RecursionError:
            faults = [("", _TOO_DEEP)]
        raise EncodeError(self.type, _public(faults))

    def decode(self, payload: str | bytes) -> T:
        """Read a message.

        Raises:
            InvalidMessage: The payload is not JSON, or does not fit the declared type, and nothing else
                is raised whatever the payload; the error lists all that is wrong, up to 100 faults.
        """
        try:
            # msgspec does not look into the strings that it skips: this finds what is not UTF-8 in them.
            text = payload if isinstance(payload, str) else payload.decode()
            if self._decode_fast is not None:
                try:
                    return cast("T", self._decode_fast(text))
                except Exception:  # noqa: BLE001, S110 - the hooks say what is wrong, or that nothing is
                    pass
            return cast("T", self._structure(_read(text)))
        except Wrong as wrong:
            faults = wrong.faults
        except RecursionError:
            faults = [("", _TOO_DEEP)]
        except (UnicodeEncodeError, UnicodeDecodeError) as error:
            faults = [("", f"not valid JSON: invalid UTF-8 ({error.reason} at {error.start})")]
        except msgspec.DecodeError as error:
            faults = [("", f"not valid JSON: {str(error).removeprefix('JSON is malformed: ')}")]
        raise InvalidMessage(_public(faults))


def codec(message_type: Any) -> Codec[Any]:
    """Return the codec of a message type; there is one for each type.

    Args:
        message_type: An attrs class, a dataclass or a TypedDict, or any type that their fields may have:
            scalars, containers, ``Literal``, Enums, unions that JSON can tell apart.

    Raises:
        TypeError: Messages of this type cannot be carried; says where in the type, why, and what to do.

    Example:
        codec(Say).encode(Say(text="hi"))  # b'{"text":"hi"}'
    """
    try:
        hash(message_type)
    except TypeError:  # Annotated, with metadata that cannot be hashed
        return _make(message_type)
    return _cached(message_type)


def _make(message_type: Any) -> Codec[Any]:
    graph = Graph(message_type)
    return Codec(message_type, hook_in(graph.root), hook_out(graph.root), _fast_decoder(graph))


_cached = lru_cache(maxsize=None)(_make)
# A subclass of str is all that the hooks let through that msgspec does not know.
_write = msgspec.json.Encoder(enc_hook=str.__str__).encode
# msgspec reads integers of any size; MessagePack has no more than 64 bits for one, so this finds the others.
_write_in_64_bits = msgspec.msgpack.Encoder().encode
# Without the hook a number such as 1e999 ends the reading, and leaves us without its path.
_read = msgspec.json.Decoder(float_hook=float).decode


_TOO_DEEP = "nested too deeply"

_MAX_FAULTS = 100
"""Faults that an error lists: more than anybody reads, and less than a hostile message could ask for."""


def _public(faults: Faults) -> list[Fault]:
    public = [Fault("$" + path, message) for path, message in faults[:_MAX_FAULTS]]
    if len(faults) > _MAX_FAULTS:
        public.append(Fault("$", f"and {len(faults) - _MAX_FAULTS} more faults"))
    return public


# --- The fast way in ---

_FAST_BLOCKS = frozenset(
    {NoneType, bool, int, float, str, datetime, date, UUID, list, tuple, set, frozenset, dict, ("key", str), Union}
)
"""What msgspec reads exactly as our hooks do. Not so: Decimal (from numbers as well), bytes (what base64 is),
Annotated (obeys msgspec.Meta), Any (integers of any size), abstract containers (other classes)."""


def _fast_decoder(graph: Graph) -> Hook | None:
    if not graph.blocks <= _FAST_BLOCKS or not all(_is_built_plainly(of) for of in graph.fields):
        return None
    try:
        decode = msgspec.json.Decoder(graph.root).decode
    except (TypeError, KeyError, NotImplementedError):  # such as a default that takes self
        return None
    if int not in graph.blocks:
        return decode

    def decode_with_integers(text: str) -> Any:
        value = decode(text)
        _write_in_64_bits(value)
        return value

    return decode_with_integers


def _is_built_plainly(resolved: Any) -> bool:
    """Tell whether setting the attributes, which is what msgspec does, is all that the constructor does."""
    cls: Any = get_origin(resolved) or resolved
    if [cls.__class__, cls.__new__] != [type, object.__new__]:
        return False
    own: dict[str, Any] = cls.__dict__
    if "__dataclass_params__" in own:
        plain = own["__dataclass_params__"].init and not hasattr(cls, "__post_init__")
        names = list(own["__dataclass_fields__"])
    elif "__attrs_attrs__" in own:
        made = attrs.inspect(cls)
        plain = made.added_init and not made.is_exception
        plain = plain and made.hashability is not attrs.ClassProps.Hashability.HASHABLE_CACHED
        plain = plain and not any(hasattr(cls, hook) for hook in ("__attrs_pre_init__", "__attrs_post_init__"))
        plain = plain and all(field.converter is field.validator is None for field in attrs.fields(cls))
        names = [field.name for field in attrs.fields(cls)]
    else:
        return False
    # msgspec has no aliases, and does not write names that begin with an underscore. A class variable
    # of dataclasses or a field with init=False is in names alone.
    public = [field.name for field in FIELDS[resolved] if field.name == field.alias and field.name[0] != "_"]
    return bool(plain) and names == public
