"""Scores kept on disk part by part, so that a run that was stopped goes on where it was.

1. A part is one method's scores on one group of prompts, small enough to be lost.
2. It has a key: everything that decides its numbers, the model's weights, the prompts and the code among them.
3. It is written whole under a name made from the key; when the same key is asked for again, the file is read instead.

So a part is never taken for another model's, or for one of another version of the code.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.files.digest import digest_of, digest_of_tensors

PARTIAL = ".partial"  # within the folder for results
CODE = ("edge_circuits.graphs", "edge_circuits.eap", "edge_circuits.acdc")


class SavedParts:
    """The parts in one folder.

    Attributes:
        n_reused: How many were read instead of computed.
        n_computed: How many were computed and written.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        """
        Args:
            folder: Made if it is not there.
            fresh: Forget what is in it.

        Raises:
            ValueError: The folder cannot be made.
        """
        self.folder = folder
        self.n_reused = self.n_computed = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder {folder}: {error}") from error
        if fresh:
            for path in folder.glob("**/*.json*"):
                path.unlink()

    def get(self, label: str, key: Mapping[str, Any], compute: Callable[[], ScoredGraph]) -> ScoredGraph:
        """The part of a key, from its file or computed and written.

        Args:
            label: Beginning of the file's name, for people.
            key: Everything that decides the part, in types that JSON has.
            compute: Gives the part.
        """
        path = self.folder / f"{label}-{digest_of(json.dumps(dict(key), sort_keys=True))}.json"
        if (saved := _read(path)) is not None:
            self.n_reused += 1
            return saved
        part = compute()
        part.save(path)
        self.n_computed += 1
        return part


@contextmanager
def parts_in(folder: Path | None, fresh: bool = False) -> Iterator[SavedParts]:
    """The parts kept in a folder for results; None: parts are kept for this run only."""
    if folder is not None:
        yield SavedParts(folder / PARTIAL, fresh)
        return
    with TemporaryDirectory() as temporary:
        yield SavedParts(Path(temporary))


def _read(path: Path) -> ScoredGraph | None:
    """What a file holds; None where there is none, or one that cannot be read."""
    try:
        return ScoredGraph.load(path)
    except (FileNotFoundError, ValueError):
        return None


def model_digest(model: nn.Module) -> str:
    """Digest of a model's weights and buffers."""
    return digest_of_tensors(model.state_dict())


@cache
def code_digest() -> str:
    """Digest of the code that makes scores, and the versions of the libraries below it."""
    digest = hashlib.blake2b(digest_size=10)
    for name in CODE:
        file = Path(importlib.import_module(name).__file__)
        for path in sorted(file.parent.rglob("*.py")) if file.stem == "__init__" else (file,):
            digest.update(path.relative_to(file.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    for library in ("torch", "transformer-lens", "transformers"):
        digest.update(f"{library} {version(library)}\0".encode())
    return digest.hexdigest()
