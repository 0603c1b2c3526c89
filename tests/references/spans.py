"""Edges span by span, the slow way: each destination's input is a sum written out source by source and token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from references.edges import Prompt, cut_values, forward, source_values
from references.literal import Literal
from torch import Tensor

Stretches = Mapping[str, list[int]]
"""The positions of each span in one prompt."""


def by_span(
    model: Literal, prompts: Sequence[Prompt], stretches: Sequence[Stretches], metric: Callable[[Tensor, int], Tensor]
) -> dict[tuple[str, str], float]:
    """Each edge's score at each span, the mean over prompts: the derivative to a strength by which it is cut there."""
    totals: dict[tuple[str, str], float] = {}
    for row, (prompt, cut) in enumerate(zip(prompts, cut_values(model, prompts, "patching"))):
        clean, strengths = source_values(model, prompt.clean), {}

        def read(source: str, value: Tensor, destination: str) -> Tensor:
            for span, positions in stretches[row].items():
                strength = torch.zeros((), dtype=torch.float64, requires_grad=True)
                strength = strengths.setdefault((f"{source}->{destination}", span), strength)
                at = torch.zeros(len(value), 1, dtype=torch.float64)
                at[positions] = 1.0
                value = value + strength * at * (cut[source] - clean[source])
            return value

        out = forward(model, prompt.clean, read)[1][prompt.position]
        slopes = torch.autograd.grad(metric(out, row), list(strengths.values()), materialize_grads=True)
        for edge, slope in zip(strengths, slopes):
            totals[edge] = totals.get(edge, 0.0) + slope.item() / len(prompts)
    return totals


def span_circuit_logits(
    model: Literal,
    prompts: Sequence[Prompt],
    stretches: Sequence[Stretches],
    kept: set[tuple[str, str]],
    intervention: str = "patching",
) -> Tensor:
    """Logits at the answer positions [pair d_vocab] when every (edge, span) but those kept is cut."""
    out = []
    for prompt, cut, spans in zip(prompts, cut_values(model, prompts, intervention), stretches):

        def read(source: str, value: Tensor, destination: str) -> Tensor:
            rows = []
            for position in range(len(value)):
                (span,) = [name for name, positions in spans.items() if position in positions]
                stays = (f"{source}->{destination}", span) in kept
                rows.append(value[position] if stays else cut[source][position])
            return torch.stack(rows)

        out.append(forward(model, prompt.clean, read)[1][prompt.position])
    return torch.stack(out)
