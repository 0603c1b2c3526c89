"""Liveness against path searches by networkx, and circuits whose dead ends are seen by eye."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
from jaxtyping import Bool
from torch import Tensor

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.reachability import live_edges, nodes_from_input, nodes_to_logits


def all_nodes(graph: Graph, edges: tuple[str, ...]) -> networkx.DiGraph:
    """Sources and destinations as nodes: kept edges join source to destination, and a node reads before it writes."""
    group = graph.n_heads // (graph.n_kv_heads or graph.n_heads)
    result = networkx.DiGraph()
    for edge in edges:
        source, destination = edge.split("->")
        result.add_edge(("writes", source), ("reads", destination))
    for name in graph.sources:
        result.add_node(("writes", name))
        if name.startswith("m"):
            result.add_edge(("reads", name), ("writes", name))
        elif name != "input":
            layer, head = name.split(".h")
            result.add_edge(("reads", f"{name}<q>"), ("writes", name))
            result.add_edge(("reads", f"{layer}.h{int(head) // group}<k>"), ("writes", name))
            result.add_edge(("reads", f"{layer}.h{int(head) // group}<v>"), ("writes", name))
    result.add_node(("reads", "logits"))
    return result


def names(graph: Graph, chosen: Bool[Tensor, "source"]) -> set[str]:
    return {name for name, is_chosen in zip(graph.sources, chosen.tolist()) if is_chosen}


@pytest.mark.parametrize("density", [0.02, 0.06, 0.12, 0.25, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_liveness_agrees_with_path_searches(graph: Graph, density: float, seed: int, random_mask: Any) -> None:
    mask = random_mask(graph, density, seed)
    edges = graph.edge_names(mask)
    paths = all_nodes(graph, edges)
    from_input = networkx.descendants(paths, ("writes", "input")) | {("writes", "input")}
    to_logits = networkx.ancestors(paths, ("reads", "logits")) | {("reads", "logits")}
    assert names(graph, nodes_from_input(graph, mask)) == {name for role, name in from_input if role == "writes"}
    assert names(graph, nodes_to_logits(graph, mask)) == {name for role, name in to_logits if role == "writes"}
    expected = [
        edge
        for edge in edges
        if ("writes", edge.split("->")[0]) in from_input and ("reads", edge.split("->")[1]) in to_logits
    ]
    assert list(graph.edge_names(live_edges(graph, mask))) == expected


@pytest.mark.parametrize("seed", range(4))
def test_removing_dead_ends_twice_is_removing_them_once(graph: Graph, seed: int, random_mask: Any) -> None:
    live = Circuit(graph, random_mask(graph, 0.15, seed)).live()
    assert live.is_live and live.live() == live


BY_HAND = [
    pytest.param(["input->logits"], ["input->logits"], id="direct"),
    pytest.param(["input->a0.h0<q>"], [], id="no way to logits"),
    pytest.param(["a0.h0->logits"], [], id="no way from input"),
    pytest.param(["input->m0", "m1->logits"], [], id="gap"),
    pytest.param(["input->a0.h0<q>", "a0.h0->logits"], ["input->a0.h0<q>", "a0.h0->logits"], id="through a query"),
    pytest.param(
        ["input->a0.h0<q>", "a0.h1->a1.h0<k>", "a0.h0->a1.h0<v>", "a1.h0->logits"],
        ["input->a0.h0<q>", "a0.h0->a1.h0<v>", "a1.h0->logits"],
        id="a head is one node, but a source nothing reaches is dead",
    ),
    pytest.param(
        ["input->m0", "input->logits", "m0->a1.h0<q>", "m0->a1.h0<k>", "a1.h0->m1"],
        ["input->logits"],
        id="long dead end",
    ),
]


@pytest.mark.parametrize(("kept", "live"), BY_HAND)
def test_dead_ends_by_hand(kept: list[str], live: list[str]) -> None:
    graph = Graph(2, 2)
    assert Circuit.from_edges(graph, kept).live() == Circuit.from_edges(graph, live)


def test_a_key_value_head_serves_its_whole_group() -> None:
    graph = Graph(2, 4, n_kv_heads=2)
    circuit = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h2->logits", "a0.h1->logits"])
    assert names(graph, circuit.nodes_from_input) == {"input", "a0.h2", "a0.h3"}
    assert names(graph, circuit.nodes_to_logits) == {"input", "a0.h1", "a0.h2"}
    assert circuit.live() == Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h2->logits"])


def test_the_full_and_the_empty_circuit_are_live(graph: Graph) -> None:
    assert Circuit.full(graph).is_live and Circuit.empty(graph).is_live
    assert Circuit.full(graph).nodes_from_input.all() and Circuit.full(graph).nodes_to_logits.all()
    assert names(graph, Circuit.empty(graph).nodes_from_input) == {"input"}
    assert names(graph, Circuit.empty(graph).nodes_to_logits) == set()
