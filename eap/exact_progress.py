"""What exact patching has measured so far, kept in a folder so that a run that was stopped goes on.

Each batch has a file of its own, named after all that decides its scores: model, prompts, metric, intervention and the
edges asked for. So another question never reads it, and the same question finds it again.
"""

from __future__ import annotations

import hashlib
import io
import time
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eap.gradients import metric_name
from eap.job import Job
from graphs import PromptPairs
from graphs.files import write_whole
from graphs.standing import Standing

SECONDS_BETWEEN = 20.0  # from one writing to the next


class Progress:
    """The scores of one batch, destination by destination.

    Attributes:
        scores: summed over the batch, zero where not measured yet. [source destination]
        done: destinations that are measured. [destination]
    """

    def __init__(
        self,
        job: Job,
        batch: PromptPairs,
        wanted: Bool[Tensor, "source destination"],
        standing: Standing,
        uncut: Float[Tensor, "1 batch"],
    ) -> None:
        """Go on from what the job's checkpoint folder holds, if there is one.

        Args:
            wanted: the edges asked for.
            standing: the whole model's run, by which weights and cut values are recognised.
            uncut: the metric of the whole model.

        Raises:
            ValueError: the file is torn; the message names it.
        """
        self.scores = torch.zeros(wanted.shape, dtype=torch.float64)
        self.done = ~wanted.any(0)
        self._path = None
        if job.checkpoint is not None:
            self._path = job.checkpoint / f"exact-{_digest(job, batch, wanted, standing, uncut)}.npz"
            if self._path.exists():
                self._load()
        self._written = time.monotonic()

    def add(self, destination: int, column: Float[Tensor, " source"]) -> None:
        """Take note of a destination's scores, and write them now and then."""
        self.scores[:, destination] = column
        self.done[destination] = True
        if time.monotonic() - self._written > SECONDS_BETWEEN:
            self.save()

    def save(self) -> None:
        """Write what is measured, if there is a folder for it."""
        if self._path is None:
            return
        content = io.BytesIO()
        np.savez_compressed(content, scores=self.scores.numpy(), done=self.done.numpy())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, content.getvalue())
        self._written = time.monotonic()

    def _load(self) -> None:
        try:
            with np.load(self._path) as held:
                scores, done = torch.from_numpy(held["scores"]), torch.from_numpy(held["done"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(f"checkpoint: cannot read {self._path}: {error}; delete it to measure anew.") from error
        self.scores, self.done = scores, done


def _digest(job: Job, batch: PromptPairs, wanted: Tensor, standing: Standing, uncut: Tensor) -> str:
    runs = [run.double().square().sum(-1).flatten() for run in (standing.logits, standing.cut.final)]
    columns = [batch.clean, batch.corrupted, batch.positions, batch.answers, batch.wrong_answers, wanted]
    parts = [
        job.transformer.name,
        repr(job.transformer.graph),
        metric_name(job.metric),
        job.intervention,
        *(repr(None if column is None else column.tolist()) for column in columns),
        *(f"{value:.3e}" for value in torch.cat((*runs, uncut[0].double())).tolist()),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=10).hexdigest()
