"""What the sweep keeps small: the KL divergence from the whole model, or minus a task metric, a mean over prompts.

KL(model || circuit) = sum over the vocabulary of p (log p - log p_circuit), at the answer position, where p is the
model on the clean prompt. With g = logits of the circuit minus logits of the model this is log E_p[exp g] - E_p[g],
which is how it is computed: one pass over the vocabulary less than two softmaxes.

Reference: Conmy et al. 2023, Towards Automated Circuit Discovery, section 3 and Appendix C (choice of the objective).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric, metric_name


class Objective:
    """The objective of circuits, from their logits batch by batch; lower is better."""

    def __init__(
        self, metric: Metric | str, batches: Sequence[PromptPairs], clean: Sequence[Float[Tensor, "_ d_vocab"]]
    ) -> None:
        """
        Args:
            metric: "kl", or a task metric: larger is better, so its negated value is the objective.
            batches: the prompts.
            clean: the whole model's logits on each batch, at the answer positions.

        Raises:
            ValueError: `metric` is neither.
        """
        if metric != "kl" and not callable(metric):
            raise ValueError(f"metric is 'kl' or a function of logits and pairs, got {metric!r}.")
        self.metric, self.batches = metric, batches
        wide = [logits.to(torch.promote_types(logits.dtype, torch.float32)) for logits in clean]
        self._clean = wide if metric == "kl" else []
        self._log_probabilities = [logits.log_softmax(-1) for logits in self._clean]
        self._probabilities = [each.exp() for each in self._log_probabilities]

    @property
    def name(self) -> str:
        """The metric's name."""
        if self.metric == "kl":
            return "kl"
        return metric_name(self.metric)

    def total(self, number: int, logits: Float[Tensor, "candidate batch d_vocab"]) -> Float[Tensor, " candidate"]:
        """The summed objective of one batch's prompts, for each candidate, in float64 on the CPU.

        Raises:
            ValueError: the metric does not return one value a prompt.
        """
        if self.metric == "kl":
            values = self._divergence(number, logits)
        else:
            values = -torch.stack([self._measured(number, each) for each in logits])
        return values.sum(1, dtype=torch.float64).cpu()

    def _divergence(
        self, number: int, logits: Float[Tensor, "candidate batch d_vocab"]
    ) -> Float[Tensor, "candidate batch"]:
        gap = logits - self._clean[number]
        expected = torch.einsum("bv,cbv->cb", self._probabilities[number], gap)
        return gap.add_(self._log_probabilities[number]).logsumexp(-1) - expected

    def _measured(self, number: int, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        batch = self.batches[number]
        values = self.metric(logits, batch)
        if not isinstance(values, Tensor) or values.shape != (len(batch),):
            came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"metric {self.name} must return one value a prompt, shape ({len(batch)},); got {came}.")
        return values
