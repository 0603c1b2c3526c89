"""Edge attribution patching: the gradient on the clean prompt times the source's change.

Reference: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, equation 2.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.graphs import PromptPairs


def eap(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """The linear estimate of cutting each edge, at the clean prompt: two forward passes and one backward pass."""
    point = job.gradients(batch, job.clean_embed(batch))
    return job.attribute(batch, point.activations, job.cut(batch), [point])


def clean_corrupted(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """The mean of the gradients at the clean and at the cut input, times the source's change.

    Under `patching` the cut input is the corrupted prompt, so this is the trapezoid of two points (the method that
    the EAP-IG code calls clean-corrupted).
    """
    cut = job.cut(batch)
    points = [job.gradients(batch, embed) for embed in (job.clean_embed(batch), cut.embed)]
    return job.attribute(batch, points[0].activations, cut, points)
