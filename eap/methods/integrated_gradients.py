"""EAP-IG: edge attribution patching with gradients averaged on the way from the cut input to the clean one.

`score = (source_cut - source_clean) . mean over k of the gradient at cut + a_k (clean - cut)`, the line taken between
input embeddings. As published, a_k = k / n for k = 0 ... n - 1: the cut end is included, the clean one is not.
The midpoint rule takes a_k = (k + 1/2) / n instead and is more accurate at equal cost.

Reference: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.destinations import attribute
from edge_circuits.eap.gradients import Gradients
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Activations

HELD_POINTS = 4
MOST_STEPS = 1000


@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Attribution patching with gradients averaged over a line from the cut input to the clean one.

    At "inputs" it takes `steps` forward and backward passes besides the two plain passes.

    At "activations" the line is that of what each source writes, one layer's heads or one MLP at a time: for the edges
    out of a layer's heads, their mixed values z move together from cut to clean while everything below stays clean and
    everything above follows; likewise for an MLP; `input` is moved as at "inputs". It takes `steps` forward and backward
    passes for each of the 2 x layers + 1 places.

    Attributes:
        steps: points of the line.
        rule: "left" takes the points k / steps, k = 0 ... steps - 1, as published; "midpoint" those between.
        at: what moves along the line.
    """

    short_names: ClassVar = {"eap-ig": {}, "eap-ig-activations": {"at": "activations"}}
    only_at_clean: ClassVar = False
    knows_spans: ClassVar = True

    steps: int = 5
    rule: Literal["left", "midpoint"] = "left"
    at: Literal["inputs", "activations"] = "inputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"steps must be a positive whole number, got {self.steps!r}.")
        if self.steps > MOST_STEPS:
            raise ValueError(
                f"steps is {self.steps}; more than {MOST_STEPS} points add cost and no accuracy: take 5 to 100."
            )

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
        """Edge scores summed over the batch; positive: cutting the edge raises the metric."""
        cut, embed = job.cut(batch), job.clean_embed(batch)
        clean = _values(job, embed, batch)

        def integrated(point: Callable[[float], Gradients]) -> Float[Tensor, "source destination"]:
            return self._integrated(job, batch, clean, cut, point)

        scores = integrated(lambda share: job.gradients(batch, torch.lerp(cut.embed, embed, share)))
        if self.at == "inputs":
            return scores
        graph = job.transformer.graph
        for layer in range(graph.n_layers):
            heads = graph.head_sources(layer)
            scores[heads] = integrated(partial(_moving, job, batch, (layer, "heads"), clean.z, cut.z))[heads]
            if graph.mlps:
                mlp = graph.mlp_source(layer)
                scores[mlp] = integrated(partial(_moving, job, batch, (layer, "mlp"), clean.mlp_out, cut.mlp_out))[mlp]
        return scores

    def _integrated(
        self, job: Job, batch: PromptPairs, clean: Activations, cut: Activations, point: Callable[[float], Gradients]
    ) -> Float[Tensor, "source destination"]:
        """Scores against the mean gradient over the points of the line, a few of them held at a time."""
        shift = 0.5 if self.rule == "midpoint" else 0.0
        shares = [(step + shift) / self.steps for step in range(self.steps)]
        total: Tensor | float = 0.0
        for start in range(0, self.steps, HELD_POINTS):
            held = [point(share) for share in shares[start : start + HELD_POINTS]]
            total = total + attribute(job, batch, clean, cut, held) * (len(held) / self.steps)
        return total


def _moving(
    job: Job, batch: PromptPairs, place: tuple[int, str], clean: list[Tensor], cut: list[Tensor], share: float
) -> Gradients:
    """Gradients on the clean prompt, with one layer's heads or MLP between its cut (0) and its clean value (1)."""
    end = clean[place[0]]
    value = torch.lerp(cut[place[0]].to(end.device), end, share)
    operations = Operations(source=lambda layer, what, own: value if (layer, what) == place else own)
    return job.gradients(batch, job.clean_embed(batch), operations)


@torch.no_grad()
def _values(job: Job, embed: Float[Tensor, "batch pos d_model"], batch: PromptPairs) -> Activations:
    return job.transformer.forward(embed, batch.positions[:, None])
