"""Planted models: small transformers that solve a task through a circuit fixed beforehand.

    planted = load("ioi")
    pairs = planted.task.pairs(200)                       # held-out prompts in the small vocabulary
    scores = eap.score(planted.model, pairs, metrics.load(planted.task.task.metric))
    auc = area_under_roc(planted.circuit.mask, ...)       # the circuit is true by construction

    python -m edge_circuits.benchmarks.planted.verify ioi               # three checks of the circuit, with numbers
    python -m edge_circuits.benchmarks.planted.train ioi                # train the weights anew

A task's file (`ioi`, ...) states its causal model, whose edges are the circuit (`causal`); `train` ties model and
circuit to it, `verify` checks that they are tied. The weights are shipped (`weights`).

Difficulty. What is outside the circuit begins to learn with random output weights and has the next words to tell, so that its
edges carry much that differs between the prompts of a pair; only its joint effect on the answer is trained away. The movers
and comparisons are saturated: an edge that is backed up by another changes little at first and much when it is cut. So a
score must see past gradients at the clean prompt. Area under the ROC curve and average precision on `pairs(64, seed=3)`:

    |              | random      | EAP         | RelP        | EAP-IG, 5 steps | exact       |
    | ------------ | ----------- | ----------- | ----------- | --------------- | ----------- |
    | ioi          | 0.54        | 0.993 0.704 | 0.999 0.946 | 1.000 1.000     | 1.000 1.000 |
    | greater_than | 0.49        | 0.999 0.962 | 1.000 1.000 | 1.000 1.000     | 1.000 1.000 |
    | docstring    | 0.50        | 0.993 0.741 | 1.000 0.997 | 0.992 0.837     | 1.000 1.000 |

Random scores give about 0.5 (the mean of twenty draws). Exact patching is near 1 because each edge of the circuit is trained,
and checked, to matter, and the joint effect of all others to vanish. The areas are all large, since most edges outside score
close to nothing, and knowing the circuit's nodes alone gives .98 to .99: compare methods by average precision and among hard
negatives too (`roc`). Greater-Than is too easy to tell the better methods apart.

A circuit is true under the interventions that it is trained with (`PlantedTask.interventions`), of most under "patching" alone, of
`twice` and `counts.twice` under all four; how much of its answers each keeps under the others is told in docs/results.md.

`HARDER`: `induction`, by k composition; `twice`, which does without positions; `two_hops`, a larger graph in which two heads hurt;
`counts.twice` and `counts.once`, two circuits in one model that share nodes; `backup`, whose backup heads take over.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_circuits.graphs.checks import choice

if TYPE_CHECKING:
    from torch import nn

    from edge_circuits.benchmarks.planted.model import PlantedTask
    from edge_circuits.graphs import Circuit

PAPERS = ("ioi", "greater_than", "docstring")  # after tasks of papers
HARDER = ("induction", "twice", "two_hops", "counts.twice", "counts.once", "backup")
NAMES = (*PAPERS, *HARDER)
MODELS = tuple(dict.fromkeys(name.partition(".")[0] for name in NAMES))


class Planted(NamedTuple):
    """A trained model (a `TransformerBridge` in evaluation mode), its circuit and its task."""

    model: nn.Module
    circuit: Circuit
    task: PlantedTask


def planted_task(name: str) -> PlantedTask:
    """The task, circuit and causal model of that name, without weights.

    Raises:
        ValueError: There is none.
    """
    choice("planted task", name, NAMES)
    return next(task for task in tasks_of(name.partition(".")[0]) if task.name == name)


def tasks_of(model: str) -> tuple[PlantedTask, ...]:
    """All tasks that are planted in one model.

    Raises:
        ValueError: There is no such model.
    """
    found = importlib.import_module(f"{__name__}.{choice('planted model', model, MODELS)}").PLANTED
    return found if isinstance(found, tuple) else (found,)


def load(name: str, folder: Path | None = None, seed: int = 0) -> Planted:
    """The planted model of that name with its trained weights.

    Args:
        name: One of `NAMES`.
        folder: Where the weights are; None: those shipped.
        seed: Of the training.

    Raises:
        ValueError: There is no such task, or its weights are missing or of another circuit.
    """
    from edge_circuits.benchmarks.planted.model import weights_of

    task = planted_task(name)
    model = task.new_model(seed=0)
    weights_of(tasks_of(task.model), seed, folder).load_into(model.original_model)
    return Planted(model.requires_grad_(False), task.circuit, task)
