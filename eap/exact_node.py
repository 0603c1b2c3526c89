"""Edge attribution with each edge's change taken exactly through the whole destination node.

An MLP reads one token at a time, so the change of its output at a token is known from the change of its input there:

    score = sum over tokens of  (mlp(stream with the edge cut) - mlp(stream)) . coefficient at its output

with the norms before and behind it, its activation function and its gate as they are. Edges into <q> and <k> are those of
`edge_circuits.eap.exact_softmax`; <v> and `logits` are linear behind their norm, so `edge_circuits.eap.exact_norm` is exact for them (a soft cap of
the logits is taken exactly too). What is left to the coefficients is what lies beyond the destination.

For all sources, MLPs cost as much as running them once for each source. So, at each layer, only the `n_exact` sources are
taken that change a token's stream most; the rest goes through the norm exactly and then linearly. The choice is each token's
own, whatever runs beside it. On a destination whose all sources are taken, nothing is estimated.

This finite difference of the node is the project's own; AtP* (Kramar et al. 2024) has it for queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.eap.attribution import Take
from edge_circuits.eap.exact_softmax import SoftmaxAttribution, largest
from edge_circuits.graphs.model.mlp import Mlp
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.operations import linear

ROWS = 1024  # (source, token) that are taken at a time


@dataclass(frozen=True)
class NodeAttribution(SoftmaxAttribution):
    """An attribution whose edges go exactly through the whole destination."""

    def _add_mlp(self, scores: Tensor, changes: Tensor, layer: int, take: Take) -> None:
        super()._add_mlp(scores, changes, layer, take)
        graph = self.transformer.graph
        if not graph.mlps:
            return
        column = graph.mlp_destination(layer)
        seen = changes[: int(graph.n_visible[column])]
        for chosen in largest(torch.linalg.vector_norm(seen, dim=2), self.n_exact).split(ROWS):
            values = self._beyond_norm(seen, layer, chosen, take)
            scores[..., column].index_add_(1, chosen[:, 0], values.to(scores))

    def _beyond_norm(
        self, seen: Float[Tensor, "source token d_model"], layer: int, chosen: Int[Tensor, "row 2"], take: Take
    ) -> Float[Tensor, "point row"]:
        """What the score of some pairs of source and token is beyond the one that stops at the norm."""
        block = self.transformer.blocks[layer]
        source, token = chosen.T
        clean = take(self.clean.mlp_in[layer]).to(self.clean.mlp_in[layer].dtype)
        old = apply_norm(block.mlp_norm, clean)
        new = apply_norm(block.mlp_norm, (clean[token] + seen[source, token]).to(clean.dtype))
        at_norm = torch.stack([take(inside.mlp_normed[layer]).to(clean) for inside in self._insides])
        at_out = torch.stack([take(inside.mlp_out[layer]).to(clean) for inside in self._insides])
        if block.mlp_post_norm is None and isinstance(block.mlp, Mlp):
            at_neurons = linear(at_out, block.mlp.W_out.T, None)
            change = block.mlp.hidden(new) - block.mlp.hidden(old)[token.to(block.device)]
            whole = (change.to(at_neurons.device) * at_neurons[:, token]).sum(-1)
        else:
            write = apply_norm(block.mlp_post_norm, block.mlp(new))
            whole = ((write - apply_norm(block.mlp_post_norm, block.mlp(old))[token]) * at_out[:, token]).sum(-1)
        return whole - ((new - old[token]) * at_norm[:, token]).sum(-1)

    def _add_logits(self, scores: Tensor, changes: Tensor, take: Take) -> None:
        if self.transformer.logit_softcap is None:
            return super()._add_logits(scores, changes, take)
        stream = take(self.clean.final).to(self.clean.final.dtype)
        gradients = [take(inside.logits) for inside in self._insides]
        clean = self.transformer.unembed(stream)
        for source, change in enumerate(changes):
            logits = self.transformer.unembed((stream + change).to(stream.dtype))
            for own, gradient in zip(scores, gradients):
                own[source, -1] += ((logits - clean).to(gradient) * gradient).sum()
        return None
