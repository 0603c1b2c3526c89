"""A folder with dictionaries, as its format reads it: configurations, and tensors of any kind of file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from edge_circuits.graphs.checks import refusal


class Folder:
    """A folder whose files are read whole, or refused by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self, name: str) -> dict[str, Any]:
        """A configuration in JSON or YAML.

        Raises:
            ValueError: it is torn, or not a mapping.
        """
        text = (self.path / name).read_text(encoding="utf-8")
        try:
            found = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{self.path / name}: expected a configuration, got a torn file ({error})") from error
        if not isinstance(found, Mapping):
            raise ValueError(f"{self.path / name}: expected settings by name, got {type(found).__name__}")
        return dict(found)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors, npz or torch file, none of which runs code.

        Raises:
            ValueError: it is torn, or holds something else than tensors.
        """
        file = self.path / name
        try:
            found = _load(file)
        except Exception as error:  # of whichever library reads it
            raise refusal(str(file), "tensors", f"a file that is torn or foreign ({error})", "get it anew") from error
        if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
            raise refusal(str(file), "tensors by name", "something else", "this is not a file of a dictionary")
        return dict(found)


def _load(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if file.suffix == ".npz":
        import numpy

        with numpy.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(file, map_location="cpu", weights_only=True)
