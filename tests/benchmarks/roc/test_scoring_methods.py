"""Methods by name: groups add up to all prompts, and the baseline knows nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import toy_problem, toy_search

from edge_circuits import eap
from edge_circuits.benchmarks.reference.circuits import load_reference
from edge_circuits.benchmarks.roc import acdc_method as sweeps
from edge_circuits.benchmarks.roc import methods
from edge_circuits.benchmarks.roc.finding import Finding
from edge_circuits.benchmarks.statistics.roc_curves import area_under_roc
from edge_circuits.eap.methods.lookup import find as find_method
from edge_circuits.eap.methods.lookup import known
from edge_circuits.graphs.metrics import log_probability, logit_difference


def find(name: str, tmp_path: Path, **settings: object) -> Finding:
    return methods.find(name, toy_search(**settings), tmp_path)


def test_every_scoring_method_is_there_and_the_baseline_is_last() -> None:
    assert set(methods.names()) == {*known(), *sweeps.NAMES, "random", "ends"}
    assert methods.names()[-2:] == ("random", "ends")
    assert {name for name in methods.names() if not methods.uses_metric(name)} >= {"acdc-kl", "random", "ends"}


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method: expected one of eap, .*, random, ends, got 'magic'"):
        methods.uses_metric("magic")


def test_slow_methods_are_left_out_on_large_graphs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = toy_problem()
    assert methods.default_names(problem) == methods.names()
    monkeypatch.setattr(methods, "LARGE", problem.graph.n_edges - 1)
    assert set(methods.names()) - set(methods.default_names(problem)) == {
        "exact",
        "learned-mask",
        "top-k-mask",
        *sweeps.NAMES,
    }


@pytest.mark.parametrize("name", [name for name in known() if name != "random"])
def test_groups_of_any_size_add_up_to_all_prompts(name: str, tmp_path: Path) -> None:
    """Of a method that is no mean over prompts, all prompts are one group."""
    problem = toy_problem(n_prompts=7)  # in groups of 3, 2 and 2
    search = toy_search(problem)
    assert [len(group) for group in problem.pairs.groups(3)] == [3, 2, 2]
    found = methods.find(name, search, tmp_path)
    at_once = eap.score(problem.model, problem.pairs, logit_difference, name, quiet=True)
    assert torch.allclose(found.scored.scores, at_once.scores, rtol=1e-4, atol=1e-6)
    assert found.scored.metadata["settings"]["n_prompts"] == 7
    assert (found.interval.low is None) == (not find_method(name).additive)


@pytest.mark.parametrize("name", [name for name in known() if name != "random"])
def test_a_method_without_metric_scores_the_same_with_every_metric(name: str, tmp_path: Path) -> None:
    one = toy_search()
    other = type(one)(one.problem, "log_probability", log_probability, one.settings)
    first, second = (methods.find(name, search, tmp_path) for search in (one, other))
    assert methods.uses_metric(name) != torch.equal(first.scored.scores, second.scored.scores)
    assert second.metric == ("log_probability" if methods.uses_metric(name) else "none")


def test_the_area_is_that_of_the_scores_of_all_prompts(tmp_path: Path) -> None:
    found, problem = find("eap", tmp_path), toy_problem()
    mask = problem.graph.edge_mask
    expected = area_under_roc(problem.circuit.mask[mask], found.scored.scores[mask].abs()).item()
    assert found.figures["auc"] == pytest.approx(expected, abs=1e-12)
    assert found.interval.low < found.interval.high


def test_fewer_prompts_than_groups_are_groups_of_one(tmp_path: Path) -> None:
    assert [len(group) for group in toy_problem(n_prompts=2).pairs.groups(20)] == [1, 1]


def test_one_group_has_no_interval(tmp_path: Path) -> None:
    found = find("eap", tmp_path, n_groups=1)
    assert (found.interval.low, found.interval.high) == (None, None)


def test_knowing_the_nodes_is_nearly_all_and_nothing_of_the_edges_between_them(tmp_path: Path) -> None:
    found = find("ends", tmp_path)
    n = toy_problem().graph.n_edges
    assert found.figures["auc"] == pytest.approx(1 - 0.5 * 6 / (n - 6)) and found.figures["hard_auc"] == 0.5
    assert found.scored is None and found.interval.low is None and found.metric == "none"


def test_random_is_near_one_half_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    found, again, other = (find("random", tmp_path, n_random=60, seed=seed) for seed in (0, 0, 1))
    assert found.interval.low < 0.5 < found.interval.high and abs(found.figures["auc"] - 0.5) < 0.05
    assert found.row() == again.row() and found.figures["auc"] != other.figures["auc"]
    assert found.interval.over == "draws" and found.scored is None and found.seconds is None


def test_random_at_k_takes_both_kinds_alike(tmp_path: Path) -> None:
    n = toy_problem().graph.n_edges
    figures = find("random", tmp_path, n_random=100, k=(n // 2,)).figures
    assert abs(figures[f"tpr_at_k_{n // 2}"] - 0.5) < 0.1 and abs(figures[f"fpr_at_k_{n // 2}"] - 0.5) < 0.05


def test_random_scores_spread_less_on_a_larger_circuit(tmp_path: Path) -> None:
    known = load_reference("docstring", "autocircuit-heads").circuit  # 588 edges of 1,281
    problem = toy_problem()
    large = replace(problem, known=known)
    found = methods.find("random", toy_search(large), tmp_path)
    assert 0.4 < found.interval.low < found.interval.high < 0.6
