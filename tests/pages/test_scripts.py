"""What the compiler and the linter say of the scripts of the pages: with Node, and its modules."""

import json

import pytest

from services.pages import FILES, HERE
from tests.codegen.node import node_directory, run_node

pytestmark = [pytest.mark.clients, pytest.mark.slow]

OPTIONS = {
    "allowJs": True,
    "checkJs": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "lib": ["es2022", "esnext.disposable", "dom", "dom.iterable"],
    "paths": {"/*": ["./*"]},  # as they are served
    # What scripts without annotations do not say.
    "strict": False,
    "exactOptionalPropertyTypes": False,
    "noUncheckedIndexedAccess": False,
}


def test_the_scripts_fit_the_declarations_of_the_client_and_what_the_linter_recommends() -> None:
    scripts = {url: name for url, name in FILES.items() if name.endswith(".js") and name != "client.js"}
    with node_directory() as directory:
        for url, name in scripts.items():
            (directory / url[1:]).write_bytes((HERE / name).read_bytes())
        (directory / "client.d.ts").write_bytes((HERE / "client.d.ts").read_bytes())
        config = {"extends": "../../tsconfig.json", "compilerOptions": OPTIONS, "include": ["*.js"]}
        (directory / "tsconfig.json").write_text(json.dumps(config))
        assert run_node("node_modules/typescript/bin/tsc", "-p", str(directory)).stdout == ""
        done = run_node("node_modules/eslint/bin/eslint.js", "--max-warnings=0", str(directory))
        assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
