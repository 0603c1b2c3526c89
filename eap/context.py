"""What every scoring method is given: the model, the metric and the settings of one call of `score`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.eap.attribution import Attribution
from edge_circuits.eap.gradients import Gradients, differentiate
from edge_circuits.eap.relp_rules import RelPRules
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import CutValues, Intervention, trimmed

Integration = Literal["left", "midpoint"]


@dataclass(frozen=True)
class Job:
    """One call of `score`; see there for the settings.

    Attributes:
        cuts: gives the values that cut edges read, batch by batch.
        checkpoint: the file of this run; a method that keeps more puts it beside.
    """

    transformer: Transformer
    metric: Metric
    cuts: CutValues
    intervention: Intervention
    token_chunk: int
    steps: int
    integration: Integration
    edges: Bool[Tensor, "source destination"] | None
    seed: int
    penalty: float = 2.0
    rules: RelPRules = RelPRules()
    checkpoint: Path | None = None
    quiet: bool = True

    def clean_embed(self, batch: PromptPairs) -> Float[Tensor, "batch pos d_model"]:
        """The embedded clean prompts, up to the last answer position."""
        return self.transformer.embed(trimmed(batch.clean, batch))

    @torch.no_grad()
    def cut(self, batch: PromptPairs) -> Activations:
        """The values that cut edges read."""
        return self.cuts(batch)

    def gradients(self, batch: PromptPairs, embed: Tensor, operations: Operations = EXACT) -> Gradients:
        """Gradients of the metric, summed over the batch, on the given embedded prompts."""
        return differentiate(self.transformer, embed, batch, self.metric, operations)

    def attribute(
        self,
        batch: PromptPairs,
        clean: Activations,
        cut: Activations,
        points: list[Gradients],
        operations: Operations = EXACT,
    ) -> Float[Tensor, "source destination"]:
        """Edge scores summed over the batch, against gradients averaged over `points`.

        Where heads write through a post-norm, their change passes it with its slope at each point.
        """
        if all(block.attention_post_norm is None for block in self.transformer.blocks):
            attribution = Attribution(self.transformer, clean, cut, points, operations.constant_scale)
            return attribution.scores(batch, self.token_chunk)
        scores = []
        for point in points:
            here = replace(clean, attention_sum=point.activations.attention_sum)
            attribution = Attribution(self.transformer, here, cut, [point], operations.constant_scale)
            scores.append(attribution.scores(batch, self.token_chunk))
        return torch.stack(scores).mean(0)


Method = Callable[[Job, PromptPairs], Float[Tensor, "source destination"]]
"""A method that takes the batches one by one; its scores are sums over their prompts."""

MethodOfAll = Callable[[Job, Sequence[PromptPairs]], Float[Tensor, "source destination"]]
"""A method that needs all batches at once."""
