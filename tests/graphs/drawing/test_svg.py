"""The svg drawn without any program is whole XML that shows every node, edge and entry of the legend."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS
from edge_circuits.graphs.drawing.picture import Picture
from edge_circuits.graphs.drawing.svg import layered_svg
from edge_circuits.graphs.graph import Graph

SVG = "{http://www.w3.org/2000/svg}"


def random_circuit(graph: Graph) -> Circuit:
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    return Circuit(graph, graph.edge_mask, scores)


def drawn_edges(picture: Picture) -> dict[str, list[ElementTree.Element]]:
    """The groups that draw edges, by their tooltips."""
    groups: dict[str, list[ElementTree.Element]] = {}
    for group in ElementTree.fromstring(layered_svg(picture)).iter(f"{SVG}g"):
        tooltip = group.find(f"{SVG}title")
        if tooltip is not None and "->" in tooltip.text:
            groups.setdefault(tooltip.text, []).append(group)
    return groups


def test_every_edge_is_drawn_as_it_should_look(graph: Graph) -> None:
    picture = picture_of(random_circuit(graph))
    groups = drawn_edges(picture)
    assert Counter({name: len(group) for name, group in groups.items()}) == Counter(e.tooltip for e in picture.edges)
    for edge in picture.edges:
        for group in groups[edge.tooltip]:
            line = group.find(f"{SVG}path")
            assert group.get("stroke") == EDGE_COLOURS[edge.part]
            assert float(line.get("stroke-width")) == pytest.approx(edge.width, abs=0.01)
            assert ("stroke-dasharray" in line.attrib) == (edge.effect == "hurts")


def test_every_node_row_and_legend_entry_is_written(graph: Graph) -> None:
    picture = picture_of(random_circuit(graph), {"input": "the start"}, title="A title")
    texts = Counter(text.text for text in ElementTree.fromstring(layered_svg(picture)).iter(f"{SVG}text"))
    for name in [node.name for node in picture.nodes]:
        assert texts[name] == 1
    for text in [
        *filter(None, picture.rows.values()),
        "A title",
        "into logits",
        "helps: cutting it lowers the metric",
        "hurts: cutting it raises the metric",
    ]:
        assert texts[text] == 1
    assert texts["the start"] == 1 and "; ".join(picture.notes) in " ".join(filter(None, texts))


def test_letters_of_a_head_are_those_of_its_edges() -> None:
    graph = Graph(1, 2)
    picture = picture_of(
        Circuit.from_edges(graph, ["input->a0.h0<q>", "input->a0.h1<v>", "a0.h0->logits", "a0.h1->logits"])
    )
    groups = list(ElementTree.fromstring(layered_svg(picture)).iter(f"{SVG}g"))
    letters = {texts[0]: texts[1:] for g in groups if (texts := [t.text for t in g.findall(f"{SVG}text")])}
    assert letters["a0.h0"] == ["q"] and letters["a0.h1"] == ["v"]


def test_the_same_picture_gives_the_same_text() -> None:
    first, second = (layered_svg(picture_of(random_circuit(Graph(2, 2)))) for _ in range(2))
    assert first == second


def test_any_text_is_escaped() -> None:
    picture = picture_of(Circuit.full(Graph(1, 1)), {"m0": '<b> & "x"'}, title="a < b & c")
    texts = [text.text for text in ElementTree.fromstring(layered_svg(picture)).iter(f"{SVG}text")]
    assert "a < b & c" in texts and '<b> & "x"' in texts


def test_an_empty_circuit_is_drawn() -> None:
    assert "0 edges" in layered_svg(picture_of(Circuit.empty(Graph(1, 1))))
