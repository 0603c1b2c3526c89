"""What all studies share: options, one form of errors, what is kept, and how each is called."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy import toy_files

from edge_circuits.benchmarks.study import (
    DONE,
    FILES,
    OPTIONS,
    PROBLEM,
    REFUSED,
    STOPPED,
    Study,
    note,
    parts_of,
    problems_of,
    tell,
)

STUDIES = ("roc", "agreement", "faithfulness", "refine", "speed", "needs", "published", "hypotheses")
STUDIES += ("planted.train", "planted.verify", "trained.train")


def study(work: Any, add: Any = lambda parser: None, **settings: Any) -> Study:
    return Study("toy", "A toy.", (*PROBLEM, *FILES), add, work, **settings)


def module_of(name: str) -> Any:
    base = f"edge_circuits.benchmarks.{name}"
    return importlib.import_module(f"{base}.study" if hasattr(importlib.import_module(base), "__path__") else base)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_parser_and_a_main_and_is_called_by_its_name(name: str, capsys: Any) -> None:
    module = module_of(name)
    assert module.STUDY.name == name and module.parser().prog == f"python -m edge_circuits.benchmarks.{name}"
    assert module.parser("edge-circuits x").prog == "edge-circuits x"
    with pytest.raises(SystemExit) as left:
        module.main(["--help"])
    assert left.value.code == 0 and module.STUDY.summary.rstrip(".") in capsys.readouterr().out.replace("\n", " ")


def test_a_study_runs_as_a_module_from_any_directory(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edge_circuits.benchmarks.needs", "--sizes", "gpt2"]
    assert "32,491" in subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout


def test_shared_options_are_there_and_defaults_can_be_the_studys_own() -> None:
    given = study(None, defaults={"n_prompts": 7}).parser().parse_args(["--task", "ioi", "--prompts", "x.csv"])
    assert given.n_prompts == 7 and given.tasks == ["ioi"] and given.prompts == Path("x.csv")
    assert given.model == ["planted"] and given.resume and not given.fresh
    assert {name.split()[0][2:] for name in OPTIONS} == {*PROBLEM, *FILES, "metric", "intervention"}


def test_an_error_is_a_line_and_an_exit_status(capsys: Any) -> None:
    def refuse(given: argparse.Namespace) -> None:
        raise ValueError("k: expected more, got less; give more")

    assert study(refuse).main([]) == REFUSED
    assert capsys.readouterr().err == "edge_circuits.benchmarks.toy: k: expected more, got less; give more\n"
    assert study(refuse).main([], prog="edge-circuits toy") == REFUSED
    assert capsys.readouterr().err.startswith("edge-circuits toy: k:")


def test_other_errors_are_not_hidden() -> None:
    def fail(given: argparse.Namespace) -> None:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        study(fail).main([])


def test_stopping_says_what_is_kept(tmp_path: Path, capsys: Any) -> None:
    def stop(given: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    assert study(stop).main([]) == STOPPED
    assert "with --out DIR the next run would go on" in capsys.readouterr().err
    assert study(stop).main(["--out", str(tmp_path)]) == STOPPED
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    worked = []
    assert study(worked.append).main(["--out", str(tmp_path / "file" / "out")]) == REFUSED
    assert "--out: expected a folder that can be made, got" in capsys.readouterr().err and not worked


def test_what_is_told_is_written_too(tmp_path: Path, capsys: Any) -> None:
    def work(given: argparse.Namespace) -> None:
        tell(given, "toy", "a table", [{"a": 1.5, "b": None, "c": {"x": [1]}}], left=["that"])
        note(given, "a note")

    assert study(work).main(["--out", str(tmp_path / "out"), "--seed", "3"]) == DONE
    assert capsys.readouterr() == ("a table\n", "a note\n")
    content = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert content["rows"] == [{"a": 1.5, "b": None, "c": {"x": [1]}}] and content["left"] == ["that"]
    assert content["settings"]["seed"] == 3 and "out" not in content["settings"] and content["versions"]["torch"]
    lines = (tmp_path / "out" / "toy.csv").read_text().splitlines()
    assert lines[0] == "a,b,c,commit,versions" and lines[1].startswith('1.5,,"{""x"": [1]}",')
    assert (tmp_path / "out" / "toy.txt").read_text() == "a table\n"
    assert study(work).main(["--quiet"]) == DONE
    assert capsys.readouterr() == ("a table\n", "")


def test_a_refusal_leaves_no_empty_folder(tmp_path: Path) -> None:
    def work(given: argparse.Namespace) -> None:
        with parts_of(given) as folder:
            if given.seed:
                (folder / "part").write_text("")
            raise ValueError("no")

    for seed, left in (("0", []), ("1", ["out"])):
        assert study(work).main(["--out", str(tmp_path / "deep" / "out"), "--seed", seed]) == REFUSED
        assert [path.name for path in tmp_path.glob("deep/*")] == left
    assert study(work).main(["--out", str(tmp_path)]) == REFUSED and tmp_path.exists()


def test_parts_are_kept_until_they_are_forgotten(tmp_path: Path, capsys: Any) -> None:
    found = []

    def work(given: argparse.Namespace) -> None:
        with parts_of(given) as folder:
            found.append(sorted(path.name for path in folder.iterdir()))
            (folder / "part").write_text("")
        found.append(folder.exists())

    out = ["--out", str(tmp_path)]
    for words in (out, out, [*out, "--fresh"], []):
        assert study(work).main(words) == DONE
    assert found == [[], True, ["part"], True, [], True, [], False]
    assert capsys.readouterr().err.count("what an earlier run has scored is used") == 1


def test_two_models_of_one_name_are_refused(tmp_path: Path, capsys: Any) -> None:
    words = toy_files(tmp_path)
    words.insert(2, words[1])
    assert study(problems_of).main(words) == REFUSED
    message = "--model: expected models with different names, since files are named after them, got toy-mine twice"
    assert message in capsys.readouterr().err
