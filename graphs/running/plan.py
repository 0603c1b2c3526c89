"""What running a circuit needs: which nodes, on which rows, and what each of them reads.

A node is computed only when a path of kept edges leads from it to `logits` and, under patching, when one also leads
to it from `input`: without one it equals its corrupted value. A node whose value is read at the answer position
alone (by `logits`, by MLPs and queries that are themselves computed there only) is computed on that row; keys and
values are read at every position.

Destinations of a layer that keep the same sources share one `Mixture`. A mixture starts from the cut stream and adds
its kept sources, or, when more is kept than cut, starts from the current stream and takes its cut sources away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import PARTS, Part
from edge_circuits.graphs.reachability import nodes_from_input, nodes_to_logits
from edge_circuits.graphs.running.patching import CutTo, equals_a_run


@dataclass(frozen=True, eq=False)
class Mixture:
    """The input of one or more destinations: a stream and the sources in which they differ from it.

    Attributes:
        from_cut: Start from the cut stream and add `sources`; otherwise from the current one and subtract them.
        sources: Indices, ascending.
        weights: For soft masks, how much of each source is kept, else None; for masks by span, at each span.
    """

    from_cut: bool
    sources: tuple[int, ...]
    weights: Float[Tensor, " n_sources *span"] | None = None

    @cached_property
    def places(self) -> dict[int, int]:
        """Where each source is among `sources`."""
        return {source: place for place, source in enumerate(self.sources)}

    @property
    def is_cut(self) -> bool:
        """Every in-edge is cut."""
        return self.from_cut and not self.sources


@dataclass(frozen=True)
class Heads:
    """Heads of a layer that are computed on the same rows; `reads` gives the mixture of each part, head by head."""

    heads: tuple[int, ...]
    reads: dict[Part, tuple[Mixture, ...]]


@dataclass(frozen=True)
class LayerPlan:
    """What to compute in a layer: heads and MLP, at every position or at the answer row alone."""

    everywhere: Heads
    at_answer: Heads
    mlp: Mixture | None
    mlp_everywhere: bool


@dataclass(frozen=True)
class Plan:
    """How to run a circuit.

    Attributes:
        computed: Sources that are computed.
        individual: Sources whose own change some mixture adds or subtracts.
        keeps_current: Some mixture starts from the current stream.
    """

    graph: Graph
    computed: Bool[Tensor, " source"]
    layers: tuple[LayerPlan, ...]
    logits: Mixture
    individual: frozenset[int]
    keeps_current: bool

    @property
    def n_everywhere(self) -> int:
        """How many sources are computed at every position, `input` among them."""
        return 1 + sum(len(layer.everywhere.heads) + layer.mlp_everywhere for layer in self.layers)


def make_plan(
    graph: Graph,
    mask: Bool[Tensor, "source destination"] | Float[Tensor, "source destination *span"],
    intervention: CutTo | None = None,
    everywhere: bool = False,
) -> Plan:
    """The plan of a circuit.

    Args:
        graph: The topology.
        mask: Kept edges; or, in floating point, how much of each edge is kept (1 kept, 0 cut), differentiably, everywhere
            or at each span of the prompts.
        intervention: What cut edges read. Under patching a node without a live input needs no run. None: whatever it may
            be, every node that leads to `logits` runs.
        everywhere: Logits are read at every position, not at the answer alone.
    """
    kept = (mask != 0).flatten(2).any(2).cpu() if mask.dim() > 2 else (mask != 0).cpu()
    kept &= graph.edge_mask
    computed, read_everywhere = _computed(graph, kept, intervention)
    read_everywhere = computed if everywhere else read_everywhere
    mixer = _Mixer(graph, mask, kept, computed)
    layers = tuple(_layer_plan(graph, layer, computed, read_everywhere, mixer) for layer in range(graph.n_layers))
    logits = mixer.mixture(graph.n_destinations - 1)
    mixtures = mixer.made.values()
    return Plan(
        graph,
        computed,
        layers,
        logits,
        individual=frozenset(source for mixture in mixtures for source in mixture.sources),
        keeps_current=any(not mixture.from_cut for mixture in mixtures),
    )


def _computed(
    graph: Graph, kept: Tensor, intervention: CutTo | None
) -> tuple[Bool[Tensor, " source"], Bool[Tensor, " source"]]:
    """Which sources are computed, and which of them at every position."""
    computed = nodes_to_logits(graph, kept)
    if intervention is not None and equals_a_run(intervention):
        computed &= nodes_from_input(graph, kept)
    computed[0] = True  # `input` costs nothing and always counts in the current stream
    everywhere = torch.zeros(graph.n_sources, dtype=torch.bool)
    for layer in reversed(range(graph.n_layers)):
        heads = graph.head_sources(layer)
        if graph.mlps:
            mlp = graph.mlp_source(layer)
            everywhere |= kept[:, graph.mlp_destination(layer)] & everywhere[mlp] & computed[mlp]
        live = computed[heads]
        for part, running in (("q", live & everywhere[heads]), ("k", live), ("v", live)):
            used = running.view(graph.n_parts[part], -1).any(1)
            everywhere |= (kept[:, graph.part_destinations(layer, part)] & used).any(1)
    return computed, everywhere & computed


def make_mixture(kept: Bool[Tensor, " visible"], computed: Bool[Tensor, " visible"]) -> Mixture:
    """What a destination reads that keeps these of the sources it sees; only computed ones can differ when cut."""
    kept, cut = kept & computed, ~kept & computed
    from_cut = bool(kept.sum() <= cut.sum())
    return Mixture(from_cut, tuple((kept if from_cut else cut).nonzero()[:, 0].tolist()))


class _Mixer:
    """Makes one `Mixture` for all destinations that keep the same sources."""

    def __init__(self, graph: Graph, mask: Tensor, kept: Tensor, computed: Tensor) -> None:
        self.graph, self.kept, self.computed = graph, kept, computed
        self.weights = mask if mask.is_floating_point() else None
        self.made: dict[object, Mixture] = {}

    def mixture(self, destination: int) -> Mixture:
        """What a destination reads."""
        n_visible = self.graph.n_seen(destination)
        present = self.computed[:n_visible]
        kept = self.kept[:n_visible, destination] & present
        if self.weights is not None:
            sources = tuple(kept.nonzero()[:, 0].tolist())
            return self.made.setdefault(destination, Mixture(True, sources, self.weights[list(sources), destination]))
        mixture = make_mixture(kept, present)
        return self.made.setdefault((n_visible, mixture.from_cut, mixture.sources), mixture)


def _layer_plan(graph: Graph, layer: int, computed: Tensor, everywhere: Tensor, mixer: _Mixer) -> LayerPlan:
    start = graph.head_sources(layer).start
    live = [head for head in range(graph.n_heads) if computed[start + head]]
    mlp = graph.mlps and bool(computed[graph.mlp_source(layer)])

    def heads(chosen: Sequence[int]) -> Heads:
        own = [graph.destinations_of(start + head) for head in chosen]
        reads = {part: tuple(mixer.mixture(three[i]) for three in own) for i, part in enumerate(PARTS)}
        return Heads(tuple(chosen), reads)

    return LayerPlan(
        everywhere=heads([head for head in live if everywhere[start + head]]),
        at_answer=heads([head for head in live if not everywhere[start + head]]),
        mlp=mixer.mixture(graph.mlp_destination(layer)) if mlp else None,
        mlp_everywhere=mlp and bool(everywhere[graph.mlp_source(layer)]),
    )
