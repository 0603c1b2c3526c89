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
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.divergence import KLDivergence
from edge_circuits.graphs.metric_checks import check_each_prompt_alone
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import in_order
from edge_circuits.graphs.running.patching import clean_logits

KL = "kl"
MAX_TOKENS = 2048

Metric: TypeAlias = Callable[[Float[Tensor, "batch *rows d_vocab"], PromptPairs], Float[Tensor, " batch"]]


def metric_name(metric: Metric) -> str:
    """What results call it."""
    return getattr(metric, "__name__", type(metric).__name__)


def check_shape(values: Tensor, pairs: PromptPairs, metric: Metric) -> None:
    """Refuse what is not one value a prompt."""
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


def as_metric(metric: Metric | str, transformer: Transformer, pairs: PromptPairs, asked: bool = True) -> Metric:
    """The metric of a name, "kl" included, or the metric that is given.

    Args:
        transformer: for "kl", the model from which the divergence is.
        pairs: the prompts that it will be asked about.
        asked: it will be asked; otherwise it is only named, and not tried.

    Raises:
        ValueError: There is no such metric, or its value for a prompt hangs on the other prompts too.
    """
    if callable(metric):
        if asked and metric not in METRICS.values():
            check_each_prompt_alone(metric, metric_name(metric), transformer, pairs)
        return metric
    if metric != KL:
        return load(metric)
    batches = [batch.to(transformer.device) for batch in pairs.batches(max_tokens=MAX_TOKENS)]
    with torch.no_grad():
        logits = in_order(batches, [clean_logits(transformer, batch) for batch in batches])
    return KLDivergence(pairs, logits)


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
    choices = _given(pairs, name)
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
    tokens = _given(pairs, "answers").to(values.device)
    return values.gather(2, tokens.clamp(min=0)[..., None])[..., 0], tokens >= 0


def _first_difference(pairs: PromptPairs) -> Int[Tensor, "batch"]:
    """Which token of each answer is the first that its wrong answer has not."""
    wrong = _given(pairs, "wrong_answers")
    return ((pairs.answers != wrong) & (wrong >= 0)).long().argmax(1)


def _given(pairs: PromptPairs, name: str) -> Int[Tensor, "batch choice"]:
    """The answers or wrong answers, if pairs have any."""
    if (choices := getattr(pairs, name)) is None:
        raise refusal("pairs", f"pairs with {name}", "pairs without", f"give PromptPairs {name}=...")
    return choices


def _sum(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return values.where(real, 0).sum(dim=-1)


def _mean(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return _sum(values, real) / real.sum(dim=-1)


def _largest(values: Float[Tensor, "batch choice"], real: Bool[Tensor, "batch choice"]) -> Float[Tensor, "batch"]:
    return values.masked_fill(~real, -torch.inf).amax(dim=-1)


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
