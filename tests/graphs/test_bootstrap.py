"""Scores kept group by group: their sum, their files, and draws against drawing one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edge_circuits.graphs.bootstrap import drawn_counts, edge_groups, resampled
from edge_circuits.graphs.files.documents import sealed
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

GRAPH = Graph(2, 2)


def grouped(n_groups: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32) -> ScoredGraph:
    shape = (n_groups, *GRAPH.edge_mask.shape)
    groups = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * GRAPH.edge_mask
    return ScoredGraph(GRAPH, groups.sum(0), {"method": "random"}, groups)


def test_draws_equal_drawing_one_by_one() -> None:
    scored = grouped()
    chosen = torch.randint(5, (70, 5), generator=torch.Generator().manual_seed(3)).tolist()
    expected = [ScoredGraph(GRAPH, sum(scored.per_group[group].double() for group in row)).values for row in chosen]
    drawn = list(resampled(scored, 70, seed=3))
    assert len(drawn) == 2 and torch.allclose(torch.cat(drawn), torch.stack(expected), rtol=0, atol=1e-12)
    assert torch.equal(drawn_counts(5, 70, 3).sum(1), torch.full((70,), 5.0, dtype=torch.float64))
    assert not torch.equal(drawn_counts(5, 70, 3), drawn_counts(5, 70, 4))


def test_groups_are_in_edge_order() -> None:
    scored = grouped(2)
    for group, values in zip(scored.per_group, edge_groups(scored)):
        assert values.tolist() == [group[GRAPH.edge_index(name)].item() for name in GRAPH.edges]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_come_back_from_a_file(tmp_path: Path, dtype: torch.dtype) -> None:
    scored = grouped(3, dtype=dtype)
    scored.save(tmp_path / "scores.json")
    loaded = ScoredGraph.load(tmp_path / "scores.json")
    assert loaded == scored and torch.equal(loaded.per_group, scored.per_group) and loaded.per_group.dtype == dtype
    assert json.loads((tmp_path / "scores.json").read_text())["version"] == 2


def test_a_file_without_groups_has_none(tmp_path: Path) -> None:
    ScoredGraph(GRAPH, grouped().scores).save(tmp_path / "scores.json")
    assert "per_group" not in json.loads((tmp_path / "scores.json").read_text())
    assert ScoredGraph.load(tmp_path / "scores.json").per_group is None


@pytest.mark.parametrize("torn", [[], ["text"], {}, None])
def test_torn_groups_are_refused(tmp_path: Path, torn: object) -> None:
    path = tmp_path / "scores.json"
    grouped().save(path)
    content = json.loads(path.read_text()) | {"per_group": torn}
    content.pop("digest")
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(ValueError, match='"per_group": expected '):
        ScoredGraph.load(path)


def test_equality_sees_the_groups() -> None:
    scored, bare = grouped(), ScoredGraph(GRAPH, grouped().scores, {"method": "random"})
    other = ScoredGraph(
        GRAPH, scored.scores, {"method": "random"}, scored.per_group.flip(0) * 0.5 + scored.per_group * 0.5
    )
    assert scored == grouped() and scored != bare and bare != scored and bare == bare and scored != other


def test_groups_are_copied() -> None:
    groups = grouped().per_group.clone()
    scored = ScoredGraph(GRAPH, groups.sum(0), {}, groups)
    groups.zero_()
    assert scored.per_group.abs().sum() > 0


def test_groups_that_do_not_fit_are_refused(without_type_checks: None) -> None:
    scored = grouped()
    with pytest.raises(
        ValueError,
        match="per_group: expected groups that add up to the scores, got a sum that differs by up to .*; give each group's mean times its share",
    ):
        ScoredGraph(GRAPH, scored.scores, {}, 2 * scored.per_group)
    with pytest.raises(
        ValueError,
        match=r"per_group: expected a tensor \[group source destination\] of one group or more, got torch.float32 of shape",
    ):
        ScoredGraph(GRAPH, scored.scores, {}, scored.scores)
    with pytest.raises(ValueError, match="scores: expected a tensor of shape"):
        ScoredGraph(GRAPH, scored.scores, {}, scored.per_group[:, :2])
    with pytest.raises(
        ValueError, match="expected scores kept group by group, in 2 groups of prompts or more, got none; score with"
    ):
        edge_groups(ScoredGraph(GRAPH, scored.scores))
    with pytest.raises(ValueError, match="in 2 groups of prompts or more, got 1"):
        edge_groups(grouped(1))
    with pytest.raises(ValueError, match="n_resamples: expected a whole number from 2, got 1"):
        resampled(scored, 1)
