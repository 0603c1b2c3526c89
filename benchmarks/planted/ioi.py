"""Indirect object identification through S-inhibition and name-mover heads.

Three layers of six heads with MLPs, LayerNorm, learned positions. The prompt has three names: two in the first clause,
in places 1 and 2, and the subject S again in the second. The answer is the name of the first clause that is not S.

| node           | role          | reads                                         | computes                               |
| -------------- | ------------- | --------------------------------------------- | -------------------------------------- |
| a1.h0, a1.h3   | S-inhibition  | <v> third name                                | that name, at the last position        |
| a2.h2, a2.h5   | name mover    | <q> both S-inhibition heads, <k> <v> two names | the names, weighted away from S        |
| logits         |               | both name movers                              | strength times the sum of what they moved |

A name mover's evidence that S stands in place 1 is `e = sum over S-inhibition heads of [name = name 1] - [name = name 2]`; it
takes place 2 with weight sigmoid(sharpness e). The MLPs, fourteen heads and all other edges are in the model and not in the
circuit. What keys and values carry besides names (positions, template words) is the same in both prompts of a pair, so the
edges that carry nothing else are not in the circuit.

Reference: Wang et al. 2023, Interpretability in the Wild (arXiv 2211.00593), whose classes of heads these are. Its S-inhibition
heads carry a position signal, from duplicate-token heads, and a token signal; here it is the token signal alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.benchmarks.tasks.ioi import TASK, WORD_LISTS

INHIBITORS = ("a1.h0", "a1.h3")
MOVERS = ("a2.h2", "a2.h5")
SHARPNESS = 2.0
STRENGTH = 3.5  # logits that one name mover gives a name it takes with weight 1
OTHER_WORD = -3.0  # logit of a word that is no name

VOCABULARY = TASK.vocabulary()
NAMES = torch.tensor([VOCABULARY.index(name) for name in WORD_LISTS.names])


def names(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch 3"]:
    """The three names of each prompt, as token ids in the order of the text."""
    return tokens[torch.isin(tokens, NAMES.to(tokens.device))].view(len(tokens), 3)


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From the last position to the third name, and to the name that is not S."""
    is_name = torch.isin(tokens, NAMES)
    third = is_name & (is_name.cumsum(1) == 3)
    subject = names(tokens)[:, 2:]
    return {
        **dict.fromkeys(INHIBITORS, at_answer(positions, third)),
        **dict.fromkeys(MOVERS, at_answer(positions, is_name & (tokens != subject))),
    }


def token_signal(v: list[Tensor]) -> Int[Tensor, "batch"]:
    """The third name."""
    return v[0][:, 2]


def name_mover(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Weights of the words, away from the name that is inhibited."""
    evidence = sum((token == k[0][:, 0]).float() - (token == k[0][:, 1]).float() for token in q)
    second = torch.sigmoid(SHARPNESS * evidence)
    weights = torch.stack((1 - second, second), dim=1)
    return torch.zeros(len(weights), len(VOCABULARY)).scatter_add_(1, v[0][:, :2], weights)


def answer(inputs: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Logits: the names moved, and a constant for words that are no names."""
    return total(inputs, STRENGTH).where(torch.isin(torch.arange(len(VOCABULARY)), NAMES), OTHER_WORD)


PLANTED = PlantedTask(
    name="ioi",
    task=TASK,
    settings=dict(
        n_layers=3, n_heads=6, d_model=60, d_head=10, d_mlp=120, n_ctx=18, act_fn="gelu", normalization_type="LN"
    ),
    causal=CausalModel(
        (
            *(head(node, token_signal, v=("input",)) for node in INHIBITORS),
            *(head(node, name_mover, q=INHIBITORS, k=("input",), v=("input",)) for node in MOVERS),
            sink("logits", answer, *MOVERS),
        )
    ),
    read=names,
    attends=attends,
    roles={"S-inhibition": INHIBITORS, "name mover": MOVERS},
    training=Training(steps=1000, alone=250, rest=0.03),
)
