"""How a sample of edges is extrapolated to all; the times themselves are no matter for tests."""

from __future__ import annotations

import pytest

from edge_circuits.benchmarks.speed import edges as speed_edges
from edge_circuits.graphs import Graph

GRAPH = Graph(12, 12)


def test_equal_times_add_up_to_the_number_of_edges() -> None:
    seconds = {kind: dict.fromkeys(speed_edges.LAYERS, 2.0) for kind in ("q", "k", "v", "mlp")} | {"logits": {12: 2.0}}
    assert speed_edges.extrapolated(GRAPH, seconds) == pytest.approx(2.0 * GRAPH.n_edges)


@pytest.mark.parametrize("kind", ["q", "k", "v", "mlp", "logits"])
def test_each_kind_counts_its_own_edges(kind: str) -> None:
    seconds = {each: dict.fromkeys(speed_edges.LAYERS, float(each == kind)) for each in ("q", "k", "v", "mlp")}
    seconds["logits"] = {12: float(kind == "logits")}
    ends = {"q": "<q>", "k": "<k>", "v": "<v>", "logits": "logits"}
    n_edges = sum(
        edge.endswith(ends[kind]) if kind in ends else edge.split("->")[1].startswith("m") for edge in GRAPH.edges
    )
    assert speed_edges.extrapolated(GRAPH, seconds) == pytest.approx(n_edges)


def test_between_two_layers_lies_a_straight_line() -> None:
    assert speed_edges._between({0: 4.0, 2: 8.0}, 0) == 4.0
    assert speed_edges._between({0: 4.0, 2: 8.0}, 1) == 6.0
