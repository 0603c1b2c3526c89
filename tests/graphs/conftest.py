"""Graphs of every family, small, and what tests of the topology share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

from edge_circuits.graphs.graph import Graph

RandomMask = Callable[[Graph, float, int], Bool[Tensor, "source destination"]]

FAMILIES = {
    "smallest": Graph(1, 1),
    "sequential": Graph(3, 2),
    "parallel": Graph(3, 2, parallel=True),
    "attention-only": Graph(3, 3, mlps=False),
    "grouped": Graph(2, 4, n_kv_heads=2),
    "one-kv-head": Graph(3, 3, n_kv_heads=1, parallel=True),
    "grouped-attention-only": Graph(3, 4, n_kv_heads=2, mlps=False),
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def graph(request: pytest.FixtureRequest) -> Graph:
    """One small graph of each family."""
    return request.param


@pytest.fixture
def random_mask() -> RandomMask:
    """A function of graph, density and seed: each edge is kept with the same probability."""

    def make(graph: Graph, density: float, seed: int) -> Bool[Tensor, "source destination"]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(graph.edge_mask.shape, generator=generator) < density) & graph.edge_mask

    return make
