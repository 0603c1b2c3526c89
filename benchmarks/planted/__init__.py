"""Planted models: small transformers that solve a task through a circuit fixed beforehand.

    planted = load("ioi")
    pairs = planted.task.pairs(200)                       # held-out prompts in the small vocabulary
    scores = eap.score(planted.model, pairs, metrics.load(planted.task.task.metric))
    auc = area_under_roc(planted.circuit.mask, ...)       # the circuit is true by construction

    python -m benchmarks.planted.verify ioi               # three checks of the circuit, with numbers
    python -m benchmarks.planted.train ioi                # train the weights anew

A task's file (`ioi`, ...) states its causal model, whose edges are the circuit (`causal`); `train` ties model and
circuit to it, `verify` checks that they are tied. The weights are shipped (`weights`).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

    from benchmarks.planted.model import PlantedTask
    from graphs import Circuit

NAMES = ("ioi", "greater_than")


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
    if name not in NAMES:
        raise ValueError(f"planted task: expected one of {', '.join(NAMES)}, came {name!r}")
    return importlib.import_module(f"{__name__}.{name}").PLANTED


def load(name: str, folder: Path | None = None) -> Planted:
    """The planted model of that name with its trained weights.

    Args:
        name: One of `NAMES`.
        folder: Where the weights are; None: those shipped.

    Raises:
        ValueError: There is no such task, or its weights are missing or of another circuit.
    """
    from benchmarks.planted.weights import SHIPPED, load_into

    task = planted_task(name)
    model = task.new_model(seed=0)
    load_into(model, task, SHIPPED if folder is None else folder)
    return Planted(model.requires_grad_(False), task.circuit, task)
