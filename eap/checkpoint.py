"""Scores so far, kept in a folder so that a run resumes after an interruption.

A run has a file named after all that decides its scores: model, prompts, metric, method and settings. So another question
never reads it, and the same question finds it again. Exact patching has one more for each batch, destination by destination.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.arrays import from_npz, to_npz
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.files.documents import parsed, reading
from edge_circuits.graphs.running.fingerprint import differing

SECONDS_BETWEEN = 20.0  # from one writing to the next


_DECIDES_NOTHING = ("checkpoint", "budget")  # processes agree on them, and the scores that are kept are the same
_VALUES = "metric's values on the model's logits, clean and all cut"
ROUNDING, MOST = 1e4, 0.05  # times the type's precision, of the largest value: sums depend on machine and threads


def path_of(
    folder: Path,
    method: str,
    asked: Mapping[str, str],
    values: Float[Tensor, "2 pair"] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """The file of a question, beside which the question is written.

    If there is none, but files of other questions with the method, a warning says in what the nearest of them differs.

    Args:
        asked: All that decides the scores (`edge_circuits.graphs.running.fingerprint.question`).
        values: The metric's on the model's own logits (`own_values`), which must be those of the first time.
        dtype: The model's.

    Raises:
        ValueError: They are not.
    """
    asked = {name: value for name, value in asked.items() if name not in _DECIDES_NOTHING}
    path = folder / f"{method}-{digest_of(*(f'{name}: {value}' for name, value in sorted(asked.items())))}.npz"
    described = path.with_suffix(".json")
    if described.exists():
        _check_values(described, values, min(MOST, ROUNDING * torch.finfo(dtype).eps))
        return path
    others = [differing(asked, _question(other)) for other in sorted(folder.glob(f"{method}-*.json"))]
    if nearest := min(others, key=len, default=None):
        warnings.warn(
            f"checkpoint: {folder} has {method} scores of another question, which differs in {', '.join(nearest)}; they are "
            "left there, and nothing of them is used.",
            stacklevel=3,
        )
    held = {} if values is None else {_VALUES: values.nan_to_num().tolist()}
    write_whole(described, json.dumps({**asked, **held}, indent=1).encode())
    return path


def _check_values(described: Path, values: Tensor | None, rounding: float) -> None:
    """Refuse scores of a metric that gave other values on the model's logits."""
    remedy = "give another folder, or delete it and what lies beside it to begin anew"
    with reading(described, remedy):
        held = parsed(described.read_bytes()).get(_VALUES)
        before = None if held is None else torch.tensor(held, dtype=torch.float64)
    if before is None and values is None:
        return
    if before is None or values is None or before.shape != values.shape:
        raise refusal("checkpoint", "the metric's values of all prompts", f"a file without them, {described}", remedy)
    now = values.nan_to_num()
    if (other := ((now - before).abs() > rounding * before.abs().max()).nonzero()).numel():
        row, prompt = other[0].tolist()
        got = f"{described}, made when it gave {before[row, prompt]:.6g} for prompt {prompt} where it gives {now[row, prompt]:.6g}"
        raise refusal("checkpoint", "scores of the same metric", got, remedy)


def _question(path: Path) -> dict[str, str]:
    """A question that was written beside scores; an empty one where it cannot be read."""
    try:
        return {name: value for name, value in json.loads(path.read_bytes()).items() if name != _VALUES}
    except (ValueError, TypeError, AttributeError):
        return {}


class Checkpoint:
    """Scores so far, and which steps they come from.

    Attributes:
        scores: float64, on the CPU. [source destination]
        done: the steps (batches, or destinations of one batch) that are in them.
        seconds: what they took, in all runs that wrote them and in this one so far.
    """

    def __init__(
        self, path: Path | None, scores: Float[Tensor, "source destination *span"], done: Bool[Tensor, " step"]
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
            make_folder(path.parent)
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


def make_folder(folder: Path) -> None:
    """Make a folder before anything is computed that is to be kept there.

    Raises:
        ValueError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal("checkpoint", "a folder that is there or can be made", f"{folder} ({error.strerror})") from error
