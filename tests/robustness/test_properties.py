"""Properties of graphs, pruning and set algebra that hold for all of them; `--examples N` tries N of each."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as draw
from torch import Tensor

from edge_circuits.graphs import Circuit, Graph, ScoredGraph, prune

pytestmark = pytest.mark.filterwarnings("ignore:prune. none of the")


@draw.composite
def graphs(choose: draw.DrawFn) -> Graph:
    """Small graphs of every kind."""
    n_kv_heads = choose(draw.sampled_from([None, 1, 2]))
    n_heads = choose(draw.integers(1, 3)) * (n_kv_heads or 1)
    mlps = choose(draw.booleans())
    return Graph(choose(draw.integers(1, 4)), n_heads, n_kv_heads, mlps, parallel=mlps and choose(draw.booleans()))


def mask_of(graph: Graph, seed: int, density: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(graph.edge_mask.shape, generator=generator) < density) & graph.edge_mask


@draw.composite
def circuits(choose: draw.DrawFn, n: int = 1) -> list[Circuit]:
    """Circuits of one graph, from empty to full."""
    graph = choose(graphs())
    chances = [
        (choose(draw.integers(0, 2**31)), choose(draw.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))) for _ in range(n)
    ]
    return [Circuit(graph, mask_of(graph, *chance)) for chance in chances]


@draw.composite
def scored(choose: draw.DrawFn) -> ScoredGraph:
    """Scores with ties and zeros."""
    graph = choose(graphs())
    generator = torch.Generator().manual_seed(choose(draw.integers(0, 2**31)))
    values = torch.randint(-4, 5, graph.edge_mask.shape, generator=generator).double() / 2
    return ScoredGraph(graph, values * graph.edge_mask)


@given(graphs())
def test_names_and_places_of_edges_are_one_to_one(graph: Graph) -> None:
    assert len(set(graph.edges)) == graph.n_edges == int(graph.edge_mask.sum())
    assert all(graph.edge_mask[graph.edge_index(edge)] for edge in graph.edges)
    assert len({graph.edge_index(edge) for edge in graph.edges}) == graph.n_edges
    assert graph.edge_mask[0].all(), "input is seen by all"
    assert graph.edge_mask[:, -1].all(), "logits see all"


@given(circuits(n=3))
def test_set_algebra_is_that_of_sets(some: list[Circuit]) -> None:
    a, b, c = some
    sets = [set(each.edges) for each in some]
    assert set((a & b).edges) == sets[0] & sets[1] and set((a | b).edges) == sets[0] | sets[1]
    assert set((a - b).edges) == sets[0] - sets[1] and set((~a).edges) == set(a.graph.edges) - sets[0]
    assert a & (b | c) == (a & b) | (a & c) and ~(a & b) == ~a | ~b
    assert (a == b) == (sets[0] == sets[1]) and len(a) == a.n_edges == len(sets[0])


@given(circuits())
def test_what_is_live_stays_live(some: list[Circuit]) -> None:
    (circuit,) = some
    live = circuit.live()
    assert live.live() == live and live.is_live and set(live.edges) <= set(circuit.edges)
    assert set(live.edges) == live_edges(circuit)


def live_edges(circuit: Circuit) -> set[str]:
    """Edges on paths from `input` to `logits`, by walking them from both ends over nodes."""
    pairs = [edge.split("->") for edge in circuit.edges]
    graph = circuit.graph

    def nodes(destination: str) -> set[str]:
        return {graph.sources[i] for i in graph.nodes_of(graph.destinations.index(destination))} or {destination}

    ahead, behind = {"input"}, {"logits"}
    for _ in range(len(graph.sources) + 1):
        ahead |= {node for source, end in pairs if source in ahead for node in nodes(end)}
        behind |= {source for source, end in pairs if nodes(end) & behind}
    return {f"{source}->{end}" for source, end in pairs if source in ahead and nodes(end) & behind}


@given(scored(), draw.data())
def test_pruning_takes_the_largest(graph: ScoredGraph, data: draw.DataObject) -> None:
    k = data.draw(draw.integers(1, graph.graph.n_edges))
    chosen = prune(graph, k=k)
    sizes = graph.scores.abs()[graph.graph.edge_mask]
    smallest = sizes.sort(descending=True).values[k - 1]
    assert chosen.n_edges <= k and chosen.live() == chosen
    assert all(abs(graph.score(edge)) >= smallest for edge in chosen.edges)
    larger = prune(graph, k=min(k + 1, graph.graph.n_edges))
    assert set(chosen.edges) <= set(larger.edges), "circuits of more edges hold those of fewer"


@given(scored(), draw.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_pruning_by_a_threshold_keeps_what_reaches_it(graph: ScoredGraph, threshold: float) -> None:
    mask = (graph.scores.abs() >= threshold) & graph.graph.edge_mask
    assert prune(graph, threshold=threshold) == Circuit(graph.graph, mask).live()


@given(circuits(), draw.sampled_from([".json"]))
def test_files_hold_what_was_saved(some: list[Circuit], ending: str) -> None:
    (circuit,) = some
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"circuit{ending}"
        circuit.save(path)
        assert Circuit.load(path) == circuit
