"""Digits to sort, and windows of text."""

from __future__ import annotations

import warnings

import pytest
from models import native

from edge_circuits.benchmarks.problems.prompt_sets import sort_pairs, text_pairs, written_texts
from edge_circuits.graphs import Circuit, Graph, run

TWO = native(n_layers=2, n_heads=2, d_model=12, d_head=6, d_mlp=16, normalization_type="LN", act_fn="gelu").double()


def test_sorting_prompts_ask_for_the_next_digit() -> None:
    pairs = sort_pairs(40, seed=1)
    assert pairs.clean.shape == (40, 11) and set(pairs.lengths.tolist()) == set(range(6, 12))
    for row, length in enumerate(pairs.lengths.tolist()):
        for tokens in (pairs.clean[row, :length].tolist(), pairs.corrupted[row, :length].tolist()):
            assert tokens[6:] == sorted(tokens[:6])[: length - 6]
        answer = sorted(pairs.clean[row, :6].tolist())[length - 6]
        assert pairs.answers[row].tolist() == [answer] != [sorted(pairs.corrupted[row, :6].tolist())[length - 6]]
        assert sorted([*pairs.wrong_answers[row].tolist(), answer]) == [0, 1, 2]
    assert pairs == sort_pairs(40, seed=1) and pairs != sort_pairs(40, seed=2)


def test_text_prompts_are_windows_with_half_replaced() -> None:
    text = list(range(40)) * 2
    pairs = text_pairs(TWO, [text], 12, seed=0, n_tokens=9)
    changed = pairs.clean != pairs.corrupted
    assert (changed.sum(1) == 4).all() and not changed[:, 0].any()
    assert all((row + 1) % 40 == after for row, after in zip(pairs.clean[:, -1].tolist(), pairs.answers[:, 0].tolist()))
    logits = run(TWO, Circuit.full(Graph.from_model(TWO)), type(pairs)(pairs.corrupted, pairs.corrupted))
    for row, (answer, wrong) in enumerate(zip(pairs.answers[:, 0].tolist(), pairs.wrong_answers[:, 0].tolist())):
        assert wrong == next(token for token in logits[row].argsort(descending=True).tolist() if token != answer)


def test_written_texts_follow_the_model() -> None:
    with warnings.catch_warnings(action="error"):  # that nothing is corrupted is no news here
        texts = written_texts(TWO, 3, 4, 6, seed=0)
    assert [len(text) for text in texts] == [6] * 4 and all(text[0] == 3 for text in texts)
    assert texts == written_texts(TWO, 3, 4, 6, seed=0) != written_texts(TWO, 3, 4, 6, seed=1)


def test_short_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of more than 16 tokens"):
        text_pairs(TWO, [[1, 2, 3]], 2)
