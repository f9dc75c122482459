"""Declaring services and apps: what is understood, and what is refused at import, with the words a newcomer reads.

The annotations here are texts, as they are in a user's module: that is the harder case.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from attrs import frozen

from streamrt import (
    App,
    Deflate,
    Header,
    Limits,
    Request,
    Service,
    StreamIn,
    StreamInOut,
    StreamOut,
    get_auth_data,
    get_resources,
)
from streamrt.api import context

if TYPE_CHECKING:
    from collections import UserString as Hidden


@frozen
class Say:
    text: str


@frozen
class Done:
    count: int


@frozen
class Join:
    room: str


@frozen
class Unsendable:
    number: complex


@frozen
class Credentials:
    token: Annotated[str, Header()]


Declare = Callable[[Service], object]


def refusal_of(declare: Declare, error_type: type[Exception] = TypeError) -> str:
    """The message of the error that declaring an endpoint ends in, behind the handler's name and place."""
    with pytest.raises(error_type) as caught:
        declare(Service("chat"))
    place, message = re.fullmatch(r"(.*?\(.*?test_declaring\.py:\d+\)): (.*)", str(caught.value), re.DOTALL).groups()  # type: ignore[union-attr]
    assert place.startswith(f"{__name__}.")
    return message


# What is understood


def test_the_path_is_service_and_handler_unless_it_is_given() -> None:
    api = Service("chat")

    @api.stream_in()
    async def upload(stream: StreamIn[Say]) -> None: ...

    @api.stream_out("/rooms/{room}/log")
    async def log(join: Join, stream: StreamOut[Say]) -> None: ...

    assert [(endpoint.qualified_name, endpoint.path) for endpoint in api.endpoints] == [
        ("chat.upload", "/chat.upload"),
        ("chat.log", "/rooms/{room}/log"),
    ]
    assert repr(api) == "<Service chat: upload, log>"


def test_a_service_may_be_empty() -> None:
    assert Service("chat").endpoints == ()
    assert repr(Service("chat")) == "<Service chat: no endpoints>"


def test_a_handler_may_take_only_a_stream() -> None:
    @Service("chat").stream_in_out()
    async def talk(stream: StreamInOut[Say, Done]) -> None: ...

    assert talk.handshake is None
    assert talk.incoming is not None
    assert talk.outgoing is not None
    assert (talk.incoming.type, talk.outgoing.type) == (Say, Done)


def test_a_handler_may_take_a_handshake_before_the_stream() -> None:
    @Service("chat").stream_out("/rooms/{room}")
    async def listen(join: Join, stream: StreamOut[Say]) -> None: ...

    assert listen.handshake is not None
    assert [(field.name, field.source) for field in listen.handshake.fields] == [("room", "path")]
    assert listen.incoming is None


def test_a_stream_in_handler_may_have_a_response() -> None:
    @Service("chat").stream_in()
    async def upload(stream: StreamIn[Say]) -> Done:
        return Done(0)

    assert upload.outgoing is not None
    assert upload.outgoing.type is Done


def test_a_stream_in_handler_may_have_no_response() -> None:
    api = Service("chat")

    @api.stream_in()
    async def says_none(stream: StreamIn[Say]) -> None: ...

    @api.stream_in()
    async def says_nothing(stream: StreamIn[Say]): ...  # type: ignore[no-untyped-def]

    assert [endpoint.outgoing for endpoint in api.endpoints] == [None, None]


def test_the_docstring_is_kept_without_its_indentation() -> None:
    @Service("chat").stream_in()
    async def upload(stream: StreamIn[Say]) -> None:
        """Say a lot.

        Line by line.
        """

    assert upload.doc == "Say a lot.\n\nLine by line."


async def test_an_endpoint_is_still_callable_as_the_plain_function() -> None:
    api = Service("chat")
    given: list[object] = []

    @api.stream_in()
    async def upload(stream: StreamIn[Say]) -> Done:
        given.append(stream)
        return Done(1)

    @api.stream_out("/{room}")
    async def listen(join: Join, stream: StreamOut[Say]) -> None:
        given.extend((join, stream))

    @api.stream_in_out()
    async def talk(stream: StreamInOut[Say, Say]) -> None:
        given.append(stream)

    one: Any = object()
    assert await upload(one) == Done(1)
    await listen(Join("lobby"), one)
    await talk(one)
    assert given == [one, Join("lobby"), one, one]


def test_options_are_kept_and_default_to_the_careful_ones() -> None:
    api = Service("chat")

    @api.stream_in()
    async def plain(stream: StreamIn[Say]) -> None: ...

    @api.stream_in(expose=True, auth=True, tags=["admin"], sensitive=True)
    async def special(stream: StreamIn[Say]) -> None: ...

    assert [(e.expose, e.auth, e.tags, e.sensitive) for e in api.endpoints] == [
        (False, False, (), False),
        (True, True, ("admin",), True),
    ]


def test_an_endpoint_has_the_apps_limits_with_its_own_in_their_place() -> None:
    @Service("chat").stream_in(max_message_bytes=100, disconnect_grace=0, allowed_origins=["https://example.org"])
    async def upload(stream: StreamIn[Say]) -> None: ...

    limits = upload.limits(Limits(max_message_bytes=200, send_timeout=1))
    assert limits == Limits(
        max_message_bytes=100, send_timeout=1, disconnect_grace=0, allowed_origins=("https://example.org",)
    )


# Handlers that do not fit their decorator


def with_another_stream(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    async def upload(stream: StreamOut[Say]) -> None: ...

    return upload


def that_is_not_async(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    def upload(stream: StreamIn[Say]) -> None: ...

    return upload


def that_is_a_generator(api: Service) -> object:
    @api.stream_out()
    async def listen(stream: StreamOut[Say]) -> Any:
        yield Say("hello")

    return listen


def without_annotation(api: Service) -> object:
    @api.stream_out()
    async def listen(stream) -> None: ...  # type: ignore[no-untyped-def]

    return listen


def without_annotation_of_the_handshake(api: Service) -> object:
    @api.stream_out()
    async def listen(join, stream: StreamOut[Say]) -> None: ...  # type: ignore[no-untyped-def]

    return listen


def with_a_bare_stream(api: Service) -> object:
    @api.stream_in()
    async def upload(stream: StreamIn) -> None: ...  # type: ignore[type-arg]

    return upload


def with_one_type_of_two(api: Service) -> object:
    @api.stream_in_out()
    async def talk(stream: StreamInOut[Say]) -> None: ...  # type: ignore[type-arg]

    return talk


def without_parameters(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    async def upload() -> None: ...

    return upload


def with_too_many_parameters(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    async def upload(join: Join, say: Say, stream: StreamIn[Say]) -> None: ...

    return upload


def with_a_keyword(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    async def upload(*, stream: StreamIn[Say]) -> None: ...

    return upload


def with_the_stream_first(api: Service) -> object:
    @api.stream_in()  # type: ignore[arg-type]
    async def upload(stream: StreamIn[Say], join: Join) -> None: ...

    return upload


def with_a_handshake_that_is_no_class(api: Service) -> object:
    @api.stream_in()
    async def upload(join: Join | None, stream: StreamIn[Say]) -> None: ...

    return upload


def with_a_return_type(api: Service) -> object:
    @api.stream_out()  # type: ignore[arg-type]
    async def listen(stream: StreamOut[Say]) -> Done: ...  # type: ignore[empty-body]

    return listen


NEEDS_UPLOAD = "@stream_in needs `async def upload([handshake: Handshake, ]stream: StreamIn[Message])`, but "
NEEDS_LISTEN = "@stream_out needs `async def listen([handshake: Handshake, ]stream: StreamOut[Message])`, but "


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (with_another_stream, f"{NEEDS_UPLOAD}the parameter 'stream' is streamrt.StreamOut[{__name__}.Say]"),
        (that_is_not_async, f"{NEEDS_UPLOAD}this is not an `async def` function"),
        (
            that_is_a_generator,
            f"{NEEDS_LISTEN}this is an async generator: send with `await stream.send(...)`, and do not yield",
        ),
        (without_annotation, f"{NEEDS_LISTEN}the parameter 'stream' has no annotation"),
        (without_annotation_of_the_handshake, f"{NEEDS_LISTEN}the parameter 'join' has no annotation"),
        (
            with_a_bare_stream,
            f"{NEEDS_UPLOAD}streamrt.StreamIn does not say which messages: write StreamIn[Message]",
        ),
        (without_parameters, f"{NEEDS_UPLOAD}this takes ()"),
        (with_too_many_parameters, f"{NEEDS_UPLOAD}this takes (join, say, stream)"),
        (with_a_keyword, f"{NEEDS_UPLOAD}this takes (*, stream)"),
        (with_the_stream_first, f"{NEEDS_UPLOAD}the parameter 'join' is {__name__}.Join"),
        (
            with_a_handshake_that_is_no_class,
            f"{NEEDS_UPLOAD}the handshake is {__name__}.Join | None, which is not a class",
        ),
        (with_a_return_type, f"{NEEDS_LISTEN}it returns {__name__}.Done: only a @stream_in handler has a response"),
    ],
)
def test_a_handler_that_does_not_fit_is_told_what_was_expected(declare: Declare, message: str) -> None:
    assert refusal_of(declare) == message


def test_a_stream_with_too_few_types_is_told_so() -> None:
    message = refusal_of(with_one_type_of_two)
    assert message.startswith("an annotation cannot be read: Too few arguments for <class 'streamrt.StreamInOut'>")


def test_what_is_no_function_is_named_as_it_is() -> None:
    declare: Any = Service("chat").stream_in()
    with pytest.raises(TypeError, match=r"^3: @stream_in needs .*, but this is not an `async def` function$"):
        declare(3)


def test_a_decorator_without_its_parentheses_is_noticed() -> None:
    def declare(api: Service) -> object:
        decorator: Any = api.stream_out

        @decorator  # type: ignore[untyped-decorator]
        async def listen(stream: StreamOut[Say]) -> None: ...

        return listen

    expected = "write @stream_out() or @stream_out(path), not @stream_out without its parentheses"
    assert refusal_of(declare) == expected


# Types that cannot be found, or cannot travel


def with_a_local_type(api: Service) -> object:
    @frozen
    class Local:
        text: str

    @api.stream_out()
    async def listen(stream: StreamOut[Local]) -> None: ...

    return listen


def with_a_type_for_the_type_checker(api: Service) -> object:
    @api.stream_out()
    async def listen(stream: StreamOut[Hidden]) -> None: ...

    return listen


@pytest.mark.parametrize(
    ("declare", "name"), [(with_a_local_type, "Local"), (with_a_type_for_the_type_checker, "Hidden")]
)
def test_types_that_cannot_be_found_are_told_where_to_go(declare: Declare, name: str) -> None:
    assert refusal_of(declare) == (
        f"the annotation {name!r} cannot be resolved. Types of messages and handshakes belong at the top level of "
        "a module, not inside a function or under `if TYPE_CHECKING:`"
    )


def with_an_unsendable_message_in(api: Service) -> object:
    @api.stream_in()
    async def upload(stream: StreamIn[Unsendable]) -> None: ...

    return upload


def with_an_unsendable_message_out(api: Service) -> object:
    @api.stream_in_out()
    async def talk(stream: StreamInOut[Say, Unsendable]) -> None: ...

    return talk


def with_an_unsendable_response(api: Service) -> object:
    @api.stream_in()
    async def upload(stream: StreamIn[Say]) -> Unsendable: ...  # type: ignore[empty-body]

    return upload


@pytest.mark.parametrize(
    "declare", [with_an_unsendable_message_in, with_an_unsendable_message_out, with_an_unsendable_response]
)
def test_a_message_that_cannot_be_encoded_is_refused_by_its_field(declare: Declare) -> None:
    assert "Unsendable.number: complex" in refusal_of(declare)


# Paths and handshakes


def test_a_path_parameter_needs_a_field_of_the_handshake() -> None:
    def declare(api: Service) -> object:
        @api.stream_out("/rooms/{id}")
        async def listen(join: Join, stream: StreamOut[Say]) -> None: ...

        return listen

    expected = "handshake of '/rooms/{id}': Join has no field for the path parameter 'id': add `id: str`"
    assert refusal_of(declare) == expected


def test_a_path_parameter_needs_a_handshake() -> None:
    def declare(api: Service) -> object:
        @api.stream_out("/rooms/{room}/{day}")
        async def listen(stream: StreamOut[Say]) -> None: ...

        return listen

    assert refusal_of(declare) == (
        "the path has parameters ('room', 'day'), but the handler takes no handshake to put them in: "
        "write `async def f(handshake: Handshake, stream: ...)`"
    )


def test_a_handshake_needs_fields() -> None:
    def declare(api: Service) -> object:
        @api.stream_out("/rooms/{room}")
        async def listen(room: str, stream: StreamOut[Say]) -> None: ...

        return listen

    expected = "handshake of '/rooms/{room}': str is not a class with fields: decorate it with attrs.frozen"
    assert refusal_of(declare) == expected


def test_a_malformed_path_is_refused() -> None:
    def declare(api: Service) -> object:
        @api.stream_out("rooms")
        async def listen(stream: StreamOut[Say]) -> None: ...

        return listen

    assert refusal_of(declare, ValueError) == "path template 'rooms': it must start with '/'"


def test_two_endpoints_of_a_service_on_one_path_are_both_named() -> None:
    def declare(api: Service) -> object:
        @api.stream_out("/rooms")
        async def other(stream: StreamOut[Say]) -> None: ...

        @api.stream_out("/logs")
        async def listen(stream: StreamOut[Say]) -> None: ...

        @api.stream_in("/logs/")
        async def upload(stream: StreamIn[Say]) -> None: ...

        return other, listen, upload

    message = refusal_of(declare, ValueError)
    assert message.startswith(f"'/logs/' matches the same paths as '/logs' of {__name__}.test_two_endpoints_of_a_se")
    assert ".listen (" in message


def listening(api: Service, path: str | None = None, **options: Any) -> Service:
    """The service, with one more endpoint that sends."""

    @api.stream_out(path, **options)
    async def listen(stream: StreamOut[Say]) -> None: ...

    return api


def test_two_endpoints_of_an_app_on_one_path_are_both_named() -> None:
    with pytest.raises(ValueError, match=r"listen \(.*\): '/logs' matches the same paths as '/logs' of .*listen \("):
        App(listening(Service("one"), "/logs"), listening(Service("two"), "/logs"))


def test_two_endpoints_with_one_name_are_refused() -> None:
    api = listening(Service("chat"), "/one")
    with pytest.raises(ValueError, match=r"listen \(.*\): the service 'chat' already has an endpoint 'listen'$"):
        listening(api, "/two")
    assert [endpoint.path for endpoint in api.endpoints] == ["/one"]


@pytest.mark.parametrize("name", ["", "my chat", "1st", "chat.rooms", "чат", "chat\n"])
def test_a_bad_service_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a service's name is letters, digits, '-' and '_', and begins with a letter"):
        Service(name)


# Options and limits


def test_an_unknown_option_is_told_those_that_there_are() -> None:
    message = refusal_of(lambda api: listening(api, exposed=True))
    assert message.startswith("unknown option 'exposed'; there are allowed_origins, auth, close_timeout,")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"send_timeout": 0}, "send_timeout must be seconds, more than 0, not 0"),
        ({"close_timeout": "5"}, "close_timeout must be seconds, more than 0, not '5'"),
        ({"handshake_timeout": float("nan")}, "handshake_timeout must be seconds, more than 0, not nan"),
        ({"send_timeout": True}, "send_timeout must be seconds, more than 0, not True"),
        ({"send_timeout": None}, "send_timeout must be seconds, more than 0, not None"),
        ({"disconnect_grace": -1}, "disconnect_grace must be seconds, 0 or more, not -1"),
        ({"ping_interval": 0}, "ping_interval must be seconds, more than 0, not 0"),
        ({"ping_timeout": None}, "ping_timeout must be seconds, more than 0, not None"),
        ({"max_message_bytes": 0}, "max_message_bytes must be a whole number, 1 or more, not 0"),
        ({"max_message_bytes": "1 MiB"}, "max_message_bytes must be a whole number, 1 or more, not '1 MiB'"),
        ({"receive_messages": 1.5}, "receive_messages must be a whole number, 1 or more, not 1.5"),
        (
            {"allowed_origins": ["https://example.org/"]},
            "allowed_origins holds 'https://example.org/': an origin is like 'https://example.org', or '*'",
        ),
        (
            {"allowed_origins": ["example.org"]},
            "allowed_origins holds 'example.org': an origin is like 'https://example.org', or '*'",
        ),
    ],
)
def test_an_impossible_limit_is_refused(limit: dict[str, Any], message: str) -> None:
    assert refusal_of(lambda api: listening(api, **limit), ValueError) == message
    with pytest.raises(ValueError, match=re.escape(message)):
        Limits(**limit)


@pytest.mark.parametrize("origins", ["https://example.org", "*"])
def test_one_text_is_no_list_of_origins(origins: str) -> None:
    message = refusal_of(lambda api: listening(api, allowed_origins=origins))
    assert message == f"allowed_origins is a list, such as [{origins!r}], not {origins!r}"


def test_one_text_is_no_list_of_tags() -> None:
    assert (
        refusal_of(lambda api: listening(api, tags="admin"))
        == "tags is a list of labels, such as ['admin'], not 'admin'"
    )


def test_compression_says_how() -> None:
    message = refusal_of(lambda api: listening(api, compression=True))
    assert message == "compression must be a streamrt.Deflate, or None, not True"
    assert Limits(compression=Deflate()).compression == Deflate(window_bits=12, memory_level=5, threshold=256)


def test_there_need_be_no_heartbeat() -> None:
    assert Limits(ping_interval=None).ping_interval is None


def test_limits_may_be_endless() -> None:
    limits = Limits(send_timeout=float("inf"), max_streams=None, max_streams_per_peer=3, allowed_origins=["*"])
    assert (limits.send_timeout, limits.max_streams_per_peer, limits.allowed_origins) == (float("inf"), 3, ("*",))


def test_streams_are_counted_by_the_app_alone() -> None:
    assert refusal_of(lambda api: listening(api, max_streams=1)).startswith("unknown option 'max_streams'")


# Apps


def test_an_app_is_made_of_services() -> None:
    one, two = Service("one"), Service("two")
    assert App(one, two).services == (one, two)
    services: Any = [one, two]
    with pytest.raises(TypeError, match=r"an app is made of services, App\(one, another\), not of \[<Service one"):
        App(services)


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two services are named 'chat'"):
        App(Service("chat"), Service("other"), Service("chat"))


def test_auth_needs_an_auth_handler() -> None:
    with pytest.raises(
        ValueError, match=r"listen \(.*\) is declared with auth=True, but the app has no auth handler: "
    ):
        App(listening(Service("chat"), auth=True))


async def authenticate(credentials: Credentials) -> str:
    return credentials.token


def test_an_auth_handler_takes_credentials() -> None:
    handler = App(listening(Service("chat"), auth=True), auth_handler=authenticate).host.admission.auth_handler
    assert handler is not None
    assert handler.authenticate is authenticate
    assert [(field.source, field.wire_name) for field in handler.credentials.fields] == [("header", "token")]


def not_async(credentials: Credentials) -> str: ...  # type: ignore[empty-body]
async def without_credentials() -> str: ...  # type: ignore[empty-body]
async def with_more(credentials: Credentials, more: int) -> str: ...  # type: ignore[empty-body]
async def unannotated(credentials) -> str: ...  # type: ignore[no-untyped-def, empty-body]
async def no_class(credentials: Credentials | None) -> str: ...  # type: ignore[empty-body]
async def no_fields(credentials: str) -> str: ...  # type: ignore[empty-body]
async def unreadable(credentials: Unsendable) -> str: ...  # type: ignore[empty-body]
async def unresolvable(credentials: Hidden) -> str: ...  # type: ignore[empty-body]


NEEDS = "an auth handler is `async def authenticate(credentials: Credentials) -> User`, but "


@pytest.mark.parametrize(
    ("auth_handler", "message"),
    [
        (not_async, f"{NEEDS}this is not an `async def` function"),
        (without_credentials, f"{NEEDS}this takes ()"),
        (with_more, f"{NEEDS}this takes (credentials, more)"),
        (unannotated, f"{NEEDS}the parameter 'credentials' has no annotation"),
        (no_class, f"{NEEDS}the parameter 'credentials' is {__name__}.Credentials | None, which is not a class"),
        (no_fields, "credentials: str is not a class with fields: decorate it with attrs.frozen"),
        (unreadable, "credentials: Unsendable.number: type complex is not allowed; allowed are str, int,"),
        (unresolvable, "the annotation 'Hidden' cannot be resolved."),
    ],
)
def test_an_auth_handler_of_the_wrong_shape_is_refused(auth_handler: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        App(auth_handler=auth_handler)
    place = f"{__name__}.{auth_handler.__name__} ({__file__}:{inspect.getsourcelines(auth_handler)[1]}): "
    assert str(caught.value).startswith(place + message)


# What a handler can ask for


def test_auth_data_is_given_as_what_it_is() -> None:
    token = context.auth_data.set(Done(3))
    try:
        assert get_auth_data(Done) == Done(3)
        with pytest.raises(TypeError, match="the auth handler returned Done, not Say"):
            get_auth_data(Say)
    finally:
        context.auth_data.reset(token)


def test_without_auth_data_the_error_says_how_to_get_some() -> None:
    with pytest.raises(LookupError, match="Declare the endpoint with auth=True to let only callers in that have Say"):
        get_auth_data(Say)


def test_resources_are_given_as_what_they_are() -> None:
    token = context.resources.set(Done(3))
    try:
        assert get_resources(Done) == Done(3)
        with pytest.raises(TypeError, match="the app's lifespan yielded Done, not Say"):
            get_resources(Say)
    finally:
        context.resources.reset(token)


def test_without_resources_the_error_says_how_to_get_some() -> None:
    with pytest.raises(LookupError, match="there are no resources: give the app a lifespan that yields Say"):
        get_resources(Say)


def test_a_request_reads_its_query_and_headers() -> None:
    request = Request(
        path="/rooms/a%20b",
        query_string="x=1&y=%20&x=2&z=",
        headers=[("accept", "one"), ("accept", "two")],
        endpoint="chat.talk",
        connection_id=7,
        transport="memory",
    )
    assert request.query == [("x", "1"), ("y", " "), ("x", "2"), ("z", "")]
    assert request.header("Accept") == "one"
    assert request.header("cookie") is None


def test_a_request_does_not_show_its_credentials() -> None:
    request = Request(
        path="/",
        query_string="token=s3cret",
        headers=[("authorization", "s3cret")],
        endpoint="chat.talk",
        connection_id=7,
        transport="memory",
    )
    assert "s3cret" not in repr(request)
