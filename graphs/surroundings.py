"""What a caller has set for all of PyTorch does not reach computations: default device and type, autocast, inference mode.

    @in_plain_surroundings
    def score(model, ...): ...

A call is made as if in a fresh process, so that its numbers are the same everywhere; whatever was set is set again after it,
also after an error. A metric that is passed in runs in the same plain surroundings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

PLAIN_TYPE, PLAIN_DEVICE = torch.float32, torch.device("cpu")
AUTOCAST = ("cpu", "cuda")


def in_plain_surroundings(call: Callable[P, R]) -> Callable[P, R]:
    """A function that computes the same in all surroundings."""

    @functools.wraps(call)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as changed:
            if torch.is_inference_mode_enabled():
                changed.enter_context(torch.inference_mode(False))
                changed.enter_context(torch.no_grad())
            for kind in AUTOCAST:
                if torch.is_autocast_enabled(kind):
                    changed.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device() != PLAIN_DEVICE:
                changed.enter_context(PLAIN_DEVICE)
            if (before := torch.get_default_dtype()) != PLAIN_TYPE:
                changed.callback(torch.set_default_dtype, before)
                torch.set_default_dtype(PLAIN_TYPE)
            return call(*args, **kwargs)

    return inside
