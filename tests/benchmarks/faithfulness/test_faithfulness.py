"""The faithfulness benchmark on a toy model: its figures against the measures, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from models import prompt_pairs
from toy import toy_problem

from edge_circuits import eap
from edge_circuits.benchmarks.faithfulness import cases as faithfulness_cases
from edge_circuits.benchmarks.faithfulness import study as faithfulness
from edge_circuits.benchmarks.faithfulness.cases import Case, cases, find
from edge_circuits.benchmarks.planted import planted_task
from edge_circuits.graphs import metrics, prune
from edge_circuits.graphs.measures.curves import curves
from edge_circuits.graphs.measures.quality import measure


def toy_case() -> Case:
    problem = toy_problem()
    train, test = prompt_pairs([6, 5, 7, 6], seed=1), prompt_pairs([7, 5, 6, 6, 7], seed=2)
    return Case("planted", "toy", problem.model.double(), train, test, "logit_difference", problem.circuit)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Case:
    """The benchmark's only case."""
    case = toy_case()
    monkeypatch.setattr(faithfulness, "cases", lambda *given, **settings: [case])
    return case


@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_scores_are_made_on_training_prompts_and_measured_on_held_out_ones(intervention: str) -> None:
    case, metric = toy_case(), metrics.logit_difference
    row = find(case, "eap", intervention, seed=3)
    scored = eap.score(case.model, case.train, metric, "eap", intervention=intervention, quiet=True)
    helpful = curves(case.model, {"x": scored}, case.test, metric, intervention, by="negative")["x"]
    largest = curves(case.model, {"x": scored}, case.test, metric, intervention, by="absolute")["x"]
    figures = {name: row.figures[name].value for name in row.figures}
    expected = {
        "cpr": helpful.area("cpr"),
        "cpr_clipped": helpful.area("cpr", clipped=True),
        "cmd": largest.area("cmd"),
        "cmd_clipped": largest.area("cmd", clipped=True),
    }
    assert figures == pytest.approx(expected, abs=1e-12) and len(set(map(round, figures.values(), [9] * 4))) > 1
    assert row.figures["cmd"].low == pytest.approx(largest.interval("cmd", seed=3).low, abs=1e-12)
    at_known = measure(case.model, prune(scored, case.known.n_edges), case.test, metric, intervention)[0]
    assert row.at_known.value == pytest.approx(at_known.faithfulness, abs=1e-12)
    assert row.at_known.low < row.at_known.value < row.at_known.high or row.at_known.value == row.at_known.low


def test_random_is_a_mean_over_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness_cases, "N_RANDOM", 3)
    case = toy_case()
    row = find(case, "random", "patching", seed=4)
    drawn = []
    for seed in (4, 5, 6):
        scored = eap.score(case.model, case.train, metrics.logit_difference, eap.Random(seed), quiet=True)
        drawn.append(curves(case.model, {"x": scored}, case.test, metrics.logit_difference)["x"])
    assert row.figures["cpr"].value == pytest.approx(sum(curve.area("cpr") for curve in drawn) / 3)
    assert torch.allclose(row.faithfulness["helpful"], sum(curve.faithfulness for curve in drawn) / 3)
    assert row.figures["cpr"].low < row.figures["cpr"].value < row.figures["cpr"].high


def test_scores_without_a_sign_are_ranked_by_size() -> None:
    row = find(toy_case(), "information-flow-routes", "patching", seed=0)
    assert torch.equal(row.faithfulness["helpful"], row.faithfulness["largest"])


def test_planted_cases_score_on_the_training_split() -> None:
    (case,) = cases("planted", ["ioi"], n_prompts=4, seed=5)
    task = planted_task("ioi")
    assert case.train == task.pairs(4, seed=5, split="train") and case.test == task.pairs(4, seed=5, split="test")
    assert case.known == task.circuit and case.metric_name == task.task.metric
    with pytest.raises(ValueError, match="n_prompts: expected 2 or more, so that there are intervals, came 1"):
        cases("planted", ["ioi"], n_prompts=1, seed=0)
    with pytest.raises(ValueError, match="metric: expected one of"):
        cases("planted", ["ioi"], n_prompts=2, seed=0, metric="nothing")


def test_another_model_divides_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_circuits.benchmarks.problems.any_model import Subject

    toy, asked = toy_case(), {}
    pairs = prompt_pairs([6, 5, 7, 6], seed=1)

    def subjects(name: str, tasks: object, **settings: object) -> list[Subject]:
        asked.update(settings)
        return [Subject(name, "sort", toy.model, pairs, "prompts", "accuracy")]

    monkeypatch.setattr(faithfulness_cases, "subjects", subjects)
    (case,) = cases("folder/model", None, n_prompts=2, seed=1)
    assert asked["n_prompts"] == 4 and (case.train, case.test) == pairs.split(2, 1)
    assert case.known is None and case.name == "model sort" and case.metric_name == "accuracy"


def test_tables_and_files(toy: Case, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "folder"
    assert faithfulness.main(["--methods", "eap", "exact", "random", "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert (
        printed.err == "" and "planted toy:" in printed.out and "known circuit of 6 edges: faithfulness" in printed.out
    )
    assert "at k=6" in printed.out and printed.out.rstrip("\n") == (out / "faithfulness.txt").read_text().rstrip("\n")
    content = json.loads((out / "faithfulness.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["eap", "exact", "random"]
    assert content["settings"]["intervention"] == "patching" and content["known"]["planted toy"]["n_edges"] == 6
    first = content["rows"][0]
    assert first["cpr"] == pytest.approx(find(toy, "eap", "patching", 0).figures["cpr"].value, abs=1e-12)
    assert first["cpr_low"] <= first["cpr"] <= first["cpr_high"] and len(first["curve_largest"]["faithfulness"]) == 10
    with open(out / "faithfulness.csv") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["cmd"]) for line in lines] == [row["cmd"] for row in content["rows"]]
    assert (out / "faithfulness-planted-toy.png").read_bytes()[:4] == b"\x89PNG"


def test_a_method_that_cannot_be_asked_is_left_out(
    toy: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = faithfulness.find

    def refuse(case: Case, method: str, *given: object, **settings: object) -> object:
        if method == "eap":
            raise ValueError("not of this model")
        return before(case, method, *given, **settings)

    monkeypatch.setattr(faithfulness, "find", refuse)
    assert faithfulness.main(["--methods", "eap", "relp", "--quiet"]) == 0
    assert "without eap: not of this model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "nothing"], "--methods: expected some of eap, .*, came 'nothing'"),
        (
            ["--intervention", "ablate"],
            "--intervention: expected one of patching, zero, mean, mean-positional, came 'ablate'",
        ),
        (["--methods", "random", "--out", "/dev/null/folder"], "--out: cannot make the folder /dev/null/folder"),
    ],
)
def test_refusals(toy: Case, words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    import re

    assert faithfulness.main([*words, "--quiet"]) == faithfulness.REFUSED
    assert re.search(message, capsys.readouterr().err)


def test_stopping_is_told(toy: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def stop(*given: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(faithfulness, "find", stop)
    assert faithfulness.main(["--quiet"]) == faithfulness.STOPPED
    assert "stopped; nothing is kept" in capsys.readouterr().err


def test_a_command_that_was_stopped_goes_on(
    toy: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    measured = faithfulness_cases.measure

    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(faithfulness_cases, "measure", stop)
    assert faithfulness.main(["--methods", "exact", "--out", str(tmp_path), "--quiet"]) == faithfulness.STOPPED
    assert f"stopped; scores are kept in {tmp_path / 'scores'}" in capsys.readouterr().err
    monkeypatch.setattr(faithfulness_cases, "measure", measured)
    monkeypatch.setattr("edge_circuits.eap.methods.exact.ask", stop)  # nothing is left to measure edge by edge
    assert faithfulness.main(["--methods", "exact", "--out", str(tmp_path), "--quiet"]) == 0
    again = json.loads((tmp_path / "faithfulness.json").read_text())["rows"][0]["cpr"]
    monkeypatch.undo()
    assert again == find(toy, "exact", "patching", 0).figures["cpr"].value
