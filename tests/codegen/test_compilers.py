"""What compilers and linters say of generated files, and validators of messages: with Node, and its modules."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import services
from streamrt import App, InvalidMessage
from streamrt.codegen.schema import generate_schema
from streamrt.codegen.typescript import generate_client
from streamrt.wire.codec import codec
from tests.codegen import shop
from tests.codegen.messages import app_of, types
from tests.codegen.node import HERE, check_types, node_directory, run_node

pytestmark = [pytest.mark.clients, pytest.mark.slow]

RUNTIME = HERE.parents[2] / "streamrt" / "codegen"
APPS = {"services": services.app, "shop": shop.app}

USER = """
import { WebSocket } from "ws";
import { Client, StreamError } from "./services.js";

const client = new Client("ws://localhost", { WebSocket, headers: async () => ({ authorization: "Bearer ada" }) });
await using talk = client.chat.privateChat({ names: "ada+bob", since: undefined }, { reconnect: { queue: 3 } });
await talk.send({ msg: "hello" });
// @ts-expect-error: it has no text
await talk.send({ text: "hello" });
for await (const message of talk) {
  if (message.kind === "here") {
    const position: string = message.position;
    console.log(position);
  } else {
    const by: string = message.by;
    console.log(by);
  }
}
await using upload = client.streaming.upload();
const { success } = await upload.response();
const sure: boolean = success;
// @ts-expect-error: a log takes no messages
await client.streaming.logs({ rows: 1 }).send({});
// @ts-expect-error: which log
client.streaming.logs();
const browser = new Client("ws://localhost", { WebSocket: globalThis.WebSocket });
try {
  for await (const { cents } of browser.ticker.prices({ signal: AbortSignal.timeout(1) })) {
    console.log(cents.toFixed(), sure);
  }
} catch (error) {
  if (error instanceof StreamError && error.code === "unavailable") {
    console.log(error.retryAfter);
  }
}
"""


def write(directory: Path, name: str, app: App) -> None:
    """Write the client of an app in both languages, the declarations under a name that is not in the way."""
    (directory / f"{name}.ts").write_text(generate_client(app, name, "typescript", "gen"))
    (directory / f"{name}_js.js").write_text(generate_client(app, name, "javascript", "gen"))
    (directory / f"{name}_js.d.ts").write_text(generate_client(app, name, "declarations", "gen"))


def test_the_runtime_in_javascript_is_the_compiled_one() -> None:
    with node_directory() as directory:
        done = run_node("node_modules/typescript/bin/tsc", "-p", "tsconfig.runtime.json", "--outDir", str(directory))
        assert done.stdout == ""
        for name in ("runtime.js", "runtime.d.ts"):
            assert (directory / name).read_text() == (RUNTIME / name).read_text(), f"{name} is stale: {done.args}"


def test_the_strictest_compiler_takes_the_clients_and_only_what_fits_them() -> None:
    with node_directory() as directory:
        for name, app in APPS.items():
            write(directory, name, app)
        (directory / "user.ts").write_text(USER)
        (directory / "js_user.ts").write_text(USER.replace("./services.js", "./services_js.js"))
        assert check_types(directory) == ""


def test_the_linters_recommendations_are_followed() -> None:
    with node_directory() as directory:
        for name, app in APPS.items():
            write(directory, name, app)
        done = run_node("node_modules/eslint/bin/eslint.js", "--max-warnings=0", str(directory))
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_types_and_schemas_take_what_the_codec_writes() -> None:
    made: list[Any] = []
    emitted: list[tuple[int, str]] = []

    @settings(max_examples=80, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        of, values = data.draw(types())
        made.append(of)
        emitted.extend((len(made) - 1, codec(of).encode(data.draw(values)).decode()) for _ in range(3))

    collect()
    app = app_of(made)
    schema = json.loads(generate_schema(app, "made", "gen"))
    out = [schema["x-endpoints"][f"made.out{number}"]["out"] for number in range(len(made))]
    with node_directory() as directory:
        (directory / "client.ts").write_text(generate_client(app, "made", "typescript", "gen"))
        (directory / "constants.ts").write_text(constants(emitted))
        assert check_types(directory) == ""
        documents = [schema["$defs"], [[out[number], json.loads(text)] for number, text in emitted]]
        (directory / "documents.json").write_text(json.dumps(documents))
        assert run_node("validate.js", str(directory / "documents.json")).stdout == "[]\n"


def test_a_type_lets_a_field_be_left_out_where_servers_do_and_nowhere_else() -> None:
    made: list[Any] = []
    sent: list[tuple[int, str, bool]] = []

    @settings(max_examples=80, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        of, values = data.draw(types())
        made.append(of)
        for _ in range(3):
            text = codec(of).encode(data.draw(values)).decode()
            if paths := list(members(json.loads(text))):
                text = json.dumps(without(json.loads(text), data.draw(st.sampled_from(paths))))
                sent.append((len(made) - 1, text, is_taken(of, text)))

    collect()
    assert {taken for _, _, taken in sent} == {True, False}
    with node_directory() as directory:
        (directory / "client.ts").write_text(generate_client(app_of(made), "made", "typescript", "gen"))
        head = """
            import type { MadeService, StreamOutWithResponse } from "./client.js";
            type Of<Name extends keyof MadeService> =
                ReturnType<MadeService[Name]> extends StreamOutWithResponse<infer M, undefined> ? M : never;
        """
        lines = [head]
        for count, (number, text, taken) in enumerate(sent):
            lines += [] if taken else ["// @ts-expect-error: servers do not take it"]
            lines.append(f'export const c{count}: Of<"in{number}"> = {text};')
        (directory / "constants.ts").write_text("\n".join(lines))
        assert check_types(directory) == ""


def members(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in a document the members of objects are."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, item in items:
        if isinstance(document, dict):
            yield (*path, key)
        yield from members(item, (*path, key))


def without(document: Any, path: tuple[Any, ...]) -> Any:
    """Leave one member out."""
    *way, last = path
    place = document
    for key in way:
        place = place[key]
    del place[last]
    return document


def is_taken(of: Any, text: str) -> bool:
    try:
        codec(of).decode(text)
    except InvalidMessage:
        return False
    return True


def constants(emitted: list[tuple[int, str]]) -> str:
    """Write a module with a constant for each message, of the type that the client says it is."""
    head = """
        import type { MadeService, StreamIn } from "./client.js";
        type Of<Name extends keyof MadeService> = ReturnType<MadeService[Name]> extends StreamIn<infer M> ? M : never;
    """
    lines = [f'export const c{n}: Of<"out{number}"> = {text};' for n, (number, text) in enumerate(emitted)]
    return "\n".join([head, *lines])
