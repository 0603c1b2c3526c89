"""Bootstrap intervals against drawing groups one by one, and on cases where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.reference.universes import UNIVERSES, candidates
from edge_circuits.benchmarks.statistics.auc_interval import bootstrap_auc
from edge_circuits.benchmarks.statistics.roc_curves import roc_curve
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.scores import ScoredGraph

GRAPH = Graph(2, 2)
CIRCUIT = Circuit.from_edges(GRAPH, GRAPH.edges[::4])


def groups(n_groups: int, noise: float, seed: int = 0) -> Float[Tensor, "group source destination"]:
    """Scores that lean towards the circuit, plus noise of each group's own."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_groups, GRAPH.n_sources, GRAPH.n_destinations)
    draws = torch.randn(shape, generator=generator, dtype=torch.double)
    common = torch.randn(shape[1:], generator=generator, dtype=torch.double)
    return (common + CIRCUIT.mask + noise * draws) * GRAPH.edge_mask


@pytest.mark.parametrize("universe", UNIVERSES)
def test_equals_drawing_one_by_one(universe: str) -> None:
    per_group = groups(6, noise=2.0)
    interval = bootstrap_auc(per_group, CIRCUIT, universe=universe, n_resamples=40, seed=3)
    chosen = torch.randint(6, (40, 6), generator=torch.Generator().manual_seed(3))
    expected = [auc(sum(per_group[group] for group in row), universe) for row in chosen.tolist()]
    # Sums of six float64 scores in another order: no two scores come close enough to change places.
    assert np.allclose(interval.resamples, expected, rtol=0, atol=1e-12)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-12)
    assert interval.auc == pytest.approx(auc(per_group.sum(0), universe), abs=1e-12)


def auc(scores: Float[Tensor, "source destination"], universe: str) -> float:
    among = candidates(ScoredGraph(GRAPH, scores), CIRCUIT, universe)
    return roc_curve(among.labels, among.scores).auc


def test_equal_groups_leave_no_spread() -> None:
    interval = bootstrap_auc(groups(1, noise=0.0).expand(5, -1, -1), CIRCUIT, n_resamples=20)
    assert interval.low == pytest.approx(interval.auc, abs=1e-12)
    assert interval.high == pytest.approx(interval.auc, abs=1e-12)


def test_edges_without_a_score_stay_tied() -> None:
    interval = bootstrap_auc(torch.zeros(3, GRAPH.n_sources, GRAPH.n_destinations), CIRCUIT, n_resamples=5)
    assert (interval.auc, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_more_prompts_give_a_narrower_interval() -> None:
    few, many = (bootstrap_auc(groups(n, noise=3.0), CIRCUIT, n_resamples=200) for n in (4, 100))
    assert many.high - many.low < few.high - few.low


def test_the_seed_decides_and_many_resamples_take_several_chunks() -> None:
    per_group = groups(5, noise=2.0)
    first, again, other = (bootstrap_auc(per_group, CIRCUIT, n_resamples=70, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.resamples, again.resamples) and len(first.resamples) == 70
    assert not torch.equal(first.resamples, other.resamples)


def test_what_does_not_fit_is_refused(without_type_checks: None) -> None:
    per_group = groups(3, noise=1.0)
    with pytest.raises(
        ValueError, match=r"expected \[group source destination\] with the circuit's \(7, 15\), got \(7, 15\)"
    ):
        bootstrap_auc(per_group[0], CIRCUIT)
    with pytest.raises(
        ValueError, match="groups of prompts: expected a whole number from 2, got 1; use smaller groups"
    ):
        bootstrap_auc(per_group[:1], CIRCUIT)
    with pytest.raises(ValueError, match="n_resamples: expected a whole number from 2, got 1"):
        bootstrap_auc(per_group, CIRCUIT, n_resamples=1)
    with pytest.raises(ValueError, match="got 46 candidates and no positives"):
        bootstrap_auc(per_group, Circuit.empty(GRAPH))
    with pytest.raises(ValueError, match="scores: expected numbers, got .* NaN"):
        bootstrap_auc(per_group * torch.nan, CIRCUIT)
