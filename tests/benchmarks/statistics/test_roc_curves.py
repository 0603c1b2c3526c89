"""ROC curves against scikit-learn, against counting by hand, and on cases whose answer is known."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from jaxtyping import Bool, Float
from sklearn import metrics
from torch import Tensor

from edge_circuits.benchmarks.statistics.roc_curves import area_under_roc, rates, roc_curve, threshold_roc

EXACT = 1e-12  # rates and areas are quotients of small whole numbers, summed in float64


def case(seed: int, n: int = 60, n_values: int = 1000) -> tuple[Bool[Tensor, "candidate"], Float[Tensor, "candidate"]]:
    """Random labels with scores that lean their way; few values give many ties."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(n, generator=generator) < 0.3
    labels[:2] = torch.tensor([True, False])
    scores = torch.rand(n, generator=generator, dtype=torch.double) + 0.3 * labels
    return labels, (scores * n_values).round()


CASES = [case(seed, n_values=n_values) for seed in range(4) for n_values in (1000, 8, 2)]


def slow_auc(labels: Bool[Tensor, "candidate"], scores: Float[Tensor, "candidate"]) -> Fraction:
    """Share of pairs of a positive and a negative in which the positive scores higher, ties counting half."""
    positives, negatives = scores[labels].tolist(), scores[~labels].tolist()
    won = sum(Fraction(p > q) + Fraction(p == q, 2) for p in positives for q in negatives)
    return won / (len(positives) * len(negatives))


def slow_points(labels: Bool[Tensor, "candidate"], scores: Float[Tensor, "candidate"]) -> list[tuple[float, int, int]]:
    """For infinity and every distinct score: true and false positives among the candidates that reach it."""
    pairs = list(zip(labels.tolist(), scores.tolist()))
    thresholds = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    return [(t, sum(y for y, s in pairs if s >= t), sum(not y for y, s in pairs if s >= t)) for t in thresholds]


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_equals_scikit_learn(labels: Tensor, scores: Tensor) -> None:
    curve = roc_curve(labels, scores)
    assert curve.auc == pytest.approx(metrics.roc_auc_score(labels, scores), abs=EXACT)
    assert curve.average_precision == pytest.approx(metrics.average_precision_score(labels, scores), abs=EXACT)
    fpr, tpr, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert curve.false_positive_rates.tolist() == fpr.tolist()
    assert curve.true_positive_rates.tolist() == tpr.tolist()


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_equals_counting_by_hand(labels: Tensor, scores: Tensor) -> None:
    curve = roc_curve(labels, scores)
    n_positives = int(labels.sum())
    assert (curve.n_positives, curve.n_negatives) == (n_positives, len(labels) - n_positives)
    for index, (_, true, false) in enumerate(slow_points(labels, scores)):
        assert curve.n_selected[index] == true + false
        assert curve.true_positive_rates[index] == true / n_positives
        assert curve.false_positive_rates[index] == false / (len(labels) - n_positives)
    assert len(curve.n_selected) == index + 1
    assert curve.auc == pytest.approx(float(slow_auc(labels, scores)), abs=EXACT)


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_area_alone_equals_that_of_the_curve(labels: Tensor, scores: Tensor) -> None:
    batch = torch.stack([scores, -scores, scores.flip(0), torch.zeros_like(scores)]).unflatten(0, (2, 2))
    expected = [[roc_curve(labels, each).auc for each in row] for row in batch]
    assert torch.allclose(area_under_roc(labels, batch), torch.tensor(expected, dtype=torch.double), rtol=0, atol=EXACT)


def test_known_answers() -> None:
    labels = torch.tensor([True, True, False, False, False])
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    assert (roc_curve(labels, scores).auc, roc_curve(labels, scores).average_precision) == (1, 1)
    assert roc_curve(labels, -scores).auc == 0
    equal = roc_curve(labels, torch.ones(5))
    assert (equal.auc, len(equal.n_selected)) == (0.5, 2)
    assert equal.average_precision == pytest.approx(0.4, abs=EXACT)
    # Pairs won: 5 beats three, 2 beats one and ties with one.
    assert roc_curve(labels, torch.tensor([5.0, 2.0, 3.0, 2.0, 1.0])).auc == pytest.approx(4.5 / 6, abs=EXACT)


def test_infinite_scores_are_ranked_above_all() -> None:
    labels = torch.tensor([True, True, False, False])
    curve = roc_curve(labels, torch.tensor([torch.inf, 0.2, torch.inf, 0.1]))
    assert curve.auc == pytest.approx(2.5 / 4, abs=EXACT)
    assert curve.n_selected.tolist() == [0, 2, 3, 4]
    assert area_under_roc(labels, torch.tensor([torch.inf, 0.2, torch.inf, 0.1])).item() == 2.5 / 4


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_rates_at_k_are_those_expected_when_ties_are_drawn_by_lot(labels: Tensor, scores: Tensor) -> None:
    curve = roc_curve(labels, scores)
    for k in range(len(labels) + 1):
        expected = slow_at_k(labels, scores, k)
        point = curve.at_k(k)
        assert point.n_selected == k
        assert point.true_positive_rate * curve.n_positives == pytest.approx(expected, abs=1e-9)
        assert point.false_positive_rate * curve.n_negatives == pytest.approx(k - expected, abs=1e-9)


def slow_at_k(labels: Bool[Tensor, "candidate"], scores: Float[Tensor, "candidate"], k: int) -> float:
    """Expected number of positives among the k best: those above the k-th score, and a fair share of those at it."""
    if k == 0:
        return 0.0
    border = sorted(scores.tolist(), reverse=True)[k - 1]
    above, at = scores > border, scores == border
    return int((labels & above).sum()) + (k - int(above.sum())) * int((labels & at).sum()) / int(at.sum())


def test_points_by_hand() -> None:
    labels = torch.tensor([True, False, True, False, False])
    curve = roc_curve(labels, torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0]))
    best = curve.best_youden()
    assert best.n_selected == 3
    assert best.youden == pytest.approx(1 - 1 / 3, abs=EXACT)
    third = curve.at_k(3)
    assert third.true_positive_rate == 1
    assert third.youden == best.youden
    at_none, at_third = curve.at_false_positive_rate(0.0), curve.at_false_positive_rate(0.4)
    assert (at_none.true_positive_rate, at_none.n_selected) == (0.5, 1)
    assert (at_third.true_positive_rate, at_third.n_selected) == (1, 3)
    assert curve.at_false_positive_rate(1.0).n_selected == 5
    assert curve.at_k(0).youden == 0


@pytest.mark.parametrize(("labels", "scores"), CASES)
def test_best_youden_is_the_largest_of_all_thresholds(labels: Tensor, scores: Tensor) -> None:
    n_positives = int(labels.sum())
    n_negatives = len(labels) - n_positives
    expected = max(true / n_positives - false / n_negatives for _, true, false in slow_points(labels, scores))
    best = roc_curve(labels, scores).best_youden()
    assert best.youden == pytest.approx(expected, abs=EXACT)
    chosen = rates(labels, scores >= scores.sort(descending=True).values[best.n_selected - 1])
    assert (chosen.n_selected, chosen.youden) == (best.n_selected, pytest.approx(expected, abs=EXACT))


def test_rates_between_thresholds_are_not_counted() -> None:
    curve = roc_curve(torch.tensor([True, False, True, False]), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert curve.at_false_positive_rate(0.4).true_positive_rate == 0
    assert curve.at_k(1).true_positive_rate == 0.25


def test_rates_of_a_choice() -> None:
    labels = torch.tensor([True, True, False, False, False])
    point = rates(labels, torch.tensor([True, False, True, False, False]))
    assert (point.n_selected, point.true_positive_rate) == (2, 0.5)
    assert point.false_positive_rate == 1 / 3
    assert point.youden == pytest.approx(0.5 - 1 / 3, abs=EXACT)


@pytest.mark.parametrize("function", [roc_curve, area_under_roc, lambda labels, scores: rates(labels, scores > 1)])
def test_what_has_no_curve_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match="expected positives and negatives, got 3 candidates and no positives"):
        function(torch.zeros(3, dtype=torch.bool), torch.ones(3))
    with pytest.raises(ValueError, match="expected positives and negatives, got 3 candidates and no negatives"):
        function(torch.ones(3, dtype=torch.bool), torch.ones(3))


def test_nan_and_wrong_numbers_are_refused(without_type_checks: None) -> None:
    labels = torch.tensor([True, False, False])
    with pytest.raises(ValueError, match=r"expected one per candidate, got shapes \(3,\) and \(2,\)"):
        roc_curve(labels, torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="scores: expected numbers, got 1 NaN"):
        roc_curve(labels, torch.tensor([1.0, torch.nan, 2.0]))
    curve = roc_curve(labels, torch.tensor([1.0, 2.0, 3.0]))
    for k in (-1, 4):
        with pytest.raises(ValueError, match=f"k: expected a whole number from 0 to 3, got {k}"):
            curve.at_k(k)
    with pytest.raises(ValueError, match="rate: expected .*, got 1.5"):
        curve.at_false_positive_rate(1.5)


# Threshold methods


def double(*values: float) -> Float[Tensor, "point"]:
    return torch.tensor(values, dtype=torch.double)


def test_stairs_and_trapezoid_by_hand() -> None:
    # (0.1, 0.5) and (0.4, 0.8) are the front; (0.3, 0.4) is beaten by the first.
    roc = threshold_roc(double(0.8, 0.4, 0.5), double(0.4, 0.3, 0.1))
    assert roc.false_positive_rates.tolist() == [0, 0.1, 0.4, 1]
    assert roc.true_positive_rates.tolist() == [0, 0.5, 0.8, 1]
    assert roc.stairs_auc == pytest.approx(0.9 * 0.5 + 0.6 * 0.3, abs=EXACT)
    assert roc.trapezoid_auc == pytest.approx(0.1 * 0.25 + 0.3 * 0.65 + 0.6 * 0.9, abs=EXACT)


def test_stairs_by_hand_and_by_columns_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    tpr, fpr = torch.rand(2, 12, generator=generator, dtype=torch.double)
    roc = threshold_roc(tpr, fpr)
    points = [(0.0, 0.0), *zip(fpr.tolist(), tpr.tolist()), (1.0, 1.0)]
    borders = sorted({x for x, _ in points})
    columns = [(right - left) * max(y for x, y in points if x <= left) for left, right in itertools.pairwise(borders)]
    assert roc.stairs_auc == pytest.approx(sum(columns), abs=EXACT)
    assert roc.stairs_auc <= roc.trapezoid_auc


def test_points_that_tie_in_one_rate_stay_on_the_front() -> None:
    with_tie = threshold_roc(double(0.5, 0.5, 0.6), double(0.1, 0.2, 0.3))
    without = threshold_roc(double(0.5, 0.6), double(0.1, 0.3))
    assert len(with_tie.true_positive_rates) == len(without.true_positive_rates) + 1
    assert with_tie.stairs_auc == pytest.approx(without.stairs_auc, abs=EXACT)
    assert with_tie.trapezoid_auc == pytest.approx(without.trapezoid_auc - 0.5 * 0.1 * 0.1, abs=EXACT)


def test_perfect_useless_and_no_points() -> None:
    perfect = threshold_roc(double(1.0), double(0.0))
    assert (perfect.stairs_auc, perfect.trapezoid_auc) == (1, 1)
    none = threshold_roc(double(), double())
    assert (none.stairs_auc, none.trapezoid_auc) == (0, 0.5)
    useless = threshold_roc(double(0.0, 0.2), double(1.0, 0.9))
    assert useless.stairs_auc == pytest.approx(0.2 * 0.1, abs=EXACT)


def test_small_thresholds_are_dropped_and_unknown_ones_kept() -> None:
    tpr, fpr = double(0.5, 0.9, 0.2), double(0.1, 0.2, 0.0)
    thresholds = double(1e-6, 9e-7, torch.nan)
    kept = threshold_roc(tpr, fpr, thresholds)
    assert kept.true_positive_rates.tolist() == [0, 0.2, 0.5, 1]
    assert 0.9 in threshold_roc(tpr, fpr).true_positive_rates.tolist()


def test_wrong_points_are_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="thresholds: expected one for each of 2 points, got 1"):
        threshold_roc(double(0.5, 0.6), double(0.1, 0.2), double(0.1))
    with pytest.raises(ValueError, match="rates: expected numbers from 0 to 1, got 1.5"):
        threshold_roc(double(1.5), double(0.1))
    with pytest.raises(ValueError, match="rates: expected numbers from 0 to 1, got nan"):
        threshold_roc(double(0.5), double(torch.nan))
