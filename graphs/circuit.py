"""A circuit: a set of edges of a graph."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs import reachability
from edge_circuits.graphs.checks import described, refusal, whole_number
from edge_circuits.graphs.drawing.comparison import picture_of_two
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.svg import layered_svg
from edge_circuits.graphs.files import json_format
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import reading
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import ARROW, parse_destination, parse_source
from edge_circuits.graphs.scores import checked_scores
from edge_circuits.graphs.signs import has_sign
from edge_circuits.graphs.summary import edge_table, head_names, layer_table, origin
from edge_circuits.graphs.tables import Table

if TYPE_CHECKING:
    import networkx


MOST_SHOWN = 2000  # edges of a picture in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """A set of edges; running it means that all other edges are cut.

    A value: its tensors and metadata are copied on the way in, do not edit them afterwards. Circuits are equal when
    their graphs and edges are, whatever scores and metadata they carry.

    Set algebra (`&`, `|`, `-`, `~`) between circuits of one graph gives circuits. They keep the left operand's scores,
    or else the right's, and no metadata: that said how an operand was found.

    Attributes:
        graph: The topology.
        mask: True for the kept edges, on the CPU. [source destination]
        scores: The scores by which it was chosen, of kept and other edges alike; or None. A circuit that was loaded knows
            those of its edges alone, the others are NaN. [source destination]
        metadata: What is worth knowing of its origin, in types that JSON has.
        n_requested: How many edges were asked for, before dead ends were removed; None if no number was.

    Raises:
        ValueError: Mask or scores do not fit the graph, or the mask keeps an entry that is no edge.
    """

    graph: Graph
    mask: Bool[Tensor, "source destination"]
    scores: Float[Tensor, "source destination"] | None = None
    metadata: Mapping[str, Any] | None = None
    n_requested: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _checked_mask(self.graph, self.mask))
        object.__setattr__(self, "scores", None if self.scores is None else checked_scores(self.graph, self.scores))
        object.__setattr__(self, "metadata", copy.deepcopy(dict(self.metadata or {})))

    @classmethod
    def from_edges(cls, graph: Graph, names: Iterable[str], **kwargs: Any) -> Circuit:
        """The circuit of the edges named; `scores`, `metadata` and `n_requested` are passed on. A name may repeat.

        Raises:
            ValueError: There is no such edge; the message says why.
        """
        return cls(graph, graph.mask_of(names), **kwargs)

    @classmethod
    def full(cls, graph: Graph) -> Circuit:
        """The circuit of all edges: the clean model."""
        return cls(graph, graph.edge_mask)

    @classmethod
    def empty(cls, graph: Graph) -> Circuit:
        """The circuit without edges: the corrupted model."""
        return cls(graph, torch.zeros_like(graph.edge_mask))

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

    def __str__(self) -> str:
        asked = "" if self.n_requested is None else f" ({self.n_requested} requested)"
        counts = f"Circuit of {self.n_edges} of {self.graph.n_edges} edges{asked}, {len(self.nodes)} nodes"
        heads = f"heads: {' '.join(self.heads()) or 'none'}"
        return "\n".join([": ".join(filter(None, (counts, origin(self.metadata)))), heads, str(self.table(10))])

    def _repr_svg_(self) -> str | None:
        return layered_svg(picture_of(self)) if self.n_edges <= MOST_SHOWN else None

    def heads(self) -> tuple[str, ...]:
        """The heads that a kept edge leaves or enters, in order."""
        return head_names(self.graph, self.mask)

    def score(self, edge: str) -> float:
        """The score of a kept edge.

        Raises:
            ValueError: There is no such edge, it is not kept, or the circuit has no scores.
        """
        if edge not in self:
            raise refusal("edge", "an edge of the circuit", repr(edge))
        if self.scores is None:
            raise refusal("edge", "a circuit with scores", "one without", "prune makes them")
        return self.scores[self.graph.edge_index(edge)].item()

    def table(self, top: int = 20) -> Table:
        """The kept edges, those of largest |score| first, and whether each helps or hurts; without scores in edge order."""
        if self.scores is None:
            return Table(("edge",), tuple((name,) for name in self.edges[: whole_number("top", top)]))
        scored = zip(self.edges, self.scores.T[self.mask.T].tolist())
        best = sorted(scored, key=lambda pair: -abs(pair[1]))[: whole_number("top", top)]
        return edge_table(best, has_sign=has_sign(self.scores, self.metadata))

    def layers(self) -> Table:
        """Numbers of kept edges by layer and part."""
        counts = layer_table(self.graph, self.mask.double(), "edges by layer")
        return Table(counts.columns, tuple(tuple(map(int, row)) for row in counts), counts.title)

    # Paths

    @cached_property
    def nodes_from_input(self) -> Bool[Tensor, "source"]:
        """The sources that a path of kept edges joins to `input`, which is one of them. [source]

        All others equal their corrupted value when the circuit runs.
        """
        return reachability.nodes_from_input(self.graph, self.mask)

    @cached_property
    def nodes_to_logits(self) -> Bool[Tensor, "source"]:
        """The sources that a path of kept edges joins to `logits`. [source]

        All others need not be computed when the circuit runs.
        """
        return reachability.nodes_to_logits(self.graph, self.mask)

    def live(self) -> Circuit:
        """This circuit without dead ends: the kept edges on a path of kept edges from `input` to `logits`."""
        mask = reachability.live_edges(self.graph, self.mask)
        return Circuit(self.graph, mask, self.scores, self.metadata, self.n_requested)

    @cached_property
    def is_live(self) -> bool:
        """Whether every kept edge lies on a path of kept edges from `input` to `logits`; true without edges."""
        return torch.equal(reachability.live_edges(self.graph, self.mask), self.mask)

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
        if not isinstance(other, Circuit):
            raise refusal(operation, "two circuits", type(other).__name__, "prune makes a circuit of scores")
        if self.graph != other.graph:
            raise refusal(operation, "two circuits of one graph", f"{self.graph} and {other.graph}")

    # Other forms

    def to_networkx(self) -> networkx.DiGraph:
        """The circuit as a networkx graph over nodes.

        Nodes are `input`, `a{layer}.h{head}`, `m{layer}` and `logits`, those of `nodes`, each with `kind`, `layer` and
        `head`. There is one arc from a node to another however many kept edges join them, with attributes

        - `parts`: how the end reads, e.g. "qv"; "" for an MLP and `logits`
        - `edges`: tuple of the names of the kept edges, in the same order
        - `scores`: tuple of their scores; only when the circuit has scores

        With key-value heads as destinations, an edge into one gives an arc to every query head of its group.
        """
        import networkx

        result = networkx.DiGraph()
        nodes = [parse_destination(name) if name == "logits" else parse_source(name) for name in self.nodes]
        result.add_nodes_from((str(n), {"kind": n.kind, "layer": n.layer, "head": n.head}) for n in nodes)
        for destination, source in self.mask.T.nonzero().tolist():
            start, end = self.graph.sources[source], self.graph.destinations[destination]
            scores = () if self.scores is None else (self.scores[source, destination].item(),)
            for node in self.graph.nodes_of(destination) or (None,):
                name = end if node is None else self.graph.sources[node]
                arc = result.get_edge_data(start, name, default={"parts": "", "edges": (), "scores": ()})
                arc = {
                    "parts": arc["parts"] + (parse_destination(end).part or ""),
                    "edges": (*arc["edges"], f"{start}{ARROW}{end}"),
                    **({"scores": arc["scores"] + scores} if scores else {}),
                }
                result.add_edge(start, name, **arc)
        return result

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a JSON file, whole or not at all; see `edge_circuits.graphs.files.json_format`.

        The scores of the kept edges are written, so the file stays small.

        Raises:
            ValueError: A kept edge's score is NaN, the metadata does not fit JSON, or the folder does not exist.
        """
        saved = json_format.Saved(self.graph, self.metadata, self.scores, mask=self.mask, n_requested=self.n_requested)
        write_whole(path, json_format.to_text(saved))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Circuit:
        """Read from a JSON file written by `save`.

        Raises:
            ValueError: The file is torn, foreign, changed or newer, or holds something else; the message names it.
            FileNotFoundError: There is no such file.
        """
        content = Path(path).read_bytes()
        with reading(path):
            saved = json_format.from_text(content, "circuit")
            return cls(saved.graph, saved.mask, saved.scores, saved.metadata, saved.n_requested)


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

    @property
    def first(self) -> Circuit:
        """The circuit whose `compare` was called, without metadata."""
        return self.shared | self.only_here

    @property
    def second(self) -> Circuit:
        """The circuit it was compared with, without metadata."""
        return self.only_there | self.shared

    def __str__(self) -> str:
        n_shared, n_here, n_there = (circuit.n_edges for circuit in self)
        union = n_shared + n_here + n_there
        share = f", {n_shared / union:.0%} of all" if union else ""
        return f"{n_shared} edges in both{share}, {n_here} only in the first, {n_there} only in the second"

    def _repr_svg_(self) -> str | None:
        n_edges = sum(circuit.n_edges for circuit in self)
        return layered_svg(picture_of_two(self.first, self.second)) if n_edges <= MOST_SHOWN else None


def _checked_mask(graph: Graph, mask: Bool[Tensor, "source destination"]) -> Bool[Tensor, "source destination"]:
    """A copy of the mask on the CPU, if it fits the graph and keeps edges alone."""
    expected = (graph.n_sources, graph.n_destinations)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != expected:
        raise refusal("mask", f"a bool tensor of shape {expected} [source destination]", described(mask))
    mask = mask.detach().to("cpu", copy=True).contiguous()
    stray = mask & ~graph.edge_mask
    if stray.any():
        got = f"{int(stray.sum())} entries that are no edges, the first {graph.edge_names(stray)[0]}"
        remedy = "give mask & graph.edge_mask, or check the order of sources and destinations"
        raise refusal("mask", "True for edges alone", got, remedy)
    return mask
