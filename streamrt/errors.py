"""What can go wrong, as the peer may see it: one table of codes, and a class for each.

    APIError
     +-- Canceled            +-- FailedPrecondition
     +-- Unknown             +-- Aborted
     +-- InvalidArgument     +-- OutOfRange
     |    +-- InvalidMessage +-- Unimplemented
     +-- DeadlineExceeded    +-- Internal
     +-- NotFound            +-- Unavailable
     +-- AlreadyExists       +-- DataLoss
     +-- PermissionDenied    +-- Unauthenticated
     +-- ResourceExhausted

The codes are gRPC's. Before the upgrade an error is an HTTP response; after it, a Close frame whose
code is 4000 + the HTTP status and whose reason is ``code: message``. ``internal`` is the exception to
both: it closes with 1011 and never shows its text, because that text was written for a log.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, cast, final

from attrs import field, frozen

Code: TypeAlias = Literal[
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
]
Details: TypeAlias = Mapping[str, Any]

MAX_REASON_BYTES = 123
"""A control frame carries 125 bytes (RFC 6455, 5.5), and the close code takes two of them."""


class CloseCode(enum.IntEnum):
    """The close codes of RFC 6455, section 7.4, and the IANA registry that streamrt itself uses."""

    DONE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005  # never on the wire: the peer's Close carried no code
    ABNORMAL = 1006  # never on the wire: the connection was lost without a Close
    INVALID_TEXT = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


@final
@frozen
class Ended:
    """Who ended a stream, and why.

    Args:
        by: ``"handler"`` the code that holds this end of the stream, by returning, raising or closing;
            ``"peer"`` the other end, by closing or vanishing; ``"runtime"`` streamrt, because of a
            limit, a broken protocol or a drain; ``"scope"`` the cancellation of a scope around it.
        code: The close code: what was sent, or what came. 1005 is a Close without a code, 1006 a
            connection that was lost without one.
        reason: The close reason, at most 123 bytes of UTF-8. Often empty.
    """

    by: Literal["handler", "peer", "runtime", "scope"]
    code: int = field(converter=int)
    reason: str = ""


CLASSES: dict[str, type[APIError]] = {}
"""The 16 classes by their code."""


class APIError(Exception):
    """An error with a code, meant for the other end of a stream.

    Raise one with the constructor of its code, catch one by the class of its code:

        raise APIError.not_found("no such room", details={"room": name})

        except APIError.NotFound as error: ...

    Args:
        message: Shown to the peer, except for ``internal``. Default: the code's own text.
        details: JSON values by name, for programs. They travel where there is room for them: in an
            HTTP refusal, and in the streamrt dialect.
        retry_after: Seconds after which it is worth trying again, if known.
    """

    code: ClassVar[Code]
    http_status: ClassVar[int]
    close_code: ClassVar[int]
    default_message: ClassVar[str]

    Canceled: ClassVar[type[Canceled]]
    Unknown: ClassVar[type[Unknown]]
    InvalidArgument: ClassVar[type[InvalidArgument]]
    DeadlineExceeded: ClassVar[type[DeadlineExceeded]]
    NotFound: ClassVar[type[NotFound]]
    AlreadyExists: ClassVar[type[AlreadyExists]]
    PermissionDenied: ClassVar[type[PermissionDenied]]
    ResourceExhausted: ClassVar[type[ResourceExhausted]]
    FailedPrecondition: ClassVar[type[FailedPrecondition]]
    Aborted: ClassVar[type[Aborted]]
    OutOfRange: ClassVar[type[OutOfRange]]
    Unimplemented: ClassVar[type[Unimplemented]]
    Internal: ClassVar[type[Internal]]
    Unavailable: ClassVar[type[Unavailable]]
    DataLoss: ClassVar[type[DataLoss]]
    Unauthenticated: ClassVar[type[Unauthenticated]]

    message: str
    details: Details | None
    retry_after: float | None

    def __init_subclass__(
        cls, *, code: Code | None = None, http_status: int = 0, message: str = "", **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if code is None:  # a subclass of one of the 16
            return
        cls.code = code
        cls.http_status = http_status
        cls.close_code = CloseCode.INTERNAL_ERROR.value if code == "internal" else 4000 + http_status
        cls.default_message = message
        CLASSES[code] = cls
        setattr(APIError, cls.__name__, cls)

    def __init__(
        self,
        message: str | None = None,
        *,
        details: Details | None = None,
        retry_after: float | None = None,
    ) -> None:
        if type(self) is APIError:
            raise TypeError("APIError has no code of its own: use APIError.not_found(...) or another of its 16")
        self.message = self.default_message if message is None else message
        self.details = details
        self.retry_after = retry_after
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def public(self) -> APIError:
        """Return the error as the peer may see it: itself, or for ``internal`` one without a text."""
        return self

    def reason(self) -> str:
        """Return the close reason, ``code: message``, cut to 123 bytes between two characters."""
        return truncate_reason(str(self.public()))

    def to_json(self) -> dict[str, Any]:
        """Return the body of an HTTP refusal; ``details`` is always there, ``None`` when there are none."""
        public = self.public()
        details = None if public.details is None else dict(public.details)
        return {"code": self.code, "message": public.message, "details": details}

    # One constructor per code, in gRPC's order. They are written out so that editors and type
    # checkers know the class of each.

    @staticmethod
    def canceled(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of an operation that its caller gave up. HTTP 499, Close 4499."""
        return Canceled(message, details=details)

    @staticmethod
    def unknown(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create an error of which nothing better is known. HTTP 500, Close 4500."""
        return Unknown(message, details=details)

    @staticmethod
    def invalid_argument(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of input that is wrong whatever the state. HTTP 400, Close 4400."""
        return InvalidArgument(message, details=details)

    @staticmethod
    def deadline_exceeded(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of an operation that took too long. HTTP 504, Close 4504."""
        return DeadlineExceeded(message, details=details)

    @staticmethod
    def not_found(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of something asked for that is not there. HTTP 404, Close 4404."""
        return NotFound(message, details=details)

    @staticmethod
    def already_exists(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of something to be made that is already there. HTTP 409, Close 4409."""
        return AlreadyExists(message, details=details)

    @staticmethod
    def permission_denied(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of a known caller who may not do this. HTTP 403, Close 4403."""
        return PermissionDenied(message, details=details)

    @staticmethod
    def resource_exhausted(
        message: str | None = None, *, details: Details | None = None, retry_after: float | None = None
    ) -> APIError:
        """Create the error of a quota or a queue that is full. HTTP 429, Close 4429."""
        return ResourceExhausted(message, details=details, retry_after=retry_after)

    @staticmethod
    def failed_precondition(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of a system that is not in the state this needs. HTTP 400, Close 4400."""
        return FailedPrecondition(message, details=details)

    @staticmethod
    def aborted(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of an operation that lost to a concurrent one. HTTP 409, Close 4409."""
        return Aborted(message, details=details)

    @staticmethod
    def out_of_range(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of a step past the valid range, such as the end. HTTP 400, Close 4400."""
        return OutOfRange(message, details=details)

    @staticmethod
    def unimplemented(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of something that is not supported here. HTTP 501, Close 4501."""
        return Unimplemented(message, details=details)

    @staticmethod
    def internal(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of a broken invariant; the peer never sees its text. HTTP 500, Close 1011."""
        return Internal(message, details=details)

    @staticmethod
    def unavailable(
        message: str | None = None, *, details: Details | None = None, retry_after: float | None = None
    ) -> APIError:
        """Create the error of a service that is down for now. HTTP 503, Close 4503."""
        return Unavailable(message, details=details, retry_after=retry_after)

    @staticmethod
    def data_loss(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of data that is gone for good. HTTP 500, Close 4500."""
        return DataLoss(message, details=details)

    @staticmethod
    def unauthenticated(message: str | None = None, *, details: Details | None = None) -> APIError:
        """Create the error of a caller who has not shown who they are. HTTP 401, Close 4401."""
        return Unauthenticated(message, details=details)


class Canceled(APIError, code="canceled", http_status=499, message="the operation was canceled"):
    """The operation was given up by its caller."""


class Unknown(APIError, code="unknown", http_status=500, message="an unknown error occurred"):
    """Something went wrong, and nothing better is known."""


class InvalidArgument(APIError, code="invalid_argument", http_status=400, message="the request is invalid"):
    """The input is wrong, whatever the state of the system."""


class DeadlineExceeded(APIError, code="deadline_exceeded", http_status=504, message="the operation timed out"):
    """The operation took too long."""


class NotFound(APIError, code="not_found", http_status=404, message="the requested resource was not found"):
    """What was asked for is not there."""


class AlreadyExists(APIError, code="already_exists", http_status=409, message="the resource already exists"):
    """What was to be made is already there."""


class PermissionDenied(
    APIError, code="permission_denied", http_status=403, message="the caller does not have permission to do this"
):
    """The caller is known, and may not do this."""


class ResourceExhausted(
    APIError, code="resource_exhausted", http_status=429, message="the resource has been exhausted"
):
    """A quota is used up, or a queue is full."""


class FailedPrecondition(
    APIError, code="failed_precondition", http_status=400, message="the system is not in the state that this needs"
):
    """The system is not in the state that this needs."""


class Aborted(APIError, code="aborted", http_status=409, message="the operation was aborted"):
    """The operation lost to a concurrent one."""


class OutOfRange(
    APIError, code="out_of_range", http_status=400, message="the operation was attempted past the valid range"
):
    """A step past the valid range, such as the end of a file."""


class Unimplemented(APIError, code="unimplemented", http_status=501, message="the operation is not implemented"):
    """Not implemented, or not supported here."""


class Internal(APIError, code="internal", http_status=500, message="an internal error occurred"):
    """An invariant is broken. The peer never sees the text."""

    def public(self) -> APIError:
        """Return the error without its text and details."""
        return Internal()


class Unavailable(APIError, code="unavailable", http_status=503, message="the service is currently unavailable"):
    """The service is down, for now."""


class DataLoss(APIError, code="data_loss", http_status=500, message="data was lost or corrupted"):
    """Data is lost or corrupt, for good."""


class Unauthenticated(
    APIError,
    code="unauthenticated",
    http_status=401,
    message="the request does not have valid authentication credentials",
):
    """The caller has not shown who they are."""


@final
@frozen
class Fault:
    """One thing that is wrong with a message.

    Args:
        path: Where, as a path into the JSON value: ``$.items[2].qty``; ``$`` is the value itself.
        message: What was expected there, and what came.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@final
class InvalidMessage(InvalidArgument):
    """A message that came does not fit its type; ``faults`` lists everything that is wrong with it."""

    faults: tuple[Fault, ...]

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(
            "; ".join(map(str, self.faults)),
            details={"faults": [{"path": fault.path, "message": fault.message} for fault in self.faults]},
        )


def truncate_reason(reason: str) -> str:
    """Cut a close reason to the 123 bytes that fit, between two characters."""
    encoded = reason.encode("utf-8", "replace")
    if len(encoded) <= MAX_REASON_BYTES:
        return encoded.decode()
    return encoded[:MAX_REASON_BYTES].decode("utf-8", "ignore")


# The code for an HTTP status that came without a JSON error, and for 4000 + that status.
_BY_STATUS: dict[int, type[APIError]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    409: Aborted,
    429: ResourceExhausted,
    499: Canceled,
    500: Unknown,
    501: Unimplemented,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}

# What the lifecycle codes mean to the side that receives them.
_BY_CLOSE_CODE: dict[int, tuple[type[APIError], str]] = {
    1001: (Unavailable, "the peer went away"),
    1002: (Internal, "the peer saw a protocol error"),
    1003: (InvalidArgument, "the peer takes no data of this kind"),
    1006: (Unavailable, "the connection was lost"),
    1007: (InvalidArgument, "the peer got text that is not UTF-8"),
    1008: (PermissionDenied, "the peer's policy forbids this"),
    1009: (ResourceExhausted, "a message was too big for the peer"),
    1011: (Internal, Internal.default_message),
    1012: (Unavailable, "the service is restarting"),
    1013: (Unavailable, "the service is overloaded"),
}


def error_from_close(code: int, reason: str) -> APIError | None:
    """Read the error back out of a Close frame; None when it says that all is well.

    Args:
        code: The close code; 1005 for a Close without one, 1006 for a lost connection.
        reason: The close reason; ``code: message`` when a streamrt server sent it.
    """
    if code in (CloseCode.DONE, CloseCode.NO_STATUS):
        return None
    name, colon, message = reason.partition(": ")
    named = CLASSES.get(name) if colon else None
    if named is not None and named.close_code == code:
        return named(message)
    if code in _BY_CLOSE_CODE:
        cls, text = _BY_CLOSE_CODE[code]
        return cls(reason or text)
    cls = _BY_STATUS.get(code - 4000, Unknown)
    return cls(reason or f"the peer closed with {code}")


def error_from_response(status: int, body: object, retry_after: float | None = None) -> APIError:
    """Read the error back out of an HTTP refusal.

    Args:
        status: The HTTP status.
        body: The decoded JSON body, or anything else when it was not ours.
        retry_after: Seconds, from the ``Retry-After`` header.
    """
    match body:
        case {"code": str(code), "message": str(message)} if code in CLASSES:
            details = cast("dict[str, Any]", body).get("details")
            return CLASSES[code](
                message,
                details=cast("Details", details) if isinstance(details, dict) else None,
                retry_after=retry_after,
            )
        case _:
            pass
    cls = _BY_STATUS.get(status, Unknown)
    return cls(f"the server refused the connection with HTTP {status}", retry_after=retry_after)
