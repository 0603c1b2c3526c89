"""EAP first, then ACDC: rates on a grid of sizes and thresholds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from toy import toy_problem

from edge_circuits import acdc, eap
from edge_circuits.benchmarks.problems.known_circuits import Problem
from edge_circuits.benchmarks.refine import study as refine
from edge_circuits.graphs import prune
from edge_circuits.graphs.metrics import logit_difference

COMMAND = ["--k", "10", "20", "--thresholds", "0.01", "0.1", "--quiet"]


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """The toy problem in the planted ones' place."""
    toy = toy_problem()
    monkeypatch.setattr(refine, "planted_problems", lambda *_, **__: [toy])
    return toy


def rows(tmp_path: Path) -> list[dict[str, str]]:
    assert refine.main([*COMMAND, "--method", "eap", "--out", str(tmp_path)]) == 0
    return list(csv.DictReader((tmp_path / "refine.csv").open()))


def test_every_cell_is_the_pruned_graph_after_acdc(problem: Problem, tmp_path: Path) -> None:
    scored = eap.score(problem.model, problem.pairs, logit_difference, "eap", quiet=True)
    found = {(int(row["k"]), row["threshold"]): row for row in rows(tmp_path)}
    assert len(found) == 2 * 3
    for k in (10, 20):
        start = prune(scored, k)
        assert int(found[k, ""]["n_edges"]) == start.live().n_edges
        for threshold in (0.01, 0.1):
            left = acdc.refine(problem.model, start, problem.pairs, "kl", threshold, quiet=True).live()
            row = found[k, str(threshold)]
            n_right = len(left & problem.known)
            assert int(row["n_edges"]) == left.n_edges
            assert float(row["true_positive_rate"]) == pytest.approx(n_right / problem.known.n_edges)
            n_others = problem.graph.n_edges - problem.known.n_edges
            assert float(row["false_positive_rate"]) == pytest.approx((left.n_edges - n_right) / n_others)
            assert float(row["youden"]) == pytest.approx(
                float(row["true_positive_rate"]) - float(row["false_positive_rate"])
            )


def test_a_second_run_reads_the_sweeps_of_the_first(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    first = rows(tmp_path)
    told = capsys.readouterr().out
    monkeypatch.setattr(acdc.algorithm.EdgeSweep, "_try", lambda *_: pytest.fail("an edge was tried again"))
    second = rows(tmp_path)
    assert [row | {"seconds": ""} for row in first] == [row | {"seconds": ""} for row in second]
    assert capsys.readouterr().out == told


def test_table_maps_and_json_are_written(problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    found = rows(tmp_path)
    told = capsys.readouterr().out
    assert told == (tmp_path / "refine.txt").read_text()
    assert told.splitlines()[1].split() == ["k", "pruned", "0.01", "0.1"]
    best = max(float(row["youden"]) for row in found)
    assert f"best: J {best:.3f}" in told
    content = json.loads((tmp_path / "refine.json").read_text())
    assert content["settings"]["thresholds"] == [0.01, 0.1] and len(content["rows"]) == len(found)
    assert (tmp_path / "refine-toy.png").stat().st_size > 10_000


def test_by_default_the_whole_graph_is_the_last_size(problem: Problem) -> None:
    assert refine._sizes(problem, None) == [3, 6, 12, 24, 46]


@pytest.mark.parametrize(
    "wrong, message", [(["--thresholds", "-1"], "threshold: expected"), (["--method", "magic"], "method is one of")]
)
def test_bad_settings_are_told(problem: Problem, wrong: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert refine.main([*wrong, "--quiet"]) == 2
    assert message in capsys.readouterr().err
