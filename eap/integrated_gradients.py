"""EAP-IG: edge attribution patching with gradients averaged on the way from the cut input to the clean one.

`score = (source_cut - source_clean) . mean over k of the gradient at cut + a_k (clean - cut)`, the line taken between
input embeddings. As published, a_k = k / n for k = 0 ... n - 1: the cut end is included, the clean one is not.
The midpoint rule takes a_k = (k + 1/2) / n instead and is more accurate at equal cost.

Reference: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from eap.job import Job
from graphs import PromptPairs
from graphs.transformer import Activations

HELD_POINTS = 4


def eap_ig(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Integrated gradients over input embeddings: `steps` forward and backward passes besides the two plain passes."""
    cut, embed = job.cut(batch), job.clean_embed(batch)
    clean = _values(job, embed, batch)
    shift = 0.5 if job.integration == "midpoint" else 0.0
    fractions = [(step + shift) / job.steps for step in range(job.steps)]
    total: Tensor | float = 0.0
    for start in range(0, job.steps, HELD_POINTS):
        held = fractions[start : start + HELD_POINTS]
        points = [job.gradients(batch, torch.lerp(cut.embed, embed, fraction)) for fraction in held]
        total = total + job.attribute(batch, clean, cut, points) * (len(held) / job.steps)
    return total


@torch.no_grad()
def _values(job: Job, embed: Float[Tensor, "batch pos d_model"], batch: PromptPairs) -> Activations:
    return job.transformer.forward(embed, batch.positions[:, None])
