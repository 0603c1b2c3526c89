"""Addition of numbers modulo 31: "a b =" and then (a + b) mod 31, all of two digits.

A quarter of all pairs of numbers is never seen in training, so sums of those have to be worked out and cannot be remembered. The
corrupted prompt has another second number.

GPT-2's shape: 2 layers of 4 heads with MLPs, LayerNorm, learned positions; the embedding is the unembedding.

Reference: Nanda et al. 2023, Progress Measures for Grokking via Mechanistic Interpretability.
"""

from __future__ import annotations

import random

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training, gpt2_settings

MODULUS = 31
WORDS = (*(f"{number:02}" for number in range(MODULUS)), "=")
EQUALS = 2 + MODULUS  # ids; numbers begin at 2


def prompt(first: int, second: int) -> list[int]:
    """The ids of "first second ="."""
    return [BOS, 2 + first, 2 + second, EQUALS]


def total(first: int, second: int) -> int:
    """The id of the sum."""
    return 2 + (first + second) % MODULUS


def sequence(rng: random.Random) -> Example:
    """A sum of two numbers that is not among those of the test; the sum alone is to be told."""
    while True:
        numbers = rng.randrange(MODULUS), rng.randrange(MODULUS)
        if in_split(repr(numbers), "train"):
            return Example([*prompt(*numbers), total(*numbers)], 4)


def pair(rng: random.Random, split: Split) -> TokenPair | None:
    """A sum, and the same with another second number."""
    first, second, other = (rng.randrange(MODULUS) for _ in range(3))
    if other == second or not in_split(repr((first, second)), split):
        return None
    return TokenPair(prompt(first, second), prompt(first, other), total(first, second), total(first, other))


LANGUAGE = Language(
    name="addition",
    architecture="gpt2",
    settings=gpt2_settings(2, n_positions=8),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="addition", words=WORDS, draw=pair),),
    training=Training(steps=1500, batch_size=256, weight_decay=0.5),
)
