"""What the trainings of small models share: the steps of the optimizer, and the command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.benchmarks.study import Study
from edge_circuits.benchmarks.weights import shipped

WARM_UP = 0.05  # share of the steps in which the learning rate rises


class Descent:
    """AdamW with gradients of norm 1 at most; the rate rises shortly and falls to zero by a cosine."""

    def __init__(self, parameters: Iterable[Tensor], training: Any, betas: tuple[float, float]) -> None:
        """`training` has `learning_rate`, `weight_decay` and `steps`."""
        rate = training.learning_rate
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=betas, weight_decay=training.weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=training.steps + 1, pct_start=WARM_UP
        )

    def step(self, loss: Float[Tensor, ""], then: Callable[[], None] | None = None) -> float:
        """One step down; `then` may change the gradients first. Returns the loss."""
        self.optimizer.zero_grad()
        loss.backward()
        if then is not None:
            then()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


def training_study(
    kind: str, summary: str, names: Sequence[str], training_of: Callable[[str], Any], work: Callable[..., str]
) -> Study:
    """The command `edge_circuits.benchmarks.KIND.train`.

    Args:
        kind: "planted" or "trained".
        summary: What it does, in a sentence.
        names: Models that can be trained.
        training_of: Name to the settings with which its weights were made.
        work: `work(name, training, folder, quiet)` trains, saves, and says so in a line.
    """

    def add(parser: argparse.ArgumentParser) -> None:
        option = parser.add_argument
        option("name", choices=names)
        told = "folder for the weights; by default that of those shipped, which are replaced"
        option("--out", type=Path, default=shipped(kind), help=told)
        option("--steps", type=int, help="number of steps; by default as many as the shipped weights had")
        option("--seed", type=int, help="of weights and of what is drawn (0)")

    def run(given: argparse.Namespace) -> None:
        asked = {name: getattr(given, name) for name in ("steps", "seed") if getattr(given, name) is not None}
        torch.set_num_threads(1)  # the model is small, and sums keep their order
        print(work(given.name, replace(training_of(given.name), **asked), given.out, given.quiet))

    return Study(f"{kind}.train", summary, ("quiet",), add, run)
