"""The published visiting order, and others."""

from __future__ import annotations

import pytest
import torch
from plain_sweep import order as written_out

from edge_circuits.acdc import order
from edge_circuits.graphs import Graph, ScoredGraph

GRAPHS = [Graph(3, 2), Graph(2, 3, mlps=False), Graph(2, 2, parallel=True), Graph(2, 4, n_kv_heads=2), Graph(1, 1)]


def test_published_order_of_a_small_model():
    assert order.published(Graph(1, 2))[:8] == [
        "m0->logits",
        "a0.h0->logits",
        "a0.h1->logits",
        "input->logits",
        "a0.h0->m0",
        "a0.h1->m0",
        "input->m0",
        "input->a0.h1<v>",
    ]
    assert order.published(Graph(1, 2))[8:] == [
        "input->a0.h0<v>",
        *(f"input->a0.h{h}<{x}>" for x in "kq" for h in (1, 0)),
    ]


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_published_order_has_every_edge_once(graph):
    assert sorted(order.published(graph)) == sorted(graph.edges)
    assert order.published(graph) == written_out(graph)


def scored(graph):
    generator = torch.Generator().manual_seed(0)
    return ScoredGraph(
        graph, torch.randn(graph.edge_mask.shape, generator=generator).round(decimals=1) * graph.edge_mask
    )


def test_by_score_the_smallest_come_first_and_equal_ones_as_published():
    graph = Graph(2, 2)
    scores, place = scored(graph), order.published(graph).index
    keys = [(abs(scores.score(edge)), place(edge)) for edge in order.by_score(scores)]
    assert keys == sorted(keys)
    assert len(keys) == graph.n_edges


def test_senders_by_score_keep_the_order_of_destinations():
    graph = Graph(2, 2)
    scores = scored(graph)
    edges = order.senders_by_score(scores)
    ends = [edge.split("->")[1] for edge in edges]
    assert list(dict.fromkeys(ends)) == [graph.destinations[d] for d in order.destinations(graph)]
    assert ends == [edge.split("->")[1] for edge in order.published(graph)]
    for end in set(ends):
        sizes = [abs(scores.score(edge)) for edge in edges if edge.endswith(f"->{end}")]
        assert sizes == sorted(sizes)


def test_an_order_is_checked():
    graph = Graph(1, 1)
    edges = order.published(graph)
    assert order.checked(graph, None, graph.edge_mask) == [graph.edge_index(edge) for edge in edges]
    one = torch.zeros_like(graph.edge_mask)
    one[graph.edge_index("input->m0")] = True
    assert order.checked(graph, edges, one) == [graph.edge_index("input->m0")]
    with pytest.raises(ValueError, match="order: expected every edge once, got input->m0 twice"):
        order.checked(graph, [*edges, "input->m0"], graph.edge_mask)
    with pytest.raises(ValueError, match="order: expected every edge of the circuit, got an order without m0->logits"):
        order.checked(graph, [edge for edge in edges if edge != "m0->logits"], graph.edge_mask)
    with pytest.raises(ValueError, match="unknown edge 'm7->logits'"):
        order.checked(graph, ["m7->logits"], graph.edge_mask)
