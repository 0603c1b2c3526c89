"""What the sweep keeps small: the KL divergence from the whole model, or minus a task metric, a mean over prompts.

KL(model || circuit) is taken at the answer position, against the model on the clean prompt.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, section 3 and Appendix C (choice of the objective).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice
from edge_circuits.graphs.divergence import Reference
from edge_circuits.graphs.metrics import KL, METRICS, Metric, as_metric, check_shape, metric_name
from edge_circuits.graphs.model.transformer import Transformer


class Objective:
    """The objective of circuits, from their logits batch by batch; lower is better."""

    def __init__(
        self, metric: Metric | str, batches: Sequence[PromptPairs], clean: Sequence[Float[Tensor, "_ *rows d_vocab"]]
    ) -> None:
        """Take the whole model's logits for reference, where they are needed.

        Args:
            metric: What `as_objective` gives. Of a task metric larger is better, so its negated value is the objective.
            batches: The prompts.
            clean: The whole model's logits on each batch, at the answer positions.
        """
        self.metric, self.batches = metric, batches
        self._references = (
            [Reference.of(logits, batch.rows) for logits, batch in zip(clean, batches)] if self.metric == KL else []
        )

    @property
    def name(self) -> str:
        """The metric's name."""
        return KL if self.metric == KL else metric_name(self.metric)

    def total(self, number: int, logits: Float[Tensor, "candidate batch *rows d_vocab"]) -> Float[Tensor, " candidate"]:
        """The summed objective of one batch's prompts, for each candidate, in float64 on the CPU.

        Raises:
            ValueError: The metric does not return one value a prompt.
        """
        if self.metric == KL:
            values = self._references[number].divergence(logits)
        else:
            values = -torch.stack([self._measured(number, each) for each in logits])
        return values.sum(1, dtype=torch.float64).cpu()

    def _measured(self, number: int, logits: Float[Tensor, "batch *rows d_vocab"]) -> Float[Tensor, " batch"]:
        batch = self.batches[number]
        values = self.metric(logits, batch)
        check_shape(values, batch, self.metric)
        return values


def as_objective(metric: Metric | str, transformer: Transformer, pairs: PromptPairs) -> Metric | str:
    """ "kl" as it is, and a metric by its name or as it is given.

    Raises:
        ValueError: There is no such metric, or it is refused.
    """
    is_kl = not callable(metric) and choice("metric", metric, [KL, *METRICS], "or give a function") == KL
    return metric if is_kl else as_metric(metric, transformer, pairs)
