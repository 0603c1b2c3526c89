"""EAP-IG: edge attribution patching with gradients averaged on the way from the cut input to the clean one.

`score = (source_cut - source_clean) . mean over k of the gradient at cut + a_k (clean - cut)`, the line taken between
input embeddings. As published, a_k = k / n for k = 0 ... n - 1: the cut end is included, the clean one is not.
The midpoint rule takes a_k = (k + 1/2) / n instead and is more accurate at equal cost.

Reference: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.gradients import Gradients
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Activations

HELD_POINTS = 4


def eap_ig(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Integrated gradients over input embeddings: `steps` forward and backward passes besides the two plain passes."""
    cut, embed = job.cut(batch), job.clean_embed(batch)
    clean = _values(job, embed, batch)
    return _integrated(job, batch, clean, cut, lambda at: job.gradients(batch, torch.lerp(cut.embed, embed, at)))


def eap_ig_activations(job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
    """Integrated gradients over what each source writes, one layer's heads or one MLP at a time.

    For the edges out of a layer's heads, their mixed values z move together from cut to clean while everything below
    stays clean and everything above follows; likewise for an MLP; `input` is moved as in `eap_ig`. It takes
    `steps` forward and backward passes for each of the 2 x layers + 1 places.
    """
    graph, cut, embed = job.transformer.graph, job.cut(batch), job.clean_embed(batch)
    clean = _values(job, embed, batch)
    scores = eap_ig(job, batch)
    for layer in range(graph.n_layers):
        moved = {"heads": (graph.head_sources(layer), cut.z[layer], clean.z[layer])}
        if graph.mlps:
            moved["mlp"] = (graph.mlp_source(layer), cut.mlp_out[layer], clean.mlp_out[layer])
        for kind, (sources, start, end) in moved.items():

            def point(
                at: float, kind: str = kind, layer: int = layer, start: Tensor = start, end: Tensor = end
            ) -> Gradients:
                return job.gradients(batch, embed, _moving(layer, kind, torch.lerp(start.to(end.device), end, at)))

            scores[sources] = _integrated(job, batch, clean, cut, point)[sources]
    return scores


def _moving(layer: int, kind: str, value: Tensor) -> Operations:
    """The exact operations, with one layer's heads or MLP writing a given value."""
    return Operations(source=lambda at, what, own: value if (at, what) == (layer, kind) else own)


def _integrated(
    job: Job, batch: PromptPairs, clean: Activations, cut: Activations, point: Callable[[float], Gradients]
) -> Float[Tensor, "source destination"]:
    """Scores against the mean gradient over the points of the line, a few of them held at a time."""
    shift = 0.5 if job.integration == "midpoint" else 0.0
    fractions = [(step + shift) / job.steps for step in range(job.steps)]
    total: Tensor | float = 0.0
    for start in range(0, job.steps, HELD_POINTS):
        held = [point(fraction) for fraction in fractions[start : start + HELD_POINTS]]
        total = total + job.attribute(batch, clean, cut, held) * (len(held) / job.steps)
    return total


@torch.no_grad()
def _values(job: Job, embed: Float[Tensor, "batch pos d_model"], batch: PromptPairs) -> Activations:
    return job.transformer.forward(embed, batch.positions[:, None])
