"""What follows from a destination, against walks along edges one by one."""

from __future__ import annotations

import pytest
import torch

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.reachability import nodes_from_input, nodes_to_logits
from edge_circuits.graphs.running.dependents import (
    bit_columns,
    bits,
    dependents_of,
    leading_to_logits,
    members,
    reached_from_input,
)


def walked(graph: Graph, mask: torch.Tensor, destination: int) -> tuple[set[int], set[int]]:
    """Sources that move and destinations that read one, by following every kept edge until nothing new comes."""
    moved, destinations, before = set(graph.nodes_of(destination)), {destination}, None
    while before != (before := (len(moved), len(destinations))):
        for s, d in mask.nonzero().tolist():
            if s in moved:
                destinations.add(d)
                moved.update(graph.nodes_of(d))
    return moved, destinations


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_everything_that_a_path_leads_to_moves(graph, random_mask, density):
    mask = random_mask(graph, density, 0)
    everything = (1 << graph.n_sources) - 1
    for destination in range(graph.n_destinations):
        moved, destinations = walked(graph, mask, destination)
        found = dependents_of(graph, bit_columns(mask), everything, destination)
        assert set(members(found.moved)) == moved
        assert found.destinations == destinations


def test_nothing_is_followed_through_a_node_that_is_not_computed():
    graph = Graph(3, 1)
    without_m1 = (1 << graph.n_sources) - 1 - (1 << graph.source_index("m1"))
    mask = torch.zeros_like(graph.edge_mask)
    for edge in ("m0->m1", "m1->m2", "m2->logits"):
        mask[graph.edge_index(edge)] = True
    found = dependents_of(graph, bit_columns(mask), without_m1, graph.destination_index("m0"))
    assert [graph.sources[source] for source in members(found.moved)] == ["m0"]


def test_a_destination_uses_the_sum_only_when_it_keeps_all_that_moved(graph, random_mask):
    mask = random_mask(graph, 0.7, 1)
    columns, everything = bit_columns(mask), (1 << graph.n_sources) - 1
    for destination in range(graph.n_destinations):
        found = dependents_of(graph, columns, everything, destination)
        singly = set()
        for each in found.destinations - {destination}:
            seen = {source for source in members(found.moved) if source < graph.n_visible[each]}
            kept = {source for source in seen if mask[source, each]}
            assert (each in found.keep_all) == (kept == seen)
            singly |= kept if kept != seen else set()
        assert set(members(found.singly)) == singly


def test_where_changes_cannot_be_summed_every_destination_tells_sources_apart():
    graph = Graph(2, 2)
    found = dependents_of(graph, bit_columns(graph.edge_mask), (1 << graph.n_sources) - 1, 0, sums=False)
    assert not found.keep_all
    assert found.singly == found.moved


@pytest.mark.parametrize("density", [0.1, 0.4])
def test_paths_to_and_from_are_those_of_reachability(graph, random_mask, density):
    for seed in range(5):
        mask = random_mask(graph, density, seed)
        columns = bit_columns(mask)
        assert leading_to_logits(graph, columns) == bits(nodes_to_logits(graph, mask).nonzero()[:, 0].tolist())
        assert reached_from_input(graph, columns) == bits(nodes_from_input(graph, mask).nonzero()[:, 0].tolist())


def test_sets_and_their_members():
    assert list(members(bits([3, 0, 70]))) == [0, 3, 70]
    assert bit_columns(torch.tensor([[True, False], [False, True], [True, True]])) == [0b101, 0b110]
