"""What a drawing of a circuit shows, whoever draws it: nodes in rows, edges with their looks, a legend.

Rows go from `input` at the bottom to `logits` at the top; a layer's heads are one row and its MLP the next, or the same
row where blocks are parallel. Only live edges and their nodes are shown: dead ends are left out and counted.

An edge's colour is that of the part it enters (q, k, v, an MLP, logits), its width and opacity are |score| relative to
the largest one shown. A solid line helps: cutting the edge lowers the metric (its score is negative). A dashed one hurts. The more edges, the fainter the weak ones, so that a drawing of a
thousand still shows its strongest paths.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.drawing.looks import (
    EDGE_COLOURS,
    EDGE_LABELS,
    EFFECT_LABELS,
    FAINT_INK,
    INK,
    NODE_COLOURS,
    SIDE_COLOURS,
    SIDE_LABELS,
    EdgePart,
    Side,
    printable,
    role_colours,
    short_name,
)
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import Node, parse_destination, parse_source
from edge_circuits.graphs.reachability import live_edges
from edge_circuits.graphs.signs import Effect, effect_of, has_sign

AT = "@"  # between a node's or edge's name and its span's


@runtime_checkable
class Drawable(Protocol):
    """What is drawn of a circuit; see `edge_circuits.graphs.circuit.Circuit`."""

    graph: Graph
    mask: Bool[Tensor, "source destination"]
    scores: Float[Tensor, "source destination"] | None
    metadata: Mapping[str, Any]


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
        column: Where nodes stand in columns of spans, the number of its column.
    """

    name: str
    kind: Literal["input", "head", "mlp", "logits"]
    head: int | None
    row: int
    colour: str
    parts: frozenset[EdgePart]
    role: str | None
    column: int | None = None

    @property
    def label(self) -> str:
        """Its name without the span that it stands at."""
        return self.name.partition(AT)[0]


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
        effect: Whether it helps (solid) or hurts (dashed); None without scores, or where they have no sign.
        side: In a comparison, which of the two circuits has it.
        moves: It is no edge but what a head carries from one span to another.
    """

    name: str
    start: str
    end: str
    part: EdgePart
    score: float | None
    strength: float
    opacity: float
    effect: Effect | None = None
    side: Side | None = None
    moves: bool = False

    @property
    def width(self) -> float:
        """Width of the line in points."""
        return 0.6 + 4.4 * self.strength**0.7

    @property
    def colour(self) -> str:
        """Colour of the line: that of its part, or in a comparison that of its side."""
        if self.moves:
            return FAINT_INK
        return EDGE_COLOURS[self.part] if self.side is None else SIDE_COLOURS[self.side]

    @property
    def tooltip(self) -> str:
        """Name, score and effect, shown when the pointer rests on the edge."""
        words = [self.name, None if self.score is None else f"{self.score:.4g}", self.effect]
        words.append(None if self.side is None else SIDE_LABELS[self.side])
        return "  ".join(word for word in words if word is not None)


class Column(NamedTuple):
    """A column of nodes: the name of its span, and the tokens of an example under it in lines."""

    name: str
    lines: tuple[str, ...] = ()


class LegendLine(NamedTuple):
    """A line of the legend: a colour, whether it is dashed, and what it means."""

    colour: str
    is_dashed: bool
    text: str


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
        columns: The columns that nodes stand in, where edges are drawn span by span.
    """

    title: str
    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    rows: dict[int, str]
    roles: dict[str, str]
    notes: tuple[str, ...]
    columns: tuple[Column, ...] = ()

    @property
    def lines(self) -> tuple[LegendLine, ...]:
        """What lines mean, in the order of the legend."""
        sides, parts = ({edge.side for edge in self.edges}, {edge.part for edge in self.edges if not edge.moves})
        if sides - {None}:
            colours = [
                LegendLine(SIDE_COLOURS[side], False, SIDE_LABELS[side]) for side in SIDE_COLOURS if side in sides
            ]
        else:
            colours = [
                LegendLine(EDGE_COLOURS[part], False, EDGE_LABELS[part]) for part in EDGE_COLOURS if part in parts
            ]
        if any(edge.moves for edge in self.edges):
            colours.append(LegendLine(FAINT_INK, False, "moves within a head"))
        if any(edge.effect for edge in self.edges):
            colours += [LegendLine(INK, effect == "hurts", text) for effect, text in EFFECT_LABELS.items()]
        return tuple(colours)

    def title_lines(self, n_letters: int) -> list[str]:
        """The title in lines of at most so many letters."""
        return textwrap.wrap(self.title, max(20, n_letters))


def picture_of(circuit: Drawable, roles: Mapping[str, str] | None = None, title: str | None = None) -> Picture:
    """What to draw of a circuit.

    Args:
        circuit: Its live edges are drawn, with its scores if it has any.
        roles: Role of a node by its name (a source's, or `logits`); nodes that are not drawn may have one too.
        title: By default model, task and method from the metadata.

    Raises:
        ValueError: A role is given to a node that the graph has not, or the score of a live edge is NaN or infinite.
    """
    live = live_edges(circuit.graph, circuit.mask)
    edges = drawn_edges(circuit)
    notes = _notes(circuit, int(live.sum()), edges)
    return arranged(circuit.graph, edges, roles, title_of(circuit) if title is None else title, notes)


def arranged(
    graph: Graph, edges: tuple[DrawnEdge, ...], roles: Mapping[str, str] | None, title: str, notes: tuple[str, ...]
) -> Picture:
    """The picture of edges: their nodes in rows, `input` and `logits` in any case.

    Raises:
        ValueError: A role is given to a node that the graph has not.
    """
    roles = _checked_roles(graph, roles or {})
    drawn = {"input"} | {end for edge in edges for end in (edge.start, edge.end)}
    names = [name for name in graph.sources if name in drawn] + ["logits"]
    colours = role_colours(roles.values())
    nodes = tuple(_node(graph, name, edges, roles.get(name), colours) for name in names)
    return Picture(
        title=printable(title),
        nodes=nodes,
        edges=edges,
        rows={node.row: row_label(graph, node.name) for node in nodes},
        roles={node.role: node.colour for node in nodes if node.role is not None},
        notes=notes,
    )


def _checked_roles(graph: Graph, roles: Mapping[str, str]) -> dict[str, str]:
    for name, role in roles.items():
        if name != "logits":
            graph.source_index(name)
        if not isinstance(role, str):
            raise refusal("roles", "texts by node", f"{role!r} for {name}")
    return {name: printable(role) for name, role in roles.items()}


# Edges


def drawn_edges(circuit: Drawable) -> tuple[DrawnEdge, ...]:
    """The live edges of a circuit as they are drawn, the weakest first, ties in edge order."""
    live = live_edges(circuit.graph, circuit.mask)[:, :, None]
    scores = None if circuit.scores is None else circuit.scores[:, :, None]
    edges = edges_at(circuit.graph, live, scores, circuit.metadata, ("",))
    return tuple(sorted(edges, key=lambda edge: edge.strength))


def edges_at(
    graph: Graph,
    live: Bool[Tensor, "source destination span"],
    scores: Float[Tensor, "source destination span"] | None,
    metadata: Mapping[str, Any],
    marks: Sequence[str],
) -> list[DrawnEdge]:
    """Live edges in edge order, one for each node that is entered; `marks` stand behind all names at each span."""
    leads, is_signed = live.flatten(1).any(1).tolist(), has_sign(scores, metadata)
    places = live.permute(1, 0, 2).nonzero().tolist()
    values = [None if scores is None else scores[s, d, span].item() for d, s, span in places]
    sizes = [abs(value) for value in values if value is not None]
    if not all(map(math.isfinite, sizes)):
        raise refusal("scores", "finite numbers to draw", "NaN or infinite ones")
    largest, edges = max(sizes, default=0.0), []
    for (destination, source, span), value in zip(places, values):
        strength = 0.3 if value is None else abs(value) / largest if largest else 0.0
        part, mark = parse_destination(graph.destinations[destination]), marks[span]
        look = (value, strength, opacity_of(strength, len(places)), effect_of(value) if is_signed else None)
        name, start = f"{graph.edge_name(source, destination)}{mark}", f"{graph.sources[source]}{mark}"
        for node in [graph.sources[n] for n in graph.nodes_of(destination) if leads[n]] or ["logits"]:
            edges.append(DrawnEdge(name, start, f"{node}{mark}", part.part or part.kind, *look))
    return edges


def opacity_of(strength: float, n_edges: int) -> float:
    """From 0 to 1; the more edges, the fainter the weak ones."""
    faintest = min(0.75, max(0.1, 6 / max(1, n_edges) ** 0.5))
    return faintest + (1 - faintest) * strength**0.6


# Nodes


def _node(
    graph: Graph, name: str, edges: tuple[DrawnEdge, ...], role: str | None, colours: dict[str, str]
) -> DrawnNode:
    node = parsed(name)
    parts = frozenset(edge.part for edge in edges if edge.end == name)
    colour = NODE_COLOURS[node.kind] if role is None else colours[role]
    return DrawnNode(name, node.kind, node.head, row_of(graph, name), colour, parts, role)


def parsed(name: str) -> Node:
    """A node by its name."""
    return parse_destination(name) if name == "logits" else parse_source(name)


def row_of(graph: Graph, name: str) -> int:
    """Number of a node's row from 0, where a layer has two rows, or one if it has no MLP or blocks are parallel."""
    node, has_mlp_rows = parsed(name), graph.mlps and not graph.parallel
    if node.kind == "input":
        return 0
    per_layer = 2 if has_mlp_rows else 1
    layer = graph.n_layers if node.layer is None else node.layer
    return 1 + per_layer * layer + (node.kind == "mlp" and has_mlp_rows)


def row_label(graph: Graph, name: str) -> str:
    """What a node's row holds, in words."""
    node = parsed(name)
    if node.layer is None:
        return ""
    if not graph.mlps or graph.parallel:
        return f"layer {node.layer}"
    return f"layer {node.layer} MLP" if node.kind == "mlp" else f"layer {node.layer} heads"


# Words


def title_of(circuit: Drawable) -> str:
    """Model, task and method, as far as they are known."""
    known = (circuit.metadata.get(key) for key in ("model", "task", "method"))
    return ", ".join(short_name(text) for text in known if isinstance(text, str))


def _notes(circuit: Drawable, n_live: int, edges: tuple[DrawnEdge, ...]) -> tuple[str, ...]:
    n_nodes = len({end for edge in edges for end in (edge.start, edge.end)})
    counts = f"{n_live} edges, {n_nodes} nodes"
    if dead_ends := int(circuit.mask.sum()) - n_live:
        counts += f" ({dead_ends} edges in dead ends left out)"
    notes = [counts]
    if len(edges) > n_live:
        notes.append("an edge to the k or v of a key-value head goes to each of its query heads")
    if circuit.scores is not None and edges:
        notes.append(f"width: |score|, the widest is {max(abs(edge.score) for edge in edges):.3g}")
    return tuple(notes)
