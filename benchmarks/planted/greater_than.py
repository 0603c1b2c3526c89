"""Greater-Than through heads that read the start year and MLPs that compare.

Three layers of eight heads with gated MLPs (SiLU), RMSNorm, learned positions. The prompt begins in year CCYY and breaks
off after a century; the answer is any year above YY.

| node         | role        | reads                       | computes                                        |
| ------------ | ----------- | --------------------------- | ----------------------------------------------- |
| m0           | early MLP   | the year's word             | YY                                              |
| a0.h2        | year reader | <v> the year's word         | YY, at the last position                        |
| a1.h1, a1.h6 | year reader | <v> the year's word, m0     | the mean of the two, at the last position       |
| m1           | comparison  | the three year readers      | their mean                                      |
| m2           | comparison  | m1, a1.h6                   | their mean                                      |
| logits       |             | m1, m2                      | for each year how far it is above what they say |

Values are numbers from 0 to 99. The logit of year j is the sum over m1 and m2 of strength tanh((j - number - 1/2) / width).
So when an edge is cut to a prompt with another year, the boundary moves part of the way to that year.

Reference: Hanna, Liu and Variengien 2023, How does GPT-2 compute greater-than? (arXiv 2305.00586): early heads and MLPs
carry the year, attention brings it to the end, and late MLPs compute "greater than".
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted.attention import at_answer
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink
from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.benchmarks.tasks.greater_than import ALL_YEARS, TASK

EARLY_MLP, EARLY_READER = "m0", "a0.h2"
READERS = ("a1.h1", "a1.h6")
COMPARISONS = ("m1", "m2")
STRENGTH = 1.25  # logits that one MLP adds to years far above, and takes from years far below
WIDTH = 1.5  # years
OTHER_WORD = -6.0  # logit of a word that is no year

VOCABULARY = TASK.vocabulary()
FIRST_YEAR = VOCABULARY.index(ALL_YEARS[0])


def start_year(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    """The two digits of the start year, as a number."""
    return (tokens[_is_year(tokens)] - FIRST_YEAR).float()


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """From the last position to the start year."""
    return dict.fromkeys((EARLY_READER, *READERS), at_answer(positions, _is_year(tokens)))


def _is_year(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    return (tokens >= FIRST_YEAR) & (tokens < FIRST_YEAR + len(ALL_YEARS))


def carried(v: list[Tensor]) -> Float[Tensor, "batch"]:
    """Mean of the numbers that a head reads."""
    return torch.stack(v).mean(0)


def compared(inputs: list[Tensor]) -> Float[Tensor, "batch"]:
    """Mean of the numbers that an MLP reads."""
    return torch.stack(inputs).mean(0)


def answer(inputs: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Logits: years by how far they are above the numbers, and a constant for other words."""
    above = torch.arange(len(ALL_YEARS)) - torch.stack(inputs)[:, :, None] - 0.5
    logits = torch.full((len(inputs[0]), len(VOCABULARY)), OTHER_WORD)
    logits[:, FIRST_YEAR : FIRST_YEAR + len(ALL_YEARS)] = STRENGTH * torch.tanh(above / WIDTH).sum(0)
    return logits


PLANTED = PlantedTask(
    name="greater_than",
    task=TASK,
    settings=dict(
        n_layers=3,
        n_heads=8,
        d_model=64,
        d_head=8,
        d_mlp=128,
        n_ctx=13,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
    ),
    causal=CausalModel(
        (
            head(EARLY_READER, carried, v=("input",)),
            sink(EARLY_MLP, compared, "input"),
            *(head(node, carried, v=("input", EARLY_MLP)) for node in READERS),
            sink("m1", compared, EARLY_READER, *READERS),
            sink("m2", compared, "m1", READERS[1]),
            sink("logits", answer, *COMPARISONS),
        )
    ),
    read=start_year,
    attends=attends,
    roles={"early MLP": (EARLY_MLP,), "year reader": (EARLY_READER, *READERS), "comparison": COMPARISONS},
    training=Training(steps=1000, alone=250),
)
