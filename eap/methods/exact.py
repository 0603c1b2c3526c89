"""Exact edge activation patching: every edge cut alone, and the metric measured.

The slow method that the others approximate, made affordable: candidates that share a destination run stacked along
the batch, and only what follows from the destination is computed again (`edge_circuits.graphs.running.incremental`).

Reference: Conmy et al. 2023, path patching of single edges; Syed, Rager and Conmy 2023, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from edge_circuits.eap.checkpoint import Checkpoint
from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import described, refusal
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.metrics import Metric, check_values
from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.changing import n_changing
from edge_circuits.graphs.running.incremental import run_candidates
from edge_circuits.graphs.running.patching import Cut, Intervention, answer_rows, cut_only_at

STACKED_TOKENS = 1024  # of a model 256 wide or more; of a narrower one so many more
MAX_PADDING = 0.2  # of the real tokens, in prompts that run together


@dataclass(frozen=True, eq=False)
class Exact(Method):
    """Exact edge patching.

    Attributes:
        edges: those to measure, a mask [source destination]; the others score zero. All by default.
    """

    short_names: ClassVar = {"exact": {}}
    needs_gradient: ClassVar = False
    slow: ClassVar = True
    knows_spans: ClassVar = True

    edges: Bool[Tensor, "source destination"] | None = None

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a mask of another graph."""
        super().check_model(transformer)
        expected = tuple(transformer.graph.edge_mask.shape)
        if self.edges is not None and (tuple(self.edges.shape) != expected or self.edges.dtype != torch.bool):
            raise refusal("edges", f"a bool mask of shape {expected}", described(self.edges))

    @torch.no_grad()
    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination *span"]:
        """What cutting each edge alone adds to the metric, summed over the batch; zero where `edges` does not ask."""
        groups = run_together(batch, job.intervention)
        return sum(self._scores(job, group, _path(job, group)) for group in groups)

    def _scores(self, job: Job, batch: PromptPairs, path: Path | None) -> Float[Tensor, "source destination *span"]:
        """The scores on prompts of which similarly many positions are computed."""
        cut = job.cut(batch)
        if not job.by_span:
            return self._patched(job, batch, cut, path)
        clean = job.transformer.forward(job.clean_embed(batch), answer_rows(batch))
        paths = [path and path.with_name(f"{path.stem}-span-{number}.npz") for number in range(len(batch.spans))]
        each = [
            self._patched(job, batch, cut_only_at(clean, cut, batch, number), its_path)
            for number, its_path in enumerate(paths)
        ]
        return torch.stack(each, dim=-1)

    def _patched(
        self, job: Job, batch: PromptPairs, cut: Cut, path: Path | None
    ) -> Float[Tensor, "source destination"]:
        """The scores with these values in the place of each cut edge's."""
        full = job.transformer.graph.edge_mask
        wanted = full if self.edges is None else self.edges.cpu() & full
        progress = Checkpoint(path, torch.zeros(wanted.shape, dtype=torch.float64), ~wanted.any(0))
        if progress.done.all():
            return progress.scores
        cached = CachedRun(job.transformer, full, batch, cut)
        values = _Values(job.metric, batch)
        uncut = values(cached.logits[None])
        destinations = wanted.any(0).nonzero()[:, 0].tolist()
        with tqdm(total=int(wanted.sum()), desc="edges", unit="edge", leave=False, disable=job.quiet) as bar:
            bar.update(int(wanted[:, progress.done].sum()))
            for destination in destinations:
                if not progress.done[destination]:
                    n_stacked = max(1, stacked_tokens(job.transformer) // cached.n_tokens(destination))
                    for chosen in wanted[:, destination].nonzero()[:, 0].split(n_stacked):
                        kept = full[:, destination].repeat(len(chosen), 1)
                        kept[torch.arange(len(chosen)), chosen] = False
                        change = values(run_candidates(cached, destination, kept)) - uncut
                        progress.scores[chosen, destination] = change.sum(1).double().cpu()
                        bar.update(len(chosen))
                    progress.done[destination] = True
                    progress.save_now_and_then()
        progress.save()
        return progress.scores


def run_together(batch: PromptPairs, intervention: Intervention) -> list[PromptPairs]:
    """The prompts of a batch in parts that run together: those of which similarly many positions are computed."""
    return batch.by_size(n_changing(batch, intervention), MAX_PADDING)


def stacked_tokens(transformer: Transformer) -> int:
    """On how many tokens candidates run at a time."""
    return STACKED_TOKENS * max(1, 256 // transformer.W_U.shape[0])


def _path(job: Job, batch: PromptPairs) -> Path | None:
    """Where what is measured of prompts is kept: beside the file of the run."""
    if job.checkpoint is None:
        return None
    return job.checkpoint.with_name(f"{job.checkpoint.stem}-batch-{digest_of(repr(batch.indices.tolist()))}.npz")


class _Values:
    """The metric of stacked candidates, prompt by prompt."""

    def __init__(self, metric: Metric, batch: PromptPairs) -> None:
        self.metric, self.stacked = metric, cache(batch.repeated)

    def __call__(self, logits: Float[Tensor, "candidate batch *rows d_vocab"]) -> Float[Tensor, "candidate batch"]:
        pairs = self.stacked(len(logits))
        values = self.metric(logits.flatten(0, 1), pairs)
        check_values(values, pairs, self.metric)
        return values.unflatten(0, logits.shape[:2])
