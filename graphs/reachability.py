"""Which nodes of a set of edges matter: those on a path from `input` to `logits`.

One sweep over the layers upwards finds the sources that `input` reaches, one downwards those that reach `logits`. A
head is one node: it is reached when any of its `<q>`, `<k>` and `<v>` is, and an edge into any of them is on a path
when the head reaches `logits`. A `<k>` or `<v>` of a key-value head is read by all query heads of its group.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from edge_circuits.graphs.graph import Graph


def nodes_from_input(graph: Graph, mask: Bool[Tensor, "source destination"]) -> Bool[Tensor, "source"]:
    """The sources that a path of kept edges joins to `input`; `input` is one of them. [source]

    All others equal their corrupted value when the circuit runs.
    """
    reached = torch.zeros(graph.n_sources, dtype=torch.bool, device="cpu")
    reached[0] = True
    for layer in range(graph.n_layers):
        heads = graph.head_sources(layer)
        for part in ("q", "k", "v"):
            into = graph.part_destinations(layer, part)
            reads = (mask[: heads.start, into] & reached[: heads.start, None]).any(0)
            reached[heads] |= reads.repeat_interleave(graph.n_heads // graph.n_parts[part])
        if graph.mlps:
            mlp = graph.mlp_source(layer)
            reached[mlp] = (mask[:mlp, graph.mlp_destination(layer)] & reached[:mlp]).any()
    return reached


def nodes_to_logits(graph: Graph, mask: Bool[Tensor, "source destination"]) -> Bool[Tensor, "source"]:
    """The sources that a path of kept edges joins to `logits`. [source]

    All others need not be computed when the circuit runs.
    """
    return _leading_to_logits(graph, mask)[0]


def live_edges(graph: Graph, mask: Bool[Tensor, "source destination"]) -> Bool[Tensor, "source destination"]:
    """The kept edges that lie on a path of kept edges from `input` to `logits`. [source destination]"""
    leading = _leading_to_logits(graph, mask)[1]
    return mask & nodes_from_input(graph, mask).unsqueeze(1) & leading


def _leading_to_logits(
    graph: Graph, mask: Bool[Tensor, "source destination"]
) -> tuple[Bool[Tensor, "source"], Bool[Tensor, "destination"]]:
    """The sources that reach `logits`, and the destinations read by such a source (`logits` among them)."""
    sources = torch.zeros(graph.n_sources, dtype=torch.bool, device="cpu")
    destinations = torch.zeros(graph.n_destinations, dtype=torch.bool, device="cpu")
    destinations[-1] = True
    for layer in reversed(range(graph.n_layers)):
        heads = graph.head_sources(layer)
        above = graph.part_destinations(layer, "v").stop  # the first destination that can see this layer's heads
        if graph.mlps:
            mlp = graph.mlp_source(layer)
            sources[mlp] = (mask[mlp, above:] & destinations[above:]).any()
            destinations[graph.mlp_destination(layer)] = sources[mlp]
        sources[heads] = (mask[heads, above:] & destinations[above:]).any(1)
        for part in ("q", "k", "v"):
            groups = sources[heads].view(graph.n_parts[part], -1)
            destinations[graph.part_destinations(layer, part)] = groups.any(1)
    sources[0] = (mask[0] & destinations).any()
    return sources, destinations
