"""The budget map: its figures by hand and sample by sample, its names, and one run from end to end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from toy import toy_files

from edge_circuits.benchmarks.agreement.budget_map import FIGURES, agreement_figures, map_names, top_k
from edge_circuits.benchmarks.agreement.edges import Settings
from edge_circuits.benchmarks.agreement.study import main
from edge_circuits.eap.methods.lookup import find
from edge_circuits.graphs import Graph, ScoredGraph
from edge_circuits.graphs.bootstrap import drawn_counts

GRAPH = Graph(2, 2)  # 46 edges


def scored(groups: torch.Tensor) -> ScoredGraph:
    """Scores of edges in the order of a flattened mask, by group. [group edge]"""
    per_group = torch.zeros(len(groups), *GRAPH.edge_mask.shape, dtype=groups.dtype)
    per_group[:, GRAPH.edge_mask] = groups
    return ScoredGraph(GRAPH, per_group.sum(0), {}, per_group)


def random_groups(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, GRAPH.n_edges, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_overlap_and_signs_by_hand() -> None:
    """Of the four largest effects the scores have two among their four largest, and three of their signs right."""
    exact, estimate = (torch.zeros(1, GRAPH.n_edges, dtype=torch.double) for _ in range(2))
    exact[0, :4] = torch.tensor([9.0, -8, 7, 6])
    estimate[0, :6] = torch.tensor([5.0, -4, -0.5, 0.1, 3, 2])
    sides = [ScoredGraph(GRAPH, scored(side).scores) for side in (estimate, exact)]
    found = agreement_figures(*sides, signed=True)
    assert top_k(sides[1]) == 4 and set(found) == set(FIGURES) - {"cpr", "cmd"}
    assert found["top_k"].value == 0.5
    assert found["sign"].value == 0.75 and found["sign"].low is None
    by_size = agreement_figures(*sides, signed=False)
    assert "sign" not in by_size and by_size["top_k"].value == 0.5


def test_intervals_are_those_of_the_drawn_samples() -> None:
    estimate, exact = random_groups(5, 0) + random_groups(5, 1), random_groups(5, 1)
    found = agreement_figures(scored(estimate), scored(exact), True, Settings(n_resamples=70, seed=3))
    samples = []
    for weights in drawn_counts(5, 70, 3):
        x, y = weights @ estimate, weights @ exact
        largest, chosen = (set(side.abs().argsort(descending=True)[:4].tolist()) for side in (y, x))
        right = [bool(x[edge].sign() == y[edge].sign()) for edge in largest]
        pearson = torch.corrcoef(torch.stack((x, y)))[0, 1].item()
        samples.append((len(largest & chosen) / 4, sum(right) / 4, pearson))
    for name, drawn in zip(("top_k", "sign", "pearson"), zip(*samples)):
        ends = torch.tensor(drawn, dtype=torch.double).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        assert [found[name].low, found[name].high] == pytest.approx(ends)


def test_every_method_stands_with_each_of_its_readers() -> None:
    names = map_names()
    assert {"eap", "eap:reader=norm", "eap:reader=softmax", "relp:reader=softmax", "eap-ig"} <= set(names)
    assert not {"exact", "random", "learned-mask", "top-k-mask"} & set(names) and len(
        {find(name) for name in names}
    ) == len(names)


def test_a_map_prints_and_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = [*toy_files(tmp_path), "--budget-map", "--methods", "eap", "hisp", "--resamples", "9", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "toy mine: 46 edges, 3 prompts of mine.jsonl" in out and "over 1 problems: mean (worst)" in out
    rows = json.loads((tmp_path / "out" / "budget-map.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["eap", "hisp", "exact"] and all(row["cost"] > 0 for row in rows)
    assert rows[2]["pearson"] == pytest.approx(1) and rows[2]["top_k"] == rows[2]["sign"] == 1
    assert "sign" not in rows[1] and rows[0]["pearson_low"] <= rows[0]["pearson"] <= rows[0]["pearson_high"]
    with open(tmp_path / "out" / "budget-map.csv") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert len(list((tmp_path / "out").glob("budget-map-*.png"))) == 3


def test_a_method_that_cannot_be_asked_is_told(tmp_path: Path) -> None:
    words = [
        *toy_files(tmp_path),
        "--budget-map",
        "--methods",
        "eap",
        "information-flow-routes",
        "--metric",
        "accuracy",
    ]
    assert main([*words, "--resamples", "9", "--quiet", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "budget-map.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["information-flow-routes", "exact"]
    assert "gradient" in content["left_out"]["toy mine"]["eap"]
