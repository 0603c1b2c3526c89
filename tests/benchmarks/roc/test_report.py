"""Findings as text, CSV and JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from toy import toy_problem, toy_search

from edge_circuits.benchmarks.roc import methods, report
from edge_circuits.benchmarks.roc.finding import Finding


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    parts = tmp_path_factory.mktemp("parts")
    search = toy_search()
    return [methods.find(name, search, parts) for name in ("eap", "random")]


def test_the_table_has_a_heading_a_line_a_method_and_a_legend(findings: list[Finding]) -> None:
    lines = report.text(findings).splitlines()
    assert lines[0] == "planted toy: 6 of 46 edges are the circuit (made up); 6 random prompts in 3 groups, seed 0"
    assert lines[1].split() == (
        [
            "method",
            "metric",
            "AUC",
            "95",
            "%",
            "interval",
            "AP",
            "TPR@1%",
            "TPR@5%",
            "TPR@10%",
            "best",
            "J",
            "at",
            "k",
            "TPR",
            "k=6",
            "FPR",
            "k=6",
            "node",
            "AUC",
            "hard",
            "AUC",
            "hard",
            "AP",
            "seconds",
        ]
    )
    eap, random = (line.split() for line in lines[3:5])
    assert eap[:3] == ["eap", "logit_difference", f"{findings[0].figures['auc']:.3f}"]
    assert eap[3:6] == [f"{findings[0].interval.low:.3f}", "-", f"{findings[0].interval.high:.3f}"]
    assert random[:2] == ["random", "-"] and random[-1] == "-"
    assert lines[-1].startswith("random: mean of 20 draws")


def test_trainings_with_several_seeds_are_told_together(findings: list[Finding], tmp_path: Path) -> None:
    other = toy_search(replace(toy_problem(), model_name="planted:1"))
    flipped = toy_search(replace(toy_problem(seed=1), model_name="planted:2"))
    more = [methods.find("eap", search, tmp_path / str(at)) for at, search in enumerate((other, flipped))]
    lines = report.text([*findings, *more]).splitlines()
    at = lines.index("planted toy, mean (least, most) over planted, planted:1, planted:2")
    areas = [one.figures["auc"] for one in (findings[0], *more)]
    expected = f"{fmean(areas):.3f} ({min(areas):.3f}, {max(areas):.3f})"
    assert areas[0] == areas[1] != areas[2]
    assert lines[at + 3].split("  ")[0] == "eap, logit_difference" and expected in lines[at + 3]
    assert lines[at + 4] == ""  # random scores were drawn for one model alone
    assert "mean (least, most)" not in report.text([*findings, findings[0]])


def test_columns_are_aligned(findings: list[Finding]) -> None:
    lines = report.text(findings).splitlines()
    ends = [at for at, (dash, space) in enumerate(zip(lines[2], lines[2][1:] + " ")) if (dash, space) == ("-", " ")]
    for line in lines[3:5]:
        assert all(line[end] != " " for end in ends[2:] if end < len(line))


def test_problems_have_tables_of_their_own(findings: list[Finding], tmp_path: Path) -> None:
    other = toy_search(toy_problem(n_prompts=2))
    more = methods.find("random", other, tmp_path)
    text = report.text([*findings, more])
    assert text.count("edges are the circuit") == 2 and "2 random prompts in 2 groups" in text


def test_what_was_skipped_is_told_once_a_reason(findings: list[Finding]) -> None:
    search = findings[0].search
    skipped = [report.Skipped(search, name, "it cannot") for name in ("eap", "eap-ig")]
    assert "logit_difference without eap, eap-ig: it cannot" in report.text(findings, skipped).splitlines()
