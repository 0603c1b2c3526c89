"""Pictures are written whole, and show what they are to show; whether they are good was judged by eye."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import toy_problem, toy_search

from edge_circuits.benchmarks.output.figures import PALETTE, colour_of
from edge_circuits.benchmarks.roc import curve_plots, methods, score_plots
from edge_circuits.benchmarks.roc.finding import Finding
from edge_circuits.graphs import ScoredGraph

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    parts, search = tmp_path_factory.mktemp("parts"), toy_search()
    return [methods.find(name, search, parts) for name in ("eap", "clean-corrupted", "random")]


def text_of(path: Path) -> str:
    """The words of an svg whose letters are text."""
    return path.read_text()


@pytest.fixture(autouse=True)
def letters_as_text() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        yield


def test_the_roc_plot_names_every_method_with_its_area(findings: list[Finding], tmp_path: Path) -> None:
    text = text_of(curve_plots.plot_problem(findings, tmp_path / "roc.svg"))
    for finding in findings:
        assert f"{finding.method}  {finding.figures['auc']:.3f}" in text
    assert "planted toy: 6 of 46 edges, 6 prompts" in text


def test_metrics_are_named_where_there_are_several(findings: list[Finding], tmp_path: Path) -> None:
    other = replace(findings[0], metric="log_probability")
    text = text_of(curve_plots.plot_problem([findings[0], other, findings[2]], tmp_path / "roc.svg"))
    assert "eap, log_probability  " in text and "eap, logit_difference  " in text and "random  " in text


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_the_same_findings_give_the_same_picture(ending: str, findings: list[Finding], tmp_path: Path) -> None:
    first, second = (curve_plots.plot_problem(findings, tmp_path / f"{n}.{ending}").read_bytes() for n in "ab")
    assert first == second and len(first) > 5000


def test_published_curves_and_points_stand_beside_a_real_model(findings: list[Finding], tmp_path: Path) -> None:
    problem = toy_problem()
    problem = replace(problem, model_name="gpt2", task="greater_than")
    search = toy_search(problem)
    beside = [replace(finding, search=search) for finding in findings]
    text = text_of(curve_plots.plot_beside_published(beside, tmp_path / "beside.svg"))
    for words in (
        "gpt2 greater_than",
        "MIB's EAP  0.908",
        "MIB's EAP-IG  0.900",
        "ACDC, KL  0.853 (stairs)",
        "ACDC, task metric  0.461",
    ):
        assert words in text


def test_docstring_has_published_points_alone(findings: list[Finding], tmp_path: Path) -> None:
    problem = toy_problem()
    problem = replace(problem, model_name="attn-only-4l", task="docstring")
    beside = [replace(finding, search=toy_search(problem)) for finding in findings[:1]]
    text = text_of(curve_plots.plot_beside_published(beside, tmp_path / "beside.svg"))
    assert "ACDC, KL  0.982 (stairs)" in text and "MIB" not in text


def test_distributions_have_a_panel_for_each_method_with_scores(findings: list[Finding], tmp_path: Path) -> None:
    text = text_of(score_plots.plot_distributions(findings, tmp_path / "d.svg"))
    assert "eap, logit_difference, AUC" in text and "clean-corrupted, logit_difference, AUC" in text
    assert "random" not in text and "other edges" in text


def test_scores_that_are_all_zero_can_be_drawn(findings: list[Finding], tmp_path: Path) -> None:
    graph = findings[0].search.problem.graph
    nothing = ScoredGraph(graph, torch.zeros(graph.edge_mask.shape))
    zero = [replace(findings[0], scored=nothing)]
    assert score_plots.plot_distributions(zero, tmp_path / "d.png").stat().st_size > 1000
    assert score_plots.plot_by_role(zero, tmp_path / "r.png").stat().st_size > 1000


def test_roles_come_first_then_what_has_none(findings: list[Finding], tmp_path: Path) -> None:
    groups = score_plots.sources_by_role(findings[0].search.problem)
    assert list(groups) == ["sender", "reader", "other heads", "MLPs", "input"]
    assert sum(int(mask.sum()) for mask in groups.values()) == findings[0].search.problem.graph.n_sources
    text = text_of(score_plots.plot_by_role(findings, tmp_path / "roles.svg"))
    assert "sender" in text and "other heads" in text


def test_without_scores_or_roles_nothing_is_drawn(findings: list[Finding], tmp_path: Path) -> None:
    assert score_plots.plot_distributions(findings[2:], tmp_path / "d.png") is None
    assert score_plots.plot_by_role(findings[2:], tmp_path / "r.png") is None
    problem = type(findings[0].search.problem)(**{**vars(findings[0].search.problem), "roles": {}})
    nameless = replace(findings[0], search=toy_search(problem))
    assert score_plots.plot_by_role([nameless], tmp_path / "r.png") is None
    assert list(tmp_path.iterdir()) == []


def test_every_method_has_a_colour_of_its_own() -> None:
    colours = [colour_of(name) for name in methods.names()]
    assert len(set(colours)) == min(len(colours), len(PALETTE) + 1)
