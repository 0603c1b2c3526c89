"""The topology against a literal walk through a model, known counts, and refused nodes and edges."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.nodes import parse_edge


def walk(graph: Graph) -> list[str]:
    """The edges, found by computing the model node by node: a destination reads whatever is written by then."""
    written = ["input"]
    edges = []

    def read(destination: str, stream: list[str]) -> None:
        edges.extend(f"{source}->{destination}" for source in stream)

    for layer in range(graph.n_layers):
        before = list(written)
        for part in "qkv":
            n_heads = graph.n_heads if part == "q" or graph.n_kv_heads is None else graph.n_kv_heads
            for head in range(n_heads):
                read(f"a{layer}.h{head}<{part}>", before)
        written += [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        if graph.mlps:
            read(f"m{layer}", before if graph.parallel else written)
            written.append(f"m{layer}")
    read("logits", written)
    return edges


@pytest.mark.parametrize(
    ("graph", "n_sources", "n_destinations", "n_edges"),
    [
        pytest.param(Graph(12, 12), 157, 445, 32_491, id="GPT-2 small"),
        pytest.param(Graph(4, 8, mlps=False), 33, 97, 1_281, id="attn-only-4l"),
        # by hand: q, k, v and m0 see input, m0 also the head, logits see all three
        pytest.param(Graph(1, 1), 3, 5, 8, id="one head, sequential"),
        pytest.param(Graph(1, 1, parallel=True), 3, 5, 7, id="one head, parallel"),
        pytest.param(Graph(1, 1, mlps=False), 2, 4, 5, id="one head, no MLP"),
        # Qwen2-0.5B: 24 layers, 14 query and 2 key-value heads; layer l: 3*14 or 14+2*2 inputs see 1+15l sources
        pytest.param(Graph(24, 14), 361, 1_033, 43 * (24 + 15 * 276) + 24 * 14 + 361, id="Qwen2-0.5B, query heads"),
        pytest.param(
            Graph(24, 14, n_kv_heads=2), 361, 457, 19 * (24 + 15 * 276) + 24 * 14 + 361, id="Qwen2-0.5B, kv heads"
        ),
    ],
)
def test_counts_are_known(graph: Graph, n_sources: int, n_destinations: int, n_edges: int) -> None:
    assert (graph.n_sources, graph.n_destinations, graph.n_edges) == (n_sources, n_destinations, n_edges)
    assert (len(graph.sources), len(graph.destinations), len(graph.edges)) == (n_sources, n_destinations, n_edges)
    assert graph.edge_mask.shape == (n_sources, n_destinations)
    assert graph.edge_mask.sum() == n_edges


def test_one_layer_by_hand() -> None:
    graph = Graph(1, 2, n_kv_heads=1)
    assert graph.sources == ("input", "a0.h0", "a0.h1", "m0")
    assert graph.destinations == ("a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h0<v>", "m0", "logits")
    assert graph.n_visible.tolist() == [1, 1, 1, 1, 3, 4]
    assert graph.edges[:4] == ("input->a0.h0<q>", "input->a0.h1<q>", "input->a0.h0<k>", "input->a0.h0<v>")
    assert graph.edges[4:7] == ("input->m0", "a0.h0->m0", "a0.h1->m0")
    assert graph.edges[7:] == ("input->logits", "a0.h0->logits", "a0.h1->logits", "m0->logits")


def test_edges_and_their_order_are_those_of_a_walk_through_the_model(graph: Graph) -> None:
    assert list(graph.edges) == walk(graph)
    assert graph.edge_names(graph.edge_mask) == graph.edges


def test_names_and_places_agree(graph: Graph) -> None:
    assert [graph.source_index(name) for name in graph.sources] == list(range(graph.n_sources))
    assert [graph.destination_index(name) for name in graph.destinations] == list(range(graph.n_destinations))
    places = [graph.edge_index(name) for name in graph.edges]
    assert places == [(s, d) for d, s in graph.edge_mask.T.nonzero().tolist()]
    assert all(str(parse_edge(name)) == name for name in graph.edges)


def test_slices_find_the_nodes_they_name(graph: Graph) -> None:
    for layer in range(graph.n_layers):
        heads = range(graph.n_heads)
        assert graph.sources[graph.head_sources(layer)] == tuple(f"a{layer}.h{head}" for head in heads)
        for part, n_part in graph.n_parts.items():
            expected = tuple(f"a{layer}.h{head}<{part}>" for head in range(n_part))
            assert graph.destinations[graph.part_destinations(layer, part)] == expected
        if graph.mlps:
            assert graph.sources[graph.mlp_source(layer)] == f"m{layer}"
            assert graph.destinations[graph.mlp_destination(layer)] == f"m{layer}"


def test_destinations_of_a_source(graph: Graph) -> None:
    group = graph.n_heads // (graph.n_kv_heads or graph.n_heads)
    for source, name in enumerate(graph.sources):
        found = [graph.destinations[destination] for destination in graph.destinations_of(source)]
        if name == "input":
            assert found == []
        elif name.startswith("m"):
            assert found == [name]
        else:
            layer, head = name.split(".h")
            kv_head = int(head) // group
            assert found == [f"{name}<q>", f"{layer}.h{kv_head}<k>", f"{layer}.h{kv_head}<v>"]


def test_the_nodes_of_a_destination_are_those_that_have_it(graph: Graph) -> None:
    for destination in range(graph.n_destinations):
        having = [source for source in range(graph.n_sources) if destination in graph.destinations_of(source)]
        assert list(graph.nodes_of(destination)) == having
        assert graph.n_seen(destination) == graph.n_visible[destination]


def test_a_large_model_is_quick_because_edge_names_wait() -> None:
    graph = Graph(80, 64, n_kv_heads=8)
    assert graph.edge_mask.sum() == graph.n_edges == 16_654_201
    assert graph.edge_index("a0.h63->a79.h7<v>") == (64, graph.part_destinations(79, "v").stop - 1)
    assert "edges" not in vars(graph)


def test_a_graph_is_a_value() -> None:
    graph = Graph(2, 4)
    assert graph.edges and graph == Graph(2, 4) and hash(graph) == hash(Graph(2, 4))
    assert graph not in (Graph(2, 4, parallel=True), Graph(2, 4, mlps=False), Graph(2, 4, n_kv_heads=2))
    assert pickle.loads(pickle.dumps(graph)) == graph
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.n_layers = 3


def test_equal_topologies_are_equal_graphs() -> None:
    assert Graph(2, 4, n_kv_heads=4) == Graph(2, 4) and Graph(2, 4, n_kv_heads=4).n_kv_heads is None
    assert [Graph(2, 4, n).kv_destinations for n in (None, 2, 4)] == ["query-head", "kv-head", "query-head"]
    assert Graph(2, 4, mlps=False, parallel=True) == Graph(2, 4, mlps=False)


REFUSED_GRAPHS = [
    ({"n_layers": 0, "n_heads": 2}, "n_layers: expected a whole number from 1, got 0"),
    ({"n_layers": 2, "n_heads": -1}, "n_heads: expected a whole number from 1, got -1"),
    ({"n_layers": 2.0, "n_heads": 1}, "n_layers: expected a whole number from 1, got 2.0"),
    ({"n_layers": True, "n_heads": 1}, "n_layers: expected a whole number from 1, got True"),
    ({"n_layers": 2, "n_heads": 4, "n_kv_heads": 0}, "n_kv_heads: expected a whole number from 1, got 0"),
    ({"n_layers": 2, "n_heads": 4, "n_kv_heads": 3}, "n_kv_heads: expected a divisor of n_heads=4, got 3"),
    ({"n_layers": 2, "n_heads": 4, "n_kv_heads": 8}, "n_kv_heads: expected a divisor of n_heads=4, got 8"),
    ({"n_layers": 2, "n_heads": 4, "mlps": 1}, "mlps: expected True or False, got 1"),
    ({"n_layers": 2, "n_heads": 4, "parallel": None}, "parallel: expected True or False, got None"),
]


@pytest.mark.parametrize(("shape", "message"), REFUSED_GRAPHS)
def test_an_impossible_shape_is_refused(shape: dict, message: str, without_type_checks: None) -> None:
    with pytest.raises(ValueError) as caught:
        Graph(**shape)
    assert str(caught.value) == message


SEQUENTIAL = Graph(3, 4)
GROUPED = Graph(3, 4, n_kv_heads=2)
REFUSED_EDGES = [
    (SEQUENTIAL, "a2.h1->a1.h0<q>", "impossible edge 'a2.h1->a1.h0<q>': a2.h1 is computed after a1.h0<q> reads"),
    (SEQUENTIAL, "m2->m0", "m2 is computed after m0 reads"),
    (SEQUENTIAL, "m1->m1", "m1 is computed after m1 reads: an MLP does not feed itself"),
    (SEQUENTIAL, "m1->a1.h0<q>", "m1 is computed after a1.h0<q> reads"),
    (SEQUENTIAL, "a1.h0->a1.h0<k>", "heads of one layer do not feed each other"),
    (SEQUENTIAL, "a1.h0->a1.h3<v>", "a1.h0 is not computed before a1.h3<v> reads"),
    (Graph(3, 4, parallel=True), "a1.h0->m1", "blocks are parallel, m1 reads the same stream as the heads"),
    (SEQUENTIAL, "a3.h0->logits", "unknown source 'a3.h0': layer 3 is out of range, there are 3 layers: 0 to 2"),
    (SEQUENTIAL, "a0.h4->logits", "unknown source 'a0.h4': head 4 is out of range, there are 4 heads: 0 to 3"),
    (SEQUENTIAL, "m0->a1.h4<k>", "unknown destination 'a1.h4<k>': head 4 is out of range, there are 4 heads: 0 to 3"),
    (SEQUENTIAL, "m0->m9", "unknown destination 'm9': layer 9 is out of range"),
    (SEQUENTIAL, "m0->a1.h0", "a head reads with <q>, <k> and <v>; expected one of 'a1.h0<q>'"),
    (SEQUENTIAL, "a0.h0<q>->m1", "a head writes once"),
    (SEQUENTIAL, "logits->m1", "logits only read the residual stream"),
    (SEQUENTIAL, "m0->input", "input only writes"),
    (SEQUENTIAL, "blocks.0->m1", "unknown source 'blocks.0': expected 'input'"),
    (SEQUENTIAL, "m0", "expected 'source->destination'"),
    (SEQUENTIAL, 7, "unknown edge 7"),
    (GROUPED, "m0->a1.h2<k>", "<k> is per key-value head here, there are 2 key-value heads: 0 to 1"),
    (GROUPED, "m0->a1.h3<v>", "unknown destination 'a1.h3<v>': <v> is per key-value head here"),
    (GROUPED, "m0->a1.h4<q>", "head 4 is out of range, there are 4 heads: 0 to 3"),
    (Graph(3, 4, n_kv_heads=1), "m0->a1.h1<k>", "there is only key-value head 0"),
    (Graph(1, 4), "m1->logits", "layer 1 is out of range, there is only layer 0"),
    (Graph(3, 4, mlps=False), "m0->logits", "unknown source 'm0': the model has no MLPs"),
    (Graph(3, 4, mlps=False), "input->m0", "unknown destination 'm0': the model has no MLPs"),
]


@pytest.mark.parametrize(("graph", "edge", "message"), REFUSED_EDGES)
def test_an_impossible_edge_is_refused_with_the_reason(
    graph: Graph, edge: str, message: str, without_type_checks: None
) -> None:
    with pytest.raises(ValueError) as caught:
        graph.edge_index(edge)
    assert message in str(caught.value) and f"edge {edge!r}" in str(caught.value)


def test_every_pair_of_nodes_is_an_edge_or_refused_as_impossible(graph: Graph) -> None:
    edges = set(walk(graph))
    for source in graph.sources:
        for destination in graph.destinations:
            name = f"{source}->{destination}"
            if name in edges:
                s, d = graph.edge_index(name)
                assert graph.edge_mask[s, d]
            else:
                with pytest.raises(ValueError, match="^impossible edge"):
                    graph.edge_index(name)


@pytest.mark.parametrize("name", [None, 3, ["m0"]])
def test_a_node_name_is_a_text(name: object, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="unknown source"):
        SEQUENTIAL.source_index(name)
    with pytest.raises(ValueError, match="unknown destination"):
        SEQUENTIAL.destination_index(name)


def test_an_unknown_choice_of_key_value_destinations_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="kv_destinations: expected one of 'query-head', 'kv-head', got 'kv'"):
        Graph.from_model(object(), kv_destinations="kv")


def test_tensors_are_made_once() -> None:
    graph = Graph(2, 2)
    assert graph.edge_mask is graph.edge_mask and graph.n_visible is graph.n_visible
    assert graph.n_visible.dtype == torch.int64 and graph.edge_mask.dtype == torch.bool
