"""Scores as other samples of prompts would have given them; no model runs again.

A score is a sum over prompts, so what each group of prompts adds to it is enough:

1. draw as many groups as there are, with replacement, many times;
2. add up what the groups drawn add, which is one matrix product.

Groups should be alike: of equal size, each a mixture of the prompts, best one prompt each.

Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.scores import ScoredGraph

N_RESAMPLES = 1000
CHUNK = 64


def drawn_counts(n_groups: int, n_resamples: int, seed: int) -> Float[Tensor, "resample group"]:
    """How often each group is drawn in each resample; every row adds up to the number of groups."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(n_groups, (n_resamples, n_groups), generator=generator)
    return torch.zeros(n_resamples, n_groups, dtype=torch.float64, device="cpu").scatter_add_(
        1, chosen, torch.ones(chosen.shape, dtype=torch.float64, device="cpu")
    )


def edge_groups(scored: ScoredGraph) -> Float[Tensor, "group edge"]:
    """What each group of prompts adds to each edge's score, in edge order, in float64.

    Raises:
        ValueError: The scores are without groups, or with fewer than two.
    """
    if scored.per_group is None or len(scored.per_group) < 2:
        n_groups = "none" if scored.per_group is None else len(scored.per_group)
        remedy = "score with edge_circuits.score_groups, or give ScoredGraph per_group="
        raise refusal("graph", "scores kept group by group, in 2 groups of prompts or more", n_groups, remedy)
    return scored.per_group.mT[:, scored.graph.edge_mask.T].double()


def resampled(
    scored: ScoredGraph, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Iterator[Float[Tensor, "chunk edge"]]:
    """The scores of each draw, in edge order, some draws at a time; the draws depend on the seed and number of groups alone.

    Raises:
        ValueError: As `edge_groups`, or fewer than two draws.
    """
    whole_number("n_resamples", n_resamples, 2)
    groups = edge_groups(scored)
    return (counts @ groups for counts in drawn_counts(len(groups), n_resamples, seed).split(CHUNK))


def percentiles(resamples: Float[Tensor, "resample"], confidence: float = 0.95) -> Float[Tensor, "2"]:
    """The ends of the percentile interval, which leaves an equal share of the samples on each side; NaN is left out."""
    tail = (1 - confidence) / 2
    return resamples.nanquantile(resamples.new_tensor([tail, 1 - tail]), dim=0)
