"""What a drawing of a circuit shows, whoever draws it: nodes in rows, edges with their looks, a legend.

Rows go from `input` at the bottom to `logits` at the top; a layer's heads are one row and its MLP the next, or the same
row where blocks are parallel. Only live edges and their nodes are shown: dead ends are left out and counted.

An edge's colour is that of the part it enters (q, k, v, an MLP, logits), its width and opacity are |score| relative to
the largest one shown. A solid line helps: cutting the edge lowers the metric (its score is negative). A dashed one hurts. The more edges, the fainter the weak ones, so that a drawing of a
thousand still shows its strongest paths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.drawing.looks import NODE_COLOURS, printable, role_colours, short_name
from edge_circuits.graphs.drawing.picture import DrawnEdge, DrawnNode, Picture
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import Node, parse_destination, parse_source
from edge_circuits.graphs.reachability import live_edges
from edge_circuits.graphs.signs import effect_of, has_sign


@runtime_checkable
class Drawable(Protocol):
    """What is drawn of a circuit; see `edge_circuits.graphs.circuit.Circuit`."""

    graph: Graph
    mask: Bool[Tensor, "source destination"]
    scores: Float[Tensor, "source destination"] | None
    metadata: Mapping[str, Any]


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
