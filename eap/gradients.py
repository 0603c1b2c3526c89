"""One forward and one backward pass: the gradient of a metric at every place that reads the residual stream.

The parameters are frozen; the autograd graph starts at the embedded prompt. A head's gradients are taken at its
projected query, key and value, [d_head] wide for each query head, also where query heads share keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric, check_values
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import answer_rows


@dataclass(frozen=True)
class Gradients:
    """The values of a forward pass and the gradient of the summed metric at its readers, an entry a layer.

    Attributes:
        activations: values without autograd history.
        q, k, v: [batch row head d_head], at the projections before their norms and rotation.
        mlp_in: [batch row d_model], at the residual stream that the MLP reads.
        final: [batch 1 d_model], at the residual stream that `logits` reads.
        values: the metric, one value a prompt.
    """

    activations: Activations
    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]
    mlp_in: list[Tensor]
    final: Tensor
    values: Float[Tensor, " batch"]


def differentiate(
    transformer: Transformer,
    embed: Float[Tensor, "batch pos d_model"],
    pairs: PromptPairs,
    metric: Metric,
    operations: Operations = EXACT,
) -> Gradients:
    """The gradient of the metric, summed over the batch, at every destination.

    Args:
        embed: embedded prompts, the start of the residual stream.
        operations: exact, or with relevance rules.

    Raises:
        ValueError: the metric is not one finite value a prompt, or has no gradient.
    """
    with torch.enable_grad():
        kept = transformer.forward(embed.detach().requires_grad_(), answer_rows(pairs), operations)
        values = metric(transformer.unembed(kept.final[:, 0], operations), pairs)
        check_values(values, pairs, metric)
        readers = [*kept.q, *kept.k, *kept.v, *kept.mlp_in, kept.final]
        gradients = torch.autograd.grad(values.sum(), readers, materialize_grads=True)
    n = len(transformer.blocks)
    q, k, v, mlp_in = (list(gradients[start : start + n]) for start in (0, n, 2 * n, 3 * n))
    return Gradients(kept.each(Tensor.detach), q, k, v, mlp_in[: len(kept.mlp_in)], gradients[-1], values.detach())
