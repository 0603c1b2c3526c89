"""What figures were made with: settings, commit, code and versions."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = ("edge_circuits.graphs", "edge_circuits.eap", "edge_circuits.acdc")
LIBRARIES = ("edge-circuits", "torch", "transformer-lens", "transformers", "scikit-learn", "numpy")


def commit() -> str | None:
    """The commit of the project's checkout, "+" behind it if files were changed; None outside of one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        number = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return number.strip() + ("+" if changes else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide the figures."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


@cache
def code_digest() -> str:
    """Digest of the code that makes scores, and the versions of the libraries below it."""
    digest = hashlib.blake2b(digest_size=10)
    for name in CODE:
        file = Path(importlib.import_module(name).__file__)
        for path in sorted(file.parent.rglob("*.py")) if file.stem == "__init__" else (file,):
            digest.update(path.relative_to(file.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for library in ("torch", "transformer-lens", "transformers"):
        digest.update(f"{library} {version(library)}\0".encode())
    return digest.hexdigest()


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The options of a run in types that JSON has; where the results go is none of them."""
    return {name: _plain(value) for name, value in vars(given).items() if name != "out"}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout
