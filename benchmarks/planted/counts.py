"""Two circuits in one model that share nodes: the word that comes twice, and the word that comes once.

Three layers of four heads without MLPs, learned positions, no norm. The prompt is seven words in random order and a mark. Of those before "?"
one comes twice and five once; of those before "!" three come twice and one once. The answer is the word that comes as no other
does. Both circuits count words with the same heads; movers of their own take the words counted most, or least.

| node         | role         | reads                                      | computes                                        |
| ------------ | ------------ | ------------------------------------------ | ----------------------------------------------- |
| a0.h1, a1.h2 | count        | <v> words                                  | at the mark, how often each word comes          |
| a2.h0, a2.h3 | twice mover  | <q> both count heads, <k> words, <v> words | words, weighted towards those counted twice     |
| a2.h1, a2.h2 | once mover   | the same                                   | words, weighted away from those counted twice   |
| logits       |              | the two movers of the task                 | strength times the sum of what they moved       |

The task `counts.twice` has the first movers, `counts.once` the second; a mover weights the words by softmax(+- sharpness x mean of the counts).
"""

from __future__ import annotations

import random
from functools import partial

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted import twice
from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import FOUR, PlantedTask, Training, WordTask
from edge_circuits.benchmarks.planted.twice import BOS, FIRST, LENGTH, MARK, WORDS
from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair, token_pairs
from edge_circuits.graphs import PromptPairs

COUNT = ("a0.h1", "a1.h2")
MOVERS = {"twice": ("a2.h0", "a2.h3"), "once": ("a2.h1", "a2.h2")}
N_TWICE = {"twice": 1, "once": 3}  # words that come twice
SHARPNESS = {"twice": twice.SHARPNESS, "once": -twice.SHARPNESS}
MARKS = {"twice": MARK, "once": MARK + 1}


def draw(which: str, n: int, seed: int, split: Split) -> PromptPairs:
    """Prompts of one kind, and others with another answer."""

    def prompt(rng: random.Random) -> tuple[list[int], int]:
        words = rng.sample(range(FIRST, MARK), LENGTH - N_TWICE[which])
        answer = words[0] if which == "twice" else words[-1]
        words += words[: N_TWICE[which]]
        rng.shuffle(words)
        return words, answer

    def one(rng: random.Random) -> TokenPair | None:
        (clean, answer), (corrupted, other) = prompt(rng), prompt(rng)
        if not in_split(repr(sorted(clean)), split) or answer == other:
            return None
        wrong = [word for word in dict.fromkeys(clean) if word != answer]
        mark = MARKS[which]
        return TokenPair([BOS, *clean, mark], [BOS, *corrupted, mark], answer, wrong)

    return token_pairs(one, n, f"planted counts {which} {seed}", TASKS[which].word_tokenizer())


def attends(
    which: str, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From the mark to all words, and to the one that comes as no other does."""
    is_word = (tokens >= FIRST) & (tokens < MARK)
    counted = (tokens[:, :, None] == tokens[:, None, :]).sum(-1)
    answer = is_word & (counted == (2 if which == "twice" else 1))
    return {
        **dict.fromkeys(COUNT, at_answer(positions, is_word)),
        **dict.fromkeys(MOVERS[which], at_answer(positions, answer)),
    }


def answer(inputs: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Logits: strength times the sum of what was moved; this vocabulary has one mark more."""
    return F.pad(total(inputs, twice.STRENGTH), (0, 1))


def planted(which: str) -> PlantedTask:
    """One of the tasks."""
    movers = MOVERS[which]
    return PlantedTask(
        name=f"counts.{which}",
        task=TASKS[which],
        settings=dict(n_layers=3, n_heads=4, d_model=64, d_head=16, n_ctx=12, attn_only=True, normalization_type=None),
        causal=CausalModel(
            (
                *(head(node, twice.count, v=("input",)) for node in COUNT),
                *(
                    head(node, partial(twice.mover, sharpness=SHARPNESS[which]), q=COUNT, k=("input",), v=("input",))
                    for node in movers
                ),
                sink("logits", answer, *movers),
            )
        ),
        read=twice.read,
        attends=partial(attends, which),
        roles={"count": COUNT, f"{which} mover": movers},
        interventions=FOUR,
        training=Training(steps=3000, alone=2000, rest=0.03, batch_size=32, next_word=0.1, squares=0.5),
    )


TASKS = {
    which: WordTask(words=(*WORDS, "?", "!"), metric="logit_difference", draw=partial(draw, which)) for which in MARKS
}
PLANTED = tuple(planted(which) for which in MARKS)
