"""The DOT text names every node and edge once, in ranks, and Graphviz places them as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import get_args

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.dot import Layout, dot_text
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS
from edge_circuits.graphs.graph import Graph

EDGE = re.compile(r'^  "([^"]+)" -> "([^"]+)"(?::"([qkv])":s)? \[(.*)\]$', re.MULTILINE)
LAYOUTS = get_args(Layout)
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's programs are not installed")


def random_circuit(graph: Graph) -> Circuit:
    scores = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(0)) * graph.edge_mask
    return Circuit(graph, graph.edge_mask, scores)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_edge_is_there_once_with_its_look(graph: Graph, layout: Layout) -> None:
    picture = picture_of(random_circuit(graph))
    statements = EDGE.findall(dot_text(picture, layout))
    assert len(statements) == len(picture.edges)
    for edge, (start, end, port, look) in zip(picture.edges, statements):
        assert (start, end) == (edge.start, edge.end)
        assert f'tooltip="{edge.tooltip}"' in look
        assert f'color="{EDGE_COLOURS[edge.part]}' in look
        assert f"penwidth={edge.width:.2f}" in look
        assert f"style={'dashed' if edge.effect == 'hurts' else 'solid'}" in look
        if layout == "dot":
            assert port == (edge.part if edge.part in "qkv" else "")


def test_heads_have_a_port_for_each_part() -> None:
    text = dot_text(picture_of(Circuit.full(Graph(1, 1))), "dot")
    head = next(line for line in text.splitlines() if line.startswith('  "a0.h0" ['))
    assert re.findall(r'port="(\w)"', head) == ["q", "k", "v"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_legend_names_what_is_drawn(layout: Layout) -> None:
    text = dot_text(picture_of(random_circuit(Graph(2, 2)), {"m0": "helper"}, title="A title"), layout)
    label = next(line for line in text.splitlines() if "labelloc" in line)
    for entry in (
        "A title",
        "into an MLP",
        "into logits",
        "helps: cutting it lowers the metric",
        "hurts: cutting it raises the metric",
        "head",
        "MLP",
        "helper",
    ):
        assert entry in label
    bare = dot_text(picture_of(Circuit.full(Graph(1, 1, mlps=False))), layout)
    assert "score" not in bare.replace("scores", "") and "MLP" not in bare


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_circuit_gives_the_same_text(layout: Layout) -> None:
    first, second = (dot_text(picture_of(random_circuit(Graph(2, 2))), layout) for _ in range(2))
    assert first == second


def places(text: str, layout: Layout) -> dict[str, tuple[float, float]]:
    """Where Graphviz puts the nodes; it must have nothing to complain of."""
    command = ["dot", "-Tplain"] if layout == "dot" else ["neato", "-n2", "-Tplain"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    found = re.findall(r'^node "?([\w. ]+?)"? ([\d.]+) ([\d.]+) ', result.stdout, re.MULTILINE)
    return {name: (float(x), float(y)) for name, x, y in found}


@needs_dot
@pytest.mark.parametrize("layout", LAYOUTS)
def test_graphviz_puts_rows_above_each_other(graph: Graph, layout: Layout) -> None:
    picture = picture_of(random_circuit(graph), {"m0": '<a> & "b"'} if graph.mlps else None, title="a < b & c")
    placed = places(dot_text(picture, layout), layout)
    heights = {node.name: placed[node.name][1] for node in picture.nodes}
    by_row = {node.row: round(heights[node.name], 2) for node in picture.nodes}
    assert all(round(heights[node.name], 2) == by_row[node.row] for node in picture.nodes)
    assert list(by_row.values()) == sorted(set(by_row.values()))
    assert heights["input"] == min(heights.values()) and heights["logits"] == max(heights.values())
    assert all(placed[f"row {row}"][1] == pytest.approx(height, abs=0.02) for row, height in by_row.items())


@needs_dot
def test_a_head_that_reads_only_input_stays_in_its_row() -> None:
    """Its three edges from `input` would pull it down to the heads of layer 0."""
    names = [f"input->a1.h1<{part}>" for part in "qkv"]
    names += ["a1.h1->logits", "input->a0.h0<v>", "a0.h0->a1.h0<v>", "a1.h0->logits"]
    placed = places(dot_text(picture_of(Circuit.from_edges(Graph(2, 2), names)), "dot"), "dot")
    assert placed["a1.h1"][1] == placed["a1.h0"][1] > placed["a0.h0"][1]


@needs_dot
def test_row_labels_are_on_the_left() -> None:
    placed = places(dot_text(picture_of(random_circuit(Graph(3, 4))), "dot"), "dot")
    labels = [x for name, (x, _) in placed.items() if name.startswith("row")]
    assert max(labels) < min(x for name, (x, _) in placed.items() if not name.startswith("row"))
