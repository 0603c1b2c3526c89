"""Small language models that the project trains itself, by a command, and ships: real tasks, and no circuit fixed beforehand.

trained = load("grammar")                              # a `TransformerBridge` in evaluation mode, and its language
pairs = trained.language.tasks[0].pairs(100, 0, "test")

python -m edge_circuits.benchmarks.trained.train grammar --seed 1
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_circuits.graphs.checks import choice

if TYPE_CHECKING:
    from torch import nn

    from edge_circuits.benchmarks.trained.language import Language, Task

NAMES = ("grammar", "induction", "brackets", "addition")


class Trained(NamedTuple):
    """A trained model (a `TransformerBridge` in evaluation mode, frozen) and its language."""

    model: nn.Module
    language: Language


def language_of(name: str) -> Language:
    """The language of that name, without weights.

    Raises:
        ValueError: There is none.
    """
    return importlib.import_module(f"{__name__}.{choice('trained model', name, NAMES)}").LANGUAGE


def tasks() -> dict[str, tuple[Language, Task]]:
    """Every task by name, with the language that it is of."""
    return {task.name: (language, task) for language in map(language_of, NAMES) for task in language.tasks}


def load(name: str, seed: int = 0, folder: Path | None = None) -> Trained:
    """The model of that name with its trained weights.

    Args:
        name: One of `NAMES`.
        seed: Of its training.
        folder: Where the weights are; None: those shipped.

    Raises:
        ValueError: There is no such model, or its weights are missing or of another.
    """
    of = language_of(name)
    module = of.new_module(seed)
    model = bridged(of, module)  # names the parameters as they were written
    of.weights(seed, folder).load_into(module)
    return Trained(model, of)


def bridged(of: Language, module: nn.Module) -> nn.Module:
    """A Hugging Face model of the language as a `TransformerBridge`, frozen."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(module, type(module).__name__, hf_config=module.config)
    return bridge.eval().requires_grad_(False)
