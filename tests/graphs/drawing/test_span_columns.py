"""Circuits by span as pictures: a node for each span where it works, moves within heads, tokens below."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.by_span import SpanCircuit
from edge_circuits.graphs.drawing.grid_layout import row_layout
from edge_circuits.graphs.drawing.rendering import render, to_dot
from edge_circuits.graphs.drawing.span_columns import picture_by_span
from edge_circuits.graphs.drawing.svg import layered_svg

SVG = "{http://www.w3.org/2000/svg}"
GRAPH = Graph(2, 2)
SPANS = ("end", "name", "rest")
EDGES = {
    "input->a0.h1<v>@name": -2.0,
    "a0.h1->m0@end": 0.5,
    "m0->a1.h0<q>@end": -1.0,
    "input->a1.h0<k>@name": 1.0,
    "a1.h0->logits@end": -4.0,
    "input->a1.h1<v>@name": 3.0,  # of a head that nothing reads
}


def circuit(edges: dict[str, float] = EDGES, graph: Graph = GRAPH) -> SpanCircuit:
    scores = torch.zeros(*graph.edge_mask.shape, len(SPANS))
    for name, score in edges.items():
        edge, span = name.split("@")
        scores[(*graph.edge_index(edge), SPANS.index(span))] = score
    return SpanCircuit(graph, SPANS, scores != 0, scores, {"method": "eap"})


PAIRS = PromptPairs([[5, 6, 7, 8]], [[5, 9, 7, 8]], spans={"end": [-1], "name": [(1, 2)]})


def test_nodes_stand_at_the_spans_where_they_work() -> None:
    picture = picture_by_span(circuit(), {"a1.h0": "mover"})
    assert [column.name for column in picture.columns] == ["end", "name"]
    found = {(node.name, node.column, node.label) for node in picture.nodes}
    assert found == {
        ("input@name", 1, "input"), ("a0.h1@name", 1, "a0.h1"), ("a0.h1@end", 0, "a0.h1"), ("m0@end", 0, "m0"),
        ("a1.h0@name", 1, "a1.h0"), ("a1.h0@end", 0, "a1.h0"), ("logits@end", 0, "logits"),
    }  # fmt: skip
    assert {node.name: set(node.parts) for node in picture.nodes}["a1.h0@end"] == {"q"}
    assert {node.role for node in picture.nodes if node.label == "a1.h0"} == {"mover"}
    edges = {(edge.name, edge.start, edge.end, edge.score, edge.effect) for edge in picture.edges if not edge.moves}
    assert ("m0->a1.h0<q>@end", "m0@end", "a1.h0@end", -1.0, "helps") in edges and len(edges) == 5
    assert "5 edges at spans (1 in dead ends left out)" in picture.notes


def test_what_heads_carry_is_an_arc_and_never_goes_back() -> None:
    moves = {(edge.start, edge.end) for edge in picture_by_span(circuit()).edges if edge.moves}
    assert moves == {("a0.h1@name", "a0.h1@end"), ("a1.h0@name", "a1.h0@end")}
    back = EDGES | {"input->a0.h1<v>@end": 1.0, "a0.h1->m0@name": 1.0, "m0->a1.h0<k>@name": 1.0}
    moves = [(edge.start, edge.end) for edge in picture_by_span(circuit(back)).edges if edge.moves]
    assert ("a0.h1@end", "a0.h1@name") in moves  # which of the two comes first is not known
    moves = [(edge.start, edge.end) for edge in picture_by_span(circuit(back).over(PAIRS)).edges if edge.moves]
    assert ("a0.h1@end", "a0.h1@name") not in moves and ("a0.h1@name", "a0.h1@end") in moves


def test_columns_follow_the_example() -> None:
    picture = picture_by_span(circuit().over(PAIRS))
    assert [(column.name, column.lines) for column in picture.columns] == [("name", ("6",)), ("end", ("8",))]
    layout = row_layout(picture)
    columns = {node.name: node.column for node in picture.nodes}
    for name, point in layout.centres.items():
        assert layout.bounds[columns[name]] < point.x < (*layout.bounds[1:], layout.width)[columns[name]]
    heights = [layout.centres[name].y for name in ("input@name", "a0.h1@end", "m0@end", "a1.h0@end", "logits@end")]
    assert heights == sorted(heights) and max(point.y for point in layout.headings) < heights[0]


def test_the_svg_and_the_dot_text(tmp_path: Path) -> None:
    drawn = circuit().over(PAIRS)
    tree = ElementTree.fromstring(layered_svg(picture_by_span(drawn)))
    texts = [each.text for each in tree.iter(f"{SVG}text")]
    assert texts.count("a1.h0") == 2 and {"name", "6", "8"} <= set(texts) and "a1.h0@end" not in texts
    text = to_dot(drawn)
    assert '"m0@end" [label="m0"' in text and '"m0@end" -> "a1.h0@end"' in text and 'label="name\\n6"' in text
    if shutil.which("neato"):
        tips = ElementTree.fromstring(render(drawn, tmp_path / "a.svg").read_text()).iter()
        assert any("m0->a1.h0<q>@end" in value for each in tips for value in each.attrib.values())
    with pytest.raises(ValueError, match="layout: expected 'rows' for a circuit by span, got 'dot'"):
        to_dot(drawn, layout="dot")


def test_a_circuit_of_nothing_and_key_value_heads() -> None:
    assert picture_by_span(circuit({})).nodes == () and "<svg" in layered_svg(picture_by_span(circuit({})))
    grouped = Graph(1, 2, n_kv_heads=1)
    shared = circuit({"input->a0.h0<v>@name": 1.0, "a0.h0->logits@end": 1.0, "a0.h1->logits@end": 1.0}, grouped)
    ends = {(edge.end, edge.moves) for edge in picture_by_span(shared).edges}
    assert {("a0.h0@name", False), ("a0.h1@name", False), ("a0.h1@end", True)} <= ends


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="scores: expected finite numbers to draw"):
        picture_by_span(circuit(EDGES | {"a1.h0->logits@end": float("nan")}))
    with pytest.raises(ValueError, match="row: expected a whole number from 0 to 0, got 1"):
        circuit().over(PAIRS, 1)
    with pytest.raises(ValueError, match="pairs.spans: expected those of the circuit"):
        circuit().over(PAIRS.by_token())
