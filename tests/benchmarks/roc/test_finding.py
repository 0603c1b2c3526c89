"""Figures of scores that are known: perfect, worst, and ones worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import Tensor
from toy import EDGES, toy_problem, toy_search

from edge_circuits.benchmarks.roc.finding import Figures, Finding, Search, ends_of, hard_areas, measured_scores
from edge_circuits.graphs import Circuit, ScoredGraph

N_POSITIVES = len(EDGES)
HARD = ("hard_auc", "hard_average_precision")


def found(search: Search, scores: Tensor, n_groups: int = 0) -> Finding:
    """What scores find that are the same in each of some groups."""
    about = {"settings": {"intervention": "patching"}, "seconds": 0.25}
    per_group = scores.expand(n_groups, *scores.shape) / n_groups if n_groups else None
    return measured_scores(search, "eap", ScoredGraph(search.problem.graph, scores, about, per_group))


def finding(sign: float = 1.0, **settings: object) -> Finding:
    """Scores that are 2 in the circuit and 1 outside, or the other way round, in equal groups."""
    search = toy_search(**settings)
    graph, mask = search.problem.graph, search.problem.circuit.mask
    return found(search, graph.edge_mask * (1.5 + sign * (mask.double() - 0.5)), 3)


def measured(sign: float = 1.0, **settings: object) -> Figures:
    return finding(sign, **settings).figures


def below(figures: Figures) -> list[float]:
    """The true positive rates below each false positive rate."""
    return [figures[f"tpr_at_fpr_{rate}"] for rate in (0.01, 0.05, 0.1)]


def at_k(figures: Figures, k: int) -> tuple[float, float]:
    return figures[f"tpr_at_k_{k}"], figures[f"fpr_at_k_{k}"]


def test_perfect_scores() -> None:
    assert finding().interval == (1, 1, "prompts")
    found = measured()
    assert (found["auc"], found["average_precision"]) == (1, 1)
    assert below(found) == [1.0, 1.0, 1.0]
    assert (found["youden"], found["youden_k"]) == (1, N_POSITIVES)
    assert at_k(found, N_POSITIVES) == (1.0, 0.0) and len([name for name in found if "_at_k_" in name]) == 2


def test_worst_scores() -> None:
    found = measured(sign=-1.0)
    n_negatives = toy_problem().graph.n_edges - N_POSITIVES
    assert (found["auc"], found["youden"]) == (0, 0)
    assert below(found) == [0.0, 0.0, 0.0]
    assert at_k(found, N_POSITIVES) == (0.0, N_POSITIVES / n_negatives)


def test_scores_in_between() -> None:
    """Five edges of the circuit score most, the sixth ties with all others."""
    search = toy_search()
    graph, circuit = search.problem.graph, search.problem.circuit
    scores = graph.edge_mask * (1.0 + circuit.mask)
    scores[graph.edge_index("m1->logits")] = 1.0
    figures = found(search, scores).figures
    assert (figures["auc"], figures["youden"], figures["youden_k"]) == (pytest.approx(5.5 / 6), pytest.approx(5 / 6), 5)
    assert figures["average_precision"] == pytest.approx((5 + 6 / 46) / 6)
    assert below(figures) == pytest.approx([5 / 6] * 3)
    assert figures["tpr_at_k_6"] == pytest.approx((5 + 1 / 41) / 6)


def test_nodes_are_measured_by_their_largest_out_edge() -> None:
    assert measured()["node_auc"] == 1.0  # of heads and MLPs, those of the circuit are a0.h1, a1.h0 and m1
    assert measured(sign=-1.0)["node_auc"] == pytest.approx(1 / 6)  # a0.h1 ties with the three other nodes


def test_hard_negatives_lie_between_the_circuits_own_nodes() -> None:
    """Sources input, a0.h1, a1.h0, m1; destinations a0.h1<v>, a1.h0<q>, a1.h0<k>, m1, logits: 15 edges, 6 of them the circuit."""
    circuit = toy_problem().circuit
    assert int(ends_of(circuit).sum()) == 1 + 2 + 2 + 3 + 4 and not (circuit.mask & ~ends_of(circuit)).any()
    assert list(map(measured().get, HARD)) == [1, 1] and measured(sign=-1.0)["hard_auc"] == 0
    scores = ends_of(circuit).float()
    scores[circuit.graph.edge_index("a1.h0->logits")] = 2.0
    assert found(toy_search(), scores).figures["hard_auc"] == pytest.approx((1 + 5 * 0.5) / 6)
    only = Circuit.from_edges(circuit.graph, ["input->logits"])
    assert hard_areas(only, ScoredGraph(circuit.graph, scores)) == dict.fromkeys(HARD)


def test_rates_at_several_k() -> None:
    found = measured(k=(3, 10))
    n_negatives = toy_problem().graph.n_edges - N_POSITIVES
    assert at_k(found, 3) == (pytest.approx(3 / N_POSITIVES), 0.0)
    assert at_k(found, 10) == (1.0, pytest.approx(4 / n_negatives))


def test_a_row_says_what_was_measured_and_with_what() -> None:
    row = finding(k=(3,)).row()
    assert row["task"] == "toy" and row["metric"] == "logit_difference" and row["n_positives"] == N_POSITIVES
    assert row["tpr_at_fpr_0.01"] == 1.0 and row["tpr_at_k_3"] == 0.5 and row["fpr_at_k_3"] == 0.0
    assert row["settings"] == {"intervention": "patching", "n_prompts": 6, "seed": 0} and row["seed"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": (0,)}, "k: expected a whole number from 1 to 46, got 0; planted toy has 46 candidates"),
        ({"k": (5, 47)}, "k: expected a whole number from 1 to 46, got 47"),
        ({"universe": "everything"}, "universe: expected one of 'all', 'no-input', .*, got 'everything'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_scored(settings: dict, message: str) -> None:
    assert toy_problem().graph.n_edges == 46
    with pytest.raises(ValueError, match=message):
        toy_search(**settings).check()


def test_a_universe_without_the_circuit_is_refused() -> None:
    problem = toy_problem()
    only_input = type(problem.circuit).from_edges(problem.graph, ["input->logits"])
    problem = replace(problem, known=only_input)
    with pytest.raises(
        ValueError,
        match="universe 'no-input': expected edges of planted toy inside and outside of the circuit, got 0 of .* inside",
    ):
        toy_search(problem, universe="no-input").check()
