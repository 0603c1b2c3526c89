"""ACDC on a pruned graph."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference
from plain_sweep import plain_sweep
from test_algorithm import assert_same_decisions

from edge_circuits import acdc
from edge_circuits.graphs import Circuit, Graph, ScoredGraph


def some_circuit(graph, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(graph.edge_mask.shape, generator=generator) < density) & graph.edge_mask
    mask[-graph.n_heads :, -1] = True
    return Circuit(graph, mask)


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize("metric", ["kl", logit_difference], ids=["kl", "logit_difference"])
@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_decides_as_the_plain_sweep(trained, metric, intervention):
    model, pairs = trained
    circuit = some_circuit(Graph.from_model(model), 0.6)
    found = acdc.refine(model, circuit, pairs, metric, 0.02, intervention=intervention, quiet=True)
    assert_same_decisions(found.trace, plain_sweep(model, circuit, pairs, metric, 0.02, intervention))
    assert 0 < found.n_edges < circuit.n_edges


@pytest.mark.parametrize("kind", ["gemma2", "neox-parallel"])
def test_a_circuit_with_dead_ends(small, pairs, kind):
    """Sources that nothing from `input` reaches: cutting their edges changes nothing."""
    circuit = some_circuit(Graph.from_model(small(kind)), 0.25, seed=2)
    assert not circuit.is_live
    found = acdc.refine(small(kind), circuit, pairs, "kl", 1e-4, quiet=True)
    plain = plain_sweep(small(kind), circuit, pairs, "kl", 1e-4)
    assert_same_decisions(found.trace, plain)
    unreached = [each for each in plain if each.after is not None and abs(each.after - each.before) < 1e-14]
    assert unreached
    for each in found.trace.decisions:
        if each.edge in {other.edge for other in unreached}:
            assert each.value_after == each.value_before


def test_never_adds_an_edge(trained):
    model, pairs = trained
    for seed in range(3):
        circuit = some_circuit(Graph.from_model(model), 0.4, seed)
        for threshold in (0.0, 0.05):
            found = acdc.refine(model, circuit, pairs, "kl", threshold, quiet=True)
            assert not found - circuit
            assert sorted(found.trace.edges) == sorted(circuit.edges)


def test_of_everything_is_discover(trained):
    model, pairs = trained
    full = Circuit.full(Graph.from_model(model))
    assert (
        acdc.refine(model, full, pairs, "kl", 0.02, quiet=True).trace
        == acdc.discover(model, pairs, "kl", 0.02, quiet=True).trace
    )


def test_of_nothing_is_nothing(trained):
    model, pairs = trained
    found = acdc.refine(model, Circuit.empty(Graph.from_model(model)), pairs, "kl", 0.02, quiet=True)
    assert not found.edges
    assert found.trace.complete


@pytest.mark.parametrize("order", [acdc.by_score, acdc.senders_by_score])
def test_other_orders(trained, order):
    model, pairs = trained
    graph = Graph.from_model(model)
    generator = torch.Generator().manual_seed(4)
    edges = order(ScoredGraph(graph, torch.rand(graph.edge_mask.shape, generator=generator) * graph.edge_mask))
    circuit = some_circuit(graph, 0.5)
    found = acdc.refine(model, circuit, pairs, "kl", 0.02, order=edges, quiet=True)
    assert_same_decisions(found.trace, plain_sweep(model, circuit, pairs, "kl", 0.02, edges=edges))


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_key_value_heads_follow_the_circuit(small, pairs):
    graph = Graph.from_model(small("llama"), "kv-head")
    circuit = some_circuit(graph, 0.7)
    found = acdc.refine(small("llama"), circuit, pairs, "kl", 1e-3, quiet=True)
    assert found.graph == graph
    assert_same_decisions(found.trace, plain_sweep(small("llama"), circuit, pairs, "kl", 1e-3))


def test_a_circuit_of_another_graph_is_refused(trained):
    model, pairs = trained
    with pytest.raises(
        ValueError, match=r"circuit: expected one of Graph\(n_layers=2.*, got one of Graph\(n_layers=5.*; take"
    ):
        acdc.refine(model, Circuit.full(Graph(5, 3)), pairs, "kl", 0.02, quiet=True)


@pytest.mark.parametrize("name", ["ScoredGraph", "dict"])
def test_what_is_no_circuit_is_refused(trained, name, without_type_checks):
    model, pairs = trained
    graph = Graph.from_model(model)
    given = {"ScoredGraph": ScoredGraph(graph, torch.zeros(graph.edge_mask.shape)), "dict": {}}[name]
    with pytest.raises(ValueError, match=f"circuit: expected a Circuit, got {name}; prune makes one of scores"):
        acdc.refine(model, given, pairs, "kl", 0.02, quiet=True)


def test_scores_of_the_circuit_are_kept(trained):
    model, pairs = trained
    graph = Graph.from_model(model)
    circuit = Circuit(graph, graph.edge_mask, scores=graph.edge_mask.float())
    assert torch.equal(acdc.refine(model, circuit, pairs, "kl", 0.5, quiet=True).scores, circuit.scores)
