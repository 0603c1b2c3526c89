"""Induction by k composition.

Three layers of six heads with MLPs, LayerNorm, learned positions. The prompt is random words without repetition, then one of them
again; the answer is the word that came after it. That the heads of the first layer look one position back is the same in all
prompts, and so not in the circuit.

| node         | role           | reads                                              | computes                                    |
| ------------ | -------------- | -------------------------------------------------- | ------------------------------------------- |
| a0.h1, a0.h4 | previous token | <v> words                                          | at each position, the word before           |
| a1.h2, a2.h5 | induction      | <q> last word, <k> previous-token heads, <v> words | words, weighted towards what came after it  |
| logits       |                | both induction heads                               | strength times the sum of what they moved   |

An induction head weights the words by softmax(sharpness match), where the match of a position is the share of previous-token heads
that say the last word there. Prompts of a pair are of equal length, with the repeated word at the same place.

Reference: Olsson et al. 2022, In-context Learning and Induction Heads.
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

PREVIOUS = ("a0.h1", "a0.h4")
INDUCTION = ("a1.h2", "a2.h5")
SHARPNESS = 5.0
STRENGTH = 3.5  # logits that one induction head gives a word it takes with weight 1
WORDS = tuple(f"{letter}{other}" for letter in "bdfglm" for other in "aeiou")
BOS, FIRST = 1, 2  # ids
SHORTEST, LONGEST = 6, 12


def draw(n: int, seed: int, split: Split) -> PromptPairs:
    """Prompts, and others of the same length with the repeated word at the same place."""

    def one(rng: random.Random) -> TokenPair | None:
        length = rng.randint(SHORTEST, LONGEST)
        at = rng.randrange(length - 1)
        clean, corrupted = (rng.sample(range(FIRST, FIRST + len(WORDS)), length) for _ in range(2))
        if not in_split(repr(clean), split) or clean[at + 1] == corrupted[at + 1]:
            return None
        wrong = [word for word in clean if word != clean[at + 1]]
        return TokenPair([BOS, *clean, clean[at]], [BOS, *corrupted, corrupted[at]], clean[at + 1], wrong)

    return token_pairs(one, n, f"planted induction {seed}", TASK.word_tokenizer())


def read(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The prompt itself."""
    return tokens


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From each position to the one before, and from the last to what came after its word."""
    n_pos = tokens.shape[1]
    before = torch.eye(n_pos, dtype=torch.bool).roll(-1, 1) & (torch.arange(n_pos) > 0)[:, None]
    last = tokens.gather(1, positions[:, None])
    is_first = (tokens == last) & (torch.arange(n_pos) < positions[:, None])
    return {
        **dict.fromkeys(PREVIOUS, before.expand(len(tokens), -1, -1)),
        **dict.fromkeys(INDUCTION, at_answer(positions, is_first.roll(1, 1))),
    }


def previous(v: list[Tensor]) -> Int[Tensor, "batch pos"]:
    """At each position the token before; 0 at the first."""
    return F.pad(v[0][:, :-1], (1, 0))


def induction(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Weights of the words, towards those that came after the last one."""
    is_last = _is_last(q[0])
    last = (q[0] * is_last).sum(1, keepdim=True)
    match = torch.stack([(before == last).float() for before in k]).mean(0)
    is_word = (v[0] > BOS) & (is_last.cumsum(1) == 0)
    weights = (SHARPNESS * match).masked_fill(~is_word, -torch.inf).softmax(1)
    return torch.zeros(len(weights), len(TASK.vocabulary())).scatter_add_(1, v[0], weights)


def _is_last(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The last word, before the padding."""
    real = tokens > 0
    return real & (real.cumsum(1) == real.sum(1, keepdim=True))


TASK = WordTask(words=WORDS, metric="logit_difference", draw=draw)
PLANTED = PlantedTask(
    name="induction",
    task=TASK,
    settings=dict(
        n_layers=3, n_heads=6, d_model=60, d_head=10, d_mlp=120, n_ctx=16, act_fn="gelu", normalization_type="LN"
    ),
    causal=CausalModel(
        (
            *(head(node, previous, v=("input",)) for node in PREVIOUS),
            *(head(node, induction, q=("input",), k=PREVIOUS, v=("input",)) for node in INDUCTION),
            sink("logits", partial(total, strength=STRENGTH), *INDUCTION),
        )
    ),
    read=read,
    attends=attends,
    roles={"previous token": PREVIOUS, "induction": INDUCTION},
    training=Training(steps=1200, alone=400, rest=0.03, next_word=0.1),
)
