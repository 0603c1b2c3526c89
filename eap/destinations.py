"""How an edge's change passes the destination that it enters: the option `reader=` of methods that take gradients.

| reader    | exact                                        | linear, by the method's gradient or coefficients |
| --------- | -------------------------------------------- | ------------------------------------------------ |
| "linear"  | nothing                                      | the destination and all behind it                |
| "norm"    | the destination's norm                       | all behind the norm                              |
| "softmax" | the norm; for <q> and <k> the attention head | for <q>, <k>: all behind the head                |
| "exact"   | the whole node                               | all behind the node                              |

A score is (what the exact part's output changes by when this edge alone is cut) . (coefficient at that output), so none
of them makes a further pass through the model. The coefficient may be a gradient, one of relevance propagation, or an
average along a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.attribution import Attribution
from edge_circuits.eap.context import Job
from edge_circuits.eap.exact_node import NodeAttribution
from edge_circuits.eap.exact_norm import N_EXACT, NormAttribution
from edge_circuits.eap.exact_softmax import SoftmaxAttribution
from edge_circuits.eap.gradients import Gradients, mean_of
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import cut_only_at

Reader = Literal["linear", "norm", "softmax", "exact"]


def attribute(
    job: Job,
    batch: PromptPairs,
    clean: Activations,
    cut: Activations,
    points: Sequence[Gradients],
    reader: Reader = "linear",
    n_exact: int = N_EXACT,
    span: int | None = None,
) -> Float[Tensor, "source destination *span"]:
    """Edge scores summed over the batch, against gradients averaged over `points`; span by span if the job says so.

    Where heads write through a post-norm, a linear change passes it with its slope at each point.

    Args:
        points: with gradients inside of the destinations unless the reader is "linear".
        n_exact: sources of a prompt, and of a token of an MLP, that readers "softmax" and "exact" take exactly beyond the norm.
        span: of readers "linear" and "norm", the share of this span's tokens alone.
    """
    if job.by_span:
        there, settings = replace(job, by_span=False), (points, reader, n_exact)
        if reader in ("linear", "norm"):  # what a token adds is its own
            each = [attribute(there, batch, clean, cut, *settings, span) for span in range(len(batch.spans))]
        else:
            cuts = (cut_only_at(clean, cut, batch, number) for number in range(len(batch.spans)))
            each = [attribute(there, batch, clean, only, *settings) for only in cuts]
        return torch.stack(each, dim=-1)
    if reader != "linear":
        point = points[0] if len(points) == 1 else mean_of(points, clean)
        return attribute_each(job, batch, clean, cut, [point], reader, n_exact, span)[0]
    constant_scale = points[0].constant_scale
    if all(block.attention_post_norm is None for block in job.transformer.blocks):
        attribution = Attribution(job.transformer, clean, cut, points, constant_scale, constant_scale)
        return attribution.scores(batch, job.token_chunk, span)
    scores = []
    for point in points:
        here = replace(clean, attention_sum=point.activations.attention_sum)
        attribution = Attribution(job.transformer, here, cut, [point], constant_scale, constant_scale)
        scores.append(attribution.scores(batch, job.token_chunk, span))
    return torch.stack(scores).mean(0)


def attribute_each(
    job: Job,
    batch: PromptPairs,
    clean: Activations,
    cut: Activations,
    points: Sequence[Gradients],
    reader: Reader,
    n_exact: int = N_EXACT,
    span: int | None = None,
) -> Float[Tensor, "point source destination"]:
    """Edge scores summed over the batch, of each point by itself; cheaper together than one by one."""
    settings = (job.transformer, clean, cut, points)
    if reader == "linear":
        return torch.stack([attribute(job, batch, clean, cut, [point], span=span) for point in points])
    if reader == "norm":
        return NormAttribution(*settings).scores(batch, job.token_chunk, span)
    exact = SoftmaxAttribution if reader == "softmax" else NodeAttribution
    return exact(*settings, n_exact=n_exact).scores(batch, job.token_chunk)


def check_reader(reader: Reader, transformer: Transformer) -> None:
    """Refuse a reader for which a model has no place.

    Raises:
        ValueError: reader "norm" without a norm before any destination.
    """
    blocks = transformer.blocks
    norms = [transformer.final_norm, *(norm for block in blocks for norm in (block.attention_norm, block.mlp_norm))]
    if reader == "norm" and not any(norm is not None for norm in norms):
        raise ValueError(f"reader 'norm' has no place in {transformer.name}: no destination has a norm. Use 'linear'.")
