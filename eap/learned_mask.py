"""Learned edge masks: a gate a edge, trained so that the circuit keeps the model's metric with few edges.

Every edge has a hard concrete gate in [0, 1]: `clamp(sigmoid((log u - log(1 - u) + a) / beta) (zeta - gamma) + gamma)`
with u uniform, so gates reach 0 and 1 exactly and their expected number above 0 is differentiable in a. The loss is
the squared distance of the circuit's metric from the model's, in units of the clean to cut difference, plus `penalty`
times the expected share of open gates. An edge's score is the probability that its gate is open: between 0 and 1,
to be read by size.

Reference: Louizos, Welling and Kingma 2018, equations 10 to 12, for the gates; Cao, Sanh and Rush 2021 (subnetwork
probing) and Bhaskar et al. 2024 (edge pruning) for their use.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from eap.job import Job
from graphs import PromptPairs
from graphs.execution import run_batch
from graphs.plan import make_plan
from graphs.transformer import Activations

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
START = 2.0  # gates begin mostly open
LEARNING_RATE = 0.1
PENALTY = 0.5


def learned_mask(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Open probabilities after `steps` steps of Adam on the batch, times its number of prompts."""
    mask = job.transformer.graph.edge_mask.to(batch.clean.device)
    cut = job.cut(batch)
    with torch.no_grad():
        clean, corrupted = (_metric(job, batch, cut, gates) for gates in (mask.double(), torch.zeros_like(mask).double()))
    unit = (clean - corrupted).mean().abs().clamp(min=1e-6)
    logits = torch.full(mask.shape, START, device=mask.device, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(job.seed)
    with torch.enable_grad():
        for _ in range(job.steps):
            gates = hard_concrete(logits, generator) * mask
            distance = ((_metric(job, batch, cut, gates) - clean) / unit).square().mean()
            loss = distance + PENALTY * open_probability(logits)[mask].mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return open_probability(logits.detach()) * mask * len(batch)


def hard_concrete(logits: Float[Tensor, "source destination"], generator: torch.Generator) -> Float[Tensor, "source destination"]:
    """A draw of every gate."""
    u = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(logits.device)
    soft = torch.sigmoid((u.log() - (-u).log1p() + logits) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(logits: Float[Tensor, "source destination"]) -> Float[Tensor, "source destination"]:
    """The probability that a gate is above 0."""
    return torch.sigmoid(logits - BETA * math.log(-GAMMA / ZETA))


def _metric(job: Job, batch: PromptPairs, cut: Activations, gates: Float[Tensor, "source destination"]) -> Float[Tensor, " batch"]:
    plan = make_plan(job.transformer.graph, gates.to(job.transformer.dtype), patching=False)
    return job.metric(run_batch(job.transformer, plan, batch, cut), batch)
