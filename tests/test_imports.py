"""Imports point one way: graphs <- eap, acdc <- benchmarks; nothing imports the tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"graphs": {"graphs"}, "eap": {"graphs", "eap"}, "acdc": {"graphs", "acdc"}, "benchmarks": {"graphs", "eap", "acdc", "benchmarks"}}
OURS = {*ALLOWED, "tests"}


def imported(source: str) -> set[str]:
    """The top-level packages that a source imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            names.add(node.module.split(".")[0])
    return names


def test_imports_inside_functions_are_seen() -> None:
    assert imported("import torch.nn\ndef f():\n    from eap.score import score\n") == {"torch", "eap"}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): imported(file.read_text()) & OURS - ALLOWED[package] for file in files}
    assert not {file: names for file, names in wrong.items() if names}
