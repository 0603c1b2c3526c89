"""Nodes of feature circuits: a sparse table of (site, position, feature), with scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.features.dictionary import AnyDictionary
from edge_circuits.graphs.features.sites import Site

ERROR = -1
"""Stands for a feature: what a site's dictionary leaves over."""
ANY = -1
"""Stands for a position: all of them together."""


@dataclass(frozen=True, eq=False)
class FeatureNodes:
    """Some nodes, each once.

    Attributes:
        sites: the sites, each with as many features as `n_features` says.
        index: rows of (index of the site, position, feature); `ERROR` for the feature is the site's error, `ANY` for the
            position all of a prompt's positions, counted from its start.
        scores: positive: cutting the node raises the metric; in the metric's unit, the mean over prompts.
        metadata: how the scores were made.
    """

    sites: tuple[Site, ...]
    n_features: tuple[int, ...]
    index: Int[Tensor, "node 3"]
    scores: Float[Tensor, " node"]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> FeatureNodes:
        """Some of the nodes."""
        return FeatureNodes(self.sites, self.n_features, self.index[rows], self.scores[rows], self.metadata)

    @property
    def is_error(self) -> Bool[Tensor, " node"]:
        """Which nodes are errors."""
        return self.index[:, 2] == ERROR

    @property
    def names(self) -> list[str]:
        """ "m3/17@5" is feature 17 of layer 3's MLP output at position 5; "m3/error" without a position is at all."""
        return [
            self.sites[site].name_of("error" if feature == ERROR else feature) + ("" if at == ANY else f"@{at}")
            for site, at, feature in self.index.tolist()
        ]

    def top(self, k: int) -> FeatureNodes:
        """The k nodes with the largest absolute scores, those first; ties in the order of the table.

        Raises:
            ValueError: k is negative, or a score is not finite.
        """
        return self[strongest(self.scores, k)]

    def total(self, site: int) -> float:
        """The sum of the scores of a site, its error included."""
        return self.scores[self.index[:, 0] == site].sum().item()

    def kept(self, site: int, n_positions: int) -> tuple[Bool[Tensor, "pos feature"], Bool[Tensor, " pos"]]:
        """Which features of a site, and whether its error, are among the nodes at each position."""
        features = torch.zeros(n_positions, self.n_features[site] + 1, dtype=torch.bool)  # the error is last
        rows = self.index[self.index[:, 0] == site]
        features[:, rows[rows[:, 1] == ANY, 2]] = True
        rows = rows[(rows[:, 1] != ANY) & (rows[:, 1] < n_positions)]
        features[rows[:, 1], rows[:, 2]] = True
        return features[:, :-1], features[:, -1]


def strongest(scores: Float[Tensor, " row"], k: int) -> Int[Tensor, " chosen"]:
    """The rows of the k largest absolute scores, those first; refuses a negative k and scores that are not finite."""
    if k < 0 or not torch.isfinite(scores).all():
        raise ValueError(f"k: expected a number from 0 on and finite scores, got {k}")
    return torch.argsort(scores.abs(), descending=True, stable=True)[:k]


def nodes_of_sums(
    dictionaries: Sequence[AnyDictionary], sums: Sequence[Tensor], by_position: bool, metadata: dict[str, Any]
) -> FeatureNodes:
    """The table of sparse sums [pos feature+1] of each site, the error last; scores of zero are left out."""
    rows, scores = [], []
    for number, (dictionary, total) in enumerate(zip(dictionaries, sums)):
        total = total.coalesce()
        (position, feature), values = total.indices(), total.values()
        feature = feature.where(feature < dictionary.n_features, ERROR)
        position = position if by_position else torch.full_like(position, ANY)
        rows.append(torch.stack((torch.full_like(feature, number), position, feature), dim=1)[values != 0])
        scores.append(values[values != 0])
    sites, counts = zip(*((dictionary.site, dictionary.n_features) for dictionary in dictionaries))
    return FeatureNodes(sites, counts, torch.cat(rows), torch.cat(scores), metadata)
