"""How well estimates agree with exact values: correlations, and how far they depend on the prompts.

Both sides come as what each group of prompts adds to a mean over all prompts, so that the values of any other sample of the
same groups are one matrix product away and no model runs again. The interval is the percentile interval of such
samples, taken from both sides together: the same groups are drawn for the estimates and for the exact values.

Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.bootstrap import N_RESAMPLES, drawn_counts, percentiles
from edge_circuits.graphs.checks import between_0_and_1, refusal, whole_number

CHUNK = 32
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measured:
    """A figure with its interval; None where there is none (a side is constant, or there is a single group)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Estimates against exact values.

    Attributes:
        n: Number of values, e.g. edges.
        pearson: Of the values.
        spearman: Of their ranks, ties sharing the mean rank.
        slope: Of the least squares line `estimate = intercept + slope * exact`; 1 for an unbiased estimate. None if
            the exact values are all equal.
        intercept: Of the same line.
    """

    n: int
    pearson: Measured
    spearman: Measured
    slope: float | None
    intercept: float | None

    @property
    def r_squared(self) -> float | None:
        """Share of the estimates' variance that the line explains."""
        return None if self.pearson.value is None else self.pearson.value**2


def agreement(
    estimates: Float[Tensor, "group value"],
    exact: Float[Tensor, "group value"],
    *,
    by_size: bool = False,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Agreement:
    """Correlations of the sums over all groups, with bootstrap intervals over groups.

    Args:
        estimates: What each group of prompts adds to the mean over all.
        exact: The same for what is estimated.
        by_size: Compare absolute values, for estimates without a sign.
        n_resamples: Number of draws.
        confidence: Share of the draws inside the intervals.
        seed: The draws depend on it and on the number of groups alone.

    Raises:
        ValueError: The sides differ in shape, there is no value, or a number is out of range.
    """
    _check(estimates, exact, n_resamples, confidence)
    sides = [side.detach().cpu().double() for side in (estimates, exact)]

    def totals(weights: Float[Tensor, "draw group"]) -> list[Float[Tensor, "draw value"]]:
        return [(weights @ side).abs() if by_size else weights @ side for side in sides]

    estimate, value = (total[0] for total in totals(torch.ones(1, len(exact), dtype=torch.float64)))
    drawn = [totals(chunk) for chunk in drawn_counts(len(exact), n_resamples, seed).split(CHUNK)]
    varies = bool(value.max() > value.min())

    def told(measure: Callable[[Tensor, Tensor], Tensor]) -> Measured:
        resamples = torch.cat([measure(*both) for both in drawn])
        return _measured(measure(estimate, value), resamples, confidence, len(exact))

    slope = (_centred(estimate) @ _centred(value) / _centred(value).square().sum()).item() if varies else None
    return Agreement(
        n=exact.shape[1],
        pearson=told(pearson),
        spearman=told(spearman),
        slope=slope,
        intercept=None if slope is None else (estimate.mean() - slope * value.mean()).item(),
    )


def pearson(x: Float[Tensor, "*batch value"], y: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Pearson's correlation along the last axis; NaN where a side is constant."""
    a, b = _unit(x), _unit(y)
    return (a * b).sum(-1).clamp(-1, 1)


def spearman(x: Float[Tensor, "*batch value"], y: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch"]:
    """Pearson's correlation of the ranks; NaN where a side is constant."""
    return pearson(ranks(x), ranks(y))


def ranks(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """Ranks from 0 along the last axis; equal values share the mean of their ranks."""
    ordered, order = x.sort(dim=-1)
    place = torch.arange(x.shape[-1], device=x.device).expand(x.shape)
    is_new = torch.ones_like(x, dtype=torch.bool)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    is_last = torch.ones_like(is_new)
    is_last[..., :-1] = is_new[..., 1:]
    first = place.where(is_new, 0).cummax(-1).values
    last = place.where(is_last, x.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    shared = (first + last).double() / 2
    return torch.empty_like(shared).scatter_(-1, order, shared)


def _centred(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    return x - x.mean(-1, keepdim=True)


def _unit(x: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
    """Centred, of length one; NaN where all values are equal."""
    constant = x.amax(-1, keepdim=True) == x.amin(-1, keepdim=True)
    x = _centred(x / x.abs().amax(-1, keepdim=True))  # scaled first, so that squares of tiny scores are not zero
    return (x / x.norm(dim=-1, keepdim=True)).masked_fill(constant, torch.nan)


def _measured(value: Tensor, drawn: Float[Tensor, "draw"], confidence: float, n_groups: int) -> Measured:
    if value.isnan():
        return Measured(None, None, None)
    if n_groups < 2 or drawn.isnan().all():
        return Measured(value.item(), None, None)
    return Measured(value.item(), *percentiles(drawn, confidence).tolist())


def _check(estimates: Tensor, exact: Tensor, n_resamples: int, confidence: float) -> None:
    if estimates.shape != exact.shape or exact.ndim != 2 or not exact.numel():
        shapes = f"{tuple(estimates.shape)} and {tuple(exact.shape)}"
        raise refusal("estimates and exact", "two of [group value] with at least one value", shapes)
    whole_number("n_resamples", n_resamples, 2)
    between_0_and_1("confidence", confidence)
