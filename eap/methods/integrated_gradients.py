"""EAP-IG: edge attribution patching with gradients averaged on the way from the cut input to the clean one.

`score = (source_cut - source_clean) . mean over k of the gradient at cut + a_k (clean - cut)`, the line taken between
input embeddings. As published, a_k = k / n for k = 0 ... n - 1: the cut end is included, the clean one is not.
The midpoint rule takes a_k = (k + 1/2) / n instead and is more accurate at equal cost.

Reference: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.gradient_method import GradientMethod
from edge_circuits.eap.gradients import Gradients
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import whole_number
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Activations
from edge_circuits.graphs.running.patching import answer_rows

HELD_POINTS = 4
MOST_STEPS = 1000
WRITERS = {"heads": "z", "mlp": "mlp_out"}  # what writes, and its values

Point = Callable[[Tensor], Gradients]


@dataclass(frozen=True)
class IntegratedGradients(GradientMethod):
    """Attribution patching with gradients averaged over a line from the cut input to the clean one.

    At "inputs" it takes `steps` forward and backward passes besides the two plain passes.

    At "activations" the line is that of what each source writes, one layer's heads or one MLP at a time: for the edges
    out of a layer's heads, their mixed values z move together from cut to clean while everything below stays clean and
    everything above follows; likewise for an MLP; `input` is moved as at "inputs". It takes `steps` forward and backward
    passes for each of the 2 x layers + 1 places. At "all-activations", as in the published code, every edge takes
    the mean of the gradients over all these places, at the points (k + 1) / steps, the clean end among them instead of the cut one.
    A node that is held at a point passes nothing on there, whatever reader takes its in-edges.

    Attributes:
        steps: points of the line.
        rule: "left" takes the points k / steps, k = 0 ... steps - 1, as published; "midpoint" those between; "random" one at
            random between each and the next, drawn for each prompt by itself.
        at: what moves along the line.
        seed: of the random points.
    """

    short_names: ClassVar = {
        "eap-ig": {},
        "eap-ig-activations": {"at": "activations"},
        "eap-ig-all-activations": {"at": "all-activations"},
    }
    only_at_clean: ClassVar = False

    steps: int = 5
    rule: Literal["left", "midpoint", "random"] = "left"
    at: Literal["inputs", "activations", "all-activations"] = "inputs"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("steps", self.steps, 1, MOST_STEPS, remedy="more points add cost and no accuracy: take 5 to 100")

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination *span"]:
        """Edge scores summed over the batch; positive: cutting the edge raises the metric."""
        cut, embed = job.cut(batch), job.clean_embed(batch)
        clean = _values(job, embed, batch)
        shares = self._shares(batch, embed)

        def integrated(point: Point, shares: Sequence[Tensor] = shares) -> Float[Tensor, "source destination *span"]:
            """Scores against the mean gradient over some points, a few of them held at a time."""
            total: Tensor | float = 0.0
            for start in range(0, len(shares), HELD_POINTS):
                held = [point(share) for share in shares[start : start + HELD_POINTS]]
                total = total + self.attributed(job, batch, clean, cut, held) * (len(held) / len(shares))
            return total

        def at_inputs(share: Tensor) -> Gradients:
            return self.gradients(job, batch, torch.lerp(cut.embed, embed, share))

        places = [(layer, what) for layer in range(len(clean.z)) for what in WRITERS if getattr(clean, WRITERS[what])]
        moved = {place: partial(self._moving, job, batch, place, clean, cut) for place in places}
        if self.at == "all-activations":
            shares = [share + 1 / self.steps for share in shares]
            return sum(integrated(point, shares) for point in (at_inputs, *moved.values())) / (1 + len(moved))
        scores = integrated(at_inputs)
        if self.at == "activations":
            for place, point in moved.items():
                graph, (layer, what) = job.transformer.graph, place
                sources = graph.head_sources(layer) if what == "heads" else graph.mlp_source(layer)
                scores[sources] = integrated(point)[sources]
        return scores

    def _shares(self, batch: PromptPairs, like: Tensor) -> list[Float[Tensor, "#batch 1 1"]]:
        """The points: how far each is from the cut end towards the clean one."""
        if self.rule != "random":
            shift = 0.5 if self.rule == "midpoint" else 0.0
            return [like.new_full((1, 1, 1), (step + shift) / self.steps) for step in range(self.steps)]
        draws = [Random(f"{self.seed} {index}") for index in batch.indices.tolist()]  # the same in any batch
        shifts = [[draw.random() for draw in draws] for _ in range(self.steps)]
        return [(step + like.new_tensor(shift)[:, None, None]) / self.steps for step, shift in enumerate(shifts)]

    def _moving(
        self,
        job: Job,
        batch: PromptPairs,
        place: tuple[int, str],
        clean: Activations,
        cut: Activations,
        share: Float[Tensor, "#batch 1 1"],
    ) -> Gradients:
        """Gradients on the clean prompt, with one layer's heads or MLP between its cut (0) and its clean value (1)."""
        start, end = (getattr(values, WRITERS[place[1]])[place[0]] for values in (cut, clean))
        share = share.to(end.device).reshape(-1, *[1] * (end.dim() - 1))
        value = torch.lerp(start.to(end.device), end, share)
        operations = Operations(source=lambda layer, what, own: value if (layer, what) == place else own)
        return self.gradients(job, batch, job.clean_embed(batch), operations)


@torch.no_grad()
def _values(job: Job, embed: Float[Tensor, "batch pos d_model"], batch: PromptPairs) -> Activations:
    return job.transformer.forward(embed, answer_rows(batch))
