"""Features as destinations: by which streams they are entered, and how their values follow from these.

What an MLP's dictionary reads follows from the stream at its layer's MLP (part 0), what an attention's reads from the stream as q,
k and v read it (parts 1 to 3), each of which is a destination of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.edges import LOGITS
from edge_circuits.graphs.features.nodes import ANY, ERROR, FeatureNodes
from edge_circuits.graphs.features.sites import MLP_KINDS, Site, inner_value, read_at
from edge_circuits.graphs.model.attention import write
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer


class Destination(NamedTuple):
    """A feature as it is entered, with the positions at which it counts (None: all)."""

    site: int
    feature: int
    part: int
    positions: tuple[int, ...] | None


def destinations_among(nodes: FeatureNodes) -> Iterator[Destination]:
    """The features of nodes as they are entered, part by part, and last the logits."""
    positions: dict[tuple[int, int], list[int]] = {}
    for site, position, feature in nodes.index.tolist():
        if feature != ERROR and nodes.sites[site].kind != "embed":
            positions.setdefault((site, feature), []).append(position)
    for (site, feature), at in sorted(positions.items()):
        parts = (1, 2, 3) if nodes.sites[site].kind in ("z", "attention_out") else (0,)
        for part in parts:
            yield Destination(site, feature, part, None if ANY in at else tuple(at))
    yield Destination(LOGITS, 0, 0, None)


def rank_of(transformer: Transformer, site: Site) -> int:
    """A site reads what sites of lower rank write."""
    if site.kind == "embed":
        return 0
    after_attention = site.kind in MLP_KINDS and not transformer.blocks[site.layer].parallel
    return 1 + 2 * site.layer + after_attention


def read_through(
    transformer: Transformer, dictionary: AnyDictionary, streams: Mapping[int, Tensor], operations: Operations
) -> Tensor:
    """What a dictionary reads, from the stream that its layer's MLP (part 0) or q, k and v (parts 1 to 3) read."""
    site, block = dictionary.site, transformer.blocks[dictionary.site.layer]
    if dictionary.reads != "site":
        return read_at(block, dictionary.reads, streams[0], operations)
    if site.kind in MLP_KINDS:
        normed = operations.norm(block.mlp_norm, streams[0])
        if site.kind != "mlp_out":
            return inner_value(block, site, normed, operations)
        return operations.norm(block.mlp_post_norm, block.mlp(normed, operations))
    attention = block.attention
    q, k, v = (operations.norm(block.attention_norm, streams[part]) for part in (1, 2, 3))
    q = attention.project("q", q, operations=operations)
    k = attention.per_query_head(attention.project("k", k, operations=operations))
    v = attention.per_query_head(attention.project("v", v, operations=operations))
    z = attention.mix(q, k, v, None, operations)
    if site.kind == "z":
        return z.flatten(-2)
    return operations.norm(block.attention_post_norm, write(z, attention.W_O, attention.b_O))


def streams_read(kept: Activations, site: Site) -> dict[int, Tensor]:
    """The streams that `read_through` takes, by part."""
    if site.kind in MLP_KINDS:
        return {0: kept.mlp_in[site.layer]}
    return dict.fromkeys((1, 2, 3), kept.attention_in[site.layer])


def at_positions(value: Tensor, destination: Destination) -> Tensor:
    """[batch pos ...] with zeros where the destination does not count."""
    if destination.positions is None:
        return value
    counts = torch.zeros(value.shape[1]).to(value)
    counts[[at for at in destination.positions if at < value.shape[1]]] = 1
    return value * counts.reshape(-1, *[1] * (value.dim() - 2))
