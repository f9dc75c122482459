"""Finding an app by ``module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from streamrt.app import App

from .errors import CommandError, tell


def load_app(target: str) -> App:
    """Import an app, with the working directory on the path.

    Args:
        target: ``module:name``.

    Raises:
        CommandError: There is no such module, no such name in it, it fails, or it is no app.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name or module_name.startswith("."):
        raise CommandError(f"an app is named like services:app, not {target!r}")
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise CommandError(f"there is no module {module_name!r} in {directory} or among the installed") from None
        raise CommandError(f"the module {module_name!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise CommandError(f"the module {module_name!r} fails with {tell(error)}") from error
    app = getattr(module, name, None)
    if not isinstance(app, App):
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        there = f"its apps are {', '.join(apps)}" if apps else "it has no app at all"
        raise CommandError(f"{name!r} in the module {module_name!r} is not an app; {there}")
    return app
