"""What a drawing of a circuit shows, whoever draws it: nodes in rows, edges with their looks, a legend.

Rows go from `input` at the bottom to `logits` at the top; a layer's heads are one row and its MLP the next, or the same
row where blocks are parallel. Only live edges and their nodes are shown: dead ends are left out and counted.

An edge's colour is that of the part it enters (q, k, v, an MLP, logits), its width and opacity are |score| relative to
the largest one shown, its line style the sign. The more edges, the fainter the weak ones, so that a drawing of a
thousand still shows its strongest paths.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import Node, parse_destination, parse_source

EdgePart = Literal["q", "k", "v", "mlp", "logits"]

EDGE_COLOURS: dict[EdgePart, str] = {  # after Okabe and Ito: told apart with any kind of colour vision
    "q": "#d55e00",
    "k": "#0072b2",
    "v": "#009e73",
    "mlp": "#8a5a9e",
    "logits": "#333333",
}
EDGE_LABELS: dict[EdgePart, str] = {"q": "q", "k": "k", "v": "v", "mlp": "into an MLP", "logits": "into logits"}
NODE_COLOURS = {"input": "#dddddd", "head": "#e9f1fb", "mlp": "#f3e6f7", "logits": "#dddddd"}
INK = "#222222"
FAINT_INK = "#777777"


@dataclass(frozen=True)
class DrawnNode:
    """A node to draw.

    Attributes:
        name: Its name as a source, or `logits`.
        kind: What it is.
        head: Number of a head in its layer; None for all else.
        row: Its row from 0, the bottom.
        colour: Colour of its face, `#rrggbb`.
        parts: How the drawn edges into it are read.
        role: Its role, if it has one.
    """

    name: str
    kind: Literal["input", "head", "mlp", "logits"]
    head: int | None
    row: int
    colour: str
    parts: frozenset[EdgePart]
    role: str | None


@dataclass(frozen=True)
class DrawnEdge:
    """An edge to draw.

    Attributes:
        name: Its name, `source->destination`.
        start: Name of the node it leaves.
        end: Name of the node it enters: with key-value heads as destinations, one of several query heads.
        part: How it is read there.
        score: Its score; None if the circuit has none.
        strength: |score| relative to the largest one drawn, from 0 to 1; 0.3 without scores.
        opacity: From 0 to 1.
    """

    name: str
    start: str
    end: str
    part: EdgePart
    score: float | None
    strength: float
    opacity: float

    @property
    def width(self) -> float:
        """Width of the line in points."""
        return 0.6 + 4.4 * self.strength**0.7

    @property
    def is_negative(self) -> bool:
        """Whether cutting the edge lowers the metric."""
        return self.score is not None and self.score < 0

    @property
    def tooltip(self) -> str:
        """Name and score, shown when the pointer rests on the edge."""
        return self.name if self.score is None else f"{self.name}  {self.score:.4g}"


@dataclass(frozen=True)
class Picture:
    """Everything that a drawing shows.

    Attributes:
        title: One line above.
        nodes: By row, then heads in order, then the MLP.
        edges: The weakest first, so that the strongest are drawn last and lie on top.
        rows: Label of every row that has nodes, by its number.
        roles: Colour of every role drawn.
        notes: Lines of the legend in words.
    """

    title: str
    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    rows: dict[int, str]
    roles: dict[str, str]
    notes: tuple[str, ...]

    @property
    def parts(self) -> tuple[EdgePart, ...]:
        """How the drawn edges are read, in the order of the legend."""
        present = {edge.part for edge in self.edges}
        return tuple(part for part in EDGE_COLOURS if part in present)

    @property
    def has_scores(self) -> bool:
        """Whether width and line style of the edges mean something."""
        return any(edge.score is not None for edge in self.edges)


def picture_of(circuit: Circuit, roles: Mapping[str, str] | None = None, title: str | None = None) -> Picture:
    """What to draw of a circuit.

    Args:
        circuit: Its live edges are drawn, with its scores if it has any.
        roles: Role of a node by its name (a source's, or `logits`); nodes that are not drawn may have one too.
        title: By default model, task and method from the metadata.

    Raises:
        ValueError: A role is given to a node that the graph has not, or the score of a live edge is NaN or infinite.
    """
    live = circuit.live()
    roles = _checked_roles(circuit.graph, roles or {})
    edges = _edges(live)
    names = _names(live, edges)
    shown_roles = list(dict.fromkeys(roles[name] for name in names if name in roles))
    colours = dict(zip(shown_roles, _hues(len(shown_roles))))
    nodes = tuple(_node(circuit.graph, name, edges, roles.get(name), colours) for name in names)
    return Picture(
        title=_title(circuit) if title is None else title,
        nodes=nodes,
        edges=edges,
        rows={node.row: _row_label(circuit.graph, node.name) for node in nodes},
        roles=colours,
        notes=_notes(circuit, live, edges),
    )


def _checked_roles(graph: Graph, roles: Mapping[str, str]) -> dict[str, str]:
    for name, role in roles.items():
        if name != "logits":
            graph.source_index(name)
        if not isinstance(role, str):
            raise refusal("roles", "texts by node", f"{role!r} for {name}")
    return dict(roles)


# Edges


def _edges(live: Circuit) -> tuple[DrawnEdge, ...]:
    """The edges to draw, the weakest first, ties in edge order."""
    places = live.mask.T.nonzero().tolist()
    scores = [None if live.scores is None else live.scores[s, d].item() for d, s in places]
    sizes = [abs(score) for score in scores if score is not None]
    if not all(map(math.isfinite, sizes)):
        raise refusal("scores", "finite numbers to draw", "NaN or infinite ones")
    largest = max(sizes, default=0.0)
    faintest = min(0.75, max(0.1, 6 / max(1, len(places)) ** 0.5))
    edges = []
    for (destination, source), score in zip(places, scores):
        start, end = live.graph.sources[source], live.graph.destinations[destination]
        node = parse_destination(end)
        strength = 0.3 if score is None else abs(score) / largest if largest else 0.0
        opacity = faintest + (1 - faintest) * strength**0.6
        for name in _leading_nodes(live, destination):
            edges.append(DrawnEdge(f"{start}->{end}", start, name, node.part or node.kind, score, strength, opacity))
    return tuple(sorted(edges, key=lambda edge: edge.strength))


def _leading_nodes(live: Circuit, destination: int) -> list[str]:
    """The nodes that a destination belongs to and that lead to `logits`: one, or query heads of a key-value head's group."""
    if destination == live.graph.n_destinations - 1:
        return ["logits"]
    leads = live.nodes_to_logits
    return [live.graph.sources[node] for node in live.graph.nodes_of(destination) if leads[node]]


# Nodes


def _names(live: Circuit, edges: tuple[DrawnEdge, ...]) -> list[str]:
    """Names of the nodes to draw, in order: those of live edges, and `input` and `logits` in any case."""
    drawn = {"input"} | {end for edge in edges for end in (edge.start, edge.end)}
    return [name for name in live.graph.sources if name in drawn] + ["logits"]


def _node(
    graph: Graph, name: str, edges: tuple[DrawnEdge, ...], role: str | None, colours: dict[str, str]
) -> DrawnNode:
    node = _parsed(name)
    parts = frozenset(edge.part for edge in edges if edge.end == name)
    colour = NODE_COLOURS[node.kind] if role is None else colours[role]
    return DrawnNode(name, node.kind, node.head, _row(graph, name), colour, parts, role)


def _parsed(name: str) -> Node:
    return parse_destination(name) if name == "logits" else parse_source(name)


def _row(graph: Graph, name: str) -> int:
    """Number of a node's row from 0, where a layer has two rows, or one if it has no MLP or blocks are parallel."""
    node, has_mlp_rows = _parsed(name), graph.mlps and not graph.parallel
    if node.kind == "input":
        return 0
    per_layer = 2 if has_mlp_rows else 1
    layer = graph.n_layers if node.layer is None else node.layer
    return 1 + per_layer * layer + (node.kind == "mlp" and has_mlp_rows)


def _row_label(graph: Graph, name: str) -> str:
    node = _parsed(name)
    if node.layer is None:
        return ""
    if not graph.mlps or graph.parallel:
        return f"layer {node.layer}"
    return f"layer {node.layer} MLP" if node.kind == "mlp" else f"layer {node.layer} heads"


def _hues(n: int) -> list[str]:
    """n light colours far apart, as `#rrggbb`."""
    colours = (colorsys.hls_to_rgb(0.12 + i / max(1, n), 0.86 if i % 2 else 0.79, 0.8) for i in range(n))
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in colour) for colour in colours]


# Words


def _title(circuit: Circuit) -> str:
    known = (circuit.metadata.get(key) for key in ("model", "task", "method"))
    return ", ".join(text for text in known if isinstance(text, str))


def _notes(circuit: Circuit, live: Circuit, edges: tuple[DrawnEdge, ...]) -> tuple[str, ...]:
    n_nodes = len({end for edge in edges for end in (edge.start, edge.end)})
    counts = f"{live.n_edges} edges, {n_nodes} nodes"
    if dead_ends := circuit.n_edges - live.n_edges:
        counts += f" ({dead_ends} edges in dead ends left out)"
    notes = [counts]
    if len(edges) > live.n_edges:
        notes.append("an edge to the k or v of a key-value head goes to each of its query heads")
    if live.scores is not None and edges:
        notes.append(f"width: |score|, the widest is {max(abs(edge.score) for edge in edges):.3g}")
    return tuple(notes)
