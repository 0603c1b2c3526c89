"""Circuits as networkx graphs: nothing lost, paths the same."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph


def test_a_circuit_by_hand() -> None:
    graph = Graph(2, 2)
    scores = torch.zeros(graph.edge_mask.shape)
    edges = ["input->a0.h1<q>", "input->a0.h1<v>", "a0.h1->m1", "m1->logits"]
    for number, name in enumerate(edges):
        scores[graph.edge_index(name)] = number + 1
    found = Circuit.from_edges(graph, edges, scores=scores).to_networkx()
    assert dict(found.nodes(data=True)) == {
        "input": {"kind": "input", "layer": None, "head": None},
        "a0.h1": {"kind": "head", "layer": 0, "head": 1},
        "m1": {"kind": "mlp", "layer": 1, "head": None},
        "logits": {"kind": "logits", "layer": None, "head": None},
    }
    assert {arc[:2]: arc[2] for arc in found.edges(data=True)} == {
        ("input", "a0.h1"): {"parts": "qv", "edges": ("input->a0.h1<q>", "input->a0.h1<v>"), "scores": (1.0, 2.0)},
        ("a0.h1", "m1"): {"parts": "", "edges": ("a0.h1->m1",), "scores": (3.0,)},
        ("m1", "logits"): {"parts": "", "edges": ("m1->logits",), "scores": (4.0,)},
    }


def test_a_key_value_head_is_read_by_its_group() -> None:
    graph = Graph(2, 4, n_kv_heads=2)
    found = Circuit.from_edges(graph, ["a0.h0->a1.h1<k>", "a0.h0->a1.h3<q>"]).to_networkx()
    assert {arc[:2]: arc[2] for arc in found.edges(data=True)} == {
        ("a0.h0", "a1.h2"): {"parts": "k", "edges": ("a0.h0->a1.h1<k>",)},
        ("a0.h0", "a1.h3"): {"parts": "qk", "edges": ("a0.h0->a1.h3<q>", "a0.h0->a1.h1<k>")},
    }


@pytest.mark.parametrize("seed", range(3))
def test_no_edge_is_lost_and_paths_are_the_same(graph: Graph, seed: int, random_mask: Any) -> None:
    circuit = Circuit(graph, random_mask(graph, 0.15, seed))
    found = circuit.to_networkx()
    assert tuple(found.nodes) == circuit.nodes and networkx.is_directed_acyclic_graph(found)
    assert {name for *_, names in found.edges(data="edges") for name in names} == set(circuit.edges)
    to_logits = networkx.ancestors(found, "logits") if "logits" in found else set()
    assert {n for n, is_in in zip(graph.sources, circuit.nodes_to_logits.tolist()) if is_in} == to_logits
    from_input = networkx.descendants(found, "input") - {"logits"} if "input" in found else set()
    assert {n for n, is_in in zip(graph.sources, circuit.nodes_from_input.tolist()) if is_in} == from_input | {"input"}
