"""Names of a package that are imported on first use, so that the package itself is light to import."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable


def lazy_names(package: str) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose imports under `if TYPE_CHECKING:` say where each public name is.

    Args:
        package: Its `__name__`; called while it is imported.
    """
    modules = _imported_for_type_checkers(sys.modules[package].__spec__.loader.get_source(package))

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
