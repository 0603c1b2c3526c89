'''Docstring through name carriers, key-side markers and argument movers.

Four layers of eight heads without MLPs, RMSNorm, rotary positions: 1,281 edges. The prompt is a function's signature and a
docstring that names its arguments in order; the answer is the argument after the one named last.

| node         | role             | reads                          | computes, at each argument and at the last position     |
| ------------ | ---------------- | ------------------------------ | ------------------------------------------------------- |
| a0.h5        | early value      | <v> names                      | the name here (last position: the name named last)      |
| a1.h4        | name carrier     | <v> names, a0.h5               | the mean of the two                                     |
| a2.h0, a2.h3 | key-side marker  | <v> a1.h4                      | the name of the argument before                         |
| a3.h0, a3.h6 | argument mover   | <q> a1.h4, <k> markers, <v> names, a0.h5 | the arguments, weighted towards the one looked for |
| logits       |                  | both argument movers           | strength times the sum of what they moved               |

A mover weights the arguments of the signature by softmax(sharpness match): the match of an argument is the inner product of
what the markers say stands before it with what the carrier says was named last, each a distribution over words. The other 26
heads and all other edges are in the model and not in the circuit; edges that carry positions and template words alone are
the same in both prompts of a pair.

Reference: Heimersheim and Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only transformer, whose
wiring this follows in miniature (there a1.h2 marks the docstring's side, too, and a0.h5 feeds the markers).
'''

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.planted.causal import CausalModel, head, sink
from benchmarks.planted.model import PlantedTask, Training
from benchmarks.tasks.docstring import TASK, WORD_IDENTIFIERS

EARLY, CARRIER = "a0.h5", "a1.h4"
MARKERS = ("a2.h0", "a2.h3")
MOVERS = ("a3.h0", "a3.h6")
SHARPNESS = 5.0
STRENGTH = 3.5  # logits that one argument mover gives a name it takes with weight 1
OTHER_WORD = -3.0  # logit of a word that is no identifier

VOCABULARY = TASK.vocabulary()
IDENTIFIERS = torch.tensor([VOCABULARY.index(name) for name in WORD_IDENTIFIERS])
OPEN, CLOSE = (VOCABULARY.index(mark) for mark in "()")
MOST_ARGUMENTS = 8  # `self` apart


def names(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch site d_vocab"]:
    """Where names stand, one-hot: the signature's arguments in order (rows of zeros after the last), then the name named last."""
    is_name = torch.isin(tokens, IDENTIFIERS)
    is_argument = is_name & _seen(tokens, OPEN) & ~_seen(tokens, CLOSE)
    prompt, position = is_argument.nonzero(as_tuple=True)
    words = torch.zeros(len(tokens), MOST_ARGUMENTS + 1, len(VOCABULARY))
    words[prompt, is_argument.cumsum(1)[prompt, position] - 1, tokens[prompt, position]] = 1.0
    last = (torch.arange(tokens.shape[1]) * is_name).argmax(1)
    each = torch.arange(len(tokens))
    words[each, MOST_ARGUMENTS, tokens[each, last]] = 1.0
    return words


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
    is_name = torch.zeros(len(VOCABULARY), dtype=torch.bool)
    is_name[IDENTIFIERS] = True
    return (STRENGTH * torch.stack(inputs).sum(0)).where(is_name, OTHER_WORD)


PLANTED = PlantedTask(
    name="docstring",
    task=TASK,
    settings=dict(
        n_layers=4,
        n_heads=8,
        d_model=64,
        d_head=16,
        n_ctx=41,
        attn_only=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
    ),
    causal=CausalModel(
        (
            head(EARLY, here, v=("input",)),
            head(CARRIER, here, v=("input", EARLY)),
            *(head(node, before, v=(CARRIER,)) for node in MARKERS),
            *(head(node, argument_mover, q=(CARRIER,), k=MARKERS, v=("input", EARLY)) for node in MOVERS),
            sink("logits", answer, *MOVERS),
        )
    ),
    read=names,
    roles={"early value": (EARLY,), "name carrier": (CARRIER,), "key-side marker": MARKERS, "argument mover": MOVERS},
    training=Training(steps=1500, batch_size=32),
)
