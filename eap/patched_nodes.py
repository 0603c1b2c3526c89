"""Exact activation patching of nodes, position by position: what node scores estimate.

1. The model runs once on each prompt of a pair; one run is the base, the other gives the values to put in.
2. For every layer and position the stream before the layer, what attention adds to it, the stream between attention and MLP,
   and what the MLP adds are replaced there, alone, and the layers from there on run again, positions stacked along the batch;
   so is what each head writes, where that is asked.

Reference: Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1 (causal traces, restoring values);
Zhang and Nanda 2024, Towards Best Practices of Activation Patching in Language Models (both directions).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.metrics import Metric, check_values
from edge_circuits.graphs.model.operations import EXACT, Operations
from edge_circuits.graphs.model.transformer import Activations, Transformer, take_rows
from edge_circuits.graphs.running.patching import answer_rows, answered

STACKED_TOKENS = 1024
ORDER = ("resid_pre", "resid_mid", "resid_post", "attention_out", "mlp_out", "heads")


class _Place(NamedTuple):
    """Where a value is replaced: a layer counted from the one that the run begins at, and a place of `Operations.source`."""

    kind: str
    layer: int
    name: str
    value: Float[Tensor, "batch pos *head width"]


@torch.no_grad()
def patched_nodes(
    transformer: Transformer,
    batch: PromptPairs,
    metric: Metric,
    here: Float[Tensor, "batch pos d_model"],
    there: Float[Tensor, "batch pos d_model"],
    heads: bool = False,
    chosen: Mapping[str, Bool[Tensor, "layer ... longest"]] | None = None,
) -> dict[str, Float[Tensor, "batch pos layer *head"]]:
    """What each node's value on the other prompt, put in at one position, adds to the metric.

    Args:
        batch: Prompts with their answers.
        here: The embedded prompts that run.
        there: The embedded prompts whose values are put in.
        heads: Whether each head is patched too.
        chosen: By kind the nodes to measure; the others score zero. The stream behind a layer is measured as the one before the next.
            All by default.
    """
    runs = transformer.forward(here), transformer.forward(there)
    uncut = _values(transformer, batch, metric, runs[0].final)
    counted = torch.arange(here.shape[1], device=uncut.device) <= batch.positions.to(uncut.device)[:, None]
    found: dict[str, list[Tensor]] = {}
    for layer in range(len(transformer.blocks)):
        rest = replace(transformer, blocks=transformer.blocks[layer:])
        for place in _places(transformer, layer, *runs, heads):
            effect = torch.zeros_like(counted, dtype=uncut.dtype)
            positions = _wanted(chosen, place.kind, len(found.get(place.kind, ())), here.shape[1])
            if len(positions):
                values = _each_position(rest, batch, metric, runs[0].attention_in[layer], place, positions)
                effect[:, positions] = values - uncut[:, None]
            found.setdefault(place.kind, []).append(effect * counted)
    found["resid_post"] = [*found["resid_pre"][1:], *found["resid_post"]]
    stacked = {kind: torch.stack(found[kind], dim=2) for kind in ORDER if kind in found}
    if heads:
        stacked["heads"] = stacked["heads"].unflatten(2, (len(transformer.blocks), -1))
    return stacked


def _wanted(
    chosen: Mapping[str, Bool[Tensor, "layer ... longest"]] | None, kind: str, number: int, n_positions: int
) -> Int[Tensor, " chosen"]:
    """The positions at which a node is measured, by its number among those of its kind."""
    if chosen is None:
        return torch.arange(n_positions)
    mask = chosen[kind][-1:] if kind == "resid_post" else chosen[kind].flatten(0, -2)
    return mask[number, :n_positions].nonzero()[:, 0]


def _places(
    transformer: Transformer, layer: int, base: Activations, other: Activations, heads: bool
) -> Iterator[_Place]:
    """The nodes of a layer; the stream behind it only for the last, since it is the next one's otherwise."""
    block = transformer.blocks[layer]
    yield _Place("resid_pre", 0, "stream", other.attention_in[layer])
    yield _Place("attention_out", 0, "attention", EXACT.norm(block.attention_post_norm, other.attention_sum[layer]))
    if block.mlp is not None:
        if not block.parallel:
            yield _Place("resid_mid", 0, "attention", other.mlp_in[layer] - base.attention_in[layer])
        yield _Place("mlp_out", 0, "mlp", other.mlp_out[layer])
    for head in range(transformer.graph.n_heads if heads else 0):
        value = base.z[layer].clone()
        value[:, :, head] = other.z[layer][:, :, head]
        yield _Place("heads", 0, "heads", value)
    if layer == len(transformer.blocks) - 1:
        yield _Place("resid_post", 1, "stream", other.final)


def _each_position(
    rest: Transformer,
    batch: PromptPairs,
    metric: Metric,
    stream: Float[Tensor, "batch pos d_model"],
    place: _Place,
    chosen: Int[Tensor, " chosen"],
) -> Float[Tensor, "batch chosen"]:
    """The metric with the value put in at each position, alone; the layers run from the given stream on."""
    n_batch, n_positions, _ = stream.shape
    effects = []
    for positions in chosen.split(max(1, STACKED_TOKENS // stream[..., 0].numel())):
        at = torch.zeros(len(positions), 1, n_positions, 1, dtype=torch.bool)
        at[torch.arange(len(positions)), 0, positions] = True
        at = at.expand(-1, n_batch, -1, -1).flatten(0, 1)

        def put_in(layer: int, name: str, value: Tensor, at: Tensor = at) -> Tensor:
            if (layer, name) != (place.layer, place.name):
                return value
            there = place.value.to(value.device).repeat(len(at) // n_batch, *[1] * (value.dim() - 1))
            return torch.where(at.to(value.device).view(*at.shape[:2], *[1] * (value.dim() - 2)), there, value)

        kept = rest.forward(stream.repeat(len(positions), 1, 1), None, Operations(source=put_in))
        effects += [_values(rest, batch, metric, each) for each in kept.final.chunk(len(positions))]
    return torch.stack(effects, dim=1)


def _values(
    transformer: Transformer, batch: PromptPairs, metric: Metric, final: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, " batch"]:
    values = metric(transformer.unembed(answered(take_rows(final, answer_rows(batch)), batch)), batch)
    check_values(values, batch, metric)
    return values
