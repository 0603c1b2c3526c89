"""What figures were made with."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_circuits.benchmarks.output import provenance


def test_the_commit_is_told_in_a_checkout_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() is None
    (tmp_path / ".git").mkdir()
    answers = {"rev-parse": "abc123\n", "status": ""}
    told = lambda words, **_: SimpleNamespace(stdout=answers[words[3]])
    monkeypatch.setattr(provenance.subprocess, "run", told)
    assert provenance.commit() == "abc123"
    answers["status"] = " M file.py\n"
    assert provenance.commit() == "abc123+"

    def no_git(words: list[str], **_: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance.subprocess, "run", no_git)
    assert provenance.commit() is None


def test_settings_are_of_types_that_json_has() -> None:
    given = argparse.Namespace(out=Path("results"), weights=Path("w"), k=(1, 2), model=["planted", Path("m")], seed=0)
    expected = {"weights": "w", "k": [1, 2], "model": ["planted", "m"], "seed": 0}
    assert provenance.settings_of(given) == expected


def test_code_digest_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "formula.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(provenance, "CODE", ("made_up_package",))
    before = provenance.code_digest.__wrapped__()
    assert provenance.code_digest.__wrapped__() == before
    (package / "formula.py").write_text("x = 2")
    assert provenance.code_digest.__wrapped__() != before


def test_code_digest_covers_what_makes_scores() -> None:
    assert set(provenance.CODE) == {"edge_circuits.graphs", "edge_circuits.eap", "edge_circuits.acdc"}
    assert provenance.code_digest() == provenance.code_digest()
