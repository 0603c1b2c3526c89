"""Metrics: how well a model does a task, one value a prompt, larger is better.

    metric = load("logit_difference")
    values = metric(logits, pairs)             # logits at the answer positions, [batch d_vocab] -> [batch]
    relative = normalised(metric, clean_value=3.1, corrupted_value=-2.0)       # 0 = corrupted, 1 = clean

| name                    | value                                                    | unit        | used for         |
| ----------------------- | -------------------------------------------------------- | ----------- | ---------------- |
| logit_difference        | mean answer logit - mean wrong-answer logit              | logits      | IOI, AutoCircuit |
| answer_minus_best_wrong | mean answer logit - largest wrong-answer logit           | logits      | Docstring        |
| probability_difference  | probability of the answers - that of the wrong answers   | probability | Greater-Than     |
| log_probability         | log of the probability of the answers (minus the NLL)    | nats        | all              |
| accuracy                | 1 if an answer has a larger logit than all wrong answers | share right | reports          |
| top_accuracy            | 1 if an answer has the largest logit of the vocabulary   | share right | reports          |
| kl                      | minus the KL divergence from the whole model on clean    | nats        | refinement       |

Of answers of several tokens (`PromptPairs(several_tokens=True)`), `log_probability` is the sum over the tokens, each given those before it,
`top_accuracy` asks that every token has the largest logit, "kl" is the sum over the tokens, and what compares with wrong answers does so at
the first token in which both differ. A metric of one's own gets [batch row d_vocab], where a row of `pairs.rows` is -1 where there is none.

Wherever a metric is taken, its name may be given (`as_metric`). `KLDivergence(pairs, logits)` compares with reference logits; "kl" is
that from the whole model on the clean prompts. A metric may say
`zero_gradient_at_clean = True` (with `zero_gradient_reason`): its gradient on the clean prompt is zero, so that
attribution with it would score every edge zero, and `eap.score` refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import in_order
from edge_circuits.graphs.running.patching import answer_rows, answered, trimmed

KL = "kl"
MAX_TOKENS = 2048

Metric: TypeAlias = Callable[[Float[Tensor, "batch *rows d_vocab"], PromptPairs], Float[Tensor, " batch"]]


def metric_name(metric: Metric) -> str:
    """What results call it."""
    return getattr(metric, "__name__", type(metric).__name__)


def check_shape(values: Tensor, pairs: PromptPairs, metric: Metric) -> None:
    """Refuse what is not one value a prompt.

    Raises:
        ValueError: With the shape that came.
    """
    if not isinstance(values, Tensor) or values.shape != (len(pairs),):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"metric {metric_name(metric)} must return one value a prompt, shape ({len(pairs)},); got {shape}."
        )


def check_values(values: Tensor, pairs: PromptPairs, metric: Metric) -> None:
    """Refuse what a metric may not return.

    Raises:
        ValueError: Not one finite value a prompt; or, where gradients are on, not differentiable.
    """
    check_shape(values, pairs, metric)
    name = metric_name(metric)
    if values.dtype == torch.bool:
        raise refusal(f"metric {name}", "numbers", "True and False", "return .float(), or take accuracy by its name")
    if not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise refusal(f"metric {name}", "finite numbers", f"{values[row].item()} for row {row} of a batch")
    if torch.is_grad_enabled() and not values.requires_grad:
        expected = "a differentiable function of the logits"
        raise refusal(f"metric {name}", expected, "values without a gradient", "or take method='exact'")


def as_metric(metric: Metric | str, transformer: Transformer, pairs: PromptPairs) -> Metric:
    """The metric of a name, "kl" included, or the metric that is given.

    Args:
        transformer: for "kl", the model from which the divergence is.
        pairs: for "kl", the prompts that it will be asked about.

    Raises:
        ValueError: There is no such metric.
    """
    if callable(metric):
        return metric
    return KLDivergence(pairs, _clean_logits(transformer, pairs)) if metric == KL else load(metric)


@torch.no_grad()
def _clean_logits(transformer: Transformer, pairs: PromptPairs) -> Float[Tensor, "pair *rows d_vocab"]:
    batches = [batch.to(transformer.device) for batch in pairs.batches(max_tokens=MAX_TOKENS)]
    kept = [
        transformer.forward(transformer.embed(trimmed(batch.clean, batch)), answer_rows(batch)) for batch in batches
    ]
    return in_order(batches, [transformer.unembed(answered(each.final, batch)) for each, batch in zip(kept, batches)])


def load(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: There is no such metric.
    """
    return METRICS[choice("metric", name, METRICS)]


def logit_difference(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """Mean logit of the answers minus mean logit of the wrong answers, in logits.

    Raises:
        ValueError: Pairs without answers or wrong answers.
    """
    return _mean(*_chosen(logits, pairs, "answers")) - _mean(*_chosen(logits, pairs, "wrong_answers"))


def answer_minus_best_wrong(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """Mean logit of the answers minus the largest logit of the wrong answers, in logits.

    Raises:
        ValueError: Pairs without answers or wrong answers.
    """
    return _mean(*_chosen(logits, pairs, "answers")) - _largest(*_chosen(logits, pairs, "wrong_answers"))


def probability_difference(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """Summed probability of the answers minus that of the wrong answers, from -1 to 1.

    The softmax is over the whole vocabulary; the probabilities are not renormalised over the two sets.

    Raises:
        ValueError: Pairs without answers or wrong answers.
    """
    probabilities = logits.softmax(dim=-1)
    right, wrong = (_chosen(probabilities, pairs, name) for name in ("answers", "wrong_answers"))
    return _sum(*right) - _sum(*wrong)


def log_probability(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """Log of the summed probability of the answers, in nats; its negative is the negative log-likelihood.

    Raises:
        ValueError: Pairs without answers.
    """
    if pairs.rows is not None:
        return _sum(*_of_every_token(logits.log_softmax(dim=-1), pairs))
    values, real = _chosen(logits.log_softmax(dim=-1), pairs, "answers")
    return values.masked_fill(~real, -torch.inf).logsumexp(dim=-1)


def _flat(metric: Metric) -> Metric:
    metric.zero_gradient_at_clean = True
    metric.zero_gradient_reason = "it is 0 or 1, so its gradient is zero almost everywhere"
    return metric


@_flat
def accuracy(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """1 where the largest answer logit is above every wrong-answer logit, else 0; a tie is 0.

    Raises:
        ValueError: Pairs without answers or wrong answers.
    """
    right, wrong = (_largest(*_chosen(logits, pairs, name)) for name in ("answers", "wrong_answers"))
    return (right > wrong).to(logits.dtype)


@_flat
def top_accuracy(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
    """1 where the largest logit of the whole vocabulary is an answer's, else 0; a tie with another token is 1.

    Raises:
        ValueError: Pairs without answers.
    """
    if pairs.rows is not None:
        values, real = _of_every_token(logits, pairs)
        return ((values >= logits.amax(dim=-1)) | ~real).all(1).to(logits.dtype)
    return (_largest(*_chosen(logits, pairs, "answers")) >= logits.amax(dim=-1)).to(logits.dtype)


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


def normalised(metric: Metric, clean_value: float, corrupted_value: float) -> Metric:
    """The metric rescaled so that the corrupted prompts' value is 0 and the clean prompts' is 1.

    (metric - corrupted_value) / (clean_value - corrupted_value), prompt by prompt; its mean over the prompts on which
    the two means were taken is 0 for the model on the corrupted and 1 on the clean prompts.

    Args:
        clean_value: Mean of the metric over the prompts, the model run on the clean ones.
        corrupted_value: The same, run on the corrupted ones (with the clean prompts' answers).

    Raises:
        ValueError: Both values are equal or not finite.
    """
    span = float(clean_value) - float(corrupted_value)
    if not span or not abs(span) < float("inf"):
        raise ValueError(
            f"clean_value and corrupted_value: expected two different finite numbers, got {float(clean_value)} and "
            f"{float(corrupted_value)}; the corruption does not change this metric, take another one"
        )

    def rescaled(logits: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs) -> Float[Tensor, "batch"]:
        return (metric(logits, pairs) - float(corrupted_value)) / span

    rescaled.__name__ = f"normalised {metric_name(metric)}"
    for name in ("zero_gradient_at_clean", "zero_gradient_reason"):
        if hasattr(metric, name):
            setattr(rescaled, name, getattr(metric, name))
    return rescaled


def _chosen(
    values: Float[Tensor, "batch *rows d_vocab"], pairs: PromptPairs, name: str
) -> tuple[Float[Tensor, "batch choice"], Bool[Tensor, "batch choice"]]:
    """The values at the answers or wrong answers, and where an answer is real.

    Of answers of several tokens it is one value each: at the first token in which answer and wrong answer differ.
    """
    choices: Int[Tensor, "batch choice"] | None = getattr(pairs, name)
    if choices is None:
        raise ValueError(f"pairs: expected pairs with {name}, got pairs without; give PromptPairs {name}=...")
    if len(choices) != len(values):
        raise ValueError(
            f"logits: expected one row for each of the {len(choices)} pairs, got {len(values)}; "
            "give the logits at the answer positions of these pairs"
        )
    choices = choices.to(values.device)
    if pairs.rows is not None:
        differing, each = _first_difference(pairs).to(values.device), torch.arange(len(choices), device=values.device)
        values, choices = values[each, differing], choices[each, differing][:, None]
    return values.gather(1, choices.clamp(min=0)), choices >= 0


def _of_every_token(
    values: Float[Tensor, "batch row d_vocab"], pairs: PromptPairs
) -> tuple[Float[Tensor, "batch row"], Bool[Tensor, "batch row"]]:
    """The value of each token of the answer, and where there is one."""
    if pairs.answers is None:
        raise ValueError("pairs: expected pairs with answers, got pairs without; give PromptPairs answers=...")
    tokens = pairs.answers.to(values.device)
    return values.gather(2, tokens.clamp(min=0)[..., None])[..., 0], tokens >= 0


def _first_difference(pairs: PromptPairs) -> Int[Tensor, "batch"]:
    """Which token of each answer is the first that its wrong answer has not."""
    if pairs.wrong_answers is None:
        raise ValueError(
            "pairs: expected pairs with wrong_answers, got pairs without; give PromptPairs wrong_answers=..."
        )
    return ((pairs.answers != pairs.wrong_answers) & (pairs.wrong_answers >= 0)).long().argmax(1)


def _sum(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return values.where(real, 0).sum(dim=-1)


def _mean(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return _sum(values, real) / real.sum(dim=-1)


def _largest(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return values.masked_fill(~real, -torch.inf).amax(dim=-1)


def _prompts(pairs: PromptPairs) -> list[tuple[int | tuple[int, ...], ...]]:
    """Answer positions and real tokens of each clean prompt."""
    read = pairs.positions.tolist() if pairs.rows is None else map(tuple, pairs.rows.tolist())
    columns = (read, pairs.lengths.tolist(), pairs.clean.tolist())
    return [(position, *tokens[:length]) for position, length, tokens in zip(*columns)]


METRICS: dict[str, Metric] = {
    metric.__name__: metric
    for metric in (
        logit_difference,
        answer_minus_best_wrong,
        probability_difference,
        log_probability,
        accuracy,
        top_accuracy,
    )
}
