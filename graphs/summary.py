"""What scores and circuits say of heads and layers: sums over the edges that leave or enter them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import PARTS
from edge_circuits.graphs.signs import effect_of
from edge_circuits.graphs.tables import Table


def head_map(graph: Graph, values: Float[Tensor, "source destination"]) -> Float[Tensor, "layer head"]:
    """For each head the sum of values over the edges that leave it. [layer head]"""
    sums = values.sum(1)
    return torch.stack([sums[graph.head_sources(layer)] for layer in range(graph.n_layers)])


def head_names(graph: Graph, mask: Bool[Tensor, "source destination"]) -> tuple[str, ...]:
    """The heads that an edge of a mask leaves or enters, in order."""
    leaves, enters = mask.any(1).tolist(), mask.any(0).tolist()
    return tuple(
        graph.sources[source]
        for layer in range(graph.n_layers)
        for source in range(graph.head_sources(layer).start, graph.head_sources(layer).stop)
        if leaves[source] or any(enters[destination] for destination in graph.destinations_of(source))
    )


def layer_table(graph: Graph, values: Float[Tensor, "source destination"], title: str) -> Table:
    """For each layer the sum of values over the edges that enter each part of it, and over those that leave it."""
    into, out = values.sum(0).double(), values.sum(1).double()
    rows = []
    for layer in range(graph.n_layers):
        row = [layer, *(into[graph.part_destinations(layer, part)].sum().item() for part in PARTS)]
        row += [into[graph.mlp_destination(layer)].item()] if graph.mlps else []
        row += [out[graph.head_sources(layer)].sum().item()]
        row += [out[graph.mlp_source(layer)].item()] if graph.mlps else []
        rows.append(tuple(row))
    mlp = (["into MLP"], ["out of MLP"]) if graph.mlps else ([], [])
    return Table(("layer", "into q", "into k", "into v", *mlp[0], "out of heads", *mlp[1]), tuple(rows), title)


def edge_table(scored: Iterable[tuple[str, float]], *, has_sign: bool) -> Table:
    """Edges with their scores, and whether each helps (cutting it lowers the metric) or hurts."""
    if not has_sign:
        return Table(("edge", "score"), tuple(scored))
    return Table(("edge", "score", "effect"), tuple((edge, score, effect_of(score)) for edge, score in scored))


def origin(metadata: Mapping[str, Any]) -> str:
    """Model, task, method and metric, as far as they are known."""
    return ", ".join(str(metadata[name]) for name in ("model", "task", "method", "metric") if name in metadata)


def head_table(graph: Graph, scores: Float[Tensor, "source destination"], top: int) -> Table:
    """The heads whose edges have most |score|: those that leave it, those that enter it, and the sum with its sign."""
    sizes = scores.double().abs()
    out, into, net = sizes.sum(1).tolist(), sizes.sum(0).tolist(), scores.double().sum(1).tolist()
    rows = [
        (name, out[source], sum(into[destination] for destination in graph.destinations_of(source)), net[source])
        for source, name in enumerate(graph.sources)
        if len(graph.destinations_of(source)) == len(PARTS)
    ]
    rows.sort(key=lambda row: -row[1])
    return Table(("head", "|score| out", "|score| in", "score out"), tuple(rows[:top]), "heads by |score|")
