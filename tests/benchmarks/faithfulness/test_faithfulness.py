"""The faithfulness benchmark on a toy model: its figures against the measures, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import prompt_pairs
from toy import spoil, toy_files, toy_problem

from edge_circuits import eap
from edge_circuits.benchmarks.faithfulness import finding
from edge_circuits.benchmarks.faithfulness.finding import find
from edge_circuits.benchmarks.faithfulness.study import main
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.problems.selection import open_problems
from edge_circuits.graphs import metrics, prune
from edge_circuits.graphs.measures.curves import curves
from edge_circuits.graphs.measures.quality import measure


def toy() -> Problem:
    problem = toy_problem()
    train, test = prompt_pairs([6, 5, 7, 6], seed=1), prompt_pairs([7, 5, 6, 6, 7], seed=2)
    return replace(problem, model=problem.model.double(), pairs=train, held_out=test)


@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_scores_are_made_on_training_prompts_and_measured_on_held_out_ones(intervention: str) -> None:
    case, metric = toy(), metrics.logit_difference
    row = find(case, "eap", intervention, seed=3)
    scored = eap.score(case.model, case.pairs, metric, "eap", intervention=intervention, quiet=True)
    helpful = curves(case.model, {"x": scored}, case.held_out, metric, intervention, by="negative")["x"]
    largest = curves(case.model, {"x": scored}, case.held_out, metric, intervention, by="absolute")["x"]
    figures = {name: row.figures[name].value for name in row.figures}
    expected = {
        "cpr": helpful.area("cpr"),
        "cpr_clipped": helpful.area("cpr", clipped=True),
        "cmd": largest.area("cmd"),
        "cmd_clipped": largest.area("cmd", clipped=True),
    }
    assert figures == pytest.approx(expected, abs=1e-12) and len(set(map(round, figures.values(), [9] * 4))) > 1
    assert row.figures["cmd"].low == pytest.approx(largest.interval("cmd", seed=3).low, abs=1e-12)
    at_known = measure(case.model, prune(scored, case.circuit.n_edges), case.held_out, metric, intervention)[0]
    assert row.at_known.value == pytest.approx(at_known.faithfulness, abs=1e-12)
    assert row.at_known.low < row.at_known.value < row.at_known.high or row.at_known.value == row.at_known.low


def test_random_is_a_mean_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "N_RANDOM", 3)
    case = toy()
    row = find(case, "random", "patching", seed=4)
    drawn = []
    for seed in (4, 5, 6):
        scored = eap.score(case.model, case.pairs, metrics.logit_difference, eap.Random(seed), quiet=True)
        drawn.append(curves(case.model, {"x": scored}, case.held_out, metrics.logit_difference)["x"])
    assert row.figures["cpr"].value == pytest.approx(sum(curve.area("cpr") for curve in drawn) / 3)
    assert torch.allclose(row.faithfulness["helpful"], sum(curve.faithfulness for curve in drawn) / 3)
    assert row.figures["cpr"].low < row.figures["cpr"].value < row.figures["cpr"].high


def test_scores_without_a_sign_are_ranked_by_size() -> None:
    row = find(toy(), "information-flow-routes", "patching", seed=0)
    assert torch.equal(row.faithfulness["helpful"], row.faithfulness["largest"])


def test_tables_and_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    out, words = tmp_path / "new" / "folder", toy_files(tmp_path)
    assert main([*words, "--methods", "eap", "exact", "random", "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "toy mine:" in printed.out and "known circuit of 6 edges: faithfulness" in printed.out
    assert "at k=6" in printed.out and printed.out == (out / "faithfulness.txt").read_text()
    content = json.loads((out / "faithfulness.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["eap", "exact", "random"]
    assert content["settings"]["intervention"] == "patching" and content["known"]["toy mine"]["n_edges"] == 6
    first = content["rows"][0]
    (problem,) = open_problems(words[1], prompts=Path(words[3]), circuit=Path(words[5]), n_held_out=100)
    assert (len(problem.pairs), len(problem.held_out)) == (3, 3)
    assert first["cpr"] == pytest.approx(find(problem, "eap", "patching", 0).figures["cpr"].value, abs=1e-12)
    assert first["cpr_low"] <= first["cpr"] <= first["cpr_high"] and len(first["curve_largest"]["faithfulness"]) == 10
    with open(out / "faithfulness.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["cmd"]) for line in lines] == [row["cmd"] for row in content["rows"]]
    assert (out / "faithfulness-toy-mine.png").read_bytes()[:4] == b"\x89PNG"


def test_a_method_that_cannot_be_asked_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*toy_files(tmp_path), "--methods", "eap", "random", "--metric", "accuracy", "--quiet"]
    assert main(words) == 0
    assert re.search("\nrandom .*\nwithout eap: .*gradient", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "nothing"], "method: expected one of 'eap', .*, got 'nothing'"),
        (["--n-prompts", "1"], "--n-prompts: expected a whole number from 2, got 1; an interval needs two"),
        (["--n-prompts", "3"], "--prompts: number of pairs: expected a whole number from 4, got 3"),
    ],
)
def test_refusals(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*toy_files(tmp_path), *words, "--quiet"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_command_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stop(*given: object, **settings: object) -> None:
        raise KeyboardInterrupt

    words = [*toy_files(tmp_path), "--methods", "exact", "--quiet", "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(finding, "curves", stop)
        assert main([*words, str(tmp_path / "parts")]) == 130
    assert main([*words, str(tmp_path / "parts")]) == 0
    told = [json.loads((tmp_path / name / "faithfulness.json").read_text())["rows"][0] for name in ("whole", "parts")]
    assert told[0] | {"seconds": 0} == told[1] | {"seconds": 0}
    assert spoil(tmp_path / "parts") == 1 and main([*words, str(tmp_path / "parts")]) == 0
    assert json.loads((tmp_path / "parts" / "faithfulness.json").read_text())["rows"][0]["cpr"] != told[0]["cpr"]
