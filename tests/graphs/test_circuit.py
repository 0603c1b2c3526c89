"""Circuits are sets of edge names: made, read, combined and compared like Python's sets."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.pruning import prune
from edge_circuits.graphs.scores import ScoredGraph

SMALL = Graph(2, 2)


@pytest.fixture
def random_circuit(random_mask: Callable) -> Callable[[Graph, int], Circuit]:
    return lambda graph, seed: Circuit(graph, random_mask(graph, 0.4, seed))


@pytest.mark.parametrize("seed", range(3))
def test_set_algebra_is_that_of_edge_names(graph: Graph, seed: int, random_circuit: Callable) -> None:
    a, b = random_circuit(graph, seed), random_circuit(graph, seed + 100)
    names_a, names_b = set(a.edges), set(b.edges)
    assert set((a & b).edges) == names_a & names_b
    assert set((a | b).edges) == names_a | names_b
    assert set((a - b).edges) == names_a - names_b
    assert set((~a).edges) == set(graph.edges) - names_a


@pytest.mark.parametrize("seed", range(3))
def test_identities_of_set_algebra(graph: Graph, seed: int, random_circuit: Callable) -> None:
    a, b, c = (random_circuit(graph, seed + 100 * i) for i in range(3))
    full, empty = Circuit.full(graph), Circuit.empty(graph)
    assert a & b == b & a and a | b == b | a
    assert a & (b | c) == (a & b) | (a & c) and a | (b & c) == (a | b) & (a | c)
    assert ~(a | b) == ~a & ~b and ~~a == a and a - b == a & ~b
    assert a & full == a and a | empty == a and a - a == empty and a | ~a == full and a & empty == empty
    assert ~full == empty and ~empty == full and (a & b) | (a - b) == a


@pytest.mark.parametrize("seed", range(3))
def test_names_and_masks_are_two_forms_of_one_circuit(graph: Graph, seed: int, random_circuit: Callable) -> None:
    circuit = random_circuit(graph, seed)
    assert Circuit.from_edges(graph, circuit.edges) == circuit
    assert Circuit.from_edges(graph, reversed(circuit.edges)).edges == circuit.edges
    assert list(circuit) == [name for name in graph.edges if name in set(circuit.edges)]
    assert len(circuit) == circuit.n_edges == len(circuit.edges) == circuit.mask.sum()
    assert all(name in circuit for name in circuit.edges) and not any(name in ~circuit for name in circuit.edges)


def test_full_and_empty(graph: Graph) -> None:
    assert Circuit.full(graph).edges == graph.edges and len(Circuit.empty(graph)) == 0
    assert Circuit.from_edges(graph, []) == Circuit.empty(graph) and Circuit.empty(graph).nodes == ()


def test_a_comparison_names_shared_and_other_edges() -> None:
    a = Circuit.from_edges(SMALL, ["input->m0", "m0->logits", "input->logits"])
    b = Circuit.from_edges(SMALL, ["input->m1", "m0->logits"])
    result = a.compare(b)
    assert result.shared.edges == ("m0->logits",)
    assert result.only_here.edges == ("input->m0", "input->logits")
    assert result.only_there.edges == ("input->m1",)


@pytest.mark.parametrize("combine", ["__and__", "__or__", "__sub__", "compare"])
def test_circuits_of_different_graphs_do_not_mix(combine: str) -> None:
    a, b = Circuit.full(SMALL), Circuit.full(Graph(2, 2, parallel=True))
    with pytest.raises(ValueError, match=r"two circuits of one graph, got Graph\(.*parallel=False\) and Graph\(.*True"):
        getattr(a, combine)(b)
    assert a != b and Circuit.empty(a.graph) != Circuit.empty(b.graph)


def test_a_circuit_mixes_with_circuits_only() -> None:
    with pytest.raises(TypeError):
        Circuit.full(SMALL) & {"input->m0"}
    assert Circuit.full(SMALL) != set(SMALL.edges)


@pytest.mark.usefixtures("without_type_checks")
def test_a_circuit_is_compared_with_a_circuit_only() -> None:
    with pytest.raises(ValueError, match="compare: expected two circuits, got set; prune makes a circuit of scores"):
        Circuit.full(SMALL).compare(set(SMALL.edges))


def test_scores_of_the_left_stay_and_metadata_goes() -> None:
    left, right = (torch.full(SMALL.edge_mask.shape, value) * SMALL.edge_mask for value in (1.0, 2.0))
    a = Circuit(SMALL, SMALL.edge_mask, left, {"method": "eap"}, n_requested=5)
    b = Circuit(SMALL, SMALL.edge_mask, right)
    bare = Circuit.full(SMALL)
    assert torch.equal((a & b).scores, left) and torch.equal((~b).scores, right)
    assert torch.equal((bare - b).scores, right)
    assert (bare | bare).scores is None
    assert (a | b).metadata == {} and (a | b).n_requested is None
    assert a.live().metadata == {"method": "eap"} and a.live().n_requested == 5 and torch.equal(a.live().scores, left)


def test_nodes_are_those_a_kept_edge_touches() -> None:
    circuit = Circuit.from_edges(SMALL, ["a1.h1->logits", "input->a0.h1<k>", "a0.h0->m1"])
    assert circuit.nodes == ("input", "a0.h0", "a0.h1", "a1.h1", "m1", "logits")
    assert Circuit.from_edges(SMALL, ["input->m1"]).nodes == ("input", "m1")
    grouped = Circuit.from_edges(Graph(2, 4, n_kv_heads=2), ["input->a1.h1<k>"])
    assert grouped.nodes == ("input", "a1.h2", "a1.h3")


def test_a_circuit_is_immutable_and_copied_on_the_way_in() -> None:
    mask, metadata = SMALL.edge_mask.clone(), {"settings": {"k": 3}}
    scores = torch.zeros(mask.shape)
    circuit = Circuit(SMALL, mask, scores, metadata)
    mask[:], metadata["settings"]["k"] = False, 4
    scores += 1
    assert circuit == Circuit.full(SMALL) and circuit.metadata == {"settings": {"k": 3}} and not circuit.scores.any()
    with pytest.raises(AttributeError, match="cannot assign to field 'mask'"):
        circuit.mask = mask
    with pytest.raises(AttributeError, match="cannot delete field 'mask'"):
        del circuit.mask


def test_equal_circuits_hash_alike_whatever_they_carry() -> None:
    a, b = Circuit.full(SMALL), Circuit(SMALL, SMALL.edge_mask, metadata={"task": "ioi"}, n_requested=46)
    assert a == b and hash(a) == hash(b) and len({a, b, Circuit.empty(SMALL)}) == 2
    assert pickle.loads(pickle.dumps(b)) == b and copy.deepcopy(b).metadata == b.metadata


def test_a_circuit_shows_its_size() -> None:
    circuit = Circuit.from_edges(SMALL, ["input->logits"], n_requested=3)
    assert repr(circuit).startswith("Circuit(1 of 46 edges, 3 requested, Graph(n_layers=2, n_heads=2")


def test_unknown_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="impossible edge 'm1->m0': m1 is computed after m0 reads"):
        Circuit.from_edges(SMALL, ["input->m0", "m1->m0"])
    with pytest.raises(ValueError, match="names: expected several edge names, got the text 'input->m0'"):
        Circuit.from_edges(SMALL, "input->m0")
    with pytest.raises(ValueError, match="unknown destination 'm7': layer 7 is out of range"):
        assert "input->m7" in Circuit.full(SMALL)


REFUSED_MASKS = [
    (
        torch.ones_like(SMALL.edge_mask),
        "mask: expected True for edges alone, got 59 entries that are no edges, the first a0.h0->a0.h0<q>; give",
    ),
    (SMALL.edge_mask.float(), r"mask: expected a bool tensor of shape \(7, 15\) .*, got torch.float32 of shape"),
    (SMALL.edge_mask.T, r"got torch.bool of shape \(15, 7\)"),
    (None, "got NoneType"),
]


@pytest.mark.parametrize(("mask", "message"), REFUSED_MASKS)
def test_masks_that_do_not_fit_are_refused(mask: object, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=message):
        Circuit(SMALL, mask)


def test_scores_that_do_not_fit_are_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=r"scores: expected a tensor of shape \(7, 15\)"):
        Circuit(SMALL, SMALL.edge_mask, torch.zeros(15, 7))


def test_circuits_and_scores_come_back_from_their_files(tmp_path: Path) -> None:
    scored = ScoredGraph(SMALL, torch.rand(SMALL.edge_mask.shape) * SMALL.edge_mask, {"method": "random"})
    circuit = prune(scored, 20)
    circuit.save(tmp_path / "circuit.json")
    scored.save(tmp_path / "scores.json")
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert loaded == circuit and loaded.metadata == circuit.metadata and loaded.n_requested == 20
    assert torch.equal(loaded.scores[circuit.mask], circuit.scores[circuit.mask])
    assert loaded.scores[SMALL.edge_mask & ~circuit.mask].isnan().all() and not loaded.scores[~SMALL.edge_mask].any()
    assert ScoredGraph.load(tmp_path / "scores.json") == scored
    with pytest.raises(ValueError, match="scores.json"):
        Circuit.load(tmp_path / "scores.json")


# As a user looks at it


def test_heads_scores_and_tables_of_a_circuit() -> None:
    scores = torch.zeros(SMALL.edge_mask.shape)
    names = ["input->a0.h1<q>", "a0.h1->m1", "m1->logits", "a1.h0->logits"]
    for number, name in enumerate(names):
        scores[SMALL.edge_index(name)] = [1.0, -3.0, 2.0, 0.0][number]
    scores[SMALL.edge_index("m0->logits")] = 9.0
    circuit = Circuit.from_edges(SMALL, names, scores=scores, metadata={"model": "toy"}, n_requested=5)
    assert circuit.heads() == ("a0.h1", "a1.h0") and circuit.score("a0.h1->m1") == -3.0
    rows = (("a0.h1->m1", -3.0, "helps"), ("m1->logits", 2.0, "hurts"), ("input->a0.h1<q>", 1.0, "hurts"))
    assert circuit.table(3).rows == rows
    assert circuit.layers().columns == ("layer", "into q", "into k", "into v", "into MLP", "out of heads", "out of MLP")
    assert circuit.layers().rows == ((0, 1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 1, 1, 1))
    lines = str(circuit).splitlines()
    assert lines[:2] == ["Circuit of 4 of 46 edges (5 requested), 5 nodes: toy", "heads: a0.h1 a1.h0"]
    assert "helps" in str(circuit) and "m1-&gt;logits" in circuit._repr_svg_()
    with pytest.raises(ValueError, match="edge: expected an edge of the circuit, got 'm0->logits'"):
        circuit.score("m0->logits")
    with pytest.raises(ValueError, match="edge: expected a circuit with scores, got one without"):
        Circuit.full(SMALL).score("m0->logits")
    assert Circuit.full(SMALL).table(2).rows == tuple((name,) for name in SMALL.edges[:2])


def test_a_circuit_of_very_many_edges_is_not_drawn_in_a_notebook() -> None:
    assert Circuit.full(Graph(4, 12))._repr_svg_() is None


def test_a_circuit_of_a_large_model_is_a_small_file(tmp_path: Path) -> None:
    """32 layers of 32 heads, as a model of 7 billion parameters has: 1.6 million edges, of which 200 are written."""
    graph = Graph(32, 32)
    scored = ScoredGraph(graph, torch.rand(graph.edge_mask.shape) * graph.edge_mask)
    circuit = prune(scored, 200, strategy="greedy")
    circuit.save(tmp_path / "circuit.json")
    assert (tmp_path / "circuit.json").stat().st_size < 20_000
    loaded = Circuit.load(tmp_path / "circuit.json")
    assert loaded == circuit and all(loaded.score(edge) == circuit.score(edge) for edge in circuit)
