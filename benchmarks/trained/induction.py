"""Words that come again: after "A B ... A" comes B.

Random words without repetition, then a stretch of them again. The prompt ends within the second stretch; the corrupted prompt has
another word after the first A, which is its wrong answer.

Llama's shape: 2 layers of 4 query heads and 2 key-value heads with gated MLPs, RMSNorm, rotary positions.
"""

from __future__ import annotations

import random

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair, token_pairs
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training
from edge_circuits.graphs import PromptPairs

N_WORDS = 40
SHORTEST, LONGEST = 6, 14  # of the first stretch

WORDS = tuple(f"{letter}{other}" for letter in "bdfglmnp" for other in "aeiou")
IDS = range(2, 2 + N_WORDS)


def sequence(rng: random.Random) -> Example:
    """Random words, and from some of them on the same again."""
    words = rng.sample(IDS, rng.randint(SHORTEST, LONGEST))
    start = rng.randrange(len(words) - 3)
    return Example([BOS, *words, *words[start:]], len(words) + 2)


def pairs(n: int, seed: int = 0, split: Split = "test") -> PromptPairs:
    """Prompts whose last word came before, and the same with another word behind it there."""

    def one(rng: random.Random) -> TokenPair | None:
        words = rng.sample(IDS, rng.randint(SHORTEST, LONGEST))
        start = rng.randrange(len(words) - 3)
        end = rng.randrange(start + 1, len(words) - 1)
        other = rng.choice([word for word in IDS if word not in words])
        if not in_split(repr(words), split):
            return None
        again, changed = words[start : end + 1], list(words)
        changed[end + 1] = other
        return TokenPair([BOS, *words, *again], [BOS, *changed, *again], words[end + 1], other)

    return token_pairs(one, n, f"induction {seed}", LANGUAGE.tokenizer)


LANGUAGE = Language(
    name="induction",
    architecture="llama",
    settings=dict(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=48,
        intermediate_size=96,
        max_position_embeddings=32,
    ),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="induction", pairs=pairs),),
    training=Training(steps=3000),
)
