"""Brackets of four kinds, nested up to five deep: which one closes next.

The prompt ends where a bracket has to close; in the corrupted prompt that bracket was opened with another kind.

Llama's shape: 3 layers of 4 heads with gated MLPs, RMSNorm, rotary positions.
"""

from __future__ import annotations

import random

from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair
from edge_circuits.benchmarks.trained.language import BOS, Example, Language, Task, Training, llama_settings

KINDS = ("()", "[]", "{}", "<>")
WORDS = (*(kind[0] for kind in KINDS), *(kind[1] for kind in KINDS))
OPEN, CLOSE = range(2, 6), range(6, 10)
N_TOKENS, DEEPEST = 20, 5


def brackets(rng: random.Random) -> tuple[list[int], list[int]]:
    """Random brackets that fit, and which places of them are open after the last."""
    tokens: list[int] = []
    stack: list[int] = []
    for at in range(N_TOKENS):
        if stack and (len(stack) == DEEPEST or rng.random() < 0.5):
            tokens.append(tokens[stack.pop()] + 4)
        else:
            tokens.append(rng.choice(OPEN))
            stack.append(at)
    return tokens, stack


def sequence(rng: random.Random) -> Example:
    """Random brackets that fit, so far."""
    return Example([BOS, *brackets(rng)[0]])


def pair(rng: random.Random, split: Split) -> TokenPair | None:
    """A prompt with an open bracket, and the same with another kind of bracket there."""
    tokens, stack = brackets(rng)
    if len(stack) < 2 or len(tokens) - stack[-1] < 2 or not in_split(repr(tokens), split):
        return None
    here, other = tokens[stack[-1]], rng.choice([kind for kind in OPEN if kind != tokens[stack[-1]]])
    changed = list(tokens)
    changed[stack[-1]] = other
    return TokenPair([BOS, *tokens], [BOS, *changed], here + 4, other + 4)


LANGUAGE = Language(
    name="brackets",
    architecture="llama",
    settings=llama_settings(3, n_kv_heads=4),
    words=WORDS,
    sequence=sequence,
    tasks=(Task(name="brackets", words=WORDS, draw=pair),),
    training=Training(steps=3000),
)
