"""Scores so far, kept in a folder so that a run resumes after an interruption.

A run has a file named after all that decides its scores: model, prompts, metric, method and settings. So another question
never reads it, and the same question finds it again. Exact patching has one more for each batch, destination by destination.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.arrays import from_npz, to_npz
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import reading

SECONDS_BETWEEN = 20.0  # from one writing to the next


class Checkpoint:
    """Scores so far, and which steps they come from.

    Attributes:
        scores: float64, on the CPU. [source destination]
        done: the steps (batches, or destinations of one batch) that are in them.
        seconds: what they took, in all runs that wrote them and in this one so far.
    """

    def __init__(
        self, path: Path | None, scores: Float[Tensor, "source destination"], done: Bool[Tensor, " step"]
    ) -> None:
        """Resume from a file if it is there.

        Args:
            path: the file; None: nothing is read or written.
            scores: those to begin with otherwise.
            done: the same.

        Raises:
            ValueError: the file is torn or was changed, or its folder cannot be made; the message names it.
        """
        self.scores, self.done, self._path = scores, done, path
        self._seconds_before = 0.0
        self._begun = self._written = time.monotonic()
        if path is not None:
            _make_folder(path.parent)
            if path.exists():
                self._load(path)

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._begun

    def save_now_and_then(self) -> None:
        """Write what there is, if the last time is long ago."""
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self.save()

    def save(self) -> None:
        """Write what there is, if there is a file for it."""
        if self._path is None:
            return
        write_whole(self._path, to_npz(self._content()))
        self._written = time.monotonic()

    def _load(self, path: Path) -> None:
        with reading(path, "delete it to measure anew"):
            held = from_npz(path.read_bytes(), self._content())
        self.scores, self.done, self._seconds_before = held["scores"], held["done"], held["seconds"].item()

    def _content(self) -> dict[str, Tensor]:
        return {"scores": self.scores, "done": self.done, "seconds": torch.tensor(self.seconds, dtype=torch.float64)}


def _make_folder(folder: Path) -> None:
    """Make a folder before anything is computed that is to be kept there.

    Raises:
        ValueError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal("checkpoint", "a folder that is there or can be made", f"{folder} ({error.strerror})") from error
