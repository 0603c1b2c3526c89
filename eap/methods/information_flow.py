"""Information flow routes: how much of what a destination reads comes from each source.

A destination reads the sum y of its sources' writes x_s. The proximity of a source is `max(|y| - |y - x_s|, 0)` in the
L1 norm; its score is its share of the proximities of all sources, averaged over positions. One forward pass of the
clean prompt, no metric, no corrupted prompt. The parts q, k and v of a layer read the same stream and score alike.

Shares say nothing of whether what was read is passed on, so the largest of them need not form a path: grow circuits from `logits`
(`prune(..., strategy="greedy")`), as MIB does.

Heads that write through a post-norm count with their share of the normalised sum. The output bias of attention is
part of y and of no source.

Reference: Ferrando and Voita 2024, Information Flow Routes, equations 3 and 4; Mueller et al. 2025, MIB, for the greedy circuits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.transformer import Block, take_rows
from edge_circuits.graphs.nodes import PARTS
from edge_circuits.graphs.running.patching import answer_rows


@dataclass(frozen=True)
class InformationFlow(Method):
    """Each source's share of what a destination reads, without metric or gradient."""

    short_names: ClassVar = {"information-flow-routes": {}}
    signed: ClassVar = False
    needs_gradient: ClassVar = False
    needs_metric: ClassVar = False

    @torch.no_grad()
    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination"]:
        """Shares between 0 and 1, a column summing to at most 1 a prompt; summed over the batch."""
        transformer, graph = job.transformer, job.transformer.graph
        embed = job.clean_embed(batch)
        kept = transformer.forward(embed).to(embed.device)
        counted = torch.arange(embed.shape[1], device=embed.device) <= batch.positions.to(embed.device)[:, None]
        scores = torch.zeros(
            graph.n_sources, graph.n_destinations, dtype=torch.promote_types(embed.dtype, torch.float32)
        )
        scores = scores.to(embed.device)
        written = [embed[None]]
        for layer, block in enumerate(transformer.blocks):
            shares = _shares(torch.cat(written), kept.attention_in[layer], counted)
            for part in PARTS:
                scores[: len(shares), graph.part_destinations(layer, part)] = shares[:, None]
            heads = _head_writes(block, kept.z[layer], kept.attention_sum[layer])
            if graph.mlps:
                read = torch.cat(written if block.parallel else [*written, heads])
                shares = _shares(read, kept.mlp_in[layer], counted)
                scores[: len(shares), graph.mlp_destination(layer)] = shares
                heads = torch.cat((heads, kept.mlp_out[layer][None]))
            written.append(heads)
        rows = answer_rows(batch).to(embed.device)
        final = torch.stack([take_rows(write, rows) for write in torch.cat(written)])
        scores[:, -1] = _shares(final, take_rows(kept.final, rows), torch.ones_like(rows, dtype=torch.bool))
        return scores


def _head_writes(block: Block, z: Tensor, attention_sum: Tensor) -> Float[Tensor, "head batch pos d_model"]:
    """What each head adds to the residual stream."""
    writes = torch.einsum("bphd,hdm->hbpm", z, block.attention.W_O.to(z.device))
    norm = block.attention_post_norm
    if norm is None:
        return writes
    scaled = writes * norm.inverse_scale(attention_sum)
    return scaled if norm.weight is None else scaled * norm.weight.to(scaled.device)


def _shares(
    written: Float[Tensor, "source batch pos d_model"], stream: Float[Tensor, "batch pos d_model"], counted: Tensor
) -> Float[Tensor, " source"]:
    """Each source's share of the proximities, mean over a prompt's counted positions, summed over prompts."""
    size = stream.abs().sum(-1)
    proximity = torch.stack([(size - (stream - write).abs().sum(-1)).clamp(min=0) for write in written])
    shares = proximity / proximity.sum(0).clamp(min=torch.finfo(proximity.dtype).tiny)
    return ((shares * counted).sum(-1) / counted.sum(-1)).sum(-1)
