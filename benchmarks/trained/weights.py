"""Weights of trained models on disk: `NAME-SEED.safetensors` in float16, and beside it `NAME-SEED.json`, which says how they
were made."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_circuits.benchmarks.trained.language import Language, Training
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.atomic import write_whole

SHIPPED = Path(__file__).parent / "weights"
MUST_AGREE = ("architecture", "settings", "words")


def save(language: Language, module: nn.Module, training: Training, accuracy: dict[str, float], folder: Path) -> Path:
    """Write a model's weights and how they were made, the weights first; returns their path."""
    from safetensors.torch import save as to_bytes

    tensors = {name: tensor.detach().half().contiguous() for name, tensor in module.named_parameters()}
    path = write_whole(folder / f"{language.name}-{training.seed}.safetensors", to_bytes(tensors))
    command = f"python -m edge_circuits.benchmarks.trained.train {language.name} --steps {training.steps}"
    about = _identity(language) | {
        "command": f"{command} --seed {training.seed}",
        "training": vars(training),
        "accuracy": accuracy,
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
    }
    write_whole(path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
    return path


def load_into(module: nn.Module, language: Language, seed: int, folder: Path) -> None:
    """Give a model its trained weights.

    Raises:
        ValueError: There are none, or they were trained for another model.
    """
    from safetensors.torch import load_file

    path = folder / f"{language.name}-{seed}.safetensors"
    again = f"run python -m edge_circuits.benchmarks.trained.train {language.name} --seed {seed}"
    if not path.is_file():
        raise refusal("weights", f"a file {path}", "none", again)
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if differing := [name for name in MUST_AGREE if about[name] != _identity(language)[name]]:
        raise refusal(str(path), "weights trained for this model", f"some with other {', '.join(differing)}", again)
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(tensors[name])


def _identity(language: Language) -> dict[str, Any]:
    return {"architecture": language.architecture, "settings": dict(language.settings), "words": list(language.words)}
