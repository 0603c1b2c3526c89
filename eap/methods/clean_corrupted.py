"""Clean-corrupted: gradients averaged over the two ends of the line that integrated gradients follow.

Under `patching` the cut input is the corrupted prompt, so this is the trapezoid of two points (the method that the EAP-IG
code calls clean-corrupted).

Reference: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.destinations import attribute
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs


@dataclass(frozen=True)
class CleanCorrupted(Method):
    """The mean of the gradients at the clean and at the cut input, times the source's change."""

    short_names: ClassVar = {"clean-corrupted": {}}
    only_at_clean: ClassVar = False
    knows_spans: ClassVar = True

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination *span"]:
        """Edge scores summed over the batch; positive: cutting the edge raises the metric."""
        cut = job.cut(batch)
        points = [job.gradients(batch, embed) for embed in (job.clean_embed(batch), cut.embed)]
        return attribute(job, batch, points[0].activations, cut, points)
