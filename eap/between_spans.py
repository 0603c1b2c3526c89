"""Moves between spans: what each head carries from the tokens that it attends to, to those that attend.

    moved = crossing(model, pairs, "logit_difference")        # pairs with spans
    moved.scores                                             # [layer head part from to]
    moved.top(10)                                            # [("a5.h1<v> S1 -> end", 0.8), ...]

For <v>, the values at the tokens of span `from` become those of the cut run while the pattern stays; for <k>, the keys
there do, and the softmax is taken exactly. What this changes in the head's mixed values z at the tokens of `to`, times the
gradient (or the coefficients of RelP) there, is the score: positive where cutting the move raises the metric. A query moves
nothing: its change at a token is that token's.

Deviation from PEAP: all that the head reads is cut at once, not the edges into it one by one; and spans are taken at once
in all prompts, whatever their lengths.

Reference: Haklay et al. 2025, Position-aware Automatic Circuit Discovery, section 3 (crossing edges).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.eap.context import Job
from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.gradients import Gradients
from edge_circuits.eap.methods.lookup import find
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.metrics import Metric, as_metric, metric_name
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.running.distributed import ALONE
from edge_circuits.graphs.running.patching import Intervention, answer_rows, cut_values, trimmed

MAX_TOKENS = 2048
PARTS = ("k", "v")


@dataclass(frozen=True, eq=False)
class Crossing:
    """What heads carry from span to span.

    Attributes:
        spans: Names of the spans, in order.
        scores: The mean over prompts, in the metric's unit; part 0 is <k>, part 1 is <v>. [layer head part from to]
        metadata: Where they come from.
    """

    spans: tuple[str, ...]
    scores: Float[Tensor, "layer head part from to"]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def top(self, n: int) -> list[tuple[str, float]]:
        """The n moves of largest absolute score, largest first."""
        order = self.scores.abs().flatten().sort(descending=True, stable=True).indices[: whole_number("n", n)]
        places = [tuple(map(int, torch.unravel_index(each, self.scores.shape))) for each in order]
        return [
            (f"a{layer}.h{head}<{PARTS[part]}> {self.spans[start]} -> {self.spans[end]}", float(self.scores[place]))
            for place in places
            for layer, head, part, start, end in [place]
        ]


@torch.inference_mode(False)
def crossing(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    method: OnePass | str = "eap",
    *,
    intervention: Intervention = "patching",
    batch_size: int | None = None,
) -> Crossing:
    """What every head carries from every span to every other.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Prompts with spans, or `pairs.by_token()`.
        metric: A function or a name, as for `score`.
        method: Whose gradient or coefficients are taken: "eap", "relp", or a value of one.
        intervention: What the cut values are.
        batch_size: Prompts in a batch; by default as many as fit in 2,048 tokens.

    Raises:
        ValueError: Pairs without spans, a method of several passes, or as `score`.
    """
    method = find(method)
    if not isinstance(method, OnePass):
        raise refusal("method", "one of a single backward pass", repr(method.name), "take 'eap' or 'relp'")
    method.check_alone("attention between spans")
    if pairs.spans is None:
        raise refusal("pairs", "prompts with spans", "prompts without", "give spans={...}, or take pairs.by_token()")
    transformer = adapt(model)
    metric = as_metric(metric, transformer, pairs)
    method.check_model(transformer)
    method.check_metric(metric)
    batches = [batch.to(transformer.device) for batch in ALONE.batches(pairs, batch_size, MAX_TOKENS)]
    job = Job(transformer, metric, cut_values(transformer, batches, intervention), intervention, 1)
    total = sum(_moved(job, method, batch).double().cpu() for batch in batches)
    settings = {"intervention": str(intervention), "n_prompts": len(pairs), **method.settings}
    about = {"model": transformer.name, "method": method.name, "metric": metric_name(metric), "settings": settings}
    return Crossing(pairs.spans.names, total / len(pairs), about)


def _moved(job: Job, method: OnePass, batch: PromptPairs) -> Float[Tensor, "layer head part from to"]:
    """The scores of one batch, summed over its prompts."""
    cut = job.cut(batch)
    operations = method.operations(job.transformer, batch, lambda: cut)
    point = job.gradients(batch, job.clean_embed(batch), operations, inside=True)
    with torch.no_grad():
        layers = range(len(job.transformer.blocks))
        return torch.stack([_moved_in(job.transformer, layer, batch, point, cut) for layer in layers])


def _moved_in(
    transformer: Transformer, layer: int, batch: PromptPairs, point: Gradients, cut: Activations
) -> Float[Tensor, "head part from to"]:
    """The scores of one layer's heads."""
    attention, clean, gradient = transformer.blocks[layer].attention, point.activations, point.inside.z[layer]
    q, k, v, z = clean.q[layer], clean.k[layer], clean.v[layer], clean.z[layer]
    device, spans = z.device, trimmed(batch.spans.of_token, batch)
    rows = None if q.shape[1] == k.shape[1] else answer_rows(batch).to(device)
    ends = (spans if rows is None else spans.to(device).gather(1, rows)).to(device)
    there = torch.stack([ends == number for number in range(len(batch.spans))]).to(z)  # [to batch row]
    cut_k, cut_v = _cut_projections(transformer, layer, cut)
    scores = z.new_zeros(z.shape[2], len(PARTS), len(batch.spans), len(batch.spans))
    for start in range(len(batch.spans)):
        here = (spans == start).to(device)[:, :, None, None]
        mixed = (
            attention.mix(q, torch.where(here, cut_k, k), v, rows),
            attention.mix(q, k, torch.where(here, cut_v, v), rows),
        )
        for part, changed in enumerate(mixed):
            effect = ((changed - z) * gradient).sum(-1)  # [batch row head]
            scores[:, part, start] = torch.einsum("brh,tbr->ht", effect, there)
    return scores


def _cut_projections(transformer: Transformer, layer: int, cut: Activations) -> tuple[Tensor, Tensor]:
    """Keys and values of every query head on the cut stream."""
    block = transformer.blocks[layer]
    attention, x = block.attention, apply_norm(block.attention_norm, cut.attention_in[layer].to(block.device))
    k, v = (attention.per_query_head(attention.project(part, x)) for part in PARTS)
    return k, v
