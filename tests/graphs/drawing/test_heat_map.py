"""A grid of layers and heads: a cell for each head, the darker the larger."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from edge_circuits.graphs.drawing.heat_map import heat_map_svg
from edge_circuits.graphs.drawing.rendering import render
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

SVG = "{http://www.w3.org/2000/svg}"


def cells(text: str) -> dict[str, tuple[float, float, str]]:
    """Place and colour of each cell, by its tooltip."""
    boxes = ElementTree.fromstring(text).iter(f"{SVG}rect")
    titled = [(box, box.find(f"{SVG}title")) for box in boxes]
    return {t.text: (float(b.get("x")), float(b.get("y")), b.get("fill")) for b, t in titled if t is not None}


def test_cells_by_hand() -> None:
    found = cells(heat_map_svg(torch.tensor([[0.0, 1.0], [2.0, 4.0]]), "A title & more\x00"))
    assert list(found) == ["a0.h0  0", "a0.h1  1", "a1.h0  2", "a1.h1  4"]
    places = [place for *place, _ in found.values()]
    assert places[0][0] == places[2][0] < places[1][0] and places[0][1] == places[1][1] > places[2][1]
    colours = [colour for *_, colour in found.values()]
    assert colours[0] == "#ffffff" and colours[3] == "#004488" and colours[0] > colours[1] > colours[2] > colours[3]


def test_scores_are_drawn_as_the_sums_that_leave_each_head(tmp_path: Path) -> None:
    graph = Graph(2, 3)
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    scored = ScoredGraph(graph, scores, {"model": "/a/toy", "method": "eap"})
    text = render(scored, tmp_path / "heat.svg").read_text()
    by_hand = {
        name: sum(
            abs(score) for edge, score in zip(graph.edges, scored.values.tolist()) if edge.startswith(f"{name}->")
        )
        for name in graph.sources
        if name.startswith("a")
    }
    assert {tip.split()[0]: float(tip.split()[1]) for tip in cells(text)} == pytest.approx(by_hand, rel=1e-3)
    assert "toy, eap, |score| out of each head" in text and scored._repr_html_().startswith(text)
    with pytest.raises(ValueError, match="path: expected an ending .svg for a grid of layers and heads"):
        render(scored, tmp_path / "heat.png")


def test_scores_of_zero_are_white() -> None:
    assert {colour for *_, colour in cells(heat_map_svg(torch.zeros(2, 2), "")).values()} == {"#ffffff"}
