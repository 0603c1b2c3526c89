"""Answers of several tokens and named positions: what becomes of the prompts, and metrics over them by hand."""

from __future__ import annotations

import pytest
import torch

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import KLDivergence, load

IDS = dict(clean=[[1, 2, 3], [4, 5]], corrupted=[[1, 6, 3], [7, 5]])


class Letters:
    """A tokenizer of one token a letter."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def convert_ids_to_tokens(self, ids):
        return [chr(ord("a") + each) for each in ids]


def pairs(**given) -> PromptPairs:
    return PromptPairs(**IDS, **(dict(answers=[[8, 9, 10], 11], wrong_answers=[[8, 12], [13, 14]]) | given))


def test_prompts_are_continued_by_all_but_the_last_token():
    made = pairs(several_tokens=True)
    assert made.clean.tolist() == [[1, 2, 3, 8, 9], [4, 5, 0, 0, 0]]
    assert made.corrupted.tolist() == [[1, 6, 3, 8, 9], [7, 5, 0, 0, 0]]
    assert made.rows.tolist() == [[2, 3, 4], [1, -1, -1]] and made.positions.tolist() == [4, 1]
    assert made.answers.tolist() == [[8, 9, 10], [11, -1, -1]]
    assert made.wrong_answers.tolist() == [[8, 12, -1], [13, -1, -1]]


def test_strings_are_taken_apart_and_one_token_stays_the_rule():
    texts = dict(clean=["abc", "cab"], corrupted=["bbc", "bab"], tokenizer=Letters())
    made = PromptPairs(**texts, answers=["xy", "z"], wrong_answers=["xz", "yy"], several_tokens=True)
    assert made.answers.tolist() == [[23, 24], [25, -1]] and made.wrong_answers.tolist() == [[23, 25], [24, -1]]
    with pytest.raises(ValueError, match=r"'xy' is 2 tokens, .*, expected exactly one; .*several_tokens=True"):
        PromptPairs(**texts, answers=["xy", "z"])


def test_selecting_joining_moving_and_comparing_keep_the_rows():
    made = pairs(several_tokens=True)
    assert made[[1]].rows.tolist() == [[1, -1, -1]] and made[[1]].clean.shape == (1, 2)
    assert (
        PromptPairs.concat([made[[0]], made[[1]]])
        == made
        == made.to("cpu")
        != pairs(several_tokens=False, answers=[8, 11], wrong_answers=None)
    )
    assert made.digest != made._replaced(rows=made.rows.flip(0)).digest
    assert made.read_at_the_end().rows is None
    with pytest.raises(ValueError, match="set 1 has no rows and others have"):
        PromptPairs.concat([made, pairs(answers=[8, 11], wrong_answers=[1, 2])])


def test_metrics_by_hand():
    made, generator = pairs(several_tokens=True), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, generator=generator, dtype=torch.float64)
    log = logits.log_softmax(-1)
    expected = torch.stack((log[0, 0, 8] + log[0, 1, 9] + log[0, 2, 10], log[1, 0, 11]))
    torch.testing.assert_close(load("log_probability")(logits, made), expected)
    differences = torch.stack((logits[0, 1, 9] - logits[0, 1, 12], logits[1, 0, 11] - logits[1, 0, 13]))
    for name in ("logit_difference", "answer_minus_best_wrong"):
        torch.testing.assert_close(load(name)(logits, made), differences)
    assert load("accuracy")(logits, made).tolist() == (differences > 0).double().tolist()
    p = logits.softmax(-1)
    expected = torch.stack((p[0, 1, 9] - p[0, 1, 12], p[1, 0, 11] - p[1, 0, 13]))
    torch.testing.assert_close(load("probability_difference")(logits, made), expected)
    for row, token in ((0, 8), (1, 9), (2, 10)):
        logits[0, row, token] = 9
    assert load("top_accuracy")(logits, made).tolist() == [1, 0]
    logits[0, 1, 3], logits[1, 0, 11] = 10, 9
    assert load("top_accuracy")(logits, made).tolist() == [0, 1]


def test_divergence_is_the_sum_over_the_tokens_of_the_answer():
    made, generator = pairs(several_tokens=True), torch.Generator().manual_seed(1)
    whole, logits = torch.randn(2, 2, 3, 16, generator=generator, dtype=torch.float64)
    p, q = whole.log_softmax(-1), logits.log_softmax(-1)
    each = (p.exp() * (p - q)).sum(-1)
    metric = KLDivergence(made, whole)
    torch.testing.assert_close(metric(logits, made), -torch.stack((each[0].sum(), each[1, 0])))
    torch.testing.assert_close(metric(logits[[1]], made[[1]]), -each[1, :1])
    with pytest.raises(ValueError, match="logits: expected one row"):
        KLDivergence(made, whole[:, 0])


def test_named_positions_are_rows_in_the_order_of_the_names():
    made = PromptPairs(**IDS, positions={"end": None, "first": 0, "before": [-2, 0]})
    assert made.rows.tolist() == [[2, 0, 1], [1, 0, 0]] and made.positions.tolist() == [2, 1]
    assert made.clean.tolist() == [[1, 2, 3], [4, 5, 0]] and made.answers is None
    with pytest.raises(ValueError, match="expected pairs with answers"):
        load("log_probability")(torch.zeros(2, 3, 16), made)


@pytest.mark.usefixtures("without_type_checks")
def test_refusals(tmp_path):
    refused = {
        "row 0: wrong_answers: expected a token in which it differs": dict(wrong_answers=[[8, 9], [13]]),
        "row 1: answers: expected one answer, a string or a list of token ids, got": dict(answers=[[8], [[9]]]),
        "several_tokens: expected answers": dict(answers=None),
        "row 1: positions: expected the last token before an answer of several tokens, got 0": dict(positions=[-1, 0]),
        "several_tokens: expected neither spans nor named positions": dict(positions={"end": -1}),
        "answers: expected one for each of the 2 pairs, got 1": dict(answers=[[8]]),
        "several_tokens: expected True or False": dict(several_tokens="yes"),
    }
    for message, given in refused.items():
        with pytest.raises(ValueError, match=message):
            pairs(**(dict(several_tokens=True) | given))
    with pytest.raises(ValueError, match="answers: expected None where positions are named"):
        pairs(answers=[1, 2], wrong_answers=None, positions={"end": -1})
    with pytest.raises(ValueError, match="pairs: expected pairs read at one position, to write them"):
        pairs(several_tokens=True).to_jsonl(tmp_path / "pairs.jsonl")
    with pytest.raises(ValueError, match="pairs: expected pairs with wrong_answers"):
        load("logit_difference")(torch.zeros(2, 3, 16), pairs(several_tokens=True, wrong_answers=None))
