"""A backup head that takes over: the word that comes twice, by two main movers and one that waits for them to fail.

Four layers of four heads with MLPs, learned positions, no norm. Prompts are those of `twice`: words in random order, one of them twice, and
a mark; the answer is that word.

| node         | role   | reads                                                        | computes                                    |
| ------------ | ------ | ------------------------------------------------------------ | ------------------------------------------- |
| a0.h1, a1.h2 | count  | <v> words                                                    | at the mark, how often each word comes      |
| a2.h0, a2.h3 | main   | <q> both count heads, <k> words, <v> words                   | words, weighted towards those counted twice |
| a3.h1        | backup | <q> both count heads and both mains, <k> words, <v> words    | the same, less what the mains have moved    |
| logits       |        | mains and backup                                             | sum of what they moved, by strength         |

The backup's score of a word is its count, less what the mains moved of it; against the words stands a score of zero for moving none.
So it gives the answer with a weight of 0.15 while the mains work, and of 0.89 when they name another word: with both mains cut the circuit
keeps three quarters of the metric. The edges from the mains to the backup hurt: who cuts one alone has the answer moved by mains and
backup both.

Reference: Wang et al. 2023, Interpretability in the Wild (arXiv 2211.00593), section 3.4, after whose backup name movers this is;
McGrath et al. 2023, The Hydra Effect.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.benchmarks.planted import twice
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink, total
from edge_circuits.benchmarks.planted.model import FOUR, PlantedTask, Training
from edge_circuits.benchmarks.planted.twice import COUNT
from edge_circuits.benchmarks.planted.twice import MOVERS as MAINS

BACKUP = "a3.h1"
SHARPNESS = 5.0  # of the backup
INHIBITION = 4.0  # how much the mains' full weight takes from its score of a word
THRESHOLD = 8.5
STRENGTH = dict.fromkeys(MAINS, 2.5) | {BACKUP: 5.0}


def attends(
    tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch"]
) -> dict[str, Bool[Tensor, "batch pos pos"]]:
    """As in `twice`; the backup learns first what the mains do."""
    wanted = twice.attends(tokens, positions)
    return wanted | {BACKUP: wanted[MAINS[0]]}


def backup(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Float[Tensor, "batch d_vocab"]:
    """Weights of the words, towards those counted twice and not moved yet; together less than 1."""
    counted, taken = (torch.stack(some).mean(0) for some in (q[: len(COUNT)], q[len(COUNT) :]))
    scores = (SHARPNESS * counted - INHIBITION * taken - THRESHOLD).gather(1, k[0])
    return twice.moved(v[0], F.pad(scores, (1, 0)).softmax(1)[:, 1:])


PLANTED = PlantedTask(
    name="backup",
    task=twice.TASK,
    settings=dict(
        n_layers=4, n_heads=4, d_model=80, d_head=24, d_mlp=96, n_ctx=12, act_fn="gelu", normalization_type=None
    ),
    causal=CausalModel(
        (
            *(head(node, twice.count, v=("input",)) for node in COUNT),
            *(head(node, twice.mover, q=COUNT, k=("input",), v=("input",)) for node in MAINS),
            head(BACKUP, backup, q=(*COUNT, *MAINS), k=("input",), v=("input",)),
            sink("logits", partial(total, strength=tuple(STRENGTH.values())), *STRENGTH),
        )
    ),
    read=twice.read,
    attends=attends,
    roles={"count": COUNT, "main": MAINS, "backup": (BACKUP,)},
    interventions=FOUR,
    training=Training(
        steps=3600, alone=2600, rest=0.03, batch_size=32, next_word=0.1, squares_alone=0.5, squares=1.0, taken_out=MAINS
    ),
)
