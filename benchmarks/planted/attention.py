"""Where the heads of a circuit are to look, as a loss: minus the log of the attention that goes there.

Taken from the corrupted prompts, whose run the training needs in any case. A circuit of several heads in a row forms slowly
from the answer alone, since each head can learn only what the others already make use of.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs.model.transformer import Activations, Transformer


def at_answer(positions: Int[Tensor, "batch"], keys: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """Look from the answer position at the given keys."""
    rows = torch.zeros_like(keys).scatter_(1, positions[:, None], True)
    return rows[:, :, None] & keys[:, None, :]


def attention_loss(
    transformer: Transformer,
    activations: Activations,
    positions: Int[Tensor, "batch"],
    attends: Mapping[str, Bool[Tensor, "batch pos pos"]],
) -> Float[Tensor, ""]:
    """Mean over heads of -log(attention to the right keys), in nats, a mean over the queries that have any.

    Args:
        transformer: The model, without rotary positions.
        activations: Of one batch; the last layer's queries at the answer positions alone.
        positions: The answer positions.
        attends: Head -> for each query (second axis) the keys to look at (last axis).
    """
    losses = []
    for head, wanted in attends.items():
        layer, index = (int(number[1:]) for number in head.split("."))
        q, k = activations.q[layer][:, :, index], activations.k[layer][:, :, index]
        rows = torch.arange(k.shape[1]).expand(k.shape[:2]) if q.shape[1] > 1 else positions[:, None]
        scores = torch.einsum("bqd,bkd->bqk", q, k) * transformer.blocks[layer].attention.scale
        visible = torch.arange(k.shape[1]) <= rows[:, :, None]
        attention = scores.masked_fill(~visible, -torch.inf).log_softmax(-1)
        wanted = wanted[torch.arange(len(rows))[:, None], rows]
        right = attention.masked_fill(~wanted, -torch.inf).logsumexp(-1)
        losses.append(-right[wanted.any(-1)].mean())
    return torch.stack(losses).mean()
