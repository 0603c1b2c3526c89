"""Parts are kept whole, found again by their key, and never taken for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import native, prompt_pairs

from edge_circuits.benchmarks.output import cache as saved_parts
from edge_circuits.benchmarks.output.cache import SavedParts, code_digest, model_digest
from edge_circuits.graphs import Graph, ScoredGraph

GRAPH = Graph(1, 1)


def part(value: float) -> ScoredGraph:
    return ScoredGraph(GRAPH, torch.full(GRAPH.edge_mask.shape, value) * GRAPH.edge_mask, {"seconds": 1.5})


def never() -> ScoredGraph:
    raise AssertionError("computed although it was saved")


def test_a_part_is_computed_once_and_read_again_unchanged(tmp_path: Path) -> None:
    first = SavedParts(tmp_path)
    assert first.get("toy", {"a": 1}, lambda: part(1 / 3)) == part(1 / 3)
    assert (first.n_computed, first.n_reused) == (1, 0)
    again = SavedParts(tmp_path)
    assert again.get("toy", {"a": 1}, never) == part(1 / 3)
    assert (again.n_computed, again.n_reused) == (0, 1)


def test_another_key_is_another_part(tmp_path: Path) -> None:
    parts = SavedParts(tmp_path)
    parts.get("toy", {"a": 1, "b": 2}, lambda: part(1.0))
    assert parts.get("toy", {"b": 2, "a": 1}, never) == part(1.0)
    assert parts.get("toy", {"a": 1, "b": 3}, lambda: part(2.0)) == part(2.0)


@pytest.mark.parametrize(
    "content", ["", "{", '{"format": "edge-circuits", "version": 99}'], ids=["empty", "torn", "newer"]
)
def test_a_file_that_cannot_be_read_is_computed_again(tmp_path: Path, content: str) -> None:
    SavedParts(tmp_path).get("toy", {}, lambda: part(1.0))
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert SavedParts(tmp_path).get("toy", {}, lambda: part(2.0)) == part(2.0)
    assert ScoredGraph.load(path) == part(2.0)


def test_fresh_forgets(tmp_path: Path) -> None:
    SavedParts(tmp_path).get("toy", {}, lambda: part(1.0))
    assert SavedParts(tmp_path, fresh=True).get("toy", {}, lambda: part(2.0)) == part(2.0)


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> ScoredGraph:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        SavedParts(tmp_path).get("toy", {}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot make the folder .*file"):
        SavedParts(tmp_path / "file" / ".partial")


def test_model_digest_tells_weights_apart() -> None:
    model = native(n_layers=1, attn_only=True)
    before = model_digest(model)
    assert model_digest(native(n_layers=1, attn_only=True)) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert model_digest(model) != before


def test_pairs_digest_tells_prompts_and_answers_apart() -> None:
    pairs = prompt_pairs([4, 5])
    assert pairs.digest == prompt_pairs([4, 5]).digest
    others = (pairs.swapped(), pairs[:1], prompt_pairs([4, 5], seed=1), prompt_pairs([4, 5], positions=[1, -1]))
    assert len({other.digest for other in (pairs, *others)}) == 5


def test_code_digest_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "formula.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(saved_parts, "CODE", ("made_up_package",))
    before = code_digest.__wrapped__()
    assert code_digest.__wrapped__() == before
    (package / "formula.py").write_text("x = 2")
    assert code_digest.__wrapped__() != before


def test_code_digest_covers_what_makes_scores() -> None:
    assert set(saved_parts.CODE) == {"edge_circuits.graphs", "edge_circuits.eap", "edge_circuits.acdc"}
    assert code_digest() == code_digest()
