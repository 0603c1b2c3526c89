"""In which order the edges are tried.

The default is that of Conmy et al. 2023, from the end of the model to its beginning:

- destinations: `logits`; then layer by layer from the last: the MLP, then head inputs `<v>`, `<k>`, `<q>`, the heads of a
  part descending;
- the in-edges of a destination: from the last layer to the first, the MLP of a layer before its heads, the heads
  ascending; `input` last.

With direct edges, each head's `<q>`, `<k>` and `<v>` is first tried as a whole, which cuts all its in-edges: those of a layer
before all in-edges of its heads, in the order of destinations. They are named after the destination, `a1.h0<q>`.

Any order gives an ACDC of its own. One in which the in-edges of a destination stand together is much the fastest.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, Algorithm 1; the order of its published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from edge_circuits.graphs import Graph, ScoredGraph
from edge_circuits.graphs.checks import refusal

Edge = tuple[int, int]
"""An edge by the places of its source and its destination in the graph."""

DIRECT = -1
"""The source of a direct edge: all in-edges of the destination together."""


def published(graph: Graph) -> list[str]:
    """All edges, in the order of the published sweep."""
    return [graph.edge_name(s, d) for d in destinations(graph) for s in sources(graph, d)]


def by_score(scored: ScoredGraph) -> list[str]:
    """All edges by ascending absolute score; equal ones in the published order.

    Edges of different destinations alternate, so few of them can be tried at a time: for small circuits.
    """
    return sorted(published(scored.graph), key=_size(scored))


def senders_by_score(scored: ScoredGraph) -> list[str]:
    """Destinations as published, the in-edges of each by ascending absolute score."""
    graph, size = scored.graph, _size(scored)
    return [
        edge
        for d in destinations(graph)
        for edge in sorted((graph.edge_name(s, d) for s in sources(graph, d)), key=size)
    ]


def destinations(graph: Graph) -> Iterator[int]:
    """Destinations in the published order."""
    yield graph.n_destinations - 1
    for layer in reversed(range(graph.n_layers)):
        if graph.mlps:
            yield graph.mlp_destination(layer)
        for part in ("v", "k", "q"):
            yield from reversed(range(graph.n_destinations)[graph.part_destinations(layer, part)])


def sources(graph: Graph, destination: int) -> Iterator[int]:
    """The sources that a destination sees, in the published order."""
    n_visible = int(graph.n_visible[destination])
    for layer in reversed(range(graph.n_layers)):
        heads = range(graph.n_sources)[graph.head_sources(layer)]
        if graph.mlps and graph.mlp_source(layer) < n_visible:
            yield graph.mlp_source(layer)
        if heads.start < n_visible:
            yield from heads
    yield 0


def with_direct(graph: Graph, edges: Sequence[Edge]) -> list[Edge]:
    """Edges in the published order, with the direct edges of the heads' destinations that they enter."""
    n_layer = (graph.n_destinations - 1) // graph.n_layers
    entered = {destination: None for _, destination in edges if graph.nodes_of(destination)}
    heads = {each: None for each in entered if each % n_layer < n_layer - graph.mlps}
    of_layer = {each // n_layer: [other for other in heads if other // n_layer == each // n_layer] for each in heads}
    found: list[Edge] = []
    for edge in edges:
        if edge[1] in heads:
            found += [(DIRECT, each) for each in of_layer.pop(edge[1] // n_layer, [])]
        found.append(edge)
    return found


def checked(graph: Graph, order: Sequence[str] | None, needed: torch.Tensor) -> list[Edge]:
    """The edges of a circuit in the order asked for, as places.

    Args:
        order: Edge names; those outside the circuit are passed over. None: the published order.
        needed: The circuit's edges. [source destination]

    Raises:
        ValueError: An unknown edge, one that comes twice, or one of the circuit that is missing.
    """
    if order is None:
        return [(s, d) for d in destinations(graph) for s in sources(graph, d) if needed[s, d]]
    places = [graph.edge_index(name) for name in order]
    if len(set(places)) < len(places):
        seen: set[Edge] = set()
        twice = next(name for name, place in zip(order, places) if place in seen or seen.add(place))
        raise refusal("order", "every edge once", f"{twice} twice")
    chosen = [place for place in places if needed[place]]
    if len(chosen) < int(needed.sum()):
        missing = needed.clone()
        missing[tuple(torch.tensor(chosen, dtype=torch.long).reshape(-1, 2).T)] = False
        raise refusal("order", "every edge of the circuit", f"an order without {graph.edge_names(missing)[0]}")
    return chosen


def _size(scored: ScoredGraph):
    return lambda edge: abs(scored.score(edge))
