"""Universes of edges: their sizes on the published models, and labels and scores by hand on a model of one head."""

from __future__ import annotations

import pytest
import torch

from edge_circuits.benchmarks.reference.circuits import load_reference, reference_circuit
from edge_circuits.benchmarks.reference.universes import (
    UNIVERSES,
    candidate_labels,
    candidate_scores,
    candidates,
    node_candidates,
    node_scores,
)
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.node_circuits import ScoredNodes
from edge_circuits.graphs.scores import ScoredGraph

SIZES = {
    "all": (32491, 1281),
    "no-input": (32046, 1184),
    "no-mlp": (29089, 1281),
    "no-mlp-no-input": (28656, 1184),
    "acdc": (32923, 1377),
    "eap-repository": (33367, 1473),
}

# One head and one MLP. Edges in order: input -> q, k, v; input, head -> m0; input, head, m0 -> logits.
GRAPH = Graph(1, 1)
VALUES = [1.0, -2.0, 3.0, 4.0, -5.0, 6.0, 7.0, -8.0]


def scored() -> ScoredGraph:
    scores = torch.zeros(GRAPH.n_sources, GRAPH.n_destinations, dtype=torch.double)
    scores.T[GRAPH.edge_mask.T] = torch.tensor(VALUES, dtype=torch.double)
    return ScoredGraph(GRAPH, scores)


@pytest.mark.parametrize("universe", UNIVERSES)
def test_sizes(universe: str) -> None:
    circuits = reference_circuit("ioi"), reference_circuit("docstring")
    assert tuple(len(candidate_labels(circuit, universe)) for circuit in circuits) == SIZES[universe]
    scores = candidate_scores(torch.zeros(157, 445), circuits[0].graph, universe)
    assert len(scores) == SIZES[universe][0]


@pytest.mark.parametrize(
    ("universe", "expected"),
    [
        ("all", VALUES),
        ("no-input", [-5, 7, -8]),
        ("no-mlp", [1, -2, 3, 6, 7]),
        ("no-mlp-no-input", [7]),
        ("acdc", [*VALUES, 1, -2, 3]),
        ("eap-repository", [*VALUES, 1, -2, 3, 2, 2, 2, -8]),
    ],
)
def test_scores_by_hand(universe: str, expected: list[float]) -> None:
    assert candidate_scores(scored().scores, GRAPH, universe).tolist() == [abs(value) for value in expected]


def test_direct_links_take_the_sum_or_the_largest_of_their_in_edges() -> None:
    graph = Graph(2, 1)
    scores = torch.zeros(graph.n_sources, graph.n_destinations)
    for name, value in {"input->a1.h0<k>": 2.0, "a0.h0->a1.h0<k>": -3.0, "m0->a1.h0<k>": 0.5}.items():
        scores[graph.edge_index(name)] = value
    place = graph.n_edges + 4  # after q, k, v of layer 0 and q of layer 1

    def direct(**choices: str) -> float:
        return candidate_scores(scores, graph, "acdc", **choices)[place].item()

    assert direct() == 0.5
    assert direct(direct_score="max") == 3


@pytest.mark.parametrize(
    ("universe", "expected"),
    [
        ("all", [0, 1, 0, 0, 1, 1, 0, 0]),
        ("no-input", [1, 0, 0]),
        ("no-mlp", [0, 1, 0, 1, 0]),
        ("acdc", [0, 1, 0, 0, 1, 1, 0, 0] + [0, 1, 0]),
        ("eap-repository", [0, 1, 0, 0, 1, 1, 0, 0] + [0, 1, 0] + [1, 1, 1, 1]),
    ],
)
def test_labels_by_hand(universe: str, expected: list[int]) -> None:
    circuit = Circuit.from_edges(GRAPH, ["input->a0.h0<k>", "a0.h0->m0", "input->logits"])
    assert candidate_labels(circuit, universe).int().tolist() == expected


def test_placeholder_links_follow_the_authors_of_the_circuit() -> None:
    reference = load_reference("greater_than")
    assert reference.placeholders == ("head",)
    n_direct = len(candidate_labels(reference, "acdc"))
    as_authors = candidate_labels(reference, "eap-repository")[n_direct:]
    as_any_circuit = candidate_labels(reference.circuit, "eap-repository")[n_direct:]
    n_mlps = sum(node.startswith("m") for node in reference.circuit.nodes)
    assert (int(as_authors.sum()), int(as_any_circuit.sum())) == (27, 27 + n_mlps)


def test_a_batch_of_scores_equals_one_at_a_time() -> None:
    batch = torch.randn(2, 3, GRAPH.n_sources, GRAPH.n_destinations, generator=torch.Generator().manual_seed(0))
    batch = batch * GRAPH.edge_mask
    together = candidate_scores(batch, GRAPH, "eap-repository", direct_score="max")
    assert together.shape == (2, 3, 15)
    for i in range(2):
        for j in range(3):
            assert torch.equal(
                together[i, j], candidate_scores(batch[i, j], GRAPH, "eap-repository", direct_score="max")
            )
    assert torch.equal(node_scores(batch)[1, 2], node_scores(batch[1, 2]))


def test_candidates_put_labels_beside_scores() -> None:
    circuit = Circuit.from_edges(GRAPH, ["a0.h0->logits"])
    among = candidates(scored(), circuit, "no-input")
    assert among.labels.tolist() == [False, True, False]
    assert among.scores.tolist() == [5, 7, 8]
    assert (len(among), among.n_positives) == (3, 1)


def test_labels_and_scores_are_in_one_order() -> None:
    graph = Graph(2, 3)
    circuit = Circuit.from_edges(graph, graph.edges[::5])
    for universe in UNIVERSES:
        among = candidates(ScoredGraph(graph, circuit.mask.float()), circuit, universe)
        n_edges = int(UNIVERSES[universe].edge_mask(graph).sum())
        assert torch.equal(among.labels[:n_edges], among.scores[:n_edges] > 0)
        assert torch.equal(among.labels, among.scores > 0) or universe == "eap-repository"


def test_nodes_by_hand() -> None:
    circuit = Circuit.from_edges(GRAPH, ["input->a0.h0<k>"])
    among = node_candidates(scored(), circuit)
    assert (among.labels.tolist(), among.scores.tolist()) == ([True, False], [7, 8])
    assert node_candidates(ScoredNodes(GRAPH, torch.tensor([-3.0, 1.0])), circuit).scores.tolist() == [3, 1]


def test_nodes_of_ioi_are_26_heads_and_12_mlps() -> None:
    reference = load_reference("ioi")
    among = node_candidates(ScoredGraph(reference.circuit.graph, torch.zeros(157, 445)), reference)
    assert (len(among), among.n_positives) == (156, 38)


def test_what_does_not_fit_is_refused(without_type_checks: None) -> None:
    circuit = reference_circuit("docstring")
    with pytest.raises(ValueError, match="universe: expected one of 'all', 'no-input', .*, got 'residual'"):
        candidate_labels(circuit, "residual")
    with pytest.raises(ValueError, match="scores and circuit: expected both of one graph, got Graph"):
        candidates(scored(), circuit)
    with pytest.raises(ValueError, match="scores and circuit: expected both of one graph, got Graph"):
        node_candidates(scored(), circuit)
    with pytest.raises(ValueError, match="direct_score: expected one of 'sum', 'max', got 'mean'"):
        candidates(scored(), Circuit.full(GRAPH), direct_score="mean")
