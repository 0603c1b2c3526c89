"""Which sources readers take exactly is each prompt's own matter: no batch, chunk, order or company of prompts changes it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hub_models import hub_model
from models import curved, logit_difference, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.exact_softmax import largest
from edge_circuits.graphs import PromptPairs

PAIRS = prompt_pairs([7, 4, 1, 6, 9], positions=[-1, 1, -1, -3, -2])  # read in the middle and at the end
ORDER = [3, 0, 4, 2, 1]
N_OTHERS = 3
COMPANY = prompt_pairs(
    [7, 4, 1, 6, 9, 11, 5, 8], positions=[-1, 1, -1, -3, -2, 2, -1, -1]
)  # the last three are the others
MODELS = {kind: lambda kind=kind: tiny(kind).model for kind in ("gpt2", "llama", "gemma2")}
MODELS |= {
    kind: lambda kind=kind: hub_model(kind) for kind in ("mixtral", "olmo2")
}  # experts, and norms that heads share
READERS = ("norm", "softmax", "exact")
METHODS = [f"{name}:reader={reader},exact_sources=2" for name in ("eap", "relp", "eap-ig") for reader in READERS]
METHODS += ["blend:exact_sources=2", "eap:reader=exact,metric_as=curve"]


def scores(kind: str, method: str, pairs=PAIRS, metric=curved, **settings: object) -> Tensor:
    return eap.score(MODELS[kind](), pairs, metric, method, quiet=True, **settings).scores


@cache
def one_at_a_time(kind: str, method: str) -> Tensor:
    return scores(kind, method, batch_size=1)


def same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < 1e-10 * expected.abs().max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_batch_chunk_or_order_of_prompts_changes_a_score(kind: str, method: str) -> None:
    expected = one_at_a_time(kind, method)
    ways = [dict(batch_size=3, token_chunk=3), dict(batch_size=5, pairs=PAIRS[ORDER])]
    for way in ways:
        assert same(scores(kind, method, **way), expected), way


@pytest.mark.parametrize("kind", ["gemma2", "mixtral", "olmo2"])
def test_nor_where_experts_post_norms_or_shared_norms_are(kind: str) -> None:
    expected = one_at_a_time(kind, METHODS[5])
    assert same(scores(kind, METHODS[5], batch_size=5, token_chunk=7), expected)


@pytest.mark.parametrize("method", ["eap:reader=exact,exact_sources=2", "relp:reader=softmax,exact_sources=1"])
def test_other_prompts_beside_them_add_their_own_scores(method: str) -> None:
    ours, theirs = COMPANY[: len(COMPANY) - N_OTHERS], COMPANY[len(COMPANY) - N_OTHERS :]
    parts = [scores("llama", method, pairs, logit_difference) * len(pairs) for pairs in (ours, theirs)]
    assert same(scores("llama", method, COMPANY, logit_difference) * len(COMPANY), sum(parts))


@pytest.mark.parametrize("reader", ["softmax", "exact"])
def test_spans_are_each_prompts_own_too(reader: str) -> None:
    pairs = prompt_pairs([6, 6, 6])
    found = [
        eap.score(tiny("llama").model, pairs, curved, f"eap:reader={reader},exact_sources=2", **way).scores
        for way in (dict(by="token", batch_size=1, quiet=True), dict(by="token", token_chunk=4, quiet=True))
    ]
    assert same(*found)


def test_padding_on_the_left_is_no_part_of_the_choice() -> None:
    mask = torch.arange(9) >= 9 - PAIRS.lengths[:, None]
    clean, corrupted = torch.full(mask.shape, 7), torch.full(mask.shape, 3)
    for row, n in enumerate(PAIRS.lengths):
        clean[row, mask[row]], corrupted[row, mask[row]] = PAIRS.clean[row, :n], PAIRS.corrupted[row, :n]
    named = dict(positions=PAIRS.positions, attention_mask=mask.long())
    padded = PromptPairs(clean, corrupted, PAIRS.answers, PAIRS.wrong_answers, **named)
    assert same(scores("gpt2", METHODS[2], padded, batch_size=5), one_at_a_time("gpt2", METHODS[2]))


def test_the_largest_of_each_place_are_chosen_and_zeros_never() -> None:
    change = torch.tensor([[0.0, 3.0, 0.0], [5.0, 0.5, 0.0], [2.0, 4.0, 0.0]])
    assert sorted(largest(change, 1).tolist()) == [[1, 0], [2, 1]]
    assert sorted(largest(change, 2).tolist()) == [[0, 1], [1, 0], [2, 0], [2, 1]]
    assert sorted(largest(change, 9).tolist()) == [[0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
