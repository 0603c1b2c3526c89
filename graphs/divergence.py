"""How far logits are from reference logits: the KL divergence, and the metric that is minus it.

metric = KLDivergence(pairs, run(model, Circuit.full(graph), pairs))
values = metric(logits, pairs)                                              # nats, [batch]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.prompts.pairs import PromptPairs


@dataclass(frozen=True, eq=False)
class Reference:
    """Logits that others are compared with, such as the whole model's on the clean prompts.

    Attributes:
        logits: In float32 at least. [batch d_vocab]
        log_probabilities: Their log softmax. [batch d_vocab]
        probabilities: Their softmax. [batch d_vocab]
        real: Where logits are read at several rows, [batch row d_vocab], which of them count. [batch row]
    """

    logits: Float[Tensor, "batch *rows d_vocab"]
    log_probabilities: Float[Tensor, "batch *rows d_vocab"]
    probabilities: Float[Tensor, "batch *rows d_vocab"]
    real: Bool[Tensor, "batch row"] | None = None

    @classmethod
    def of(
        cls, logits: Float[Tensor, "batch *rows d_vocab"], rows: Int[Tensor, "batch row"] | None = None
    ) -> Reference:
        """The reference of these logits; `rows` are the pairs', -1 where there is none."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_probabilities = wide.log_softmax(-1)
        real = None if rows is None else (rows >= 0).to(wide.device)
        return cls(wide, log_probabilities, log_probabilities.exp(), real)

    def __getitem__(self, rows: Int[Tensor, "row"]) -> Reference:
        """The reference of some rows."""
        return self._each(lambda x: x[rows])

    def to(self, device: torch.device) -> Reference:
        """The same on a device."""
        return self._each(lambda x: x.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Reference:
        real = None if self.real is None else change(self.real)
        return Reference(change(self.logits), change(self.log_probabilities), change(self.probabilities), real)

    def divergence(self, logits: Float[Tensor, "*candidate_batch_row d_vocab"]) -> Float[Tensor, "*candidate_batch"]:
        """KL(reference || logits) in nats, the sum over the vocabulary of p_reference (log p_reference - log p).

        Of several rows a prompt, it is the sum over those that count.

        With g = logits minus reference logits it is log E_p[exp g] - E_p[g], which takes one pass over the vocabulary less
        than two softmaxes. 0 log 0 = 0, for reference logits of minus infinity.
        """
        if self.real is not None:
            each = []
            for row, counts in enumerate(self.real.T):
                held = (self.logits, self.log_probabilities, self.probabilities)
                alone = Reference(*(x[:, row] for x in held))
                each.append(alone.divergence(logits[..., row, :]).where(counts, 0))
            return torch.stack(each).sum(0)
        gap = logits - self.logits
        if self._has_impossible:
            gap = gap.masked_fill(self.logits == -torch.inf, 0)
        expected = torch.einsum("bv,...bv->...b", self.probabilities, gap)
        return gap.add_(self.log_probabilities).logsumexp(-1) - expected

    @cached_property
    def _has_impossible(self) -> bool:
        return bool((self.logits == -torch.inf).any())


class KLDivergence:
    """Minus the KL divergence from a reference to the logits, in nats: 0 where equal, else negative.

    -KL(reference || logits) = -sum over the vocabulary of p_reference (log p_reference - log p), per prompt. The
    reference is usually the whole model on the clean prompts. Its row is found by the clean prompt itself (tokens and
    answer position), so any batch, subset or order of the pairs will do.

        metric = KLDivergence(pairs, run(model, Circuit.full(graph), pairs))
    """

    zero_gradient_at_clean = True
    zero_gradient_reason = (
        "the divergence from the clean model is at its minimum on the clean prompt, where its gradient is zero"
    )

    def __init__(self, pairs: PromptPairs, logits: Float[Tensor, "pair *rows d_vocab"]) -> None:
        """
        Args:
            pairs: The prompts of the reference.
            logits: Reference logits at their answer positions, in the order of pairs.

        Raises:
            ValueError: Not one row of logits for each pair.
        """
        if logits.shape[:-1] != (pairs.positions if pairs.rows is None else pairs.rows).shape:
            raise ValueError(
                f"logits: expected one row for each of the {len(pairs)} pairs, got shape {tuple(logits.shape)}; "
                "give the logits at the answer positions, in the order of pairs"
            )
        self.reference = Reference.of(logits.detach(), pairs.rows)
        self._rows = {prompt: row for row, prompt in enumerate(_prompts(pairs))}

    def __call__(self, logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
        """
        Raises:
            ValueError: A prompt that has no reference.
        """
        rows = torch.tensor([self._row(prompt) for prompt in _prompts(pairs)], device=self.reference.logits.device)
        return -self.reference[rows].to(logits.device).divergence(logits)

    def _row(self, prompt: tuple[int | tuple[int, ...], ...]) -> int:
        if prompt not in self._rows:
            raise ValueError(
                f"pairs: expected prompts among the {len(self._rows)} with reference logits, got the clean prompt "
                f"{list(prompt[1:])} (answer at {prompt[0]}), none of them; build KLDivergence from these pairs"
            )
        return self._rows[prompt]


def _prompts(pairs: PromptPairs) -> list[tuple[int | tuple[int, ...], ...]]:
    """Answer positions and real tokens of each clean prompt."""
    read = pairs.positions.tolist() if pairs.rows is None else map(tuple, pairs.rows.tolist())
    columns = (read, pairs.lengths.tolist(), pairs.clean.tolist())
    return [(position, *tokens[:length]) for position, length, tokens in zip(*columns)]
