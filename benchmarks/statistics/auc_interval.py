"""Confidence intervals of an AUC over prompts, from the scores of groups of prompts; no model runs again.

A method's score of an edge is a sum over prompts, so keeping the sum of each group of prompts (a batch, or one prompt)
is enough to know the scores that other samples of prompts would have given:

1. draw as many groups as there are, with replacement, many times;
2. add up the scores of the groups drawn, which is one matrix product;
3. take the AUC of each draw; the interval lies between two percentiles of these.

Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.benchmarks.reference.circuits import ReferenceCircuit
from edge_circuits.benchmarks.reference.universes import candidate_labels, candidate_scores
from edge_circuits.benchmarks.statistics.roc_curves import area_under_roc
from edge_circuits.graphs import Circuit
from edge_circuits.graphs.bootstrap import N_RESAMPLES, drawn_counts, percentiles
from edge_circuits.graphs.checks import refusal, whole_number

CHUNK = 32


class AucInterval(NamedTuple):
    """An AUC and how far it depends on the prompts.

    Attributes:
        auc: Of the scores of all groups.
        low: Lower end of the interval that holds 95 % of the resamples.
        high: Upper end of it.
        resamples: AUC of each draw; those of two methods with equal groups and seed are paired. [resample]
    """

    auc: float
    low: float
    high: float
    resamples: Float[Tensor, "resample"]


def bootstrap_auc(
    edge_scores_per_group: Float[Tensor, "group source destination"],
    circuit: Circuit | ReferenceCircuit,
    *,
    universe: str = "all",
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> AucInterval:
    """The AUC of edge scores, ranked by size, with a percentile interval over prompts.

    Prompts of a group are drawn together, so groups should be alike: many small ones of mixed prompts, best one prompt
    each. A draw repeats some groups and lacks others, so its scores are noisier than those of all groups, and the
    interval may lie a little below `auc`. It tells how the AUC depends on the prompts, not on the circuit's edges.

    Args:
        edge_scores_per_group: Sum (not mean) of the scores over the prompts of each group.
        circuit: The known circuit.
        universe: Among which edges; see `edge_circuits.benchmarks.reference.universes`. A direct link scores the sum of its in-edges.
        n_resamples: Number of draws.
        seed: The draws depend on it and on the number of groups alone.

    Raises:
        ValueError: There are fewer than two groups, a number is out of range, or there is no ROC curve.
    """
    graph = (circuit.circuit if isinstance(circuit, ReferenceCircuit) else circuit).graph
    per_group, expected = edge_scores_per_group.detach().cpu().double(), (graph.n_sources, graph.n_destinations)
    if per_group.ndim != 3 or tuple(per_group.shape[1:]) != expected:
        wanted = f"[group source destination] with the circuit's {expected}"
        raise refusal("edge_scores_per_group", wanted, str(tuple(per_group.shape)))
    whole_number("groups of prompts", len(per_group), 2, remedy="use smaller groups")
    whole_number("n_resamples", n_resamples, 2)
    labels = candidate_labels(circuit, universe)

    def auc(scores: Float[Tensor, "*batch source destination"]) -> Float[Tensor, "*batch"]:
        return area_under_roc(labels, candidate_scores(scores, graph, universe))

    draws = drawn_counts(len(per_group), n_resamples, seed)
    resamples = torch.cat([auc(torch.tensordot(chunk, per_group, dims=1)) for chunk in draws.split(CHUNK)])
    return AucInterval(auc(per_group.sum(0)).item(), *percentiles(resamples).tolist(), resamples)
