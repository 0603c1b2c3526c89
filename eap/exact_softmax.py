"""Edge attribution with each <q> and <k> edge's change taken exactly through the attention pattern.

A cut edge into <q> changes one head's queries by a known amount, and so its pattern; what the pattern's change does to
the metric is then taken linearly, by the gradient at the head's mixed values z:

    score = sum over tokens of  (z(query with the edge cut) - z) . dL/dz

and for <k> with the keys. The norm is exact too. Edges into <v>, MLPs and `logits` are those of `edge_circuits.eap.exact_norm`. No
further pass through the model is made, but every source meets every layer's query and key projections, so the price is
that of some forward passes and not of one matrix product.

Deviation: Kramar et al. change a node's query or key; here it is changed by one edge alone, for every edge.

Reference: Kramar, Lieberum, Shah and Nanda 2024, AtP*, section 3.1 (QK fix).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.eap.exact_norm import NormAttribution
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import take_rows
from edge_circuits.graphs.nodes import Part
from edge_circuits.graphs.running.patching import answer_rows


@dataclass(frozen=True)
class SoftmaxAttribution(NormAttribution):
    """An attribution whose <q> and <k> edges go exactly through norm and softmax; for a single point."""

    @torch.no_grad()
    def scores(self, pairs: PromptPairs, token_chunk: int) -> Float[Tensor, "source destination"]:
        """Edge scores summed over the batch; float32, or float64 for a float64 model.

        Args:
            token_chunk: tokens taken at a time, but never less than a prompt.
        """
        scores = super().scores(pairs, token_chunk)
        last = len(self.transformer.blocks) - 1
        columns = [column for layer in range(last + 1) for part in ("q", "k") for column in self._columns(layer, part)]
        scores[:, columns] = 0
        n_prompts = max(1, token_chunk // self.clean.embed.shape[1])
        for prompts in torch.arange(len(pairs), device=scores.device).split(n_prompts):
            self._add_patterns(scores, prompts, answer_rows(pairs).to(scores.device)[prompts])
        return scores

    def _add_patterns(self, scores: Tensor, prompts: Int[Tensor, " prompt"], rows: Int[Tensor, "prompt row"]) -> None:
        """Add the <q> and <k> scores of some whole prompts."""
        last = len(self.transformer.blocks) - 1

        def take(x: Tensor) -> Tensor:
            return x[prompts.to(x.device)].flatten(0, 1).to(scores)

        changes = self._new_changes(self.transformer.graph.head_sources(last).start, take)
        for layer in range(last + 1):
            self._add_layer(scores, changes, layer, prompts, rows if layer == last else None)
            if layer < last:
                self._fill(changes, layer, take)

    def _add_layer(
        self, scores: Tensor, changes: Tensor, layer: int, prompts: Int[Tensor, " prompt"], rows: Tensor | None
    ) -> None:
        """Add the scores of a layer's <q> and <k>, source by source, where the layer is."""
        block, graph = self.transformer.blocks[layer], self.transformer.graph
        prompts = prompts.to(block.device)
        attention, gradient = block.attention, self._inside.z[layer][prompts]
        resid, q, k, v, z = (getattr(self.clean, name)[layer][prompts] for name in ("attention_in", "q", "k", "v", "z"))

        def score(q: Tensor, k: Tensor, part: Part) -> Float[Tensor, " destination"]:
            changed = (attention.mix(q, k, v, rows) - z) * gradient
            return changed.sum((0, 1, 3)).unflatten(0, (graph.n_parts[part], -1)).sum(1).to(scores)

        for source in range(graph.head_sources(layer).start):
            changed = (resid + changes[source].to(block.device).view_as(resid)).to(resid.dtype)
            x = apply_norm(block.attention_norm, changed)
            new_q = attention.project("q", x if rows is None else take_rows(x, rows))
            new_k = attention.per_query_head(attention.project("k", x))
            scores[source, graph.part_destinations(layer, "q")] += score(new_q, k, "q")
            scores[source, graph.part_destinations(layer, "k")] += score(q, new_k, "k")
