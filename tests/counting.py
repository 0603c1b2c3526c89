"""A metric that counts its calls, and stops a run in the middle of it."""

from __future__ import annotations

from models import logit_difference
from torch import Tensor

from edge_circuits.graphs import PromptPairs

TRIED = 3
"""Calls of a metric by which it is tried, before anything is asked of it: on two prompts together, and on each."""

IDENTIFIED = TRIED + 3
"""Calls by which a question knows it besides: three on made-up logits (for each 64 prompts). A checkpoint takes two more for each batch."""


class Stopped(BaseException):
    """Raised in the middle of a run."""


class Counting:
    """The logit difference, which counts its calls and stops the run after so many."""

    __name__ = logit_difference.__name__

    def __init__(self, most: float = float("inf")) -> None:
        self.most, self.n_calls = most, 0

    def __call__(self, logits: Tensor, pairs: PromptPairs) -> Tensor:
        self.n_calls += 1
        if self.n_calls > self.most:
            raise Stopped
        return logit_difference(logits, pairs)
