"""Circuits of whole nodes: heads and MLPs that are kept with all edges between them.

A node outside of such a circuit is cut from everything: whatever reads it reads its cut value. `input` and `logits` are in every
circuit and count as no node here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import choice, described, refusal, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.pruning import By, rank_values
from edge_circuits.graphs.scores import ScoredGraph


@dataclass(frozen=True, eq=False)
class ScoredNodes:
    """Scores of heads and MLPs; positive: cutting the node from everything raises the metric.

    Attributes:
        graph: The topology.
        scores: In the order of `graph.sources` without `input`. [node]
        metadata: What is worth knowing of their origin.

    Raises:
        ValueError: Not one finite score a node.
    """

    graph: Graph
    scores: Float[Tensor, "node"]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (self.graph.n_sources - 1,)
        if not isinstance(self.scores, Tensor) or tuple(self.scores.shape) != expected:
            raise refusal("scores", f"a tensor of shape {expected}, one for each head and MLP", described(self.scores))
        if not self.scores.isfinite().all():
            raise refusal("scores", "finite numbers", f"{int((~self.scores.isfinite()).sum())} NaN or infinite")

    @classmethod
    def of(cls, scored: ScoredGraph) -> ScoredNodes:
        """What the edges that leave a node sum to: for gradients and RelP, the node's own attribution."""
        return cls(scored.graph, scored.scores[1:].sum(1), scored.metadata)

    @property
    def by_node(self) -> ScoredNodes:
        """Itself."""
        return self

    def top(self, n: int) -> list[tuple[str, float]]:
        """The n nodes of largest absolute score, largest first, ties in order; all if fewer."""
        chosen = self.scores.abs().sort(descending=True, stable=True).indices[: whole_number("n", n)]
        return [(self.graph.sources[1 + place], self.scores[place].item()) for place in chosen.tolist()]


@runtime_checkable
class HasNodeScores(Protocol):
    """What gives scores of nodes, such as `score_nodes` does."""

    by_node: ScoredNodes


def prune_nodes(scores: ScoredGraph | HasNodeScores, k: int, *, by: By = "absolute") -> Circuit:
    """The circuit of the k best heads and MLPs, with all edges between them, `input` and `logits`.

    Args:
        scores: Of nodes, by `score_nodes` or `patch_nodes`; or of edges, from which nodes get the sum over the edges that leave them.
        k: How many nodes.
        by: Rank value: "absolute" |score|, "signed" score, "negative" -score; of equal ones the earlier node.

    Raises:
        ValueError: k is out of range, an unknown word, or scores that are none or not finite.
    """
    choice("by", by, get_args(By))
    if not isinstance(scores, ScoredGraph | HasNodeScores):
        raise refusal("scores", "scores of nodes or edges", described(scores), "score_nodes gives them")
    nodes = ScoredNodes.of(scores) if isinstance(scores, ScoredGraph) else scores.by_node
    k = whole_number("k", k, most=len(nodes.scores), remedy=f"the graph has {len(nodes.scores)} heads and MLPs")
    kept = torch.zeros(nodes.graph.n_sources, dtype=torch.bool)
    kept[1 + rank_values(nodes.scores, by).sort(descending=True, stable=True).indices[:k]] = True
    return node_circuit(nodes.graph, kept, {**nodes.metadata, "pruning": {"n_nodes": k, "by": by}})


def node_circuit(graph: Graph, kept: Bool[Tensor, " source"], metadata: Mapping[str, Any] | None = None) -> Circuit:
    """All edges between `input`, the nodes kept, and `logits`; a key-value head is entered for any of its query heads."""
    sources = kept.cpu().clone()
    sources[0] = True
    destinations = torch.tensor(
        [any(kept[node] for node in graph.nodes_of(each)) for each in range(graph.n_destinations - 1)] + [True]
    )
    return Circuit(graph, graph.edge_mask & sources[:, None] & destinations, metadata=metadata)
