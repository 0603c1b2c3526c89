"""Weights that the project has trained, on disk: `NAME-SEED.safetensors` and beside it `NAME-SEED.json`, which says how they were made.

The JSON file names what the model is (its settings, its vocabulary, a planted circuit's edges), so that weights are never used with
another model than the one they were trained for; the digest of the weights; and the command, the seed and the versions that made them.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of_bytes
from edge_circuits.graphs.files.documents import parsed, reading, warn_without_digest


@dataclass(frozen=True)
class Weights:
    """Where the weights of one training are, and for what.

    Attributes:
        kind: "planted" or "trained"; the folder of `edge_circuits.benchmarks` whose `train` makes them.
        name: The model's name.
        seed: Of the training.
        identity: What the model is; weights of a model that differs are refused.
        folder: None: those shipped.
    """

    kind: str
    name: str
    seed: int
    identity: Mapping[str, Any]
    folder: Path | None = None

    @property
    def path(self) -> Path:
        """The file of the weights."""
        return (self.folder or shipped(self.kind)) / f"{self.name}-{self.seed}.safetensors"

    @property
    def command(self) -> str:
        """What makes them."""
        return f"python -m edge_circuits.benchmarks.{self.kind}.train {self.name} --seed {self.seed}"

    def save(self, module: nn.Module, training: Any, half: bool = False, **more: Any) -> Path:
        """Write a model's weights and how they were made; returns the path of the weights.

        Each file appears whole or not at all, the weights first. The JSON file has their digest, so that the two are read
        together or not at all.

        Args:
            module: The model.
            training: Its settings, a dataclass with `steps`.
            half: Whether the weights are written in float16, else in float32.
            more: What else is to be told.

        Raises:
            ValueError: The folder does not exist.
        """
        from safetensors.torch import save as to_bytes

        dtype = torch.float16 if half else torch.float32
        tensors = {name: one.detach().to(dtype).contiguous() for name, one in module.named_parameters()}
        content = to_bytes(tensors)
        write_whole(self.path, content)
        about = dict(self.identity) | {
            "command": f"{self.command} --steps {training.steps}",
            "training": vars(training),
            **more,
            "digest_of_weights": digest_of_bytes(content),
            "n_parameters": sum(tensor.numel() for tensor in tensors.values()),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "transformer_lens", "transformers")},
        }
        write_whole(self.path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
        return self.path

    def load_into(self, module: nn.Module) -> None:
        """Give a model of that name its trained weights.

        Raises:
            ValueError: There are none, or they were trained for another model.
        """
        from safetensors.torch import load

        if not self.path.is_file():
            raise refusal("weights", f"a file {self.path}", "none", f"run {self.command}")
        about, content = self._manifest(), self.path.read_bytes()
        if (digest := digest_of_bytes(content)) != about.get("digest_of_weights", digest):
            expected = f"weights with the digest {about['digest_of_weights']}"
            raise refusal(str(self.path), expected, digest, f"run {self.command}")
        if differing := [name for name, value in self.identity.items() if about[name] != value]:
            got = f"some with other {', '.join(differing)}"
            raise refusal(str(self.path), "weights trained for this model", got, f"run {self.command}")
        with reading(self.path), torch.no_grad():
            tensors = load(content)
            for name, parameter in module.named_parameters():
                parameter.copy_(tensors[name])

    def _manifest(self) -> dict[str, Any]:
        """How the weights were made.

        Raises:
            ValueError: The file is torn, or says too little.
        """
        path = self.path.with_suffix(".json")
        with reading(path):
            about = parsed(path.read_bytes())
            said = about if isinstance(about, dict) else {}
            if missing := [name for name in self.identity if name not in said]:
                raise refusal("file", ", ".join(self.identity), f"none of {', '.join(missing)}")
        if "digest_of_weights" not in about:
            warn_without_digest()
        return about


def shipped(kind: str) -> Path:
    """The folder of the weights that this package brings along."""
    return Path(__file__).parent / kind / "weights"
