"""The README's examples run, and what README and docs name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import edge_circuits

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)


def test_readme_is_short_and_has_an_example() -> None:
    assert EXAMPLES and len(README) <= 6000


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["circuit"].n_edges > 0 and names["logits"].isfinite().all()
    assert {path.name for path in tmp_path.iterdir()} >= {"circuit.svg", "circuit.json"}


def test_the_page_of_circuits_as_models_runs_after_the_readme_s_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    page = PAGES["docs/circuits_as_models.md"]
    for example in (EXAMPLES[0], *re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)):
        exec(compile(example, "circuits_as_models.md", "exec"), names)
    assert names["text"].shape[1] == names["tokens"].shape[1] + 5


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = PAGES[page]
    files = set(re.findall(r"`((?:graphs|eap|acdc|benchmarks|tests|edge_circuits|docs)/[\w/.]*)`", text))
    assert not [name for name in sorted(files) if not (ROOT / name).exists()]
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    assert not [link for link in sorted(links) if not (ROOT / page).parent.joinpath(link).exists()]
    names = set(re.findall(r"\bec\.(\w+)", text))
    assert not [name for name in sorted(names) if not hasattr(edge_circuits, name)]
    for example in re.findall(r"^```python.*?\n(.*?)^```", text, flags=re.M | re.S):
        compile(example, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_a_page_names_exist(page: str) -> None:
    modules = {name.rstrip(".") for name in re.findall(r"python -m ([\w.]+)", PAGES[page])} - {
        "edge_circuits.benchmarks.NAME"
    }
    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", PAGES[page], flags=re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert not [
        name for name in sorted(modules) if not name.startswith("pytest") and importlib.util.find_spec(name) is None
    ]
    assert not [name for name in sorted(targets) if not re.search(rf"^{name}[ :]", makefile, flags=re.M)]


def test_the_readme_names_commands() -> None:
    assert "python -m edge_circuits." in README and "make test" in README
