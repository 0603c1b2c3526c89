"""Two look-ups in a row, in a larger model, with heads that hurt.

Seven layers of eight heads with MLPs, learned positions, no norm (so that strengths add up): 5,020 edges, 52 of them the circuit. The
prompt is four pairs of words in random order, "x y" for x -> y, and a word; the answer is two steps from it. The pairs are two
chains of three words. That the heads of the first layer look one position back is the same in all prompts, and so not in the
circuit.

| node                                | role           | reads                                               | computes                              |
| ----------------------------------- | -------------- | --------------------------------------------------- | ------------------------------------- |
| a0.h1, a0.h6                        | previous token | <v> words                                           | at each value, its key                |
| a1.h3, a2.h5                        | first look-up  | <q> last word, <k> previous-token heads, <v> words  | values, weighted towards the last word's |
| a3.h0, a4.h2, a4.h7, a5.h1, a6.h6   | mover          | <q> first look-ups, <k> previous-token heads, <v> words | values, weighted towards that of the word found |
| a5.h4, a6.h3                        | negative mover | the same                                            | the same                              |
| logits                              |                | all movers                                          | sum of what they moved, by strength   |

A look-up weights the values by softmax(sharpness match): the match of a pair is the inner product of what the previous-token heads
say its key is with what is asked for, the mean of its sources, each a distribution over words.
"""

from __future__ import annotations

import random
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import PlantedTask, Training, WordTask
from edge_circuits.benchmarks.tasks.task import Split, in_split
from edge_circuits.benchmarks.tasks.token_pairs import TokenPair, token_pairs
from edge_circuits.graphs import PromptPairs

PREVIOUS = ("a0.h1", "a0.h6")
FIRST_HOP = ("a1.h3", "a2.h5")
MOVERS = ("a3.h0", "a4.h2", "a4.h7", "a5.h1", "a6.h6")
NEGATIVE = ("a5.h4", "a6.h3")
SECOND_HOP = (*MOVERS, *NEGATIVE)
STRENGTH = dict.fromkeys(MOVERS, 3.0) | dict.fromkeys(NEGATIVE, -3.0)
SHARPNESS = 3.0
WORDS = tuple(f"{letter}{other}" for letter in "bdfg" for other in "aeio")
BOS, FIRST = 1, 2  # ids
N_PAIRS = 4


def draw(n: int, seed: int, split: Split) -> PromptPairs:
    """Prompts, and others with another answer."""

    def one(rng: random.Random) -> TokenPair | None:
        (clean, answer), (corrupted, other) = _prompt(rng), _prompt(rng)
        if not in_split(repr(sorted(clean)), split) or answer == other:
            return None
        wrong = [word for word in dict.fromkeys(clean) if word != answer]
        return TokenPair([BOS, *clean], [BOS, *corrupted], answer, wrong)

    return token_pairs(one, n, f"planted two hops {seed}", TASK.word_tokenizer())


def _prompt(rng: random.Random) -> tuple[list[int], int]:
    a, b, c, x, y, z = rng.sample(range(FIRST, FIRST + len(WORDS)), 6)
    pairs = [(a, b), (b, c), (x, y), (y, z)]
    rng.shuffle(pairs)
    return [word for pair in pairs for word in pair] + [a], c


def read(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch word"]:
    """The words."""
    return tokens[:, 1 : 2 + 2 * N_PAIRS]


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From each value to its key, and from the last word to the value of the first look-up and of the second."""
    n_pos = tokens.shape[1]
    is_value = (torch.arange(n_pos) % 2 == 0) & (torch.arange(n_pos) > 0)
    before = torch.eye(n_pos, dtype=torch.bool).roll(-1, 1) & is_value[:, None]
    found = tokens.gather(1, positions[:, None])
    hops = []
    for _ in range(2):
        here = (tokens == found).roll(1, 1) & is_value
        found = tokens[here][:, None]
        hops.append(at_answer(positions, here))
    return {
        **dict.fromkeys(PREVIOUS, before.expand(len(tokens), -1, -1)),
        **dict.fromkeys(FIRST_HOP, hops[0]),
        **dict.fromkeys((*MOVERS, *NEGATIVE), hops[1]),
    }


def previous(v: list[Tensor]) -> Float[Tensor, "batch pair d_vocab"]:
    """Each pair's key, at its value."""
    return _one_hot(v[0][:, 0:-1:2])


def first_look_up(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """The values, weighted towards that of the last word."""
    return look_up([_one_hot(q[0][:, -1])], k, v)


def look_up(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """The values, weighted towards that of the word that was found."""
    match = torch.einsum("bpd,bd->bp", torch.stack(k).mean(0), torch.stack(q).mean(0))
    return torch.einsum("bp,bpd->bd", (SHARPNESS * match).softmax(1), _one_hot(v[0][:, 1::2]))


def _one_hot(words: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_vocab"]:
    return F.one_hot(words, len(TASK.vocabulary())).float()


TASK = WordTask(words=WORDS, metric="logit_difference", draw=draw)


PLANTED = PlantedTask(
    name="two_hops",
    task=TASK,
    settings=dict(
        n_layers=7, n_heads=8, d_model=96, d_head=16, d_mlp=96, n_ctx=12, act_fn="gelu", normalization_type=None
    ),
    causal=CausalModel(
        (
            *(head(node, previous, v=("input",)) for node in PREVIOUS),
            *(head(node, first_look_up, q=("input",), k=PREVIOUS, v=("input",)) for node in FIRST_HOP),
            *(head(node, look_up, q=FIRST_HOP, k=PREVIOUS, v=("input",)) for node in (*MOVERS, *NEGATIVE)),
            sink("logits", partial(total, strength=tuple(STRENGTH.values())), *SECOND_HOP),
        )
    ),
    read=read,
    attends=attends,
    roles={"previous token": PREVIOUS, "first look-up": FIRST_HOP, "mover": MOVERS, "negative mover": NEGATIVE},
    training=Training(steps=2400, alone=2000, rest=0.02, batch_size=32, next_word=0.1, squares_alone=0.3, squares=0.5),
)
