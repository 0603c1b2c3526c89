"""Circuits of whole nodes, against a slow run in which a node outside is replaced wherever it is read."""

from __future__ import annotations

import pytest
import torch
from models import RAGGED, prompts_of, relative_error, tiny
from references import edges

from edge_circuits.graphs import Circuit, Graph, ScoredGraph, run
from edge_circuits.graphs.node_circuits import ScoredNodes, node_circuit, prune_nodes

KINDS = ["gpt2", "llama", "neox-parallel", "attention-only"]


def replaced(kind: str, names: set[str], intervention: str) -> torch.Tensor:
    """Logits at the answers when every node but these, and `input`, has its cut value."""
    literal, prompts, found = tiny(kind).literal, prompts_of(RAGGED), []
    for prompt, cut in zip(prompts, edges.cut_values(literal, prompts, intervention)):
        keep = {*names, "input"}
        logits = edges.forward(
            literal, prompt.clean, lambda s, value, _, keep=keep, cut=cut: value if s in keep else cut[s]
        )
        found.append(logits[1][prompt.position])
    return torch.stack(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", ["query-head", "kv-head"])
@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_running_one_replaces_what_is_outside(kind, grouped, intervention):
    model = tiny(kind).model
    graph = Graph.from_model(model, grouped)
    generator = torch.Generator().manual_seed(4)
    scored = ScoredNodes(graph, torch.randn(graph.n_sources - 1, generator=generator))
    for k in (0, graph.n_sources // 2, graph.n_sources - 1):
        circuit = prune_nodes(scored, k)
        expected = replaced(kind, {name for name, _ in scored.top(k)}, intervention)
        assert relative_error(run(model, circuit, RAGGED, intervention), expected) < 1e-12
        assert circuit.is_live and circuit.metadata["pruning"]["n_nodes"] == k


def test_all_nodes_are_the_whole_graph_and_none_leave_one_edge(graph):
    scored = ScoredNodes(graph, torch.ones(graph.n_sources - 1))
    assert prune_nodes(scored, graph.n_sources - 1) == Circuit.full(graph)
    assert prune_nodes(scored, 0).edges == ("input->logits",)


def test_nodes_are_ranked_by_the_edges_that_leave_them():
    graph = Graph(2, 2)
    scores = torch.zeros(graph.edge_mask.shape)
    for edge, score in {"a0.h1->m1": 2.0, "a0.h1->logits": -1.5, "m0->logits": 1.0, "a1.h0->m1": -3.0}.items():
        scores[graph.edge_index(edge)] = score
    scored = ScoredGraph(graph, scores)
    nodes = {
        by: set(prune_nodes(scored, 1, by=by).nodes) - {"input", "logits"} for by in ("absolute", "signed", "negative")
    }
    assert nodes == {"absolute": {"a1.h0"}, "signed": {"m0"}, "negative": {"a1.h0"}}
    assert prune_nodes(scored, 2).nodes == ("input", "m0", "a1.h0", "logits")


def test_a_key_value_head_is_entered_for_any_of_its_query_heads():
    graph = Graph(1, 4, n_kv_heads=2, mlps=False)
    kept = torch.tensor([False, False, True, False, False])
    assert node_circuit(graph, kept).edges == (
        "input->a0.h1<q>",
        "input->a0.h0<k>",
        "input->a0.h0<v>",
        "input->logits",
        "a0.h1->logits",
    )


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    graph = Graph(1, 2)
    scored = ScoredNodes(graph, torch.ones(3))
    for message, call in {
        "k: expected a whole number from 0 to 3, got 4": lambda: prune_nodes(scored, 4),
        "by: expected one of": lambda: prune_nodes(scored, 1, by="size"),
        "scores: expected scores of nodes or edges, got dict": lambda: prune_nodes({}, 1),
        r"scores: expected a tensor of shape \(3,\)": lambda: ScoredNodes(graph, torch.ones(4)),
        "scores: expected finite numbers, got 1 NaN": lambda: ScoredNodes(graph, torch.tensor([1.0, torch.nan, 0.0])),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
