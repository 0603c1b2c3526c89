"""ROC curves: how well scores, or a method with a threshold, tell the edges of a known circuit from the others.

Two kinds of methods need two kinds of curves, and their areas are not to be compared with each other:

- A method that scores every edge gives one point per distinct score, ties taken together, joined by straight lines
  (`roc_curve`). The area is the probability that an edge of the circuit scores above another edge, a tie counting half.
- A method that returns one circuit per threshold, as ACDC does, gives a few scattered points (`threshold_roc`). The
  ACDC paper keeps the points on the Pareto front and takes the area under the lower stairs; the trapezoid on the same
  front is given beside it.

References: Fawcett 2006, An introduction to ROC analysis; Conmy et al. 2023 (arXiv 2304.14997), section 4.1 and
appendix on ROC curves; Youden 1950, Index for rating diagnostic tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.checks import number, refusal, whole_number

LEAST_THRESHOLD = 1e-6


@dataclass(frozen=True)
class OperatingPoint:
    """What one choice of edges gets right.

    Attributes:
        n_selected: Number of candidates chosen.
        true_positive_rate: Share of the circuit's candidates that are chosen.
        false_positive_rate: Share of the other candidates that are chosen.
    """

    n_selected: int
    true_positive_rate: float
    false_positive_rate: float

    @property
    def youden(self) -> float:
        """Youden's J: true minus false positive rate; 1 for the circuit itself, 0 for a choice at random."""
        return self.true_positive_rate - self.false_positive_rate


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The exact ROC curve of scores, one point per distinct score.

    Attributes:
        n_selected: How many candidates score at least the threshold, which falls through all scores; first none. [threshold]
        true_positive_rates: From 0 to 1. [threshold]
        false_positive_rates: From 0 to 1. [threshold]
        auc: Area under the curve; 0.5 for scores that are all equal.
        average_precision: Mean precision over the circuit's candidates, in steps without interpolation.
        n_positives: Candidates in the circuit.
        n_negatives: Other candidates.
    """

    n_selected: Int[Tensor, "threshold"]
    true_positive_rates: Float[Tensor, "threshold"]
    false_positive_rates: Float[Tensor, "threshold"]
    auc: float
    average_precision: float
    n_positives: int
    n_negatives: int

    def at_k(self, k: int) -> OperatingPoint:
        """The rates when the k candidates of highest score are chosen.

        When the k-th score is shared by several candidates, the rates are those expected when the last places go to
        them by lot, so they do not depend on the order of candidates.

        Raises:
            ValueError: k is negative or larger than the number of candidates.
        """
        n = self.n_positives + self.n_negatives
        whole_number("k", k, 0, n, f"there are {n} candidates")
        after = int((self.n_selected < k).sum())
        before = max(after - 1, 0)
        step = int(self.n_selected[after] - self.n_selected[before])
        share = (k - int(self.n_selected[before])) / step if step else 0.0
        rates = [
            torch.lerp(r[before], r[after], share).item() for r in (self.true_positive_rates, self.false_positive_rates)
        ]
        return OperatingPoint(k, *rates)

    def at_false_positive_rate(self, rate: float) -> OperatingPoint:
        """The point with the most true positives among thresholds whose false positive rate is at most `rate`.

        Points between thresholds are not counted: no choice of a threshold reaches them.

        Raises:
            ValueError: The rate is not between 0 and 1.
        """
        number("rate", rate, least=0, most=1)
        return self._point(int((self.false_positive_rates <= rate).sum()) - 1)

    def best_youden(self) -> OperatingPoint:
        """The threshold with the largest Youden's J, the highest one if several have it."""
        return self._point(int((self.true_positive_rates - self.false_positive_rates).argmax()))

    def _point(self, index: int) -> OperatingPoint:
        rates = self.true_positive_rates[index].item(), self.false_positive_rates[index].item()
        return OperatingPoint(int(self.n_selected[index]), *rates)


def roc_curve(labels: Bool[Tensor, "candidate"], scores: Float[Tensor, "candidate"]) -> RocCurve:
    """The exact ROC curve over all thresholds, by scikit-learn.

    Scores may be infinite (an edge that every threshold keeps). They are replaced by their ranks first, equal scores by
    equal ranks, which changes neither curve nor areas.

    Args:
        labels: True for candidates of the circuit.
        scores: Larger: rather in the circuit. Take absolute values before, where the sign does not matter.

    Raises:
        ValueError: There are no positives or no negatives, a score is NaN, or the lengths differ.
    """
    from sklearn import metrics

    _check(labels, scores)
    _, ranks = torch.unique(scores.double(), return_inverse=True)
    labels, ranks = labels.cpu(), ranks.cpu()
    n_positives = int(labels.sum())
    n_negatives = len(labels) - n_positives
    fpr, tpr, _ = metrics.roc_curve(labels.numpy(), ranks.numpy(), drop_intermediate=False)
    rates = torch.tensor(fpr, dtype=torch.double), torch.tensor(tpr, dtype=torch.double)
    n_selected = (rates[0] * n_negatives).round() + (rates[1] * n_positives).round()
    return RocCurve(
        n_selected=n_selected.long(),
        true_positive_rates=rates[1],
        false_positive_rates=rates[0],
        auc=float(metrics.auc(fpr, tpr)),
        average_precision=float(metrics.average_precision_score(labels.numpy(), ranks.numpy())),
        n_positives=n_positives,
        n_negatives=n_negatives,
    )


def area_under_roc(
    labels: Bool[Tensor, "candidate"], scores: Float[Tensor, "*batch candidate"]
) -> Float[Tensor, "*batch"]:
    """The area of `roc_curve` alone, for many score vectors at once: the Mann-Whitney statistic.

    The share of pairs of a positive and a negative in which the positive scores higher, ties counting half. It sorts
    the negatives of each vector and looks up the positives: n log n per vector.

    Raises:
        ValueError: As for `roc_curve`.
    """
    _check(labels, scores)
    negatives = scores[..., ~labels].detach().cpu().contiguous()
    negatives = torch.from_numpy(np.sort(negatives.numpy(), axis=-1))  # several times faster than torch.sort
    positives = scores[..., labels].detach().cpu().contiguous()
    below = torch.searchsorted(negatives, positives)
    not_above = torch.searchsorted(negatives, positives, right=True)
    n_pairs = positives.shape[-1] * negatives.shape[-1]
    return (below + not_above).sum(-1).double() / (2 * n_pairs)


def rates(labels: Bool[Tensor, "candidate"], selected: Bool[Tensor, "candidate"]) -> OperatingPoint:
    """The rates of a choice of candidates, such as one circuit of a threshold method.

    Raises:
        ValueError: There are no positives or no negatives, or the lengths differ.
    """
    _check(labels, selected)
    true_positives, false_positives = int((selected & labels).sum()), int((selected & ~labels).sum())
    n_positives = int(labels.sum())
    return OperatingPoint(
        n_selected=true_positives + false_positives,
        true_positive_rate=true_positives / n_positives,
        false_positive_rate=false_positives / (len(labels) - n_positives),
    )


@dataclass(frozen=True, eq=False)
class ThresholdRoc:
    """The ROC of a method that gives one point per threshold: the Pareto front and the two areas under it.

    Attributes:
        true_positive_rates: Of the front, rising, (0, 0) and (1, 1) included where they belong to it. [point]
        false_positive_rates: Of the front, rising. [point]
        stairs_auc: Pessimistic area, as the ACDC paper reports it: between two points nothing is gained before the
            second, so the area is the sum of (1 - false positive rate) x rise. A lower bound.
        trapezoid_auc: Area with neighbouring points of the front joined by straight lines, from (0, 0) to (1, 1).
    """

    true_positive_rates: Float[Tensor, "point"]
    false_positive_rates: Float[Tensor, "point"]
    stairs_auc: float
    trapezoid_auc: float


def threshold_roc(
    true_positive_rates: Float[Tensor, "point"],
    false_positive_rates: Float[Tensor, "point"],
    thresholds: Float[Tensor, "point"] | None = None,
) -> ThresholdRoc:
    """The areas under the points of a threshold method, in the ACDC paper's convention and as a trapezoid.

    The end points (0, 0), nothing chosen, and (1, 1), everything chosen, are added. A point leaves the front when
    another has both a lower false positive rate and a higher true positive rate; points that tie in one of the two
    stay, which does not matter to the stairs.

    Args:
        true_positive_rates: One per threshold, in any order.
        false_positive_rates: One per threshold.
        thresholds: The thresholds; None: keep all points. Points of thresholds below `LEAST_THRESHOLD` are dropped, as the
            paper does: the sweep decides there by float noise. A threshold that is NaN keeps its point.

    Raises:
        ValueError: The lengths differ, or a rate is not between 0 and 1.
    """
    points = torch.stack([_checked_rates(false_positive_rates), _checked_rates(true_positive_rates)], dim=-1)
    if thresholds is not None:
        if len(thresholds) != len(points):
            raise refusal("thresholds", f"one for each of {len(points)} points", len(thresholds))
        points = points[~(thresholds < LEAST_THRESHOLD)]
    ends = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.double)
    points = torch.cat([points, ends])
    fpr, tpr = points.unbind(-1)
    is_beaten = ((fpr < fpr[:, None]) & (tpr > tpr[:, None])).any(1)
    fpr, tpr = points[~is_beaten].unique(dim=0).unbind(-1)
    rise = tpr.diff(prepend=torch.zeros(1, dtype=torch.double))
    return ThresholdRoc(
        true_positive_rates=tpr,
        false_positive_rates=fpr,
        stairs_auc=float(((1 - fpr) * rise).sum()),
        trapezoid_auc=float(torch.trapezoid(tpr, fpr)),
    )


def _checked_rates(values: Float[Tensor, "point"]) -> Float[Tensor, "point"]:
    values = torch.as_tensor(values, dtype=torch.double)
    if len(wrong := values[~((values >= 0) & (values <= 1))]):
        raise refusal("rates", "numbers from 0 to 1", wrong[0].item())
    return values


def _check(labels: Tensor, scores: Tensor) -> None:
    """Refuse what has no ROC curve.

    Raises:
        ValueError: There are no positives or no negatives, a score is NaN, or the lengths differ.
    """
    if scores.shape[-1:] != labels.shape:
        shapes = f"shapes {tuple(labels.shape)} and {tuple(scores.shape)}"
        raise refusal("labels and scores", "one per candidate", shapes)
    for kind, missing in (("positives", ~labels), ("negatives", labels)):
        if missing.all():
            remedy = "check the circuit and the universe of edges"
            raise refusal("labels", "positives and negatives", f"{len(labels)} candidates and no {kind}", remedy)
    if scores.isnan().any():
        raise refusal("scores", "numbers", f"{int(scores.isnan().sum())} NaN", "mend the metric or score again")
