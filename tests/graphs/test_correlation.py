"""Correlations by hand, against torch, and their intervals by drawing one sample after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edge_circuits.graphs.bootstrap import drawn_counts
from edge_circuits.graphs.correlation import agreement as measured
from edge_circuits.graphs.correlation import pearson, ranks, spearman


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pearson_by_hand() -> None:
    """Deviations (-1, 0, 1) and (-2, 1, 1): 3 / sqrt(2 * 6)."""
    assert pearson(torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 3, 3])).item() == pytest.approx(3 / 12**0.5)


def test_pearson_agrees_with_torch() -> None:
    x, y = values(4, 30), values(4, 30, seed=1)
    expected = [torch.corrcoef(torch.stack((a, b)))[0, 1].item() for a, b in zip(x, y)]
    assert pearson(x, y).tolist() == pytest.approx(expected, abs=1e-12)


def test_pearson_of_tiny_values_is_not_lost() -> None:
    x, y = values(30), values(30, seed=1)
    assert pearson(x * 1e-200, y).item() == pytest.approx(pearson(x, y).item())


def test_ranks_share_ties() -> None:
    assert ranks(torch.tensor([[3.0, 1, 3, 0], [2, 2, 2, 2]])).tolist() == [[2.5, 1, 2.5, 0], [1.5] * 4]


def test_spearman_by_hand() -> None:
    """Ranks (0, 1, 2, 3) and (0, 2, 1, 3): 1 - 6 * 2 / (4 * 15)."""
    assert spearman(torch.tensor([1.0, 2, 3, 4]), torch.tensor([-9.0, 5, 0, 1000])).item() == pytest.approx(0.8)


def test_spearman_with_ties_is_pearson_of_counted_ranks() -> None:
    x, y = values(40).round(), values(40, seed=1).round()
    by_counting = [torch.stack([(v < each).sum() + ((v == each).sum() - 1) / 2 for each in v]) for v in (x, y)]
    assert spearman(x, y).item() == pytest.approx(torch.corrcoef(torch.stack(by_counting))[0, 1].item())


def test_a_constant_side_has_no_correlation() -> None:
    assert pearson(torch.full((5,), 0.1), values(5).float()).isnan()
    found = measured(torch.zeros(3, 6), values(3, 6))
    assert found.pearson.value is None and found.spearman.low is None and found.r_squared is None and found.slope == 0


def test_slope_and_r_squared_are_of_least_squares() -> None:
    exact = values(1, 50)
    estimates = 3 + 0.5 * exact + 0.3 * values(1, 50, seed=1)
    design = torch.stack((torch.ones(50).double(), exact[0]), dim=1)
    line = torch.linalg.lstsq(design, estimates[0]).solution
    found = measured(estimates, exact)
    residual = (estimates[0] - design @ line).square().sum() / (estimates[0] - estimates[0].mean()).square().sum()
    assert (found.intercept, found.slope) == pytest.approx(tuple(line.tolist()))
    assert found.r_squared == pytest.approx(1 - residual.item())


def test_sizes_are_taken_after_groups_are_added_up() -> None:
    exact = torch.tensor([[1.0, 4, -2], [-3, 1, 0]]).double()  # sums -2, 5, -2
    assert measured(exact.abs(), exact, by_size=True).pearson.value == pytest.approx(
        pearson(torch.tensor([4.0, 5, 2]), torch.tensor([2.0, 5, 2])).item()
    )


def test_bootstrap_is_seeded_and_draws_whole_groups() -> None:
    drawn = drawn_counts(5, 100, seed=3)
    assert torch.equal(drawn, drawn_counts(5, 100, seed=3)) and not torch.equal(drawn, drawn_counts(5, 100, seed=4))
    assert (drawn.sum(1) == 5).all() and drawn.max() > 1
    sides = values(6, 20), values(6, 20, seed=1)
    assert measured(*sides, seed=1) == measured(*sides, seed=1) != measured(*sides, seed=2)


def test_interval_is_of_the_drawn_samples() -> None:
    estimates, exact = values(4, 15), values(4, 15, seed=1)
    samples = [pearson(weights @ estimates, weights @ exact).item() for weights in drawn_counts(4, 200, 0)]
    expected = torch.tensor(samples).double().quantile(torch.tensor([0.05, 0.95]).double()).tolist()
    found = measured(estimates, exact, n_resamples=200, confidence=0.9).pearson
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.value == pytest.approx(pearson(estimates.sum(0), exact.sum(0)).item())


def test_one_group_has_no_interval() -> None:
    found = measured(values(1, 9), values(1, 9, seed=1)).pearson
    assert found.value is not None and found.low is None and found.high is None


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("sides", "settings", "message"),
    [
        ((values(2, 3), values(2, 4)), {}, r"two of \[group value\] .*got \(2, 3\) and \(2, 4\)"),
        ((values(2, 0), values(2, 0)), {}, "at least one value"),
        ((values(2, 3), values(2, 3)), {"n_resamples": 1}, "n_resamples: expected a whole number from 2, got 1"),
        ((values(2, 3), values(2, 3)), {"confidence": 1.0}, "confidence: expected .*, got 1.0"),
    ],
)
def test_bad_correlations_are_refused(sides: tuple, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measured(*sides, **settings)
