"""Places for the nodes and edges of a picture, without any program: fixed rows, a column per head number, MLPs at the side.

1. Rows are stacked upwards at one pitch; rows without nodes take no room.
2. Heads of one number share a column; numbers that do not occur take no room. Rows shift left and right in turn, so that
   a line straight up passes beside the nodes of the next row.
3. MLPs form a column on the right. Edges between them, and from `input` to them, are arcs further right, the longer the
   wider; edges from them to heads and `logits` leave to the left.
4. Where nodes stand in columns of spans, each column has its heads side by side, and the example's tokens below; what a head
   carries from span to span is an arc under its row.
5. All other edges leave a node upwards. Edges enter a node from below, a head at its mark of q, k or v.

So a head stands where its number puts it, two circuits can be compared by eye, and the cost is linear in the edges.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from edge_circuits.graphs.drawing.picture import DrawnEdge, DrawnNode, Picture

NODE_SIZE = {"input": (100, 26), "head": (52, 34), "mlp": (44, 26), "logits": (100, 26)}  # width and height in points
PART_OFFSET = {"q": -15, "k": 0, "v": 15, "mlp": 0, "logits": 0}  # from the middle of a node, in points

ARROW_LENGTH = 7
LINE = 16  # between lines of text below a column

_ROW_PITCH = 66.0
_HEAD_PITCH = 84.0
_LABEL_WIDTH = 130
_SHIFT = 14
_ARC = 0.32


class Point(NamedTuple):
    """A place on the drawing in points; x to the right, y upwards."""

    x: float
    y: float


class Curve(NamedTuple):
    """A cubic Bezier curve and the arrow at its end.

    Attributes:
        start: Where it leaves its node.
        first: Control point of the start.
        second: Control point of the end.
        end: Where the line ends and the arrow begins.
        tip: Tip of the arrow, on the node that it enters.
    """

    start: Point
    first: Point
    second: Point
    end: Point
    tip: Point


@dataclass(frozen=True)
class RowLayout:
    """Where everything goes.

    Attributes:
        width: Width in points; everything lies between 0 and it.
        height: Height in points.
        centres: Middle of every node by name.
        curves: One for every edge of the picture, in its order.
        labels: Left middle of every row's label.
        headings: Of columns of spans, the middle of the first line below.
        bounds: Of columns of spans, where they begin.
    """

    width: float
    height: float
    centres: dict[str, Point]
    curves: tuple[Curve, ...]
    labels: dict[int, Point]
    headings: tuple[Point, ...] = ()
    bounds: tuple[float, ...] = ()


def row_layout(picture: Picture) -> RowLayout:
    """Place the nodes and edges of a picture in fixed rows."""
    below = LINE * (2 + max(len(column.lines) for column in picture.columns)) if picture.columns else 0
    heights = {row: below + _ROW_PITCH * (place + 0.5) for place, row in enumerate(sorted(picture.rows))}
    starts = _column_starts(picture)
    centres = _centres_in_columns(picture, heights, starts) if picture.columns else _centres(picture, heights)
    nodes = {node.name: node for node in picture.nodes}
    curves = tuple(_curve(edge, nodes[edge.start], nodes[edge.end], centres) for edge in picture.edges)
    ends = [point.x for points in (centres.values(), *curves) for point in points]
    labels = {row: Point(0.0, height) for row, height in heights.items()}
    width, height = max(*ends, *starts) + NODE_SIZE["logits"][0] / 2, below + _ROW_PITCH * len(heights)
    headings = tuple(Point((left + right) / 2, below - LINE) for left, right in pairwise(starts))
    return RowLayout(width, height, centres, curves, labels, headings, tuple(starts[:-1]))


def _column_starts(picture: Picture) -> list[float]:
    """Where each column of spans begins, and where the last ends."""
    starts = [float(_LABEL_WIDTH)]
    for number, column in enumerate(picture.columns):
        rows = Counter(node.row for node in picture.nodes if node.column == number)
        letters = max(map(len, (column.name, *column.lines)))
        starts.append(starts[-1] + max(_HEAD_PITCH * max(rows.values(), default=1) + 24, 7 * letters + 20))
    return starts


def _centres_in_columns(picture: Picture, heights: dict[int, float], starts: list[float]) -> dict[str, Point]:
    """The nodes of a row and column side by side, in its middle."""
    centres = {}
    for number, (left, right) in enumerate(pairwise(starts)):
        for row, height in heights.items():
            here = [node.name for node in picture.nodes if (node.column, node.row) == (number, row)]
            first = (left + right - _HEAD_PITCH * (len(here) - 1)) / 2
            shift = _SHIFT * (-1) ** row / 2  # a line straight up passes beside the nodes of the next row
            centres |= {name: Point(first + _HEAD_PITCH * at + shift, height) for at, name in enumerate(here)}
    return centres


def _centres(picture: Picture, heights: dict[int, float]) -> dict[str, Point]:
    heads = [node for node in picture.nodes if node.kind == "head"]
    columns = {number: place for place, number in enumerate(sorted({node.head for node in heads}))}
    shifts = {row: _SHIFT * (-1) ** place for place, row in enumerate(sorted({node.row for node in heads}))}
    middle = _LABEL_WIDTH + _HEAD_PITCH * max(1, len(columns)) / 2
    centres = {}
    for node in picture.nodes:
        x = middle
        if node.kind == "head":
            x = _LABEL_WIDTH + _HEAD_PITCH * (columns[node.head] + 0.5) + shifts[node.row]
        elif node.kind == "mlp":
            x = _LABEL_WIDTH + _HEAD_PITCH * (len(columns) + 0.5)
        centres[node.name] = Point(x, heights[node.row])
    return centres


def _curve(edge: DrawnEdge, start: DrawnNode, end: DrawnNode, centres: dict[str, Point]) -> Curve:
    """From a node to the bottom of another, by the rules at the head of this file."""
    here, there = centres[start.name], centres[end.name]
    half_width, half_height = (side / 2 for side in NODE_SIZE[start.kind])
    if edge.moves:
        return _arc_below(here, there, half_height)
    tip = Point(there.x + PART_OFFSET[edge.part], there.y - NODE_SIZE[end.kind][1] / 2)
    if end.kind == "logits":  # spread along the bottom
        tip = Point(there.x + max(-40.0, min(40.0, (here.x - there.x) / 8)), tip.y)
    rise = tip.y - here.y
    pull, bulge = max(0.42 * rise, 16), 0.0
    first = Point(here.x, here.y + half_height + pull)
    leave = Point(here.x, here.y + half_height)
    if end.kind == "mlp" and start.kind != "head":
        bulge, tip = _ARC * max(0, rise - 1.5 * _ROW_PITCH), Point(tip.x + 10, tip.y)
        leave = Point(here.x + half_width, here.y)
        first = Point(max(leave.x, tip.x) + bulge, here.y + (0 if start.kind == "input" else pull))
    elif start.kind == "mlp":
        leave = Point(here.x - half_width, here.y)
        first = Point(leave.x - 20 - 0.3 * abs(here.x - tip.x), here.y)
    elif abs(here.x - tip.x) < NODE_SIZE["head"][0] and rise > 1.2 * _ROW_PITCH:
        bulge = min(70, 0.25 * rise)  # or it would run behind the nodes between
        first = Point(first.x + bulge, first.y)
    end_of_line = Point(tip.x, tip.y - ARROW_LENGTH)
    return Curve(leave, first, Point(tip.x + bulge, end_of_line.y - pull), end_of_line, tip)


def _arc_below(here: Point, there: Point, half_height: float) -> Curve:
    """From the bottom of a node to that of another in its row."""
    side = math.copysign(22, there.x - here.x)
    leave, tip = (Point(at.x + shift, at.y - half_height) for at, shift in ((here, side), (there, -side)))
    end, depth = Point(tip.x, tip.y - ARROW_LENGTH), 14 + 0.02 * abs(there.x - here.x)
    return Curve(leave, Point(leave.x, leave.y - depth), Point(end.x, end.y - depth), end, tip)
