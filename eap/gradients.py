"""One forward and one backward pass: the gradient of a metric at every place that reads the residual stream.

The parameters are frozen; the autograd graph starts at the embedded prompt. A head's gradients are taken at its
projected query, key and value, [d_head] wide for each query head, also where query heads share keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric, check_values
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.patching import answer_rows, answered


@dataclass(frozen=True)
class Gradients:
    """The values of a forward pass and the gradient of the summed metric at its destinations, an entry a layer.

    Attributes:
        activations: values without autograd history.
        q, k, v: [batch row head d_head], at the projections before their norms and rotation.
        mlp_in: [batch row d_model], at the residual stream that the MLP reads.
        final: [batch 1 d_model], at the residual stream that `logits` reads.
        values: the metric, one value a prompt.
        inside: gradients within and behind the destinations, where they were asked for.
        constant_scale: every norm's scale was held constant (the LN-rule).
    """

    activations: Activations
    q: list[Tensor]
    k: list[Tensor]
    v: list[Tensor]
    mlp_in: list[Tensor]
    final: Tensor
    values: Float[Tensor, " batch"]
    inside: Inside | None = None
    constant_scale: bool = False

    def of(self, row: int) -> Gradients:
        """Those of one prompt."""

        def own(x: Tensor) -> Tensor:
            return x[row : row + 1]

        inside = None if self.inside is None else Inside(**_by_field(own, [self.inside]))
        fields_of_row = _by_field(own, [self])
        return Gradients(self.activations.each(own), **fields_of_row, inside=inside, constant_scale=self.constant_scale)


@dataclass(frozen=True)
class Inside:
    """Gradients of the summed metric within and behind the destinations, an entry a layer.

    Attributes:
        z: [batch row head d_head], at what each head mixes.
        mlp_normed: [batch row d_model], behind the MLP's norm.
        mlp_out: [batch row d_model], at what the MLP adds to the stream.
        final_normed: [batch row d_model], behind the final norm.
        logits: [batch row d_vocab].
    """

    z: list[Tensor]
    mlp_normed: list[Tensor]
    mlp_out: list[Tensor]
    final_normed: Tensor
    logits: Tensor


def differentiate(
    transformer: Transformer,
    embed: Float[Tensor, "batch pos d_model"],
    pairs: PromptPairs,
    metric: Metric,
    operations: Operations = EXACT,
    inside: bool = False,
) -> Gradients:
    """The gradient of the metric, summed over the batch, at every destination.

    Args:
        embed: embedded prompts, the start of the residual stream.
        operations: exact, or with relevance rules; the gradient is zero at a value that they hold fixed.
        inside: give the gradients inside of the destinations too.

    Raises:
        ValueError: the metric is not one finite value a prompt, or has no gradient.
    """
    with torch.enable_grad():
        kept = transformer.forward(embed.detach().requires_grad_(), answer_rows(pairs), operations)
        normed = operations.norm(transformer.final_norm, kept.final.to(transformer.W_U.device))
        logits = transformer.unembed_normed(normed)
        values = metric(answered(logits, pairs), pairs)
        check_values(values, pairs, metric)
        places = {name: getattr(kept, name) for name in ("q", "k", "v", "mlp_in")} | {"final": [kept.final]}
        if inside:
            places |= {name: getattr(kept, name) for name in ("z", "mlp_normed", "mlp_out")}
            places |= {"final_normed": [normed], "logits": [logits]}
        flat = [x for some in places.values() for x in some if x.requires_grad]
        gradients = iter(torch.autograd.grad(values.sum(), flat, materialize_grads=True))
    found = {
        name: [next(gradients) if x.requires_grad else torch.zeros_like(x) for x in some]
        for name, some in places.items()
    }
    found |= {name: found[name][0] for name in ("final", "final_normed", "logits") if name in found}
    own = {name: found.pop(name) for name in ("q", "k", "v", "mlp_in", "final")}
    kept = kept.each(Tensor.detach)
    own |= {"values": values.detach(), "inside": Inside(**found) if inside else None}
    return Gradients(kept, **own, constant_scale=operations.constant_scale)


def mean_of(points: Sequence[Gradients], activations: Activations) -> Gradients:
    """The mean of gradients that hold those inside, beside the given values."""

    def mean(*tensors: Tensor) -> Tensor:
        return torch.stack(tensors).mean(0)

    inside = Inside(**_by_field(mean, [point.inside for point in points]))
    return Gradients(activations, **_by_field(mean, points), inside=inside, constant_scale=points[0].constant_scale)


def _by_field(combine: Callable[..., Tensor], each: Sequence[Gradients | Inside]) -> dict[str, Tensor | list[Tensor]]:
    """The tensors of several put together, field by field and layer by layer."""
    names = [field.name for field in fields(each[0]) if field.name not in ("activations", "inside", "constant_scale")]
    columns = {name: [getattr(one, name) for one in each] for name in names}
    return {
        name: [combine(*layer) for layer in zip(*column)] if isinstance(column[0], list) else combine(*column)
        for name, column in columns.items()
    }
