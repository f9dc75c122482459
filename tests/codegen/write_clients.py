"""Write the Python clients of all apps of these tests into a directory, for type checkers and linters."""

import sys
from pathlib import Path

import services
from streamrt.codegen import python, python_asyncio
from tests.codegen import awkward, live, shop

APPS = {"awkward": awkward.app, "live": live.app, "services": services.app, "shop": shop.app}

if __name__ == "__main__":
    directory = Path(sys.argv[1])
    for name, app in APPS.items():
        (directory / f"{name}_client.py").write_text(python.generate_client(app, name, "gen"))
        (directory / f"{name}_asyncio.py").write_text(python_asyncio.generate_client(app, name, "gen"))
