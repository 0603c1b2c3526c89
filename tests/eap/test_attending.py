"""Why heads attend: terms against a reference source by source, and their sums against patterns of Hugging Face."""

from __future__ import annotations

import pytest
import torch
from hub_models import HUB, hub_model, hub_module
from models import D_VOCAB, hugging_face, prompt_pairs, tiny
from references.attending import attention_terms

from edge_circuits.eap.attending import CONSTANT, why_attends
from edge_circuits.graphs import PromptPairs

LENGTHS = [6, 4]
PLAIN = prompt_pairs(LENGTHS)
ROWS = [PLAIN.clean[row, :n].tolist() for row, n in enumerate(LENGTHS)]
PAIRS = PromptPairs(ROWS, ROWS, spans={"name": [(1, 3), 0], "end": [-1, -1]})


@pytest.mark.parametrize(
    ("kind", "head"), [("gpt2", (2, 1)), ("llama", (1, 3)), ("qwen3", (1, 2)), ("gemma2", (1, 1)), ("neox-parallel", (1, 0)),
                       ("rms-gated-grouped", (1, 1)), ("attention-only", (1, 2))]
)  # fmt: skip
def test_terms_are_those_of_the_reference(kind: str, head: tuple[int, int]) -> None:
    name = f"a{head[0]}.h{head[1]}"
    found = why_attends(tiny(kind).model, PAIRS, name, "end", "name")
    expected: dict[tuple[str, str], float] = {}
    for row, tokens in enumerate(ROWS):
        is_name = torch.isin(torch.arange(len(tokens)), torch.tensor(PAIRS.spans.stretches(row)["name"]))
        weights = is_name / is_name.sum() - ~is_name / (~is_name).sum()
        for pair, value in attention_terms(tiny(kind).literal, tokens, head, weights, len(tokens) - 1).items():
            expected[pair] = expected.get(pair, 0.0) + value / len(ROWS)
    largest = found.terms.abs().max()
    for (q, k), value in expected.items():
        assert abs(found.terms[found.sources.index(q), found.sources.index(k)] - value) < 1e-9 * largest, (q, k)
    assert len(expected) == (len(found.sources) - 1) ** 2 and found.sources[-1] == CONSTANT


@pytest.mark.parametrize("kind", ["olmo2", "bloom", "gpt-oss", "gpt2", "qwen3", "mistral"])
@pytest.mark.parametrize("against", [None, 2])
def test_terms_add_up_to_the_difference_of_scores(kind: str, against: int | None) -> None:
    """The logarithm of a pattern is its scores less a number of each row."""
    tokens = torch.arange(4).reshape(1, 4) * 7 % D_VOCAB
    is_hub = kind in HUB
    model, module = (hub_model(kind), hub_module(kind)) if is_hub else (tiny(kind).model, hugging_face(kind).double())
    module.set_attn_implementation("eager")
    pattern = module(tokens, output_attentions=True).attentions[1][0, 2, -1].double()
    found = why_attends(model, PromptPairs(tokens, tokens), "a1.h2", -1, 1, against)
    logs, others = pattern.log(), [0, 2, 3] if against is None else [against]
    assert found.pattern == pytest.approx(pattern[1].item(), rel=1e-5)
    assert found.difference == pytest.approx((logs[1] - logs[others].mean()).item(), rel=1e-4, abs=1e-5)


def test_biases_alone_are_constant() -> None:
    """A Llama has none, and what is left is rounding."""
    terms = why_attends(tiny("llama").model, PAIRS, "a1.h0", -1, 0).terms
    assert terms[-1].abs().max() < 1e-12 and terms[:, -1].abs().max() < 1e-12
    assert why_attends(tiny("gpt2").model, PAIRS, "a1.h0", -1, 0).terms[-1].abs().max() > 1e-3


def test_left_padding_makes_no_difference() -> None:
    ids = torch.tensor([[0, 0, *ROWS[1]], ROWS[0]])
    padded = PromptPairs(ids, ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))
    one, other = (why_attends(tiny("gpt2").model, pairs, "a2.h0", -1, 1) for pairs in (padded, PAIRS))
    assert torch.allclose(one.terms, other.terms, atol=1e-12)


def test_the_table_has_the_largest_terms() -> None:
    found = why_attends(tiny("gpt2").model, PAIRS, "a2.h0", "end", 0)
    (q, k, value), *_ = found.top(3)
    assert (
        abs(value) == found.terms.abs().max() and value == found.terms[found.sources.index(q), found.sources.index(k)]
    )
    assert str(found.table(3)).startswith("a2.h0 from end to 0: attention ") and len(found.table(3)) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("m0", -1, 0), "head: expected one of 'a0.h0', .*got 'm0'"),
        (("a0.h0", "start", 0), "query: expected one of 'name', 'end', 'rest', got 'start'"),
        (("a0.h0", -1, 4), "key: expected a whole number from -4 to 3, got 4; row 1 has 4 tokens"),
        (("a0.h0", 0, 1), "key: expected tokens that every query sees, got none in row 0"),
        (("a0.h0", 0, 0), "against: expected tokens that every query sees, got none in row 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        why_attends(tiny("gpt2").model, PAIRS, *asked)
    with pytest.raises(ValueError, match="model: expected queries and keys that are linear"):
        why_attends(hub_model("olmo"), PAIRS, "a0.h0", -1, 0)
