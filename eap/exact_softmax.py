"""Edge attribution with each <q> and <k> edge's change taken exactly through the attention pattern.

A cut edge into <q> changes one head's queries by a known amount, and so its pattern; what the pattern's change does to
the metric is then taken linearly, by the coefficient at the head's mixed values z:

    score = sum over tokens of  (z(query with the edge cut) - z) . dL/dz

and for <k> with the keys. The norm is exact too. Edges into <v>, MLPs and `logits` are those of `edge_circuits.eap.exact_norm`. No
further pass through the model is made, but every source meets the layer's query and key projections, which for all
sources is the price of several passes. So at each layer only the `n_exact` sources are taken exactly that change a prompt's
stream most, up to its answer, and the others stop at the norm: each prompt's own choice, whatever runs beside it.

Deviation: Kramar et al. change a node's query or key; here it is changed by one edge alone, for every edge.

Reference: Kramar, Lieberum, Shah and Nanda 2024, AtP*, section 3.1 (QK fix).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.eap.exact_norm import N_EXACT, NormAttribution
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import take_rows
from edge_circuits.graphs.nodes import Part
from edge_circuits.graphs.running.patching import answer_rows

PAIRS = 16  # (source, prompt) that are taken at a time


@dataclass(frozen=True)
class SoftmaxAttribution(NormAttribution):
    """An attribution whose <q> and <k> edges go exactly through norm and softmax.

    Attributes:
        n_exact: sources of a prompt that are taken exactly at each layer.
    """

    n_exact: int = N_EXACT

    @torch.no_grad()
    def scores(self, pairs: PromptPairs, token_chunk: int) -> Float[Tensor, "point source destination"]:
        """Edge scores summed over the batch; float32, or float64 for a float64 model.

        Args:
            token_chunk: tokens taken at a time, but never less than a prompt.
        """
        scores = super().scores(pairs, token_chunk)
        for layer, part in ((layer, part) for layer in range(len(self.transformer.blocks)) for part in ("q", "k")):
            if self._is_shared(
                layer, part
            ):  # its norm is taken exactly too, so nothing of the scores at the norm stays
                scores[..., self.transformer.graph.part_destinations(layer, part)] = 0
        n_prompts = max(1, token_chunk // self.clean.embed.shape[1])
        for prompts in torch.arange(len(pairs), device=scores.device).split(n_prompts):
            self._add_patterns(scores, prompts, answer_rows(pairs).to(scores.device)[prompts])
        return scores

    def _add_patterns(self, scores: Tensor, prompts: Int[Tensor, " prompt"], rows: Int[Tensor, "prompt row"]) -> None:
        """Add what some whole prompts' <q> and <k> scores are beyond those that stop at the norm."""
        last = len(self.transformer.blocks) - 1

        def take(x: Tensor) -> Tensor:
            return x[prompts.to(x.device)].flatten(0, 1).to(scores)

        positions = torch.arange(self.clean.embed.shape[1], device=scores.device)
        counted = positions <= rows.amax(1, keepdim=True)  # what follows a prompt's answer is none of it
        changes = self._new_changes(self.transformer.graph.head_sources(last).start, take)
        for layer in range(last + 1):
            seen = changes[: self.transformer.graph.head_sources(layer).start].unflatten(1, (len(prompts), -1))
            size = (torch.linalg.vector_norm(seen, dim=3).square() * counted).sum(2)
            n = len(size) if self._is_shared(layer, "q") else self.n_exact
            for chosen in largest(size, n).split(PAIRS):
                self._add_layer(scores, seen, layer, chosen, prompts, rows if layer == last else None)
            if layer < last:
                self._fill(changes, layer, take)

    def _is_shared(self, layer: int, part: Part) -> bool:
        """Whether a norm is over all heads together."""
        return self.transformer.blocks[layer].attention.shared_norm(part) is not None

    def _add_layer(
        self,
        scores: Tensor,
        seen: Float[Tensor, "source prompt pos d_model"],
        layer: int,
        chosen: Int[Tensor, "pair 2"],
        prompts: Int[Tensor, " prompt"],
        rows: Int[Tensor, "prompt row"] | None,
    ) -> None:
        """Add it for some pairs of a source and a prompt, where the layer is."""
        block, graph = self.transformer.blocks[layer], self.transformer.graph
        source, prompt = chosen.T
        at, attention = prompts[prompt].to(block.device), block.attention
        resid, q, k, v, z = (getattr(self.clean, name)[layer][at] for name in ("attention_in", "q", "k", "v", "z"))
        rows = None if rows is None else rows[prompt].to(block.device)
        gradients = [inside.z[layer][at] for inside in self._insides]

        def add(part: Part, mixed: Float[Tensor, "pair row head d_head"], at_norm: Tensor) -> None:
            """Add what a changed projection does to z beyond what its change does linearly."""
            for own, point, gradient in zip(scores, self.points, gradients):
                by_head = (mixed * gradient).sum((1, 3))
                if not self._is_shared(layer, part):
                    by_head = by_head - (at_norm * getattr(point, part)[layer][at]).sum((1, 3))
                by_part = by_head.unflatten(1, (graph.n_parts[part], -1)).sum(2).to(scores)
                own[:, graph.part_destinations(layer, part)].index_add_(0, source.to(scores.device), by_part)

        x = apply_norm(block.attention_norm, (resid + seen[source, prompt].to(block.device)).to(resid.dtype))
        new_q = attention.project("q", x if rows is None else take_rows(x, rows))
        new_k = attention.per_query_head(attention.project("k", x))
        add("q", attention.mix(new_q, k, v, rows) - z, new_q - q)
        add("k", attention.mix(q, new_k, v, rows) - z, new_k - k)


def largest(change: Float[Tensor, "source place"], n: int) -> Int[Tensor, "chosen 2"]:
    """The n sources of largest change at each place, but those of none, as pairs of indices."""
    values, sources = change.topk(min(n, len(change)), dim=0)
    place = torch.arange(change.shape[1], device=change.device).expand_as(sources)
    return torch.stack((sources, place), dim=-1)[values > 0]
