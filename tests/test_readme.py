"""The README's examples run, and what it names is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


def test_there_is_an_example() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["circuit"].n_edges > 0 and names["logits"].isfinite().all()
    assert {path.name for path in tmp_path.iterdir()} >= {"circuit.svg", "circuit.json"}


def test_files_that_it_names_exist() -> None:
    named = set(re.findall(r"`((?:graphs|eap|acdc|benchmarks|tests)/[\w/.]*)`", README))
    assert named and not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_commands_that_it_names_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, flags=re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert modules and targets
    assert not [name for name in sorted(modules) if importlib.util.find_spec(name) is None]
    assert not [name for name in targets if f"\n{name}:" not in makefile]
