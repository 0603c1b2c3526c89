"""Words that come again: after "A B ... A" comes B.

Random words without repetition, then a stretch of them again. The prompt ends within the second stretch; the corrupted prompt has
another word after the first A, which is its wrong answer.

Llama's shape: 2 layers of 4 query heads and 2 key-value heads with gated MLPs, RMSNorm, rotary positions.
"""

from __future__ import annotations

import random

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training, llama_settings

N_WORDS = 40
SHORTEST, LONGEST = 6, 14  # of the first stretch

WORDS = tuple(f"{letter}{other}" for letter in "bdfglmnp" for other in "aeiou")
IDS = range(2, 2 + N_WORDS)


def sequence(rng: random.Random) -> Example:
    """Random words, and from some of them on the same again."""
    words = rng.sample(IDS, rng.randint(SHORTEST, LONGEST))
    start = rng.randrange(len(words) - 3)
    return Example([BOS, *words, *words[start:]], len(words) + 2)


def pair(rng: random.Random, split: Split) -> TokenPair | None:
    """A prompt whose last word came before, and the same with another word behind it there."""
    words = rng.sample(IDS, rng.randint(SHORTEST, LONGEST))
    start = rng.randrange(len(words) - 3)
    end = rng.randrange(start + 1, len(words) - 1)
    other = rng.choice([word for word in IDS if word not in words])
    if not in_split(repr(words), split):
        return None
    again, changed = words[start : end + 1], list(words)
    changed[end + 1] = other
    return TokenPair([BOS, *words, *again], [BOS, *changed, *again], words[end + 1], other)


LANGUAGE = Language(
    name="induction",
    architecture="llama",
    settings=llama_settings(2, n_kv_heads=2),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="induction", words=WORDS, draw=pair),),
    training=Training(steps=3000),
)
