"""What the readers of TransformerLens models share: tensors with or without gradients, activations by value, token checks."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from edge_circuits.graphs.model.operations import ACTIVATIONS


class Reader:
    """Takes weights from a model, as views.

    Attributes:
        trainable: Their gradients are kept; otherwise they are cut off from them.
        storages: What was read.
    """

    def __init__(self, trainable: bool = False) -> None:
        self.trainable, self.storages = trainable, set[int]()

    def __call__(self, tensor: Tensor | None) -> Tensor | None:
        """A weight, if there is one."""
        if tensor is None:
            return None
        self.storages.add(storage_of(tensor))
        return tensor if self.trainable else tensor.detach()


def storage_of(tensor: Tensor) -> int:
    """What tensors that share their memory have in common."""
    return tensor.untyped_storage()._cdata


def positive(value: float | None) -> float | None:
    """A soft cap, which is on where it is above zero."""
    return float(value) if value is not None and value > 0 else None


def activation_of(function: Callable[[Tensor], Tensor], setting: str | None) -> str:
    """The name of an activation function; `setting` is the model's own word for it."""
    name = _name_by_values(function)
    if name is None:
        raise ValueError(f"activation {setting!r} is not supported; supported: {', '.join(ACTIVATIONS)}.")
    return name


@lru_cache(maxsize=256)
def _name_by_values(function: Callable[[Tensor], Tensor]) -> str | None:
    """An activation function known by its values: settings name it in several places and spellings."""
    x = torch.linspace(-9, 9, 73)
    return next(
        (name for name, known in ACTIVATIONS.items() if torch.allclose(function(x), known(x), rtol=0, atol=1e-6)), None
    )


def check_tokens(tokens: Int[Tensor, "batch pos"], d_vocab: int, longest: int | None) -> None:
    """Refuse prompts that the embedding or the positions have no row for."""
    if longest is not None and tokens.shape[1] > longest:
        raise ValueError(f"a prompt has {tokens.shape[1]} tokens, the model reads at most {longest}.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= d_vocab:
        bad = tokens[(tokens < 0) | (tokens >= d_vocab)][0].item()
        raise ValueError(f"a prompt has the token id {bad}, the model's ids are 0 to {d_vocab - 1}.")
