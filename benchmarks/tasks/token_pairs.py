"""Prompt pairs of token ids, drawn one by one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from edge_circuits.benchmarks.tasks.words import WordTokenizer
from edge_circuits.graphs import PromptPairs


class TokenPair(NamedTuple):
    """A clean and a corrupted prompt, the right answer or answers, and the wrong ones."""

    clean: list[int]
    corrupted: list[int]
    answers: int | list[int]
    wrong_answers: int | list[int]


def token_pairs(
    draw: Callable[[random.Random], TokenPair | None], n: int, seed: str, tokenizer: WordTokenizer
) -> PromptPairs:
    """n pairs.

    Args:
        draw: Draws one; None where what it drew is not wanted.
        n: How many.
        seed: Of the draws.
        tokenizer: Of the small vocabulary.
    """
    rng, rows = random.Random(seed), []
    while len(rows) < n:
        if (row := draw(rng)) is not None:
            rows.append(row)
    return PromptPairs(*(list(column) for column in zip(*rows)), tokenizer=tokenizer)
