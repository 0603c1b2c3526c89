"""Checks of `verify` that look at the values of nodes: heads by their names, and what cut edges read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from edge_circuits.eap.edge_checks import N_PROMPTS, Found
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Activations
from edge_circuits.graphs.running.patching import Intervention, cut_values


@torch.no_grad()
def heads(model: nn.Module, pairs: PromptPairs) -> Iterator[Found]:
    """What each head mixes is what TransformerLens has under its name, on the first prompt."""
    transformer, model = adapt(model), getattr(model, "_orig_mod", model)
    tokens = pairs[:1].clean.to(transformer.device)
    seen: dict[int, Tensor] = {}
    with ExitStack() as hooked:
        for layer, block in enumerate(model.blocks):
            keep = partial(_keep, seen, layer)
            hooked.callback(block.attn.hook_z.register_forward_hook(keep).remove)
        model(tokens)
    kept = transformer.forward(transformer.embed(tokens))
    differences = []
    for layer, block in enumerate(transformer.blocks):
        own = seen[layer].to(kept.z[layer]) * block.attention.write_scale
        differences.append(relative(kept.z[layer], own.reshape_as(kept.z[layer])))
    worst = max(range(len(differences)), key=differences.__getitem__)
    yield "heads by their names, against the model's own", differences[worst], f"order of heads in layer {worst}"


def _keep(seen: dict[int, Tensor], layer: int, hook: nn.Module, inputs: tuple[Tensor], value: Tensor) -> None:
    seen[layer] = value


@torch.no_grad()
def cut_to(model: nn.Module, pairs: PromptPairs, intervention: Intervention) -> Iterator[Found]:
    """Cut values are those of each corrupted prompt alone, zero, or means over the tokens of all of them."""
    transformer = adapt(model)
    rows = [row[:n][None] for row, n in zip(pairs.corrupted, pairs.lengths.tolist())]
    alone = [_sources(transformer.forward(transformer.embed(row.to(transformer.device)))) for row in rows]
    batches = [batch.to(transformer.device) for batch in pairs.batches(batch_size=N_PROMPTS)]
    cut = _sources(cut_values(transformer, batches, intervention, everywhere=True)(batches[0]))
    differences = [0.0]
    for place, found in enumerate(cut):
        held = [each[place][0] for each in alone]
        for number, index in enumerate(batches[0].indices.tolist()):
            n = min(found.shape[1], len(held[index]))
            expected = _cut_to(held, index, n, intervention)
            differences.append(relative(found[number, :n], expected, torch.cat(held)))
    yield f"cut values by {intervention}, source by source", max(differences), "what cut edges read"


def _sources(kept: Activations) -> list[Tensor]:
    return [kept.embed, *kept.z, *kept.mlp_out]


def _cut_to(held: list[Tensor], index: int, n: int, intervention: Intervention) -> Tensor:
    """A source's cut values at the first n tokens of a prompt, from its values on each prompt."""
    if intervention == "patching":
        return held[index][:n]
    if intervention == "zero":
        return torch.zeros_like(held[index][:n])
    if intervention == "mean":
        return torch.cat(held).mean(0).expand_as(held[index][:n])
    return torch.stack([torch.stack([each[at] for each in held if len(each) > at]).mean(0) for at in range(n)])


def relative(found: Tensor, expected: Tensor, size: Tensor | None = None) -> float:
    """Largest difference, in units of the largest value."""
    largest = (expected if size is None else size).abs().max().clamp(min=1e-12)
    return float((found.to(expected) - expected).detach().abs().max() / largest)
