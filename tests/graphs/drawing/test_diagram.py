"""What a drawing shows: live nodes in rows, edges that look as their scores say, words for the legend."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.diagram import picture_of
from edge_circuits.graphs.drawing.looks import EDGE_COLOURS, NODE_COLOURS, role_colours
from edge_circuits.graphs.drawing.picture import DrawnEdge, Picture
from edge_circuits.graphs.drawing.svg import layered_svg
from edge_circuits.graphs.graph import Graph

SMALL = Graph(2, 2)
SCORES = {
    "input->m0": 4.0,
    "m0->a1.h0<q>": 1.0,
    "m0->a1.h0<k>": -2.0,
    "m0->a1.h0<v>": 0.5,
    "a1.h0->m1": -0.25,
    "m1->logits": 3.0,
}


def by_hand(extra: tuple[str, ...] = (), **metadata: str) -> Circuit:
    """A circuit with known scores, all edges live but the extra ones."""
    scores = torch.zeros(SMALL.edge_mask.shape)
    for name, score in SCORES.items():
        scores[SMALL.edge_index(name)] = score
    return Circuit.from_edges(SMALL, [*SCORES, *extra], scores=scores, metadata=metadata)


def edges_by_name(picture: Picture) -> dict[str, DrawnEdge]:
    return {edge.name: edge for edge in picture.edges}


def test_edges_and_nodes_are_those_of_the_circuit() -> None:
    picture = picture_of(by_hand())
    assert {edge.name: edge.score for edge in picture.edges} == SCORES
    assert [node.name for node in picture.nodes] == ["input", "m0", "a1.h0", "m1", "logits"]
    assert [node.kind for node in picture.nodes] == ["input", "mlp", "head", "mlp", "logits"]


def test_rows_are_layers_from_input_to_logits() -> None:
    rows = {node.name: node.row for node in picture_of(Circuit.full(SMALL)).nodes}
    assert rows == {
        "input": 0, "a0.h0": 1, "a0.h1": 1, "m0": 2, "a1.h0": 3, "a1.h1": 3, "m1": 4, "logits": 5
    }  # fmt: skip
    assert picture_of(Circuit.full(SMALL)).rows == {
        0: "", 1: "layer 0 heads", 2: "layer 0 MLP", 3: "layer 1 heads", 4: "layer 1 MLP", 5: ""
    }  # fmt: skip


def test_edges_lead_to_higher_rows(graph: Graph) -> None:
    picture = picture_of(Circuit.full(graph))
    rows = {node.name: node.row for node in picture.nodes}
    assert all(rows[edge.start] < rows[edge.end] for edge in picture.edges)


def test_parallel_blocks_have_heads_and_mlp_in_one_row() -> None:
    picture = picture_of(Circuit.full(Graph(2, 1, parallel=True)))
    rows = {node.name: node.row for node in picture.nodes}
    assert rows == {"input": 0, "a0.h0": 1, "m0": 1, "a1.h0": 2, "m1": 2, "logits": 3}
    assert picture.rows == {0: "", 1: "layer 0", 2: "layer 1", 3: ""}


def test_three_edges_between_two_nodes_are_told_apart() -> None:
    edges = edges_by_name(picture_of(by_hand()))
    three = [edges[f"m0->a1.h0<{part}>"] for part in "qkv"]
    assert [edge.part for edge in three] == ["q", "k", "v"]
    assert {(edge.start, edge.end) for edge in three} == {("m0", "a1.h0")}
    assert len({EDGE_COLOURS[edge.part] for edge in three}) == 3


def test_width_and_opacity_grow_with_the_absolute_score() -> None:
    picture = picture_of(by_hand())
    sizes = [abs(edge.score) for edge in picture.edges]
    assert sizes == sorted(sizes)  # the strongest last, on top
    for quantity in ("width", "opacity", "strength"):
        values = [getattr(edge, quantity) for edge in picture.edges]
        assert values == sorted(values) and len(set(values)) == len(values)
    assert picture.edges[-1].strength == picture.edges[-1].opacity == 1.0
    assert [edge.name for edge in picture.edges if edge.effect == "helps"] == ["a1.h0->m1", "m0->a1.h0<k>"]
    assert [edge.name for edge in picture.edges if edge.effect == "hurts"] == [
        "m0->a1.h0<v>",
        "m0->a1.h0<q>",
        "m1->logits",
        "input->m0",
    ]


def test_without_scores_all_edges_look_alike() -> None:
    picture = picture_of(Circuit.full(SMALL))
    assert len({(edge.width, edge.opacity, edge.effect) for edge in picture.edges}) == 1
    assert picture.edges[0].effect is None and picture.edges[0].tooltip == picture.edges[0].name


def test_scores_of_zero_are_drawn() -> None:
    circuit = Circuit(SMALL, SMALL.edge_mask, torch.zeros(SMALL.edge_mask.shape))
    assert {edge.strength for edge in picture_of(circuit).edges} == {0.0}


def test_weak_edges_are_fainter_where_there_are_many() -> None:
    few, many = (picture_of(Circuit.full(graph)).edges[0].opacity for graph in (Graph(1, 1), Graph(4, 4)))
    assert few > many > 0.1


def test_dead_ends_are_left_out_and_counted() -> None:
    picture = picture_of(by_hand(extra=("input->a0.h0<q>", "a0.h1->m0")))
    assert {edge.name for edge in picture.edges} == set(SCORES)
    assert "a0.h0" not in {node.name for node in picture.nodes}
    assert picture.notes[0] == "6 edges, 5 nodes (2 edges in dead ends left out)"


def test_the_widest_edge_is_the_largest_score_drawn() -> None:
    assert picture_of(by_hand()).notes == ("6 edges, 5 nodes", "width: |score|, the widest is 4")


def test_an_empty_circuit_is_input_and_logits() -> None:
    picture = picture_of(Circuit.empty(SMALL))
    assert [node.name for node in picture.nodes] == ["input", "logits"] and picture.notes == ("0 edges, 0 nodes",)


def test_an_edge_to_a_key_value_head_goes_to_its_live_query_heads() -> None:
    """Of the four query heads of the group a0.h0<k>, only 0 and 2 lead on."""
    grouped = Graph(1, 4, n_kv_heads=1)
    circuit = Circuit.from_edges(grouped, ["input->a0.h0<k>", "a0.h0->logits", "a0.h2->logits"])
    picture = picture_of(circuit)
    assert [edge.end for edge in picture.edges if edge.name == "input->a0.h0<k>"] == ["a0.h0", "a0.h2"]
    assert "an edge to the k or v of a key-value head goes to each of its query heads" in picture.notes


def test_roles_colour_nodes_and_are_listed_if_drawn() -> None:
    roles = {"a1.h0": "mover", "m1": "helper", "m0": "helper", "a0.h0": "not drawn"}
    picture = picture_of(by_hand(), roles)
    assert list(picture.roles) == ["helper", "mover"]
    shown = {node.name: (node.role, node.colour) for node in picture.nodes}
    assert shown["m0"] == shown["m1"] == ("helper", picture.roles["helper"])
    assert shown["a1.h0"] == ("mover", picture.roles["mover"])
    assert shown["logits"] == (None, NODE_COLOURS["logits"])
    assert len(set(picture.roles.values())) == 2


def test_the_title_is_given_or_from_the_metadata() -> None:
    circuit = by_hand(method="relp", model="gpt2", other="x")
    assert picture_of(circuit).title == "gpt2, relp"
    assert picture_of(circuit, title="").title == ""
    assert picture_of(by_hand()).title == ""


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("/home/me/models/my-llama/", "my-llama"),
        ("./runs/7", "7"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("C:\\models\\mine", "mine"),
        ("gpt2", "gpt2"),
        ("external (LlamaForCausalLM)", "LlamaForCausalLM"),
        ("mine (LlamaForCausalLM)", "mine (LlamaForCausalLM)"),
    ],
)
def test_a_path_is_no_title(model: str, shown: str) -> None:
    assert picture_of(by_hand(method="relp", model=model)).title == f"{shown}, relp"


def test_a_long_title_is_in_lines() -> None:
    picture = picture_of(by_hand(), title="a long title " * 10)
    assert all(len(line) <= 40 for line in picture.title_lines(40)) and len(picture.title_lines(40)) == 4
    assert " ".join(picture.title_lines(40)) == picture.title.strip()


def test_texts_are_without_what_a_file_cannot_hold() -> None:
    picture = picture_of(by_hand(), {"m0": "a\x00b\nc\ud800"}, title="one\x1b[1mtwo\ttab")
    assert list(picture.roles) == ["a b c "] and picture.title == "one [1mtwo tab"
    ElementTree.fromstring(layered_svg(picture))


def test_sizes_without_a_sign_neither_help_nor_hurt() -> None:
    circuit = by_hand(method="learned-mask")
    unsigned = Circuit(circuit.graph, circuit.mask, circuit.scores, {"signed": False})
    assert {edge.effect for edge in picture_of(unsigned).edges} == {None}
    older = Circuit(circuit.graph, circuit.mask, circuit.scores.abs())
    assert {edge.effect for edge in picture_of(older).edges} == {None}


def test_a_role_keeps_its_colour_from_picture_to_picture() -> None:
    one = picture_of(by_hand(), {"a1.h0": "mover", "m1": "helper"}).roles
    other = picture_of(Circuit.full(SMALL), {"a0.h0": "first", "m1": "mover"}).roles
    assert one["mover"] == other["mover"] and len(set(other.values())) == 2
    many = role_colours(f"role {number}" for number in range(20))
    assert len(set(many.values())) == 20


def test_what_cannot_be_drawn_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="unknown source 'a9.h9': layer 9 is out of range"):
        picture_of(by_hand(), {"a9.h9": "mover"})
    with pytest.raises(ValueError, match="roles: expected texts by node, got 3 for m0"):
        picture_of(by_hand(), {"m0": 3})
    for bad in (float("nan"), float("inf")):
        scores = torch.full(SMALL.edge_mask.shape, bad).where(SMALL.edge_mask, 0)
        with pytest.raises(ValueError, match="scores: expected finite numbers to draw"):
            picture_of(Circuit(SMALL, SMALL.edge_mask, scores))
