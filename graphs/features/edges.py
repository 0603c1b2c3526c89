"""Edges of feature circuits: a sparse table of a source's node and what it enters, with scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.features.nodes import ANY, FeatureNodes, strongest

LOGITS = -1
"""Stands for the site of a destination."""
PARTS = ("", "q", "k", "v")


@dataclass(frozen=True, eq=False)
class FeatureEdges:
    """Edges between nodes.

    Attributes:
        nodes: the table that sources and destinations are of.
        index: rows of (row of the source in `nodes`; site, feature and part of the destination); the site `LOGITS` is the
            logits, the part an index of `PARTS`.
        scores: positive: cutting the edge raises the metric; the mean over prompts.
    """

    nodes: FeatureNodes
    index: Int[Tensor, "edge 4"]
    scores: Float[Tensor, " edge"]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> FeatureEdges:
        """Some of the edges."""
        return FeatureEdges(self.nodes, self.index[rows], self.scores[rows], self.metadata)

    @property
    def names(self) -> list[str]:
        """ "m0/17@3->m2/5", "z1/2@3->z2/0<k>", "m2/error@4->logits"; the position is the source's."""
        sources = self.nodes.names
        return [f"{sources[row]}->{self.destination(*rest)}" for row, *rest in self.index.tolist()]

    def destination(self, site: int, feature: int, part: int) -> str:
        """The name of a destination."""
        name = "logits" if site == LOGITS else self.nodes.sites[site].name_of(feature)
        return f"{name}<{PARTS[part]}>" if part else name

    def entered(self, edge: int) -> list[int]:
        """The rows of `nodes` that an edge enters: at its source's position, by q, k and v also later; none of `logits`."""
        source, site, feature, part = self.index[edge].tolist()
        start, (sites, positions, features) = self.nodes.index[source, 1], self.nodes.index.T
        anywhere = (positions == ANY) | (start == ANY)
        reached = anywhere | (positions == start) | ((positions > start) & (part > 0))
        return ((sites == site) & (features == feature) & reached).nonzero()[:, 0].tolist()

    def top(self, k: int) -> FeatureEdges:
        """The k edges with the largest absolute scores, those first.

        Raises:
            ValueError: k is negative, or a score is not finite.
        """
        return self[strongest(self.scores, k)]
