"""Two circuits in one picture: each edge once, on its side."""

from __future__ import annotations

from pathlib import Path

import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.comparison import picture_of_two
from edge_circuits.graphs.drawing.looks import SIDE_COLOURS
from edge_circuits.graphs.drawing.rendering import render, to_dot
from edge_circuits.graphs.graph import Graph

GRAPH = Graph(1, 2)
FIRST = {"input->a0.h0<v>": -1.0, "a0.h0->logits": -2.0, "input->m0": 0.5, "m0->logits": 1.0}
SECOND = {"input->a0.h0<v>": -1.5, "a0.h0->logits": 4.0, "input->logits": -1.0}


def circuit(scores: dict[str, float], extra: tuple[str, ...] = ()) -> Circuit:
    values = torch.zeros(GRAPH.edge_mask.shape)
    for name, score in scores.items():
        values[GRAPH.edge_index(name)] = score
    return Circuit.from_edges(GRAPH, [*scores, *extra], scores=values)


def test_every_edge_is_on_its_side_by_hand() -> None:
    picture = picture_of_two(circuit(FIRST), circuit(SECOND))
    assert {edge.name: edge.side for edge in picture.edges} == {
        "input->a0.h0<v>": "shared",
        "a0.h0->logits": "flipped",
        "input->m0": "here",
        "m0->logits": "here",
        "input->logits": "there",
    }
    assert all(edge.colour == SIDE_COLOURS[edge.side] for edge in picture.edges)
    assert {edge.name: edge.score for edge in picture.edges} == {**SECOND, **FIRST}
    counts = "1 in both, 1 in both, helps in one and hurts in the other, 2 only in the first, 1 only in the second"
    assert picture.notes == (counts,)


def test_dead_ends_of_one_circuit_are_left_out_though_the_other_continues_them() -> None:
    """input->a0.h1<q> leads nowhere in the first circuit; a0.h1->logits is not fed in the second."""
    first, second = circuit(FIRST, ("input->a0.h1<q>",)), circuit(SECOND, ("a0.h1->logits",))
    assert not {edge.name for edge in picture_of_two(first, second).edges} & {"input->a0.h1<q>", "a0.h1->logits"}


def test_a_comparison_is_rendered_and_shows_itself(tmp_path: Path) -> None:
    comparison = circuit(FIRST).compare(circuit(SECOND))
    assert comparison.first == circuit(FIRST) and comparison.second == circuit(SECOND)
    assert torch.equal(comparison.second.scores, circuit(SECOND).scores)
    assert str(comparison) == "2 edges in both, 40% of all, 2 only in the first, 1 only in the second"
    assert "only in the second" in comparison._repr_svg_()
    text = render(comparison, tmp_path / "two.gv", title="Two").read_text()
    assert text == to_dot(comparison, title="Two") and "only in the first" in text and ">Two<" in text


def test_nothing_against_nothing() -> None:
    empty = Circuit.empty(GRAPH)
    assert picture_of_two(empty, empty).notes == ("no edges",)
    assert str(empty.compare(empty)) == "0 edges in both, 0 only in the first, 0 only in the second"
