"""What a drawing of two circuits shows: edges in both, only in the first, only in the second, and those whose effect differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from edge_circuits.graphs.drawing.diagram import Drawable, arranged, drawn_edges
from edge_circuits.graphs.drawing.looks import SIDE_LABELS
from edge_circuits.graphs.drawing.picture import DrawnEdge, Picture


def picture_of_two(
    first: Drawable, second: Drawable, roles: Mapping[str, str] | None = None, title: str | None = None
) -> Picture:
    """What to draw of two circuits of one graph, each without its dead ends.

    An edge in both is drawn with the first one's score.

    Args:
        first: One circuit.
        second: The other.
        roles: Role of a node by its name.
        title: By default none.

    Raises:
        ValueError: As `edge_circuits.graphs.drawing.diagram.picture_of`.
    """
    here, there = ({(edge.name, edge.end): edge for edge in drawn_edges(each)} for each in (first, second))
    edges = [_on_its_side(here.get(place), there.get(place)) for place in {**here, **there}]
    counts = Counter({edge.name: edge.side for edge in edges}.values())
    notes = ", ".join(f"{counts[side]} {label}" for side, label in SIDE_LABELS.items() if counts[side])
    ordered = tuple(sorted(edges, key=lambda edge: edge.strength))
    return arranged(first.graph, ordered, roles, title or "", (notes or "no edges",))


def _on_its_side(here: DrawnEdge | None, there: DrawnEdge | None) -> DrawnEdge:
    if here is None or there is None:
        return replace(there, side="there") if here is None else replace(here, side="here")
    is_flipped = {here.effect, there.effect} == {"helps", "hurts"}
    return replace(here, side="flipped" if is_flipped else "shared")
