"""A metric whose value for a prompt hangs on the others, or on their order, is refused by whatever takes a metric."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import RAGGED, logit_difference, tiny
from torch import Tensor

from edge_circuits import acdc, eap
from edge_circuits.graphs import Circuit, Graph, PromptPairs
from edge_circuits.graphs.measures.quality import measure

ANSWERS = RAGGED.answers[:, 0]


def answers_beside(logits: Tensor, pairs: PromptPairs) -> Tensor:
    """The logit of answers kept in the order of the prompts, where `logits` are sorted by length."""
    return logits[torch.arange(len(ANSWERS)), ANSWERS]


def answers_from_the_start(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits.gather(1, ANSWERS[: len(logits), None])[:, 0]


def less_the_mean(logits: Tensor, pairs: PromptPairs) -> Tensor:
    values = logit_difference(logits, pairs)
    return values - values.mean()


def drawn(logits: Tensor, pairs: PromptPairs) -> Tensor:
    return logits[:, 0] + torch.rand(len(logits))


@pytest.mark.parametrize("metric", [answers_beside, answers_from_the_start, less_the_mean, drawn])
def test_it_is_refused(metric: Callable, without_type_checks: None) -> None:
    model = tiny("gpt2").model
    circuit = Circuit.full(Graph.from_model(model))
    asked = (
        lambda: eap.score(model, RAGGED, metric, "eap", quiet=True),
        lambda: eap.score_nodes(model, RAGGED, metric, quiet=True),
        lambda: measure(model, circuit, RAGGED, metric),
        lambda: acdc.discover(model, RAGGED, metric, 0.1, quiet=True),
    )
    for call in asked:
        with pytest.raises(
            ValueError, match=f"metric {metric.__name__}: expected a value for each prompt that hangs on"
        ):
            call()


def test_answers_kept_beside_the_prompts_would_have_been_those_of_others() -> None:
    [batch] = RAGGED.batches()
    assert not torch.equal(batch.answers[:, 0], ANSWERS)


def test_own_rows_in_place_and_one_prompt_are_no_fault() -> None:
    model = tiny("gpt2").model
    expected = eap.score(model, RAGGED, logit_difference, "eap", quiet=True).scores
    twice = eap.score(model, RAGGED, lambda logits, pairs: logit_difference(logits.mul_(2), pairs), "eap", quiet=True)
    torch.testing.assert_close(twice.scores, 2 * expected, rtol=1e-12, atol=1e-12)
    eap.score(model, RAGGED[[0]], less_the_mean, "exact", quiet=True)
    rows = PromptPairs([[1, 2, 3], [4, 5]], [[1, 6, 3], [7, 5]], positions={"first": 0, "end": -1})
    eap.score(model, rows, lambda logits, pairs: logits[:, 0, 3] - logits[:, 1, 4], "eap", quiet=True)
