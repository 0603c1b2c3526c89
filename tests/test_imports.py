"""Imports point one way: graphs <- eap, acdc <- benchmarks <- edge_circuits; nothing imports the tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "graphs": {"graphs"},
    "eap": {"graphs", "eap"},
    "acdc": {"graphs", "acdc"},
    "benchmarks": {"graphs", "eap", "acdc", "benchmarks"},
    "edge_circuits": {"graphs", "eap", "acdc", "benchmarks", "edge_circuits"},
}
OURS = {*ALLOWED, "tests"}


def imported(source: str) -> set[str]:
    """The parts of the project that a source imports anywhere, also inside functions: "eap" for `edge_circuits.eap.scoring`."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}"
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {_part(module) for module in modules} & OURS


def _part(module: str) -> str:
    first, *rest = module.split(".")
    return rest[0] if first == "edge_circuits" and rest and rest[0] in OURS else first


def test_imports_inside_functions_are_seen() -> None:
    source = "import torch.nn\ndef f():\n    from edge_circuits.eap.scoring import score\n    from edge_circuits import acdc\n"
    assert imported(source) == {"eap", "acdc"}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_lies_below(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(file.relative_to(ROOT)): imported(file.read_text()) & OURS - ALLOWED[package] for file in files}
    assert not {file: names for file, names in wrong.items() if names}


@pytest.mark.parametrize("package", ALLOWED)
def test_the_project_goes_by_its_one_name(package: str) -> None:
    """No top-level `graphs`, `eap`, `acdc` or `benchmarks` is imported: such names belong to others in site-packages."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & (OURS - {"edge_circuits"}), file
