"""The command line: from a model and prompts to files that the library reads, and errors in one line."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edge_circuits.benchmarks import planted
from edge_circuits.command.line import main
from edge_circuits.command.options import STUDIES
from edge_circuits.graphs import Circuit, ScoredGraph, prune
from edge_circuits.graphs.measures.quality import measure
from edge_circuits.graphs.metrics import load as load_metric

MODEL = ("--task", "greater_than", "--n-prompts", "12", "--quiet")
ROWS = [("king", "s", "queen", "s", "he", "she"), ("girl", "s", "boys", "", "she", "they")]
ROWS += [("dogs", "", "dog", "s", "they", "it"), ("man", "s", "cat", "s", "he", "it")]


def run(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `find` leaves of a planted model."""
    out = tmp_path_factory.mktemp("made") / "deep" / "found"
    assert run("find", *MODEL, "--k", 60, "--exact", 5, "--method", "eap", "--out", out) == 0
    return out


@pytest.fixture
def scores(found: Path) -> ScoredGraph:
    return ScoredGraph.load(found / "scores.json")


@pytest.mark.parametrize("words", [[], ["find"], ["convert"], ["compare"]])
def test_help_comes_without_anything_heavy(words: list[str]) -> None:
    code = f"""
import sys
from edge_circuits.command.line import main
try: main({[*words, "--help"]!r})
except SystemExit as end: assert end.code == 0
heavy = {{"torch", "numpy", "transformers", "transformer_lens", "jaxtyping"}} & set(sys.modules)
assert not heavy, heavy"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "edge-circuits" in done.stdout


@pytest.mark.parametrize("name", STUDIES)
def test_studies_are_commands(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        run(name, "--help")
    assert end.value.code == 0 and f"usage: edge-circuits {name}" in capsys.readouterr().out


def test_find_writes_what_the_library_reads(found: Path, scores: ScoredGraph) -> None:
    assert sorted(path.name for path in found.iterdir()) == [
        "circuit.json",
        "measures.json",
        "report.html",
        "scores.json",
    ]
    circuit, told = Circuit.load(found / "circuit.json"), json.loads((found / "measures.json").read_text())
    assert circuit == prune(scores, 60) and scores.per_group is not None
    task = planted.load("greater_than")
    held_out = task.task.pairs(12, split="test")
    again = measure(task.model, circuit, held_out, load_metric(task.task.task.metric))[0]
    assert told["faithfulness"] == pytest.approx(again.faithfulness, rel=1e-6) and told["n_edges"] == len(circuit)
    assert told["model_right"] == int(again.model_right.sum())
    assert len(told["exact"]) == 5 and set(told["exact"]) <= set(circuit.edges)
    assert 60 in told["curve"]["k"] and all(isinstance(check["passed"], bool) for check in told["checks"].values())


def test_find_finds_and_measures_on_different_prompts(found: Path, scores: ScoredGraph) -> None:
    page = json.loads(
        re.search(r'id="payload">(.*?)</script>', (found / "report.html").read_text(), re.DOTALL).group(1)
    )
    task = planted.load("greater_than").task
    train, test = (task.pairs(12, split=split) for split in ("train", "test"))
    assert scores.metadata["prompts_digest"] == train.digest != test.digest
    tokenizer = task.task.word_tokenizer()
    first = test.clean[0, : test.lengths[0]].tolist()
    shown = page["prompts"]["rows"][0]["clean"]
    assert "".join(shown) == tokenizer.decode(first) and len(shown) == len(first) and len(page["prompts"]["rows"]) == 12
    assert page["curve"] and page["checks"] and page["sides"][0]["low"] and page["sides"][0]["exact"]


@pytest.mark.slow
def test_without_k_the_fewest_edges_that_do_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [word for word in MODEL if word != "--quiet"]
    assert run("find", *words, "--share", 0.8, "--method", "eap", "--exact", 0, "--out", tmp_path / "a") == 0
    told = capsys.readouterr()
    k = int(re.search(r"k ([\d,]+): the fewest edges tried that recover 80%", told.err).group(1).replace(",", ""))
    assert Circuit.load(tmp_path / "a" / "circuit.json").n_requested == k
    assert "12 training prompts to find with, 12 held out to measure on" in told.err and "checks " in told.out


@pytest.mark.slow
def test_a_result_is_made_again_from_what_it_tells(found: Path, scores: ScoredGraph, tmp_path: Path) -> None:
    assert run("again", found / "circuit.json", "--out", tmp_path / "again") == 0
    other = ScoredGraph.load(tmp_path / "again" / "scores.json")
    assert torch.equal(other.scores, scores.scores)
    assert Circuit.load(tmp_path / "again" / "circuit.json") == Circuit.load(found / "circuit.json")


def test_prune_compare_and_render_work_on_files(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("prune", found / "scores.json", "--k", 30, "--by", "negative", "--out", tmp_path / "new" / "b.json") == 0
    small, large = Circuit.load(tmp_path / "new" / "b.json"), Circuit.load(found / "circuit.json")
    assert small == prune(ScoredGraph.load(found / "scores.json"), 30, by="negative")
    assert run("compare", found / "circuit.json", tmp_path / "new" / "b.json", "--out", tmp_path / "both.html") == 0
    assert f"shared: {len(small & large)} edges" in capsys.readouterr().out
    assert '"sides":[{' in (tmp_path / "both.html").read_text()
    for name in ("a.html", "a.gv"):
        assert run("render", found / "circuit.json", "--out", tmp_path / name) == 0 and (tmp_path / name).exists()


@pytest.mark.parametrize("ending", ["json", "pt"])
def test_convert_turns_the_sign_both_ways(found: Path, scores: ScoredGraph, tmp_path: Path, ending: str) -> None:
    theirs, back = tmp_path / f"theirs.{ending}", tmp_path / "back.json"
    assert run("convert", found / "scores.json", "--out", theirs) == 0
    from edge_circuits.graphs.files import eap_ig

    assert torch.equal(eap_ig.import_scores(theirs, negate=False).scores, 0 - scores.scores)
    assert run("convert", theirs, "--out", back) == 0
    assert torch.equal(ScoredGraph.load(back).scores, scores.scores)
    assert run("convert", theirs, "--to", "eap-ig", "--out", back) == 2


def test_measure_score_and_verify(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("measure", found / "circuit.json", *MODEL, "--out", tmp_path / "m.json") == 0
    told, written = json.loads((found / "measures.json").read_text()), json.loads((tmp_path / "m.json").read_text())
    assert written["circuits"][0]["faithfulness"] == pytest.approx(told["faithfulness"], rel=1e-6)
    assert run("score", *MODEL, "--method", "eap", "--out", tmp_path / "s.json") == 0
    scores = ScoredGraph.load(found / "scores.json").scores
    torch.testing.assert_close(ScoredGraph.load(tmp_path / "s.json").scores, scores, rtol=1e-4, atol=1e-6)
    capsys.readouterr()
    assert run("verify", found / "scores.json", *MODEL, "--edges", 8) in (0, 1)
    assert "logits against the model's own" in capsys.readouterr().out


def test_refine_cuts_a_circuit_further(found: Path, tmp_path: Path) -> None:
    assert run("refine", found / "circuit.json", *MODEL, "--threshold", 0.05, "--out", tmp_path / "r.json") == 0
    refined, start = Circuit.load(tmp_path / "r.json"), Circuit.load(found / "circuit.json")
    assert 0 < len(refined) < len(start) and not refined - start


def test_prompts_of_a_file_are_halved(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pairs = planted.load("greater_than").task.pairs(9)
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clean", "corrupted", "correct_idx", "incorrect_idx"])
        tokenizer = planted.planted_task("greater_than").task.word_tokenizer()
        for row in range(9):
            texts = [
                tokenizer.decode(ids[row, 1 : pairs.lengths[row]].tolist()) for ids in (pairs.clean, pairs.corrupted)
            ]
            right, wrong = ([t for t in ids[row].tolist() if t >= 0] for ids in (pairs.answers, pairs.wrong_answers))
            writer.writerow([*texts, right, wrong])
    assert (
        run("score", "--task", "greater_than", "--prompts", path, "--method", "eap", "--out", tmp_path / "s.json") == 0
    )
    assert "4 prompts of mine.csv to find with, 5 held out to measure on" in capsys.readouterr().err
    assert ScoredGraph.load(tmp_path / "s.json").metadata["settings"]["n_prompts"] == 4


def test_a_warning_is_one_line(tmp_path: Path) -> None:
    same = "\n".join(["clean,corrupted,answers,wrong_answers", *["the king runs .,the king runs .,he,she"] * 4])
    (tmp_path / "same.csv").write_text(same)
    asked = ("score", "--model", "trained", "--task", "pronoun", "--prompts", tmp_path / "same.csv", "--quiet")
    command = [sys.executable, "-m", "edge_circuits", *map(str, asked), "--out", str(tmp_path / "s.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.startswith("warning: pairs: 2 of 2 have the same clean"), done.stderr
    assert done.stderr.count("\n") == 1


def test_trained_models_are_found_in_with_their_words_and_with_a_users(tmp_path: Path) -> None:
    asked = ("--model", "trained", "--task", "pronoun", "--method", "eap", "--k", 40, "--exact", 0, "--quiet")
    assert run("find", *asked, "--n-prompts", 6, "--out", tmp_path / "a") == 0
    page = (tmp_path / "a" / "report.html").read_text()
    prompts = json.loads(re.search(r'id="payload">(.*?)</script>', page, re.DOTALL).group(1))["prompts"]
    assert len(prompts["rows"]) == 6 and " ." in prompts["rows"][0]["clean"]
    lines = [f"the {a} sleep{s} .,the {b} sleep{z} .,{x},{y}" for a, s, b, z, x, y in ROWS]
    (tmp_path / "mine.csv").write_text("\n".join(["clean,corrupted,answers,wrong_answers", *lines]))
    assert run("score", *asked[:6], "--prompts", tmp_path / "mine.csv", "--quiet", "--out", tmp_path / "s.json") == 0
    known = ScoredGraph.load(tmp_path / "s.json")
    assert known.metadata["task"] == "pronoun" and known.metadata["settings"]["n_prompts"] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["find", "--model", "trained", "--out", "new"],
            "--task: expected the task of the trained model, one of number, pronoun,",
        ),
        (["find", "--model", "trained:a", "--task", "number", "--out", "new"], "behind the colon, got 'a'"),
        (["find", "--out", "new"], "--task: expected the task of the planted model"),
        (["find", "--model", "/nowhere/at/all", "--out", "new"], "which does not exist"),
        (["find", *MODEL, "--method", "eap-gi", "--out", "new"], "eap-gi"),
        (["find", *MODEL, "--metric", "f1", "--out", "new"], "metric: expected one of"),
        (["find", *MODEL, "--share", "2", "--out", "new"], "--share: expected a"),
        (["find", *MODEL, "--out", "file/new"], "--out: expected a place where a folder can be made"),
        (["score", "--model", "planted", "--task", "ioi", "--prompts", "none.csv", "--out", "new/s.json"], "none.csv"),
        (["prune", "none.json", "--k", "3", "--out", "new/c.json"], "none.json: No such file"),
        (["prune", "file", "--k", "3", "--out", "new/c.json"], "file: expected JSON"),
        (["render", "file", "--out", "new/c.svg"], "file: expected JSON"),
        (["roc", "--tasks", "nothing", "--out", "new"], "nothing"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no JSON")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and error.startswith(f"edge-circuits {words[0]}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_map_draws_and_tells_the_agreement(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = "map --task ioi --n-prompts 2 --prompt 1 --methods relp exact --quiet --out"
    assert main([*words.split(), str(tmp_path / "map.svg")]) == 0
    told = capsys.readouterr().out
    assert "Pearson with exact" in told and told.count("relp") == 6
    assert "gave" in (tmp_path / "map.svg").read_text()
    assert main([*words.split()[:-3], "--prompt", "2", "--out", str(tmp_path / "none.svg")]) == 2
    assert "--prompt: expected a whole number from 0 to 1" in capsys.readouterr().err
