"""Learned edge masks: a gate for each edge, trained so that the circuit keeps the model's metric with few edges.

Every edge has a hard concrete gate in [0, 1]: `clamp(sigmoid((log u - log(1 - u) + a) / beta) (zeta - gamma) + gamma)`
with u uniform, so gates reach 0 and 1 exactly and their expected number above 0 is differentiable in a. A step takes one
batch. Its loss is the squared distance of the circuit's metric from the model's, in units of the mean difference between
clean and cut prompts, plus `penalty` times the expected share of open gates. An edge's score is the probability that its
gate is open: between 0 and 1, without a sign.

Reference: Louizos, Welling and Kingma 2018, equations 10 to 12, for the gates; Cao, Sanh and Rush 2021 (subnetwork
probing) and Bhaskar et al. 2024 (edge pruning) for their use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import number, whole_number
from edge_circuits.graphs.metrics import check_values
from edge_circuits.graphs.model.transformer import Activations
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.plan import make_plan

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
START = 1.0  # gates begin mostly open


@dataclass(frozen=True)
class TrainedGates(Method):
    """Gates of all edges, trained; takes one batch after the other, so it cannot be shared among processes or resumed.

    A subclass says where the gates begin, how those of a step are drawn, and what they are as scores.

    Attributes:
        steps: of training.
        seed: of the gates' draws.
    """

    signed: ClassVar = False
    not_additive: ClassVar = "it is one training on all prompts"
    needs_gradient: ClassVar = False
    takes_all: ClassVar = True
    slow: ClassVar = True

    learning_rate: ClassVar[float]

    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("steps", self.steps, 1)

    def begin(self, job: Job, batches: Sequence[PromptPairs]) -> Float[Tensor, "source destination"]:
        """What is trained, before the first step."""
        raise NotImplementedError

    def draw(
        self, logits: Tensor, edge_mask: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "source destination"]:
        """The gates of a step, between 0 and 1."""
        raise NotImplementedError

    def price(self, logits: Tensor, edge_mask: Tensor) -> Float[Tensor, ""] | float:
        """What is added to the loss for gates that are open."""
        return 0.0

    def shown(self, logits: Tensor, edge_mask: Tensor) -> Float[Tensor, "source destination"]:
        """The scores, between 0 and 1."""
        raise NotImplementedError

    def scores_of_all(self, job: Job, batches: Sequence[PromptPairs]) -> Float[Tensor, "source destination"]:
        """Scores after `steps` steps of Adam over the batches in turn."""
        edge_mask = job.transformer.graph.edge_mask.to(job.transformer.device)
        cuts = [job.cut(batch).to(job.transformer.device) for batch in batches]
        targets = [_ends(job, batch, cut) for batch, cut in zip(batches, cuts)]
        unit = torch.cat([clean - corrupted for clean, corrupted in targets]).mean().abs().clamp(min=1e-6)
        logits = self.begin(job, batches).requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=self.learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        for step in tqdm(range(self.steps), desc="training", unit="step", leave=False, disable=job.quiet):
            at = step % len(batches)
            with torch.enable_grad():
                gates = self.draw(logits, edge_mask, generator) * edge_mask
                distance = ((_metric(job, batches[at], cuts[at], gates) - targets[at][0]) / unit).square().mean()
                loss = distance + self.price(logits, edge_mask)
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
        return (self.shown(logits.detach(), edge_mask) * edge_mask).double().cpu()


@dataclass(frozen=True)
class LearnedMask(TrainedGates):
    """Hard concrete gates with a price.

    Attributes:
        steps: of training.
        seed: of the gates' draws.
        penalty: the price of keeping all edges, in squared shares of the metric.
    """

    short_names: ClassVar = {"learned-mask": {}}
    learning_rate: ClassVar = 0.2

    penalty: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("penalty", self.penalty, least=0)

    def begin(self, job: Job, batches: Sequence[PromptPairs]) -> Float[Tensor, "source destination"]:
        """All mostly open."""
        edge_mask = job.transformer.graph.edge_mask
        return torch.full(edge_mask.shape, START, device=job.transformer.device)

    def draw(
        self, logits: Tensor, edge_mask: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "source destination"]:
        """`hard_concrete`."""
        return hard_concrete(logits, generator)

    def price(self, logits: Tensor, edge_mask: Tensor) -> Float[Tensor, ""]:
        """The penalty times the expected share of open gates."""
        return self.penalty * open_probability(logits)[edge_mask].mean()

    def shown(self, logits: Tensor, edge_mask: Tensor) -> Float[Tensor, "source destination"]:
        """Open probabilities."""
        return open_probability(logits)


def hard_concrete(
    logits: Float[Tensor, "source destination"], generator: torch.Generator
) -> Float[Tensor, "source destination"]:
    """A draw of every gate."""
    u = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6).to(logits.device)
    soft = torch.sigmoid((u.log() - (-u).log1p() + logits) / BETA)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(logits: Float[Tensor, "source destination"]) -> Float[Tensor, "source destination"]:
    """The probability that a gate is above 0."""
    return torch.sigmoid(logits - BETA * math.log(-GAMMA / ZETA))


@torch.no_grad()
def _ends(job: Job, batch: PromptPairs, cut: Activations) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """The metric with every gate open, and with every gate closed."""
    edge_mask = job.transformer.graph.edge_mask
    ends = tuple(_metric(job, batch, cut, gates) for gates in (edge_mask, torch.zeros_like(edge_mask)))
    for values in ends:
        check_values(values, batch, job.metric)
    return ends


def _metric(job: Job, batch: PromptPairs, cut: Activations, gates: Tensor) -> Float[Tensor, " batch"]:
    gates = gates.to(job.transformer.dtype) if gates.is_floating_point() else gates
    plan = make_plan(job.transformer.graph, gates)
    return job.metric(run_batch(job.transformer, plan, batch, cut), batch)
