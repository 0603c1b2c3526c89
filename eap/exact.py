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
from graphs import PromptPairs
from graphs.candidates import Below
from graphs.graph import Graph
from graphs.transformer import Activations, Transformer

STACKED_TOKENS = 1024


@torch.no_grad()
def exact_scores(
    transformer: Transformer,
    batch: PromptPairs,
    metric: Metric,
    cut: Activations,
    edges: Bool[Tensor, "source destination"] | None = None,
    patching: bool = True,
) -> Iterator[tuple[int, Float[Tensor, " source"]]]:
    """Destination by destination, what cutting each in-edge alone adds to the metric, summed over the batch.

    Args:
        cut: the values that cut edges read.
        edges: the edges to measure; all by default.
        patching: the cut values are those of the corrupted prompts.

    Yields:
        A destination's index and a score for every source; zero where the edge was not asked for.
    """
    graph = transformer.graph
    full = graph.edge_mask
    wanted = full if edges is None else edges & full
    n_tokens = len(batch) * (int(batch.positions.max()) + 1)
    stacked = max(1, STACKED_TOKENS // n_tokens)
    clean = None
    for layer, destinations in destinations_by_layer(graph):
        if not wanted[:, destinations].any():
            continue
        below = Below(transformer, full, layer, batch, cut, patching)
        for destination in destinations:
            if clean is None:
                clean = _values(below, full, destination, full[None, :, destination], metric)[0]
            sources = wanted[:, destination].nonzero()[:, 0]
            scores = torch.zeros(graph.n_sources, dtype=torch.float64)
            for chosen in sources.split(stacked):
                kept = full[:, destination].repeat(len(chosen), 1)
                kept[torch.arange(len(chosen)), chosen] = False
                values = _values(below, full, destination, kept, metric)
                scores[chosen] = (values - clean).sum(1).double().cpu()
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
