"""Soft top-k masks: a rank for each edge, trained so that the k best edges keep the model's metric, whatever k is.

Edges have numbers a, and a circuit of k edges is the gates `sigmoid((a - t) / width)`, with the one t for which they add up to k
(so that a gradient moves edges against one another). A step draws k log-uniformly from 1 to all edges and takes one batch; its loss is the
squared distance of the circuit's metric from the model's, as of `learned_mask`. The numbers begin at minus the log of each edge's rank
by another method's |score|, so that few steps are left to do. An edge's score is its mean gate over k: between 0 and 1, without a
sign.

Reference: Mueller et al. 2025, MIB, asks for circuits of all sizes at once (CPR, CMD); masks that start from EAP-IG's scores are
the sequential ensembles of its shared task of 2025. This form of the gates is the project's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.learned_mask import TrainedGates
from edge_circuits.eap.methods.lookup import find
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.transformer import Transformer

WIDTH = 0.25  # in logs of ranks: at k times 2 a gate is 1/17
N_SIZES = 32  # for the mean over k
N_HALVINGS = 60


@dataclass(frozen=True)
class TopKMask(TrainedGates):
    """Soft top-k gates, begun from scores.

    Attributes:
        steps: of training.
        seed: of the draws of k.
        start: name of the method whose ranks they begin with; "none": all edges alike.
    """

    short_names: ClassVar = {"top-k-mask": {}}
    learning_rate: ClassVar = 0.05

    steps: int = 50
    start: str = "relp"

    def check_model(self, transformer: Transformer) -> None:
        """Refuse to start from what is no method that scores batch by batch, or has no place in the model."""
        super().check_model(transformer)
        if self.start == "none":
            return
        if (method := find(self.start)).takes_all:
            raise refusal("start", "a method that scores batch by batch, or 'none'", repr(self.start))
        method.check_model(transformer)

    def check_metric(self, metric: Metric) -> None:
        """Refuse to start from scores that cannot be had with the metric."""
        super().check_metric(metric)
        if self.start != "none":
            find(self.start).check_metric(metric)

    def begin(self, job: Job, batches: Sequence[PromptPairs]) -> Float[Tensor, "source destination"]:
        """Minus the logs of ranks; zeros without scores to start from."""
        edge_mask = job.transformer.graph.edge_mask
        begun = torch.zeros(edge_mask.shape, dtype=torch.float32, device=edge_mask.device)
        if self.start != "none":
            method = find(self.start)
            scores = sum(method.scores(job, batch).cpu() for batch in batches).abs()
            places = scores[edge_mask.cpu()].sort(descending=True, stable=True).indices
            ranks = torch.empty(len(places)).scatter_(0, places, torch.arange(1.0, len(places) + 1))
            begun[edge_mask] = -ranks.log().to(begun.device)
        return begun.to(job.transformer.device)

    def draw(
        self, logits: Tensor, edge_mask: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "source destination"]:
        """The gates of a circuit whose size is log-uniform between 1 and all edges."""
        u = torch.rand(1, generator=generator, dtype=torch.float64).item()
        return soft_top_k(logits, edge_mask, int(edge_mask.sum()) ** u)

    def shown(self, logits: Tensor, edge_mask: Tensor) -> Float[Tensor, "source destination"]:
        """Mean gates over sizes whose logs are evenly spaced."""
        n = int(edge_mask.sum())
        sizes = [n ** ((at + 0.5) / N_SIZES) for at in range(N_SIZES)]
        return torch.stack([soft_top_k(logits.double(), edge_mask, k) for k in sizes]).mean(0)


def soft_top_k(
    logits: Float[Tensor, "source destination"], edge_mask: Tensor, k: float
) -> Float[Tensor, "source destination"]:
    """Gates of all edges that add up to k, `sigmoid((logits - t) / WIDTH)`; 0 where there is no edge.

    t is found by halving an interval; a step of Newton's method that gradients pass lets it follow the logits, so that the gates'
    sum stays k for every change of them.

    Args:
        k: Between 0 and the number of edges, both excluded.
    """
    values = logits[edge_mask]
    with torch.no_grad():
        wide = values.double()
        reach = WIDTH * 2 * math.log(len(wide) + 1) + 20 * WIDTH
        low, high = wide.min() - reach, wide.max() + reach
        for _ in range(N_HALVINGS):
            middle = (low + high) / 2
            too_many = torch.sigmoid((wide - middle) / WIDTH).sum() > k
            low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
        at = ((low + high) / 2).to(values.dtype)
        gates = torch.sigmoid((values - at) / WIDTH)
        slope = (gates * (1 - gates)).sum() / WIDTH
    total = torch.sigmoid((values - at) / WIDTH).sum()
    follows = at + (total - total.detach()) / slope
    found = torch.zeros_like(logits)
    found[edge_mask] = torch.sigmoid((values - follows) / WIDTH)
    return found
