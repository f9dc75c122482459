"""Generated Python, as a module that can be imported."""

import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def imported(file: Path, text: str) -> Generator[ModuleType]:
    """Write a file, and import it for as long as the block lasts."""
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"generated_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[module.__name__]
