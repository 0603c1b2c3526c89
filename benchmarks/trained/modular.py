"""Addition modulo 23: "7 + 19 =" -> 3.

A quarter of all sums is held out. The corrupted prompt has another first number; its sum is the wrong answer.

GPT-2's shape: 2 layers of 4 heads with MLPs, LayerNorm, learned positions.
"""

from __future__ import annotations

import random

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training
from edge_circuits.graphs import PromptPairs

MODULUS = 23
WORDS = (*(f"{number:02}" for number in range(MODULUS)), "+", "=")
PLUS, EQUALS = 2 + MODULUS, 3 + MODULUS


def prompt(first: int, second: int) -> list[int]:
    """The sum without its result."""
    return [BOS, 2 + first, PLUS, 2 + second, EQUALS]


def result(first: int, second: int) -> int:
    """The token of the sum."""
    return 2 + (first + second) % MODULUS


def sequence(rng: random.Random) -> Example:
    """A sum that is not held out; its result alone is told."""
    while True:
        first, second = rng.randrange(MODULUS), rng.randrange(MODULUS)
        if in_split(f"{first} + {second}", "train"):
            return Example([*prompt(first, second), result(first, second)], 5)


def pairs(n: int, seed: int = 0, split: Split = "test") -> PromptPairs:
    """Sums, and the same with another first number."""
    rng, rows = random.Random(f"modular {seed}"), []
    while len(rows) < n:
        first, other, second = *rng.sample(range(MODULUS), 2), rng.randrange(MODULUS)
        if in_split(f"{first} + {second}", split):
            rows.append((prompt(first, second), prompt(other, second), result(first, second), result(other, second)))
    return PromptPairs(*(list(column) for column in zip(*rows)), tokenizer=LANGUAGE.tokenizer)


LANGUAGE = Language(
    name="modular",
    architecture="gpt2",
    settings=dict(n_layer=2, n_head=4, n_embd=48, n_positions=8, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="modular", pairs=pairs),),
    training=Training(steps=6000, batch_size=256, learning_rate=2e-3, weight_decay=1.0),
)
