"""Random scores: the baseline that any method must beat."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.graphs import PromptPairs


def random(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Standard normal scores that depend on the seed alone; every batch gives the same."""
    generator = torch.Generator().manual_seed(job.seed)
    mask = job.transformer.graph.edge_mask
    return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask * len(batch)
