"""Docstring through an early head, key-side markers, a name carrier and argument movers.

Three layers of eight heads without MLPs, LayerNorm, learned positions. The prompt is a function's signature and a docstring
that names its arguments in order; the answer is the argument after the one named last.

| node         | role            | reads                     | computes                                                 |
| ------------ | --------------- | ------------------------- | -------------------------------------------------------- |
| a0.h5        | early value     | <v> names                 | the name at each argument, and the name named last       |
| a1.h0, a1.h3 | key-side marker | <v> a0.h5                 | at each argument, the name of the one before             |
| a1.h4        | name carrier    | <v> names, a0.h5          | at the last position, the name named last: their mean    |
| a2.h0, a2.h6 | argument mover  | <q> a1.h4, <k> a1.h0, a1.h3, <v> names, a0.h5 | the arguments, weighted towards the one looked for |
| logits       |                 | both argument movers      | strength times the sum of what they moved                |

A mover weights the arguments of the signature by softmax(sharpness match): the match of an argument is the inner product of
what the markers say stands before it with what the carrier says was named last, each a distribution over words. The other
eighteen heads and all other edges are in the model and not in the circuit; what queries and keys carry of positions and
template words is the same in both prompts of a pair.

Reference: Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer, whose
early value, key-side marker and argument movers these are; there a further layer brings the name to the marker.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.benchmarks.tasks.docstring import TASK, WORD_IDENTIFIERS

EARLY, CARRIER = "a0.h5", "a1.h4"
MARKERS = ("a1.h0", "a1.h3")
MOVERS = ("a2.h0", "a2.h6")
SHARPNESS = 5.0
STRENGTH = 3.5  # logits that one argument mover gives a name it takes with weight 1
OTHER_WORD = -3.0  # logit of a word that is no identifier

VOCABULARY = TASK.vocabulary()
IDENTIFIERS = torch.tensor([VOCABULARY.index(name) for name in WORD_IDENTIFIERS])
OPEN, CLOSE = (VOCABULARY.index(mark) for mark in "()")
MOST_ARGUMENTS = 8  # `self` apart


def names(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch site d_vocab"]:
    """Where names stand, one-hot: the signature's arguments in order (rows of zeros after the last), then the name named last."""
    is_argument, last = _places(tokens)
    prompt, position = is_argument.nonzero(as_tuple=True)
    words = torch.zeros(len(tokens), MOST_ARGUMENTS + 1, len(VOCABULARY))
    words[prompt, is_argument.cumsum(1)[prompt, position] - 1, tokens[prompt, position]] = 1.0
    words[torch.arange(len(tokens)), MOST_ARGUMENTS, tokens[last]] = 1.0
    return words


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """Where names are read: here, at the argument before, at the name named last, at the argument looked for."""
    is_argument, last = _places(tokens)
    itself = torch.eye(tokens.shape[1], dtype=torch.bool)
    argument_before = itself.roll(-2, 1) & is_argument[:, :, None] & is_argument[:, None, :]  # a comma stands between
    looked_for = (is_argument & (tokens == tokens[last][:, None])).roll(2, 1)
    return {
        EARLY: itself & (is_argument | last)[:, :, None],
        CARRIER: at_answer(positions, last),
        **dict.fromkeys(MARKERS, argument_before),
        **dict.fromkeys(MOVERS, at_answer(positions, looked_for)),
    }


def _places(tokens: Int[Tensor, "batch pos"]) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Where the signature's arguments stand, and where the name named last does."""
    is_name = torch.isin(tokens, IDENTIFIERS)
    is_argument = is_name & _seen(tokens, OPEN) & ~_seen(tokens, CLOSE)
    return is_argument, is_name & (is_name.cumsum(1) == is_name.sum(1, keepdim=True))


def _seen(tokens: Int[Tensor, "batch pos"], mark: int) -> Tensor:
    """Whether a mark stands at or before each position."""
    return (tokens == mark).cumsum(1) > 0


def here(v: list[Tensor]) -> Float[Tensor, "batch site d_vocab"]:
    """The name at each site, the mean over what is read."""
    return torch.stack(v).mean(0)


def before(v: list[Tensor]) -> Float[Tensor, "batch argument d_vocab"]:
    """The name of the argument before each argument; none before the first."""
    return F.pad(here(v)[:, : MOST_ARGUMENTS - 1], (0, 0, 1, 0))


def argument_mover(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Weights of the words: the arguments, by how well the name before them matches the one named last."""
    looked_for, arguments = here(q)[:, MOST_ARGUMENTS], here(v)[:, :MOST_ARGUMENTS]
    match = torch.einsum("bad,bd->ba", here(k), looked_for)
    is_argument = arguments.sum(-1) > 0
    weights = (SHARPNESS * match).masked_fill(~is_argument, -torch.inf).softmax(-1)
    return torch.einsum("ba,bad->bd", weights, arguments)


def answer(inputs: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Logits: the names moved, and a constant for words that are no identifiers."""
    return total(inputs, STRENGTH).where(torch.isin(torch.arange(len(VOCABULARY)), IDENTIFIERS), OTHER_WORD)


PLANTED = PlantedTask(
    name="docstring",
    task=TASK,
    settings=dict(n_layers=3, n_heads=8, d_model=80, d_head=20, n_ctx=41, attn_only=True, normalization_type="LN"),
    causal=CausalModel(
        (
            head(EARLY, here, v=("input",)),
            head(CARRIER, here, v=("input", EARLY)),
            *(head(node, before, v=(EARLY,)) for node in MARKERS),
            *(head(node, argument_mover, q=(CARRIER,), k=MARKERS, v=("input", EARLY)) for node in MOVERS),
            sink("logits", answer, *MOVERS),
        )
    ),
    read=names,
    attends=attends,
    roles={"early value": (EARLY,), "name carrier": (CARRIER,), "key-side marker": MARKERS, "argument mover": MOVERS},
    training=Training(steps=1600, alone=300),
)
