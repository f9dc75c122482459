"""The command line: run an app, list its streams, talk to one, write clients of it.

An error that the user can do something about is one line on standard error and exit code 1, never a
traceback. SIGINT ends a command quietly, with the 130 of shells, which cyclopts sees to; so does a reader
of its output that goes away.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, TypeAlias

from cyclopts import App as Commands
from cyclopts import CycloptsError, Parameter

from .call import call_stream
from .errors import CommandError
from .gen import TargetLanguage, gen_client, gen_schema
from .load import load_app
from .routes import print_routes
from .run import BROKER, connected, run_app, run_reloading
from .workers import run_workers

commands: Commands = Commands(
    name="streamrt", help="Typed streaming APIs on Trio.", default_parameter=Parameter(negative=())
)


@commands.command
def run(
    app: str,
    /,
    *,
    bind: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    reload: bool = False,
    drain: float = 10,
    workers: int = 1,
    broker: Annotated[str | None, Parameter(env_var=BROKER)] = None,
) -> None:
    """Serve an app until SIGINT or SIGTERM.

    Args:
        app: Where it is: MODULE:NAME.
        bind: HOST:PORT; give it several times for several. Default: 127.0.0.1:8000.
        reload: Start again when a file below the working directory changes.
        drain: Seconds that open streams have to end on shutdown.
        workers: Processes that serve it together. More than one need a broker, if the app has topics or users.
        broker: URL of what connects its topics with those of other processes, redis://localhost:6379. Default: the
            app's own.
    """
    addresses = ["127.0.0.1:8000"] if bind is None else bind
    if workers < 1:
        raise CommandError(f"--workers is 1 or more, not {workers}")
    if reload and workers > 1:
        raise CommandError("--reload serves with one process, and --workers with several")
    if reload:
        run_reloading(app, addresses, drain, broker)
    elif workers > 1:
        run_workers(app, addresses, drain, workers, broker)
    else:
        run_app(connected(load_app(app), broker), addresses, drain)


@commands.command
def routes(app: str, /) -> None:
    """List the streams of an app.

    Args:
        app: Where it is: MODULE:NAME.
    """
    print_routes(load_app(app))


@commands.command
def call(
    url: str,
    /,
    *,
    query: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    header: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    wait: float | None = None,
) -> None:
    """Talk to a stream: each line of input is sent as JSON, and what arrives is printed, a line each.

    At the end of the input the server is told that no more comes, and may go on until it has ended the stream. One
    that speaks encore-ws cannot be told: there a terminal closes the stream, and a pipe waits all the same.

    Args:
        url: Of the stream: ws://localhost:8000/chat?room=lobby.
        query: NAME=VALUE, added to the query; may be given several times.
        header: NAME=VALUE, sent as a header; may be given several times.
        wait: Seconds to wait at most for the server to end the stream, once the input has ended.
    """
    call_stream(url, query or [], header or [], wait)


gen: Commands = Commands(name="gen", help="Write clients, or a schema, from what an app declares.")
commands.command(gen)

Output: TypeAlias = Annotated[str, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]


@gen.command(name="client")
def client(
    app: str,
    /,
    *,
    lang: TargetLanguage,
    output: Output,
    service: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    tag: Annotated[list[str] | None, Parameter(consume_multiple=False)] = None,
    check: bool = False,
) -> None:
    """Write a client: one file, for browsers and Node, for asyncio with `websockets`, or for streamrt's own client.

    Args:
        app: Where it is: MODULE:NAME.
        lang: Its language; a JavaScript client has a file of types beside it.
        output: Where to write it; - is standard output.
        service: Only this service; may be given several times.
        tag: Only endpoints with this tag; may be given several times.
        check: Write nothing, and fail when the file is not what would be written.
    """
    gen_client(app, lang, output, service or [], tag or [], check=check)


@gen.command(name="schema")
def schema(app: str, /, *, output: Output = "-", check: bool = False) -> None:
    """Write the JSON Schema of all types that exposed endpoints take and send.

    Args:
        app: Where it is: MODULE:NAME.
        output: Where to write it. Default: standard output.
        check: Write nothing, and fail when the file is not what would be written.
    """
    gen_schema(app, output, check=check)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the entry point of ``streamrt``."""
    try:
        commands(arguments, exit_on_error=False, print_error=False)
    except (CommandError, CycloptsError) as error:
        print(f"streamrt: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - this is a command's output
        sys.exit(1)
    except BrokenPipeError:
        # What is left in the buffer has nowhere to go, and Python would complain about it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
