"""A circuit: a set of edges of a graph."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs import reachability as liveness
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import checked_scores

if TYPE_CHECKING:
    import networkx


class Circuit:
    """A set of edges; running it means that all other edges are cut.

    A value: its tensors and metadata are copied on the way in, do not edit them afterwards. Circuits are equal when
    their graphs and edges are, whatever scores and metadata they carry.

    Set algebra (`&`, `|`, `-`, `~`) between circuits of one graph gives circuits. They keep the left operand's scores,
    or else the right's, and no metadata: that told how an operand was found.

    Attributes:
        graph: The topology.
        mask: True for the kept edges, on the CPU. [source destination]
        scores: The scores by which it was chosen, of kept and other edges alike; or None. [source destination]
        metadata: What is worth knowing of its origin, in types that JSON has.
        n_requested: How many edges were asked for, before dead ends were removed; None if no number was.
    """

    graph: Graph
    mask: Bool[Tensor, "source destination"]
    scores: Float[Tensor, "source destination"] | None
    metadata: dict[str, Any]
    n_requested: int | None

    def __init__(
        self,
        graph: Graph,
        mask: Bool[Tensor, "source destination"],
        scores: Float[Tensor, "source destination"] | None = None,
        metadata: Mapping[str, Any] | None = None,
        n_requested: int | None = None,
    ) -> None:
        """Make a circuit from a mask.

        Raises:
            ValueError: Mask or scores do not fit the graph, or the mask keeps an entry that is no edge.
        """
        values = {
            "graph": graph,
            "mask": _checked_mask(graph, mask),
            "scores": None if scores is None else checked_scores(graph, scores),
            "metadata": copy.deepcopy(dict(metadata or {})),
            "n_requested": n_requested,
        }
        self.__dict__.update(values)

    @classmethod
    def from_edges(cls, graph: Graph, names: Iterable[str], **kwargs: Any) -> Circuit:
        """The circuit of the edges named; `scores`, `metadata` and `n_requested` are passed on. A name may repeat.

        Raises:
            ValueError: There is no such edge; the message says why.
        """
        if isinstance(names, str):
            raise ValueError(f"names must be several edge names, got the text {names!r}: put it in a list")
        mask = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.bool)
        places = [graph.edge_index(name) for name in names]
        if places:
            mask[tuple(torch.tensor(places).T)] = True
        return cls(graph, mask, **kwargs)

    @classmethod
    def full(cls, graph: Graph) -> Circuit:
        """The circuit of all edges: the clean model."""
        return cls(graph, graph.edge_mask)

    @classmethod
    def empty(cls, graph: Graph) -> Circuit:
        """The circuit without edges: the corrupted model."""
        return cls(graph, torch.zeros_like(graph.edge_mask))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a circuit is immutable: make a new one instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a circuit is immutable: make a new one instead of deleting {name}")

    # Edges and nodes

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """Names of the kept edges, in edge order: by destination, then by source."""
        return self.graph.edge_names(self.mask)

    @cached_property
    def n_edges(self) -> int:
        """Number of kept edges."""
        return int(self.mask.sum())

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes at which a kept edge starts or ends, in order: `input`, heads, MLPs, `logits`.

        With key-value heads as destinations, an edge into one ends at every query head of its group.
        """
        touched = self.mask.any(1)
        ends = self.mask.any(0).tolist()
        for source in range(1, self.graph.n_sources):
            touched[source] |= any(ends[end] for end in self.graph.destinations_of(source))
        names = [name for name, is_touched in zip(self.graph.sources, touched.tolist()) if is_touched]
        return (*names, "logits") if ends[-1] else tuple(names)

    def __contains__(self, edge: str) -> bool:
        return bool(self.mask[self.graph.edge_index(edge)])

    def __len__(self) -> int:
        return self.n_edges

    def __iter__(self) -> Iterator[str]:
        return iter(self.edges)

    def __repr__(self) -> str:
        asked = "" if self.n_requested is None else f", {self.n_requested} requested"
        return f"Circuit({self.n_edges} of {self.graph.n_edges} edges{asked}, {self.graph})"

    # Paths

    @cached_property
    def nodes_from_input(self) -> Bool[Tensor, "source"]:
        """The sources that a path of kept edges joins to `input`, which is one of them. [source]

        All others equal their corrupted value when the circuit runs.
        """
        return liveness.nodes_from_input(self.graph, self.mask)

    @cached_property
    def nodes_to_logits(self) -> Bool[Tensor, "source"]:
        """The sources that a path of kept edges joins to `logits`. [source]

        All others need not be computed when the circuit runs.
        """
        return liveness.nodes_to_logits(self.graph, self.mask)

    def live(self) -> Circuit:
        """This circuit without dead ends: the kept edges on a path of kept edges from `input` to `logits`."""
        mask = liveness.live_edges(self.graph, self.mask)
        return Circuit(self.graph, mask, self.scores, self.metadata, self.n_requested)

    @cached_property
    def is_live(self) -> bool:
        """Whether every kept edge lies on a path of kept edges from `input` to `logits`; true without edges."""
        return torch.equal(liveness.live_edges(self.graph, self.mask), self.mask)

    # Set algebra

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Circuit):
            return NotImplemented
        return self.graph == other.graph and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        return hash((self.graph, self.mask.numpy().tobytes()))

    def __and__(self, other: Circuit) -> Circuit:
        return self._combined(other, "&", torch.logical_and)

    def __or__(self, other: Circuit) -> Circuit:
        return self._combined(other, "|", torch.logical_or)

    def __sub__(self, other: Circuit) -> Circuit:
        return self._combined(other, "-", torch.gt)

    def __invert__(self) -> Circuit:
        return Circuit(self.graph, self.graph.edge_mask & ~self.mask, self.scores)

    def compare(self, other: Circuit) -> Comparison:
        """Which edges this circuit and another of the same graph share, and which only one has.

        Raises:
            ValueError: The circuits are of different graphs.
        """
        self._check_same_graph(other, "compare")
        return Comparison(shared=self & other, only_here=self - other, only_there=other - self)

    def _combined(self, other: Circuit, operation: str, combine: Any) -> Circuit:
        if not isinstance(other, Circuit):
            return NotImplemented
        self._check_same_graph(other, operation)
        scores = other.scores if self.scores is None else self.scores
        return Circuit(self.graph, combine(self.mask, other.mask), scores)

    def _check_same_graph(self, other: Circuit, operation: str) -> None:
        if self.graph != other.graph:
            raise ValueError(f"{operation} needs two circuits of one graph, got {self.graph} and {other.graph}")

    # Other forms

    def to_networkx(self) -> networkx.DiGraph:
        """The circuit as a networkx graph over nodes, `<q>`, `<k>`, `<v>` kept on its arcs; see `graphs.digraph`."""
        from edge_circuits.graphs import digraph

        return digraph.to_networkx(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file; see `edge_circuits.graphs.files.json_format`."""
        from edge_circuits.graphs.files import json_format as serialize

        serialize.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Circuit:
        """Read from a JSON file written by `save`.

        Raises:
            ValueError: The file is torn, foreign or newer, or holds something else.
        """
        from edge_circuits.graphs.files import json_format as serialize

        return serialize.load_as(cls, path)


class Comparison(NamedTuple):
    """Two circuits side by side.

    Attributes:
        shared: Edges of both.
        only_here: Edges of the circuit whose `compare` was called.
        only_there: Edges of the circuit it was compared with.
    """

    shared: Circuit
    only_here: Circuit
    only_there: Circuit


def _checked_mask(graph: Graph, mask: Bool[Tensor, "source destination"]) -> Bool[Tensor, "source destination"]:
    """A copy of the mask on the CPU.

    Raises:
        ValueError: It does not fit the graph, or keeps an entry that is no edge.
    """
    expected = (graph.n_sources, graph.n_destinations)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != expected:
        got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a bool tensor of shape {expected} [source destination], got {got}")
    mask = mask.detach().to("cpu", copy=True).contiguous()
    stray = mask & ~graph.edge_mask
    if stray.any():
        raise ValueError(
            f"the mask keeps {int(stray.sum())} entries that are no edges, the first {graph.edge_names(stray)[0]}: "
            "give mask & graph.edge_mask, or check the order of sources and destinations"
        )
    return mask
