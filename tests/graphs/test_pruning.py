"""Pruning against slow references, ties and edges of its range by hand, and what it refuses."""

from __future__ import annotations

import math
import warnings

import numpy
import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.pruning import prune, selection_frequency
from edge_circuits.graphs.scores import ScoredGraph

RANK = {"absolute": abs, "signed": lambda score: score, "negative": lambda score: -score}


def random_scores(graph: Graph, seed: int, with_ties: bool = False) -> ScoredGraph:
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ScoredGraph(graph, (scores.round() if with_ties else scores) * graph.edge_mask, {"method": "random"})


def rank_values(scored: ScoredGraph, by: str) -> dict[str, float]:
    return {name: RANK[by](score) for name, score in zip(scored.graph.edges, scored.values.tolist())}


def slow_top(graph: Graph, values: dict[str, float]) -> list[str]:
    """All edges, best first; Python's sort keeps the order of equal ones."""
    return sorted(values, key=lambda name: -values[name])


def slow_greedy(graph: Graph, values: dict[str, float]) -> list[str]:
    """All edges as they are added: each time, look through all for the best one that ends in the circuit."""
    readers = {destination: [] for destination in graph.destinations} | {"logits": ["logits"]}
    for source, name in enumerate(graph.sources):
        for destination in graph.destinations_of(source):
            readers[graph.destinations[destination]].append(name)
    ends = {name: name.split("->") for name in values}
    nodes, added = {"logits"}, []
    while len(added) < len(values):
        within = [name for name in values if name not in added and nodes.intersection(readers[ends[name][1]])]
        best = max(within, key=values.__getitem__)  # the first of equal ones
        added.append(best)
        nodes.add(ends[best][0])
    return added


SLOW = {"top": slow_top, "greedy": slow_greedy}


@pytest.mark.parametrize("with_ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("by", RANK)
@pytest.mark.parametrize("strategy", SLOW)
def test_pruning_agrees_with_its_slow_reference(graph: Graph, strategy: str, by: str, with_ties: bool) -> None:
    scored = random_scores(graph, seed=7, with_ties=with_ties)
    ordered = SLOW[strategy](graph, rank_values(scored, by))
    for k in {1, 5, graph.n_edges // 4, graph.n_edges // 2, graph.n_edges - 1}:
        circuit = prune(scored, k, by=by, strategy=strategy)
        assert circuit == Circuit.from_edges(graph, ordered[:k]).live() and circuit.n_requested == k


@pytest.mark.parametrize("by", RANK)
@pytest.mark.parametrize("strategy", SLOW)
def test_a_threshold_keeps_what_reaches_it(graph: Graph, strategy: str, by: str) -> None:
    scored = random_scores(graph, seed=3, with_ties=True)
    for threshold in (0.0, 1.0, 1.5, 2.0, 99.0):
        reaching = [name for name, value in rank_values(scored, by).items() if value >= threshold]
        circuit = prune(scored, threshold=threshold, by=by, strategy=strategy)
        assert circuit == Circuit.from_edges(graph, reaching).live() and circuit.n_requested == len(reaching)


def test_a_threshold_is_compared_in_the_precision_of_the_scores() -> None:
    graph = Graph(1, 1)
    scored = ScoredGraph(graph, torch.full(graph.edge_mask.shape, 0.7) * graph.edge_mask)
    assert prune(scored, threshold=0.7) == Circuit.full(graph)
    assert prune(scored, threshold=1e300) == Circuit.empty(graph)


@pytest.mark.parametrize("strategy", SLOW)
def test_none_is_the_empty_circuit_and_all_the_full_one(graph: Graph, strategy: str) -> None:
    scored = random_scores(graph, seed=1)
    assert prune(scored, 0, strategy=strategy) == Circuit.empty(graph)
    assert prune(scored, graph.n_edges, strategy=strategy) == Circuit.full(graph)


@pytest.mark.parametrize("strategy", SLOW)
@pytest.mark.parametrize("n_kv_heads", [None, 4])
def test_gpt2_small_is_pruned_to_a_live_circuit(strategy: str, n_kv_heads: int | None) -> None:
    scored = random_scores(Graph(12, 12, n_kv_heads=n_kv_heads), seed=0)
    circuit = prune(scored, 2000, strategy=strategy)
    assert circuit.is_live and 0 < circuit.n_edges <= 2000
    top = prune(scored, 2000)
    assert (circuit == top) == (strategy == "top")


def by_hand(scores: dict[str, float]) -> ScoredGraph:
    graph = Graph(2, 1)
    tensor = torch.zeros(graph.edge_mask.shape)
    for name, score in scores.items():
        tensor[graph.edge_index(name)] = score
    return ScoredGraph(graph, tensor, {"method": "eap"})


CHAIN = {"input->m0": 5.0, "m0->a1.h0<q>": -4.0, "a1.h0->logits": 1.0, "input->logits": 2.0, "a0.h0->a1.h0<v>": 3.0}
BY_HAND = [
    pytest.param({"k": 2}, [], id="top: both chosen edges end nowhere"),
    pytest.param({"k": 4}, ["input->logits"], id="top: the chain has a gap before logits"),
    pytest.param(
        {"k": 5},
        ["input->m0", "m0->a1.h0<q>", "input->logits", "a1.h0->logits"],
        id="top: the chain holds, what feeds it from a0.h0 is dead",
    ),
    pytest.param({"k": 1, "strategy": "greedy"}, ["input->logits"], id="greedy: the best edge into logits"),
    pytest.param({"k": 3, "strategy": "greedy"}, ["input->logits"], id="greedy: the chain does not reach input yet"),
    pytest.param(
        {"k": 4, "strategy": "greedy"},
        ["input->m0", "m0->a1.h0<q>", "input->logits", "a1.h0->logits"],
        id="greedy: the chain holds",
    ),
    pytest.param({"k": 3, "by": "signed"}, ["input->logits"], id="signed: the negative edge comes last"),
    pytest.param({"k": 1, "by": "negative"}, [], id="negative: the negative edge comes first"),
    pytest.param(
        {"threshold": 1.0}, ["input->m0", "m0->a1.h0<q>", "input->logits", "a1.h0->logits"], id="threshold: at least"
    ),
    pytest.param({"threshold": 1.1}, ["input->logits"], id="threshold: above"),
]


@pytest.mark.parametrize(("settings", "kept"), BY_HAND)
def test_a_chain_by_hand(settings: dict, kept: list[str]) -> None:
    assert prune(by_hand(CHAIN), **settings) == Circuit.from_edges(Graph(2, 1), kept)


def test_ties_are_taken_in_edge_order() -> None:
    graph = Graph(2, 2)
    circuit = prune(ScoredGraph(graph, -1.0 * graph.edge_mask), 8)
    assert circuit.n_requested == 8
    first = Circuit.from_edges(graph, graph.edges[:8])
    assert circuit == first.live()
    one_of_each = {"input->logits": 1.0, "a0.h0->logits": -1.0}
    assert prune(by_hand(one_of_each), 1).edges == ("input->logits",)


def test_the_result_reports_what_was_asked_and_what_is_left() -> None:
    scored = by_hand(CHAIN)
    circuit = prune(scored, 5)
    assert (circuit.n_requested, circuit.n_edges) == (5, 4)
    assert repr(circuit).startswith("Circuit(4 of 23 edges, 5 requested")
    assert circuit.metadata == {
        "method": "eap",
        "pruning": {
            "k": 5, "threshold": None, "by": "absolute", "strategy": "top", "n_requested": 5, "n_edges": 4,
        },
    }  # fmt: skip
    assert torch.equal(circuit.scores, scored.scores)
    assert scored.metadata == {"method": "eap"}


def test_numbers_of_numpy_are_numbers(without_type_checks: None) -> None:
    scored = by_hand(CHAIN)
    assert prune(scored, numpy.int64(5)) == prune(scored, 5)
    assert prune(scored, numpy.int64(5)).metadata["pruning"]["k"].__class__ is int
    assert prune(scored, threshold=numpy.float32(1.0)) == prune(scored, threshold=1)


REFUSED = [
    ({}, "k and threshold: expected one of the two, got neither"),
    ({"k": 3, "threshold": 0.1}, "k and threshold: expected one of the two, got k=3 and threshold=0.1"),
    ({"k": 0, "threshold": 0.0}, "got k=0 and threshold=0.0"),
    ({"k": -1}, "k: expected a whole number from 0 to 23, got -1"),
    ({"k": 24}, "k: expected a whole number from 0 to 23, got 24; the graph has 23 edges"),
    ({"k": 2.0}, r"k: expected a whole number from 0 to 23, got 2.0"),
    ({"k": True}, r"k: expected a whole number from 0 to 23, got True"),
    ({"k": "5"}, r"k: expected a whole number from 0 to 23, got '5'"),
    ({"threshold": math.nan}, "threshold: expected a finite number from 0, got nan"),
    ({"threshold": math.inf}, "threshold: expected a finite number from 0, got inf"),
    ({"threshold": True}, "threshold: expected a finite number from 0, got True"),
    ({"threshold": "1"}, "threshold: expected a finite number from 0, got '1'"),
    ({"threshold": -0.5}, "threshold: expected a finite number from 0, got -0.5; by='absolute'"),
    ({"k": 3, "by": "abs"}, "by: expected one of 'absolute', 'signed', 'negative', got 'abs'"),
    ({"k": 3, "strategy": "best"}, "strategy: expected one of 'top', 'greedy', got 'best'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_wrong_settings_are_refused(settings: dict, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        prune(by_hand(CHAIN), **settings)


def test_a_graph_without_scores_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="graph: expected a ScoredGraph, got Graph"):
        prune(Graph(2, 1), 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("settings", [{"k": 0}, {"k": 3}, {"threshold": 1.0}, {"k": 3, "strategy": "greedy"}])
def test_scores_that_cannot_be_ranked_are_refused(settings: dict, bad: float) -> None:
    with pytest.raises(ValueError, match="the first (nan|-?inf) for input->m0"):
        prune(by_hand({**CHAIN, "input->m0": bad, "m0->logits": math.nan}), **settings)


def grouped(graph: Graph, n_groups: int = 6, noise: float = 1.5, seed: int = 0, with_ties: bool = False) -> ScoredGraph:
    """Scores of which groups of prompts tell different things."""
    generator = torch.Generator().manual_seed(seed)
    common, own = (
        torch.randn(n, *graph.edge_mask.shape, generator=generator, dtype=torch.float64) for n in (1, n_groups)
    )
    groups = (common + noise * own) * graph.edge_mask
    groups = groups.round() if with_ties else groups
    return ScoredGraph(graph, groups.sum(0), {"method": "random"}, groups)


@pytest.mark.parametrize("by", RANK)
@pytest.mark.parametrize("with_ties", [False, True], ids=["distinct", "ties"])
def test_selection_frequency_counts_prunings_of_draws(graph: Graph, by: str, with_ties: bool) -> None:
    scored, k = grouped(graph, with_ties=with_ties), graph.n_edges // 3
    times = dict.fromkeys(graph.edges, 0)
    for row in torch.randint(6, (70, 6), generator=torch.Generator().manual_seed(2)).tolist():
        drawn = ScoredGraph(graph, sum(scored.per_group[group] for group in row))
        for name in slow_top(graph, rank_values(drawn, by))[:k]:
            times[name] += 1
    frequency = selection_frequency(scored, k, by=by, n_resamples=70, seed=2)
    assert {name: frequency[graph.edge_index(name)].item() for name in graph.edges} == pytest.approx(
        {name: n / 70 for name, n in times.items()}
    )
    assert not frequency[~graph.edge_mask].any()


def test_stable_keeps_of_the_best_those_that_are_mostly_chosen(graph: Graph) -> None:
    scored, k = grouped(graph), graph.n_edges // 2
    frequency = selection_frequency(scored, k)
    for stable in (0.5, 0.8, 1.0):
        chosen = [
            name
            for name in slow_top(graph, rank_values(scored, "absolute"))[:k]
            if frequency[graph.edge_index(name)] >= stable
        ]
        circuit = prune(scored, k, stable=stable)
        assert circuit == Circuit.from_edges(graph, chosen).live() and circuit.n_requested == k
        about = circuit.metadata["pruning"]
        assert (about["stable"], about["n_stable"], about["n_edges"]) == (stable, len(chosen), circuit.n_edges)
    assert (prune(scored, k).mask & ~circuit.mask).any() or graph.n_edges < 10


def test_equal_groups_make_every_choice_stable(graph: Graph) -> None:
    scored = grouped(graph, noise=0.0)
    assert prune(scored, graph.n_edges // 2, stable=1.0) == prune(scored, graph.n_edges // 2)
    assert prune(scored, 0, stable=0.95) == Circuit.empty(graph)


def test_stable_pruning_of_gpt2_small_takes_moments() -> None:
    graph = Graph(12, 12)
    circuit = prune(grouped(graph, noise=0.3), 8000, stable=0.95)
    assert 0 < circuit.n_edges < 8000 and circuit.is_live


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 3, "stable": 0}, "stable: expected a finite number above 0 and up to 1, got 0"),
        ({"k": 3, "stable": 95}, "stable: expected a finite number above 0 and up to 1, got 95"),
        ({"k": 3, "stable": True}, "stable: expected a finite number above 0 and up to 1, got True"),
        ({"k": 3, "stable": math.nan}, "stable: expected a finite number above 0 and up to 1, got nan"),
        ({"threshold": 1.0, "stable": 0.9}, "stable: expected k and strategy='top' beside it, got a threshold"),
        (
            {"k": 3, "strategy": "greedy", "stable": 0.9},
            "stable: expected k and strategy='top' beside it, got strategy='greedy'",
        ),
        (
            {"k": 3, "stable": 0.9},
            "graph: expected scores kept group by group, .* got none; score with edge_circuits.score_groups",
        ),
    ],
)
def test_wrong_settings_of_stable_are_refused(settings: dict, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        prune(by_hand(CHAIN), **settings)
    with pytest.raises(ValueError, match="k: expected a whole number from 0 to 23, got 24"):
        selection_frequency(by_hand(CHAIN), 24)


def test_pruning_to_nothing_says_from_which_k_on_something_stays() -> None:
    """By hand: the best edges leave a0.h0, which nothing feeds until the fourth best, input->a0.h0<v>."""
    graph = Graph(1, 1)
    scores = torch.zeros(graph.edge_mask.shape)
    for name, score in {"a0.h0->logits": 5.0, "a0.h0->m0": 4.0, "m0->logits": 3.0, "input->a0.h0<v>": 2.0}.items():
        scores[graph.edge_index(name)] = score
    scored = ScoredGraph(graph, scores)
    for settings in ({"k": 2}, {"threshold": 3.5}):
        with pytest.warns(
            UserWarning, match="none of the 2 edges chosen is on a path .* from k=4 on, or with strategy='greedy'"
        ):
            assert not len(prune(scored, **settings))
    with warnings.catch_warnings(action="error"):
        assert len(prune(scored, 4)) == 4 and not len(prune(scored, 0)) and not len(prune(scored, threshold=9.0))
    with pytest.warns(UserWarning, match="none of the 1 edges chosen .*; choose more"):
        prune(scored, 1, strategy="greedy")
