"""Random scores: the baseline that any method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs


@dataclass(frozen=True)
class Random(Method):
    """Standard normal scores that depend on the seed alone."""

    short_names: ClassVar = {"random": {}}
    not_additive: ClassVar = "it does not look at prompts"
    needs_gradient: ClassVar = False
    needs_metric: ClassVar = False

    seed: int = 0

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
        """The same for every prompt, summed over the batch."""
        generator = torch.Generator().manual_seed(self.seed)
        mask = job.transformer.graph.edge_mask
        return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask * len(batch)
