"""The command line on a user's own model, prompts and circuit: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import graphviz
import pytest
from toy import toy_files

from edge_circuits.benchmarks.roc import methods
from edge_circuits.benchmarks.roc.study import main
from edge_circuits.benchmarks.study import DONE, REFUSED, STOPPED
from edge_circuits.eap import intervals

SHORT = ["--methods", "eap", "random", "--groups", "3"]
PICTURES = {"roc-toy-mine.png", "distributions-toy-mine.png", "beside-published.png"}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that ask for the toy problem; without Graphviz's program, which takes time."""

    def missing(*args: object, **kwargs: object) -> bytes:
        raise graphviz.ExecutableNotFound(["dot"])

    monkeypatch.setattr(graphviz.Source, "pipe", missing)
    return [*toy_files(tmp_path), *SHORT]


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        "edge_circuits.benchmarks.output.figures.find_spec", lambda name: None if name == "matplotlib" else found(name)
    )


def rows(folder: Path) -> list[dict[str, str]]:
    """The table written, without the times."""
    lines = csv.DictReader((folder / "roc.csv").read_text().splitlines())
    return [{name: cell for name, cell in line.items() if name != "seconds"} for line in lines]


def test_the_table_goes_to_standard_output_and_all_else_elsewhere(toy: list[str], capsys: Any) -> None:
    assert main(toy) == DONE
    out, err = capsys.readouterr()
    heading = (
        "toy mine: 6 of 46 edges are the circuit (circuit of known.json); 6 prompts of mine.jsonl in 3 groups, seed 0"
    )
    assert out.splitlines()[0] == heading and "\neap " in out and "\nrandom " in out
    assert "toy mine, eap" in err and "method/s" in err
    assert main([*toy, "--quiet"]) == DONE
    quiet = capsys.readouterr()
    assert quiet.err == "" and quiet.out.splitlines()[:3] == out.splitlines()[:3]


def test_everything_is_written(toy: list[str], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "results"
    assert main([*toy, "--out", str(out), "--k", "5"]) == DONE
    circuits = {
        f"circuit-toy-mine-{name}.{end}" for name in ("known", "eap-logit_difference-k5") for end in ("svg", "gv")
    }
    tables = {f"roc.{end}" for end in ("txt", "csv", "json")} | {"scores-toy-mine-eap-logit_difference.json"}
    assert {path.name for path in out.iterdir()} == {".partial"} | tables | PICTURES | circuits
    captured = capsys.readouterr()
    assert captured.err.count("apt-get install graphviz") == 1
    assert (out / "roc.txt").read_text() == captured.out
    content = json.loads((out / "roc.json").read_text())
    assert content["settings"]["groups"] == 3 and [row["method"] for row in content["rows"]] == ["eap", "random"]
    assert content["versions"].keys() >= {"python", "torch"} and content["skipped"] == []
    assert json.loads(rows(out)[0]["settings"])["intervention"] == "patching"
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_an_interrupted_run_ends_with_the_same_table(
    stop_at: int, toy: list[str], tmp_path: Path, without_matplotlib: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked = [*toy, "--methods", "eap", "clean-corrupted", "--quiet", "--out"]
    assert main([*asked, str(tmp_path / "whole")]) == DONE
    calls, score = [], intervals.score

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return score(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(intervals, "score", stopping)
        assert main([*asked, str(tmp_path / "parts")]) == STOPPED
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "roc.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.npz")}
    assert len(kept) == stop_at - 1
    assert main([*asked, str(tmp_path / "parts")]) == DONE
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_a_seed_gives_the_same_table(toy: list[str], tmp_path: Path, without_matplotlib: None) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main([*toy, "--quiet", "--seed", seed, "--out", str(tmp_path / name)]) == DONE
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_metric_without_a_gradient_is_told_and_the_others_go_on(toy: list[str], capsys: Any) -> None:
    assert main([*toy, "--quiet", "--metrics", "kl", "task"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[3:5]] == [["eap", "logit_difference"], ["random", "-"]]
    assert lines[5].startswith("kl without eap: ") and "gradient" in lines[5]


def test_by_default_all_fast_methods_are_asked(toy: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(methods, "names", lambda: ("eap", "exact"))
    monkeypatch.setattr(methods, "LARGE", 10)
    assert main([word for word in toy if word not in ("--methods", "eap", "random")]) == DONE
    out, err = capsys.readouterr()
    assert "toy mine: without exact, slow on 46 edges; ask with --methods" in err
    assert "\neap " in out and "\nexact" not in out


def test_without_matplotlib_the_user_is_told_and_the_rest_is_written(
    toy: list[str], tmp_path: Path, without_matplotlib: None, capsys: Any
) -> None:
    assert main([*toy, "--out", str(tmp_path)]) == DONE
    assert "matplotlib is not installed; pip install 'edge-circuits[benchmarks]'" in capsys.readouterr().err
    assert (tmp_path / "roc.json").exists() and not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "magic"], "method: expected one of eap"),
        (["--metrics", "beauty"], "metric: expected one of "),
        (["--k", "1000"], "k: expected a whole number from 1 to 46, got 1000"),
        (["--universe", "x"], "universe: expected one of 'all'"),
        (["--groups", "0"], "--groups: expected a whole number from 1, got 0"),
    ],
)
def test_mistakes_are_told_in_a_line(words: list[str], message: str, toy: list[str], capsys: Any) -> None:
    assert main([*toy, "--quiet", *words]) == REFUSED
    err = capsys.readouterr().err
    assert err.startswith("edge_circuits.benchmarks.roc: ") and message in err and len(err.splitlines()) == 1


def test_a_mistake_of_a_method_is_not_taken_for_a_flat_metric(
    toy: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def wrong(*args: object, **kwargs: object) -> None:
        raise ValueError("something else is wrong")

    monkeypatch.setattr(intervals, "score", wrong)
    assert main([*toy, "--quiet"]) == REFUSED
    assert "something else is wrong" in capsys.readouterr().err
