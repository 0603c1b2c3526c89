"""Exact edge activation patching: every edge cut alone, and the metric measured.

The slow method that the others approximate, made affordable: candidates that share a destination run stacked along
the batch, and nothing below the destination is computed again (`graphs.candidates`).

Reference: Conmy et al. 2023, path patching of single edges; Syed, Rager and Conmy 2023, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from eap.gradients import Metric, check_values
from eap.job import Job
from graphs import PromptPairs
from graphs.candidates import Below
from graphs.graph import Graph

STACKED_TOKENS = 1024


@torch.no_grad()
def exact(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """What cutting each edge alone adds to the metric, summed over the batch; zero where `edges` does not ask."""
    scores = torch.zeros(job.transformer.graph.edge_mask.shape, dtype=torch.float64)
    for destination, column in exact_columns(job, batch):
        scores[:, destination] = column
    return scores


@torch.no_grad()
def exact_columns(job: Job, batch: PromptPairs) -> Iterator[tuple[int, Float[Tensor, " source"]]]:
    """Destination by destination, upwards: its index and the score of every source."""
    graph, full = job.transformer.graph, job.transformer.graph.edge_mask
    wanted = full if job.edges is None else job.edges & full
    cut = job.cut(batch)
    n_tokens = len(batch) * (int(batch.positions.max()) + 1)
    n_stacked = max(1, STACKED_TOKENS // n_tokens)
    for layer, destinations in destinations_by_layer(graph):
        if not wanted[:, destinations].any():
            continue
        below = Below(job.transformer, full, layer, batch, cut, job.intervention == "patching")
        uncut = _values(below, full, destinations[-1], full[None, :, destinations[-1]], job.metric)
        for destination in destinations:
            scores = torch.zeros(graph.n_sources, dtype=torch.float64)
            asked = wanted[:, destination].nonzero()[:, 0]
            for chosen in asked.split(n_stacked) if len(asked) else ():
                kept = full[:, destination].repeat(len(chosen), 1)
                kept[torch.arange(len(chosen)), chosen] = False
                values = _values(below, full, destination, kept, job.metric)
                scores[chosen] = (values - uncut).sum(1).double().cpu()
            yield destination, scores


def destinations_by_layer(graph: Graph) -> Iterator[tuple[int, range]]:
    """Each layer's destinations; `logits` stand alone above the last layer."""
    for layer in range(graph.n_layers):
        stop = graph.n_destinations - 1 if layer == graph.n_layers - 1 else graph.part_destinations(layer + 1, "q").start
        yield layer, range(graph.part_destinations(layer, "q").start, stop)
    yield graph.n_layers, range(graph.n_destinations - 1, graph.n_destinations)


def _values(
    below: Below, mask: Tensor, destination: int, candidates: Bool[Tensor, "candidate source"], metric: Metric
) -> Float[Tensor, "candidate batch"]:
    """The metric of each candidate, prompt by prompt."""
    values = []
    for logits in below.logits(mask, destination, candidates):
        values.append(metric(logits, below.batch))
        check_values(values[-1], below.batch, metric)
    return torch.stack(values)
