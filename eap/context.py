"""What every scoring method is given: the model, the metric and what else one call of `score` fixes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.gradients import Gradients, differentiate
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import CutValues, Intervention, trimmed


@dataclass(frozen=True)
class Job:
    """One call of `score`; see there for the settings.

    Attributes:
        cuts: gives the values that cut edges read, batch by batch.
        by_span: scores are asked for span by span, [source destination span].
        checkpoint: the file of this run; a method that keeps more puts it beside.
    """

    transformer: Transformer
    metric: Metric
    cuts: CutValues
    intervention: Intervention
    token_chunk: int
    by_span: bool = False
    checkpoint: Path | None = None
    quiet: bool = True

    def clean_embed(self, batch: PromptPairs) -> Float[Tensor, "batch pos d_model"]:
        """The embedded clean prompts, up to the last answer position."""
        return self.transformer.embed(trimmed(batch.clean, batch))

    @torch.no_grad()
    def cut(self, batch: PromptPairs) -> Activations:
        """The values that cut edges read."""
        return self.cuts(batch)

    def gradients(
        self, batch: PromptPairs, embed: Tensor, operations: Operations = EXACT, inside: bool = False
    ) -> Gradients:
        """Gradients of the metric, summed over the batch, on the given embedded prompts."""
        return differentiate(self.transformer, embed, batch, self.metric, operations, inside)
