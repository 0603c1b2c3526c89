"""Trained weights on disk: `NAME.safetensors` (float32) and beside it `NAME.json`, which says how they were made.

The JSON file names the model's settings, the vocabulary and the circuit's edges, so that weights are never used with
another circuit than the one they were trained for; and the command, the seed and the versions that made them.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of_bytes
from edge_circuits.graphs.files.documents import parsed, reading, warn_without_digest

SHIPPED = Path(__file__).parent / "weights"
MUST_AGREE = ("settings", "vocabulary", "edges")


def save(task: PlantedTask, model: nn.Module, training: Training, folder: Path) -> Path:
    """Write a model's weights and how they were made; returns the path of the weights.

    Each file appears whole or not at all, the weights first. The JSON file has their digest, so that the two are read
    together or not at all.

    Raises:
        ValueError: The folder does not exist.
    """
    from safetensors.torch import save as to_bytes

    tensors = {name: tensor.detach().float().contiguous() for name, tensor in _parameters(model).items()}
    content = to_bytes(tensors)
    path = write_whole(folder / f"{task.name}.safetensors", content)
    about = _identity(task) | {
        "command": f"python -m edge_circuits.benchmarks.planted.train {task.name} --steps {training.steps} --seed {training.seed}",
        "training": vars(training),
        "digest_of_weights": digest_of_bytes(content),
        "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformer_lens")},
    }
    write_whole(folder / f"{task.name}.json", (json.dumps(about, indent=1) + "\n").encode())
    return path


def load_into(model: nn.Module, task: PlantedTask, folder: Path = SHIPPED) -> None:
    """Give a model of the task its trained weights.

    Raises:
        ValueError: There are none, or they were trained for another model or circuit.
    """
    from safetensors.torch import load

    path = folder / f"{task.name}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"weights: expected a file {path}, found none; run python -m edge_circuits.benchmarks.planted.train {task.name}"
        )
    about, content = _manifest(path.with_suffix(".json")), path.read_bytes()
    if (digest := digest_of_bytes(content)) != about.get("digest_of_weights", digest):
        raise refusal(str(path), f"weights with the digest {about['digest_of_weights']}", digest, "train them again")
    if differing := [name for name in MUST_AGREE if about[name] != _identity(task)[name]]:
        raise ValueError(
            f"{path}: expected weights trained for this task, got some with other {', '.join(differing)}; train them "
            f"again with python -m edge_circuits.benchmarks.planted.train {task.name}"
        )
    with reading(path), torch.no_grad():
        tensors = load(content)
        for name, parameter in _parameters(model).items():
            parameter.copy_(tensors[name])


def _manifest(path: Path) -> dict[str, Any]:
    """How weights were made.

    Raises:
        ValueError: The file is torn, or says too little.
    """
    with reading(path):
        about = parsed(path.read_bytes())
        missing = [name for name in MUST_AGREE if name not in about] if isinstance(about, dict) else MUST_AGREE
        if missing:
            raise refusal("file", ", ".join(MUST_AGREE), f"none of {', '.join(missing)}")
    if "digest_of_weights" not in about:
        warn_without_digest()
    return about


def _identity(task: PlantedTask) -> dict[str, Any]:
    return {
        "settings": dict(task.settings),
        "vocabulary": list(task.task.vocabulary()),
        "edges": list(task.causal.edges),
    }


def _parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters of the model that the bridge wraps, by its own names."""
    return dict(model.original_model.named_parameters())
