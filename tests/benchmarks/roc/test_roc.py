"""The command line: what it prints and writes, and that a stopped run goes on where it was."""

from __future__ import annotations

import builtins
import csv
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from toy import toy_problem

from edge_circuits import eap
from edge_circuits.benchmarks.roc import study as roc
from edge_circuits.benchmarks.roc.finding import Settings

SHORT = ["--methods", "eap", "random", "--n-prompts", "6", "--groups", "3"]


write_plots = roc._write_plots


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted models are the toy problem alone, and what takes time is done seldom or not at all."""
    import graphviz

    def missing(*args: object, **kwargs: object) -> bytes:
        raise graphviz.ExecutableNotFound(["dot"])

    monkeypatch.setattr(roc, "planted_problems", lambda tasks, n_prompts, seed, folder: [toy_problem(n_prompts, seed)])
    monkeypatch.setattr(roc, "Settings", partial(Settings, n_random=3, n_resamples=20))
    monkeypatch.setattr(roc, "_write_plots", lambda findings, given: [])
    monkeypatch.setattr(graphviz.Source, "pipe", missing)


def rows(folder: Path) -> list[dict[str, str]]:
    """The table written, without the times."""
    lines = csv.DictReader((folder / "roc.csv").read_text().splitlines())
    return [{name: cell for name, cell in line.items() if name != "seconds"} for line in lines]


def counted(
    monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None, stop: Callable[[], Any] | None = None
) -> list[str]:
    """Counts the calls of `eap.score`, and has one of them stop."""
    calls, score = [], eap.score

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[3])
        if len(calls) == stop_at:
            stop()
        return score(*args, **kwargs)

    monkeypatch.setattr(eap, "score", counting)
    return calls


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_table_goes_to_standard_output_and_all_else_elsewhere(capsys: pytest.CaptureFixture) -> None:
    assert roc.main(SHORT) == 0
    out, err = capsys.readouterr()
    assert out.startswith("planted toy: 6 of 46 edges are the circuit") and "\neap " in out and "\nrandom " in out
    assert "planted toy, eap" in err and "part/s" in err
    assert roc.main([*SHORT, "--quiet"]) == 0
    quiet_out, quiet_err = capsys.readouterr()
    assert quiet_err == "" and quiet_out.splitlines()[:3] == out.splitlines()[:3]


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(roc, "_write_plots", write_plots)
    out = tmp_path / "new" / "results"
    assert roc.main([*SHORT, "--out", str(out), "--k", "5"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".partial",
        "roc.txt",
        "roc.csv",
        "roc.json",
        "scores-planted-toy-eap-logit_difference.json",
        "roc-planted-toy.png",
        "distributions-planted-toy.png",
        "roles-planted-toy.png",
        *(
            f"circuit-planted-toy-{name}.{end}"
            for name in ("known", "eap-logit_difference-k5")
            for end in ("svg", "gv")
        ),
    }
    captured = capsys.readouterr()
    assert captured.err.count("apt-get install graphviz") == 1
    assert (out / "roc.txt").read_text() == captured.out
    content = json.loads((out / "roc.json").read_text())
    assert content["settings"]["n_prompts"] == 6 and len(content["rows"]) == 2
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_table(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--methods", "eap", "clean-corrupted", *SHORT[2:], "--out"]
    assert roc.main([*arguments, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        counted(patched, stop_at, interrupt)
        assert roc.main([*arguments, str(tmp_path / "parts")]) == roc.STOPPED
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "roc.csv").exists()
    calls = counted(monkeypatch)
    assert roc.main([*arguments, str(tmp_path / "parts")]) == 0
    assert len(calls) == 6 + 1 - stop_at  # of 2 methods on 3 groups
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*SHORT, "--quiet", "--out"]
    assert roc.main([*arguments, str(tmp_path / "whole")]) == 0
    child = os.fork()
    if child == 0:
        counted(monkeypatch, 3, lambda: os._exit(9))
        roc.main([*arguments, str(tmp_path / "parts")])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls = counted(monkeypatch)
    assert roc.main([*arguments, str(tmp_path / "parts")]) == 0
    assert len(calls) == 1
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_what_was_scored_serves_other_questions_and_not_other_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--quiet", "--out", str(tmp_path)]
    assert roc.main([*SHORT, *out]) == 0
    calls = counted(monkeypatch)
    assert roc.main([*SHORT, *out, "--k", "3", "--universe", "no-input"]) == 0
    assert calls == []
    assert roc.main([*SHORT, *out, "--seed", "1"]) == 0
    assert len(calls) == 3
    assert roc.main([*SHORT, *out, "--metrics", "log_probability"]) == 0
    assert len(calls) == 6
    assert roc.main([*SHORT, *out, "--fresh"]) == 0
    assert len(calls) == 9


def test_a_seed_gives_the_same_table(tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert roc.main([*SHORT, "--quiet", "--seed", seed, "--out", str(tmp_path / name)]) == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")


def test_a_metric_without_a_gradient_is_told_and_the_others_go_on(capsys: pytest.CaptureFixture) -> None:
    assert roc.main([*SHORT, "--quiet", "--metrics", "kl", "task"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[3:5]] == [["eap", "logit_difference"], ["random", "-"]]
    assert lines[5].startswith("kl without eap: ") and "gradient" in lines[5]


def test_by_default_all_fast_methods_are_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(roc.methods, "known", lambda: {"eap": None, "exact": None})
    monkeypatch.setattr(roc.methods.sweeps, "NAMES", ())
    monkeypatch.setattr(roc.methods, "LARGE", 10)
    assert roc.main(SHORT[3:]) == 0
    out, err = capsys.readouterr()
    assert "planted toy: without exact, slow on 46 edges; ask with --methods" in err
    assert "\neap " in out and "\nexact" not in out


def test_without_matplotlib_the_user_is_told_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    imported = builtins.__import__

    def no_matplotlib(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return imported(name, *args)

    monkeypatch.setattr(roc, "_write_plots", write_plots)
    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    assert roc.main([*SHORT, "--out", str(tmp_path)]) == 0
    assert "matplotlib is not installed; pip install 'edge-circuits[plots]'" in capsys.readouterr().err
    assert (tmp_path / "roc.json").exists() and not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magic"], "method: expected one of eap"),
        (["--metrics", "beauty"], "metric: expected one of logit_difference"),
        (["--k", "1000"], "k: expected numbers from 1 to 46"),
        (["--universe", "x"], "unknown universe 'x'"),
        (["--groups", "0"], "--groups: expected 1 or more, came 0"),
        (["--model", "planted", "planted"], "--model: expected models with different names"),
        (["--model", "./nowhere"], "expected a directory or a hub name, came 'nowhere', which does not exist"),
    ],
)
def test_mistakes_are_told_in_a_line_before_anything_is_scored(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = counted(monkeypatch)
    assert roc.main([*SHORT, *arguments]) == roc.REFUSED
    err = capsys.readouterr().err
    assert err.startswith("edge_circuits.benchmarks.roc: ") and message in err and len(err.splitlines()) == 1
    assert calls == []


def test_a_mistake_of_a_method_is_not_taken_for_a_flat_metric(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def wrong() -> None:
        raise ValueError("something else is wrong")

    counted(monkeypatch, 2, wrong)
    assert roc.main([*SHORT, "--quiet"]) == roc.REFUSED
    assert "something else is wrong" in capsys.readouterr().err
