"""Circuits are drawn with their roles, also without Graphviz's program."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import graphviz
import pytest
from toy import toy_search

from edge_circuits.benchmarks.roc import circuit_drawings as drawings
from edge_circuits.benchmarks.roc import methods
from edge_circuits.benchmarks.roc.finding import Finding


@pytest.fixture
def findings(tmp_path: Path) -> list[Finding]:
    parts, search = tmp_path / ".partial", toy_search(k=(6, 20))
    return [methods.find(name, search, parts) for name in ("eap", "random")]


@pytest.fixture
def without_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> bytes:
        raise graphviz.ExecutableNotFound(["dot"])

    monkeypatch.setattr(graphviz.Source, "pipe", missing)


def test_the_known_circuit_and_each_k_are_drawn(findings: list[Finding], tmp_path: Path, without_dot: None) -> None:
    paths, _ = drawings.draw_all(findings, tmp_path)
    names = ["known", "eap-logit_difference-k6", "eap-logit_difference-k20"]
    assert [path.name for path in paths] == [f"circuit-planted-toy-{name}.svg" for name in names]
    known, best = (" ".join(re.sub("<[^>]*>", " ", path.read_text()).split()) for path in (paths[0], paths[2]))
    assert (
        "planted toy: the known circuit, 6 edges" in known
        and "(made up)" in known
        and "sender" in known
        and "reader" in known
    )
    assert "best 20 edges" in best and "of the known circuit&#x27;s 6" in best


def test_without_dot_the_user_is_told_once(findings: list[Finding], tmp_path: Path, without_dot: None) -> None:
    _, notes = drawings.draw_all(findings, tmp_path)
    (note,) = notes
    assert "the 3 circuits are drawn without it" in note and "apt-get install graphviz" in note


def test_without_a_k_a_large_circuit_is_not_drawn_whole(
    findings: list[Finding], tmp_path: Path, without_dot: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawings, "MOST_DRAWN", 4)
    found = replace(findings[0], search=toy_search())
    assert [path.stem[-2:] for path in drawings.draw_all([found], tmp_path)[0]] == ["wn", "k4"]  # known, then 4 edges
