"""EAP first, then ACDC: rates on a grid of sizes and thresholds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from toy import toy_files

from edge_circuits import acdc, eap
from edge_circuits.acdc.search import Search
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.problems.selection import open_problems
from edge_circuits.benchmarks.refine.study import main, sizes
from edge_circuits.graphs import prune
from edge_circuits.graphs.metrics import logit_difference

COMMAND = ["--k", "10", "20", "--thresholds", "0.01", "0.1", "--method", "eap", "--quiet"]


@pytest.fixture
def toy(tmp_path: Path) -> list[str]:
    return [*toy_files(tmp_path), *COMMAND, "--out", str(tmp_path)]


@pytest.fixture
def problem(toy: list[str]) -> Problem:
    return open_problems(toy[1], prompts=Path(toy[3]), circuit=Path(toy[5]))[0]


def rows(words: list[str]) -> list[dict[str, str]]:
    assert main(words) == 0
    return list(csv.DictReader((Path(words[-1]) / "refine.csv").open()))


def test_every_cell_is_the_pruned_graph_after_acdc(toy: list[str], problem: Problem) -> None:
    scored = eap.score(problem.model, problem.pairs, logit_difference, "eap", quiet=True)
    found = {(int(row["k"]), row["threshold"]): row for row in rows(toy)}
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
    toy: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    first = rows(toy)
    told = capsys.readouterr().out
    monkeypatch.setattr(Search, "values", lambda *_: pytest.fail("an edge was tried again"))
    second = rows(toy)
    assert [row | {"seconds": ""} for row in first] == [row | {"seconds": ""} for row in second]
    assert capsys.readouterr().out == told


def test_table_maps_and_json_are_written(toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    found = rows(toy)
    told = capsys.readouterr().out
    assert told == (tmp_path / "refine.txt").read_text()
    assert told.splitlines()[1].split() == ["k", "pruned", "0.01", "0.1"]
    best = max(float(row["youden"]) for row in found)
    assert f"best: J {best:.3f}" in told
    content = json.loads((tmp_path / "refine.json").read_text())
    assert content["settings"]["thresholds"] == [0.01, 0.1] and len(content["rows"]) == len(found)
    assert (tmp_path / "refine-mine.png").stat().st_size > 10_000


def test_by_default_the_whole_graph_is_the_last_size(problem: Problem) -> None:
    assert sizes(problem, None) == [3, 6, 12, 24, 46]


@pytest.mark.parametrize("wrong", [["--thresholds", "-1"], ["--method", "magic"]])
def test_bad_settings_are_told(toy: list[str], wrong: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*toy, *wrong]) == 2
    assert wrong[0][2:].rstrip("s") in capsys.readouterr().err
