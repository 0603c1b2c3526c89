"""ACDC as a method: its points are those of its circuits, and a second run reads the sweeps of the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import toy_problem, toy_search

from edge_circuits import acdc, eap
from edge_circuits.acdc.search import Search
from edge_circuits.benchmarks.roc import acdc_method as sweeps
from edge_circuits.benchmarks.roc import methods, report
from edge_circuits.benchmarks.roc.finding import Finding
from edge_circuits.graphs import Circuit, prune
from edge_circuits.graphs.metrics import logit_difference

THRESHOLDS = (0.001, 0.03, 0.3)


@pytest.fixture(autouse=True)
def few_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "THRESHOLDS", THRESHOLDS)
    monkeypatch.setattr(sweeps, "SHARE", 0.5)


def find(name: str, folder: Path) -> Finding:
    return methods.find(name, toy_search(), folder)


def circuits(name: str) -> list[Circuit]:
    """ACDC's circuits, each found for itself, without dead ends."""
    problem = toy_problem()
    start = Circuit.full(problem.graph)
    if name == "eap+acdc":
        start = prune(
            eap.score(problem.model, problem.pairs, logit_difference, "eap", quiet=True), problem.graph.n_edges // 2
        )
    metric = logit_difference if name == "acdc" else "kl"
    return [acdc.refine(problem.model, start, problem.pairs, metric, t, quiet=True).live() for t in THRESHOLDS]


@pytest.mark.parametrize("name", sweeps.NAMES)
def test_points_are_the_circuits(name: str, tmp_path: Path) -> None:
    found, problem = find(name, tmp_path), toy_problem()
    n_known, n_others = problem.known.n_edges, problem.graph.n_edges - problem.known.n_edges
    points = {(len(c - problem.known) / n_others, len(c & problem.known) / n_known) for c in circuits(name)}
    front = set(zip(*(axis.tolist() for axis in found.curve)))
    assert front <= points | {(0.0, 0.0), (1.0, 1.0)}
    assert found.figures["youden"] == pytest.approx(max(true - false for false, true in points))
    assert found.figures["stairs_auc"] <= found.figures["auc"]
    assert found.figures["tpr_at_fpr_0.1"] == pytest.approx(
        max((true for false, true in points if false <= 0.1), default=0)
    )


def test_a_second_run_reads_what_the_first_has_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find("acdc-kl", tmp_path)
    monkeypatch.setattr(Search, "values", lambda *_: pytest.fail("an edge was tried again"))
    second = find("acdc-kl", tmp_path)
    assert (first.seconds is None, second.seconds is None) == (False, True)
    assert second.figures["auc"] == first.figures["auc"] and torch.equal(second.scored.scores, first.scored.scores)


def test_the_table_tells_both_areas(tmp_path: Path) -> None:
    search = toy_search()
    found = [methods.find(name, search, tmp_path) for name in ("eap", "acdc-kl")]
    lines = report.text(found).splitlines()
    assert "stairs" in lines[1].split()
    assert lines[4].split()[:5] == [
        "acdc-kl",
        "-",
        f"{found[1].figures['auc']:.3f}",
        "-",
        f"{found[1].figures['stairs_auc']:.3f}",
    ]
    assert any(line.startswith("acdc: a circuit a threshold") for line in lines)
