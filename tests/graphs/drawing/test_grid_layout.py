"""Places without a program: rows upwards, heads in order, arrows that end where they should."""

from __future__ import annotations

import itertools

import pytest

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.grid_layout import NODE_SIZE, RowLayout, row_layout
from edge_circuits.graphs.drawing.picture import Picture
from edge_circuits.graphs.graph import Graph


@pytest.fixture
def drawn(graph: Graph) -> tuple[Picture, RowLayout]:
    picture = picture_of(Circuit.full(graph))
    return picture, row_layout(picture)


def test_higher_rows_are_higher_and_rows_are_level(drawn: tuple[Picture, RowLayout]) -> None:
    picture, layout = drawn
    heights = sorted({(node.row, layout.centres[node.name].y) for node in picture.nodes})
    assert len(heights) == len(picture.rows)
    assert all(below < above for (_, below), (_, above) in itertools.pairwise(heights))


def test_heads_are_in_order_and_share_columns(drawn: tuple[Picture, RowLayout]) -> None:
    picture, layout = drawn
    heads = [node for node in picture.nodes if node.kind == "head"]
    for left, right in itertools.combinations(heads, 2):
        gap = layout.centres[right.name].x - layout.centres[left.name].x
        if left.head == right.head:
            assert abs(gap) < NODE_SIZE["head"][0]
        elif left.row == right.row:
            assert gap * (right.head - left.head) > 0


def test_nodes_do_not_overlap(drawn: tuple[Picture, RowLayout]) -> None:
    picture, layout = drawn
    for one, other in itertools.combinations(picture.nodes, 2):
        apart = [abs(a - b) for a, b in zip(layout.centres[one.name], layout.centres[other.name])]
        needed = [(a + b) / 2 for a, b in zip(NODE_SIZE[one.kind], NODE_SIZE[other.kind])]
        assert any(gap > need for gap, need in zip(apart, needed)), (one.name, other.name)


def test_arrows_leave_and_enter_their_nodes(drawn: tuple[Picture, RowLayout]) -> None:
    picture, layout = drawn
    kinds = {node.name: node.kind for node in picture.nodes}
    assert len(layout.curves) == len(picture.edges)
    for edge, curve in zip(picture.edges, layout.curves):
        for name, point in ((edge.start, curve.start), (edge.end, curve.tip)):
            width, height = NODE_SIZE[kinds[name]]
            assert abs(point.x - layout.centres[name].x) <= width / 2
            assert abs(point.y - layout.centres[name].y) <= height / 2
        assert curve.tip.y == layout.centres[edge.end].y - NODE_SIZE[kinds[edge.end]][1] / 2  # from below
        assert curve.start.y < curve.end.y < curve.tip.y and curve.end.x == curve.tip.x


def test_edges_between_the_same_nodes_end_apart(drawn: tuple[Picture, RowLayout]) -> None:
    picture, layout = drawn
    ends = {(edge.start, edge.end, edge.part): curve.tip for edge, curve in zip(picture.edges, layout.curves)}
    assert len(ends) == len(picture.edges)
    for (start, end, part), tip in ends.items():
        if part == "q" and (start, end, "v") in ends:
            assert ends[start, end, "v"].x - tip.x > 20


def test_everything_is_on_the_drawing(drawn: tuple[Picture, RowLayout]) -> None:
    _, layout = drawn
    points = [*layout.centres.values(), *itertools.chain(*layout.curves)]
    assert all(0 <= point.x <= layout.width and 0 <= point.y <= layout.height for point in points)
