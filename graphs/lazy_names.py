"""Names of a package that are imported on first use, so that the package itself is light to import."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path


def lazy_names(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that imports its public names under `if TYPE_CHECKING:`.

    Args:
        package: Its `__name__`.
        file: Its `__file__`, whose imports for type checkers say which module defines each name.
    """
    modules = _imported_for_type_checkers(Path(file).read_text(encoding="utf-8"))

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *modules})


def _imported_for_type_checkers(source: str) -> dict[str, str]:
    """Name -> module, from the imports under `if TYPE_CHECKING:`."""
    guarded = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    imports = (each for node in guarded if ast.unparse(node.test) == "TYPE_CHECKING" for each in node.body)
    return {alias.name: each.module for each in imports for alias in each.names}
