"""A graph with a score for every edge: what a scoring method returns and what pruning reads."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import described, refusal, whole_number
from edge_circuits.graphs.drawing.heat_map import heat_map_svg
from edge_circuits.graphs.drawing.looks import short_name
from edge_circuits.graphs.files import json_format
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import reading
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.signs import has_sign
from edge_circuits.graphs.summary import edge_table, head_map, head_table, layer_table, origin
from edge_circuits.graphs.tables import Table, frame

if TYPE_CHECKING:
    import pandas

GROUPS_TOLERANCE = 1e-4  # of the largest score: float32 sums over groups


@dataclass(frozen=True, eq=False)
class ScoredGraph:
    """Scores of the edges of a graph; positive: cutting the edge raises the metric.

    Scores and metadata are copied on the way in; do not edit them afterwards. Two are equal when graph, scores (with
    their dtype), metadata and what the groups add are.

    Attributes:
        graph: The topology.
        scores: One score per edge in the metric's unit, 0 where there is no edge; on the CPU, float32 or float64 (half
            precision becomes float32). [source destination]
        metadata: What is worth knowing of their origin (model, method, task, settings, versions), in types that JSON
            has.
        per_group: What each group of prompts adds to the scores, which are their sum; or None. From them follow intervals
            and how surely an edge is chosen, see `edge_circuits.graphs.bootstrap`. [group source destination]

    Raises:
        ValueError: Shape or dtype do not fit, an entry that is no edge has a score, or the groups do not add up.
    """

    graph: Graph
    scores: Float[Tensor, "source destination"]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    per_group: Float[Tensor, "group source destination"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", checked_scores(self.graph, self.scores))
        object.__setattr__(self, "metadata", copy.deepcopy(dict(self.metadata)))
        if self.per_group is not None:
            object.__setattr__(self, "per_group", _checked_groups(self.graph, self.scores, self.per_group))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScoredGraph):
            return NotImplemented
        same_scores = self.scores.dtype == other.scores.dtype and torch.equal(self.scores, other.scores)
        return (
            same_scores and self.graph == other.graph and self.metadata == other.metadata and self._same_groups(other)
        )

    def _same_groups(self, other: ScoredGraph) -> bool:
        if self.per_group is None or other.per_group is None:
            return self.per_group is other.per_group
        return self.per_group.dtype == other.per_group.dtype and torch.equal(self.per_group, other.per_group)

    __hash__ = None

    @property
    def exact(self) -> Bool[Tensor, "source destination"]:
        """The edges whose scores were measured by exact patching: those that a budget paid for, or all of method "exact".

        Of "exact" on some edges alone they are those with another score than 0.
        """
        if self.metadata.get("method") == "exact":
            some = self.metadata.get("settings", {}).get("edges") is not None
            return self.scores != 0 if some else self.graph.edge_mask
        return self.graph.mask_of(self.metadata.get("exact_edges", ()))

    def __repr__(self) -> str:
        return f"ScoredGraph({self.graph}, scores of {self.graph.n_edges} edges, metadata={self.metadata})"

    def __getitem__(self, edge: str) -> float:
        return self.score(edge)

    def __len__(self) -> int:
        return self.graph.n_edges

    def __iter__(self) -> Iterator[str]:
        return iter(self.graph.edges)

    def __str__(self) -> str:
        head = ": ".join(filter(None, (f"Scores of {len(self)} edges", origin(self.metadata))))
        return f"{head}\n{self.table(10)}"

    def _repr_html_(self) -> str:
        return heat_map(self) + self.table(10)._repr_html_()

    @property
    def has_sign(self) -> bool:
        """Whether a score says that its edge helps or hurts, not only how much it matters."""
        return has_sign(self.scores, self.metadata)

    @property
    def values(self) -> Float[Tensor, "edge"]:
        """The scores in edge order, beside `graph.edges`. [edge]"""
        return self.scores.T[self.graph.edge_mask.T]

    def score(self, edge: str) -> float:
        """The score of an edge given by name.

        Raises:
            ValueError: There is no such edge.
        """
        return self.scores[self.graph.edge_index(edge)].item()

    def top(self, n: int) -> list[tuple[str, float]]:
        """The n edges of largest absolute score with their scores, largest first, ties in edge order; all if fewer.

        Raises:
            ValueError: n is not a count, or a score is NaN or infinite.
        """
        n = whole_number("n", n)
        self.check_finite()
        values = self.values
        chosen = values.abs().sort(descending=True, stable=True).indices[:n]
        return list(zip(self.graph.names_at(chosen), values[chosen].tolist()))

    def table(self, top: int = 20) -> Table:
        """The edges of largest |score|, and whether each helps (cutting it lowers the metric) or hurts.

        Raises:
            ValueError: As `top`.
        """
        return edge_table(self.top(top), has_sign=self.has_sign)

    def to_pandas(self) -> pandas.DataFrame:
        """All edges, in edge order, with source, destination and score; pandas is an extra: `edge-circuits[pandas]`."""
        destinations, sources = self.graph.edge_mask.T.nonzero().T.tolist()
        return frame(
            {
                "source": [self.graph.sources[source] for source in sources],
                "destination": [self.graph.destinations[destination] for destination in destinations],
                "score": self.values.numpy(),
            }
        )

    def heads(self, top: int = 20) -> Table:
        """The heads by the sum of |score| over the edges that leave them."""
        return head_table(self.graph, self.scores, whole_number("top", top))

    def layers(self) -> Table:
        """Sums of |score| by layer and part."""
        return layer_table(self.graph, self.scores.abs(), "|score| by layer")

    def head_map(self) -> Float[Tensor, "layer head"]:
        """For each head the sum of |score| over the edges that leave it. [layer head]"""
        return head_map(self.graph, self.scores.abs())

    def check_finite(self) -> None:
        """Refuse scores that cannot be ranked.

        Raises:
            ValueError: A score is NaN or infinite; the message names the first such edge in edge order.
        """
        bad = ~self.scores.isfinite()
        if bad.any():
            first = self.graph.edge_names(bad)[0]
            got = f"{int(bad.sum())} of {self.graph.n_edges} NaN or infinite, the first {self.score(first)} for {first}"
            raise refusal("scores", "finite numbers", got, "score again in a wider dtype or mend the metric")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, whole or not at all; see `edge_circuits.graphs.files.json_format`.

        Raises:
            ValueError: A score is NaN, the metadata does not fit JSON, or the folder does not exist.
        """
        saved = json_format.Saved(self.graph, self.metadata, self.scores, self.per_group)
        write_whole(path, json_format.to_text(saved))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoredGraph:
        """Read from a JSON file written by `save`.

        Raises:
            ValueError: The file is torn, foreign, changed or newer, or holds something else; the message names it.
            FileNotFoundError: There is no such file.
        """
        content = Path(path).read_bytes()
        with reading(path):
            saved = json_format.from_text(content, "scores")
            return cls(saved.graph, saved.scores, saved.metadata, saved.per_group)


def checked_scores(graph: Graph, scores: Float[Tensor, "source destination"]) -> Float[Tensor, "source destination"]:
    """A copy of scores that fit the graph: detached, on the CPU, half precision widened to float32.

    Raises:
        ValueError: Shape or dtype do not fit, or an entry that is no edge has a score.
    """
    expected = (graph.n_sources, graph.n_destinations)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != expected:
        raise refusal("scores", f"a tensor of shape {expected} [source destination]", described(scores))
    if not scores.is_floating_point():
        raise refusal("scores", "floating point", scores.dtype, "convert them with .float()")
    dtype = scores.dtype if scores.dtype == torch.float64 else torch.float32
    scores = scores.detach().to("cpu", dtype, copy=True).contiguous()
    stray = (scores != 0) & ~graph.edge_mask
    if stray.any():
        source, destination = stray.nonzero()[0].tolist()
        first = f"source {graph.sources[source]} and destination {graph.destinations[destination]}"
        remedy = "multiply by graph.edge_mask, or check the order of sources and destinations"
        raise refusal("scores", "0 where there is no edge", f"{int(stray.sum())} others, the first at {first}", remedy)
    return scores


def _checked_groups(
    graph: Graph, scores: Float[Tensor, "source destination"], per_group: Float[Tensor, "group source destination"]
) -> Float[Tensor, "group source destination"]:
    """A copy of what groups add to scores, as `checked_scores` gives it."""
    if not isinstance(per_group, Tensor) or per_group.ndim != 3 or not len(per_group):
        raise refusal("per_group", "a tensor [group source destination] of one group or more", described(per_group))
    groups = torch.stack([checked_scores(graph, each) for each in per_group])
    gap = (groups.double().sum(0) - scores).abs().max()
    if gap > GROUPS_TOLERANCE * scores.abs().max():
        got = f"a sum that differs by up to {gap.item():.3g} (largest score {scores.abs().max().item():.3g})"
        remedy = "give each group's mean times its share of the prompts"
        raise refusal("per_group", "groups that add up to the scores", got, remedy)
    return groups


def heat_map(scored: ScoredGraph, title: str | None = None) -> str:
    """The SVG text of a grid of layers and heads, each with the sum of |score| over the edges that leave it."""
    known = [short_name(str(scored.metadata[name])) for name in ("model", "task", "method") if name in scored.metadata]
    return heat_map_svg(scored.head_map(), ", ".join([*known, "|score| out of each head"]) if title is None else title)
