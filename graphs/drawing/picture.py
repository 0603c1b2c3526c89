"""Everything that a drawing shows, as values: nodes, edges with their looks, rows, columns and a legend."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge_circuits.graphs.drawing.looks import (
    EDGE_COLOURS,
    EDGE_LABELS,
    EFFECT_LABELS,
    FAINT_INK,
    INK,
    SIDE_COLOURS,
    SIDE_LABELS,
    EdgePart,
    Side,
)
from edge_circuits.graphs.signs import Effect

AT = "@"  # between a node's or edge's name and its span's


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
            told = {SIDE_COLOURS[side]: SIDE_LABELS[side] for side in SIDE_COLOURS if side in sides}
        else:
            told = {EDGE_COLOURS[part]: EDGE_LABELS[part] for part in EDGE_COLOURS if part in parts}
        colours = [LegendLine(colour, False, text) for colour, text in told.items()]
        if any(edge.moves for edge in self.edges):
            colours.append(LegendLine(FAINT_INK, False, "moves within a head"))
        if any(edge.effect for edge in self.edges):
            colours += [LegendLine(INK, effect == "hurts", text) for effect, text in EFFECT_LABELS.items()]
        return tuple(colours)

    def title_lines(self, n_letters: int) -> list[str]:
        """The title in lines of at most so many letters."""
        return textwrap.wrap(self.title, max(20, n_letters))
