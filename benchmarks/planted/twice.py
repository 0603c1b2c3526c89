"""The word that comes twice, found by counting words: a circuit that is true under all four interventions.

Three layers of four heads with MLPs, learned positions, no norm. The prompt is words in random order, one of them twice, and a mark;
the answer is that word. Nothing in the circuit depends on positions, and a head whose queries and keys are cut looks at all
words alike, so that it makes no difference whether a cut edge reads another prompt, zero or a mean.

| node         | role   | reads                                      | computes                                    |
| ------------ | ------ | ------------------------------------------ | ------------------------------------------- |
| a0.h1, a1.h2 | count  | <v> words                                  | at the mark, how often each word comes      |
| a2.h0, a2.h3 | mover  | <q> both count heads, <k> words, <v> words | words, weighted towards those counted twice |
| logits       |        | both movers                                | strength times the sum of what they moved   |

A mover weights the words by softmax(sharpness x mean of the counts of the word).
"""

from __future__ import annotations

import random
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import FOUR, PlantedTask, Training, WordTask
from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair, token_pairs
from edge_circuits.graphs import PromptPairs

COUNT = ("a0.h1", "a1.h2")
MOVERS = ("a2.h0", "a2.h3")
SHARPNESS = 4.0
STRENGTH = 3.5  # logits that one mover gives a word it takes with weight 1
WORDS = tuple(f"{letter}{other}" for letter in "bdfg" for other in "aeio")
BOS, FIRST, MARK = 1, 2, 2 + len(WORDS)  # ids
LENGTH = 7  # words


def draw(n: int, seed: int, split: Split) -> PromptPairs:
    """Prompts with one word twice, and others in which another word is."""

    def one(rng: random.Random) -> TokenPair | None:
        (clean, answer), (corrupted, other) = _prompt(rng), _prompt(rng)
        if not in_split(repr(sorted(clean)), split) or answer == other:
            return None
        wrong = [word for word in dict.fromkeys(clean) if word != answer]
        return TokenPair([BOS, *clean, MARK], [BOS, *corrupted, MARK], answer, wrong)

    return token_pairs(one, n, f"planted twice {seed}", TASK.word_tokenizer())


def _prompt(rng: random.Random) -> tuple[list[int], int]:
    words = rng.sample(range(FIRST, MARK), LENGTH - 1)
    twice = words[0]
    words.append(twice)
    rng.shuffle(words)
    return words, twice


def read(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch word"]:
    """The words."""
    return tokens[:, 1 : 1 + LENGTH]


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From the mark to all words, and to the word that comes twice."""
    is_word = (tokens >= FIRST) & (tokens < MARK)
    twice = is_word & ((tokens[:, :, None] == tokens[:, None, :]).sum(-1) == 2)
    return {**dict.fromkeys(COUNT, at_answer(positions, is_word)), **dict.fromkeys(MOVERS, at_answer(positions, twice))}


def count(v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """How often each word comes."""
    return moved(v[0], torch.ones(v[0].shape))


def mover(
    q: list[Tensor], k: list[Tensor], v: list[Tensor], sharpness: float = SHARPNESS
) -> Float[Tensor, "batch d_vocab"]:
    """Weights of the words, towards those counted twice; with a sharpness below 0 away from them."""
    counted = torch.stack(q).mean(0).gather(1, k[0])
    return moved(v[0], (sharpness * counted).softmax(1))


def moved(words: Int[Tensor, "batch word"], weights: Float[Tensor, "batch word"]) -> Float[Tensor, "batch d_vocab"]:
    """The words with these weights, added up."""
    return torch.zeros(len(words), len(TASK.vocabulary())).scatter_add_(1, words, weights)


TASK = WordTask(words=(*WORDS, "?"), metric="logit_difference", draw=draw)
PLANTED = PlantedTask(
    name="twice",
    task=TASK,
    settings=dict(
        n_layers=3, n_heads=4, d_model=64, d_head=16, d_mlp=96, n_ctx=12, act_fn="gelu", normalization_type=None
    ),
    causal=CausalModel(
        (
            *(head(node, count, v=("input",)) for node in COUNT),
            *(head(node, mover, q=COUNT, k=("input",), v=("input",)) for node in MOVERS),
            sink("logits", partial(total, strength=STRENGTH), *MOVERS),
        )
    ),
    read=read,
    attends=attends,
    roles={"count": COUNT, "mover": MOVERS},
    interventions=FOUR,
    training=Training(steps=2600, alone=600, rest=0.03, next_word=0.1),
)
