"""Edge attribution with each edge's change taken exactly through the norm of the destination it enters.

A gradient takes the reader's norm linearly, at the clean stream. But a cut edge changes its reader's stream by a known
amount, so the change of the normalised stream is known as well, without another pass:

    x hat' - x hat = ratio C(change) / sigma + (ratio - 1) x hat,    ratio = sigma / sigma',
    sigma'^2 = sigma^2 + (2 C(x) . change + |C(change)|^2) / d

with C the centring of LayerNorm (nothing for RMSNorm) and sigma' the scale with the edge cut. Against the gradient at
the normalised stream this gives, with G = C(w gradient) / sigma,

    score = sum over tokens of  ratio (change . G) + (ratio - 1) (x . G)

so the products of all sources with all destinations are those of the linear score; only their sum over tokens has
weights. The gradient above the norm, and everything above it, stays what it is (plain, or with relevance rules). A
post-norm between a head and the stream (Gemma 2) is part of what the edge carries, and is taken exactly too.

This finite difference of the norm is the project's own; it has no published counterpart that we know of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.attribution import Attribution, Take
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.operations import Operations
from edge_circuits.graphs.model.transformer import Transformer


@dataclass(frozen=True)
class WatchedOperations(Operations):
    """Operations that also keep the gradient at the output of some norms, once a backward pass has run.

    Attributes:
        watched: ids of the norms.
        gradients: by id, filled by the backward pass; a norm that the metric does not depend on is missing.
    """

    watched: frozenset[int] = frozenset()
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def norm(self, norm: Norm | None, x: Tensor) -> Tensor:
        """The norm under these operations."""
        out = super().norm(norm, x)
        if id(norm) in self.watched and out.requires_grad:
            out.register_hook(partial(self.gradients.__setitem__, id(norm)))
        return out


def watching_readers(operations: Operations, transformer: Transformer) -> WatchedOperations:
    """The same operations, watching the norms before MLPs and before `logits`."""
    norms = [*(block.mlp_norm for block in transformer.blocks), transformer.final_norm]
    return WatchedOperations(**vars(operations), watched=frozenset(id(norm) for norm in norms if norm is not None))


@dataclass(frozen=True)
class ReaderNormAttribution(Attribution):
    """An attribution whose edges go exactly through their reader's norm; for a single point.

    Attributes:
        normed: gradients at the outputs of the norms before MLPs and `logits`, by the norm's id.
    """

    normed: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.constant_scale and len(self.points) == 1

    def _add_every_token(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of all destinations but those that read the answer row alone."""
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.head_sources(last).start, take)
        for layer in range(last + 1):
            self._add_attention(scores, changes, layer, "qkv" if layer < last else "kv", take)
            if layer < last:
                self._fill(changes, layer, take)
                self._add_mlp(scores, changes, layer, take)

    def _add_answers(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of the last <q>, the last MLP and `logits`."""
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.n_sources, take)
        for layer in range(last):
            self._fill(changes, layer, take)
        self._add_attention(scores, changes, last, "q", take)
        self._fill(changes, last, take)
        self._add_mlp(scores, changes, last, take)
        norm, resid = self.transformer.final_norm, take(self.clean.final)
        gradient = self._at_stream(norm, self.points[0].final, resid, take)
        self._meet(scores, changes, norm, resid, gradient[None], [graph.n_destinations - 1])

    def _add_attention(self, scores: Tensor, changes: Tensor, layer: int, letters: str, take: Take) -> None:
        columns = [column for letter in letters for column in self._columns(layer, letter)]
        gradients = changes.new_empty(len(columns), *changes.shape[1:])
        self._attention_gradients(layer, letters, take, out=gradients)
        seen = changes[: self.transformer.graph.head_sources(layer).start]
        norm = self.transformer.blocks[layer].attention_norm
        self._meet(scores, seen, norm, take(self.clean.attention_in[layer]), gradients, columns)

    def _add_mlp(self, scores: Tensor, changes: Tensor, layer: int, take: Take) -> None:
        graph = self.transformer.graph
        if not graph.mlps:
            return
        norm, resid = self.transformer.blocks[layer].mlp_norm, take(self.clean.mlp_in[layer])
        gradient = self._at_stream(norm, self.points[0].mlp_in[layer], resid, take)
        column = graph.mlp_destination(layer)
        self._meet(scores, changes[: int(graph.n_visible[column])], norm, resid, gradient[None], [column])

    def _at_stream(
        self, norm: Norm | None, gradient: Tensor, resid: Float[Tensor, "token d_model"], take: Take
    ) -> Float[Tensor, "token d_model"]:
        """G of an MLP or `logits`; without a norm, the gradient at the stream itself."""
        if norm is None:
            return take(gradient)
        normed = self.normed.get(id(norm))
        if normed is None:
            return torch.zeros_like(resid)
        gradient = take(normed if normed.dim() == 3 else normed[:, None])
        gradient = gradient if norm.weight is None else gradient * norm.weight.to(gradient)
        return centred(norm, gradient) * norm.inverse_scale(resid)

    def _fill(self, changes: Float[Tensor, "source token d_model"], layer: int, take: Take) -> None:
        """What the sources of a layer change by; heads through the exact post-norm where there is one."""
        super()._fill(changes, layer, take)
        post_norm = self.transformer.blocks[layer].attention_post_norm
        if post_norm is None:
            return
        change = take(self.cut.z[layer]) - take(self.clean.z[layer])
        heads = changes[self.transformer.graph.head_sources(layer)]
        written = take(self.clean.attention_sum[layer])
        torch.bmm(change.transpose(0, 1), self.transformer.blocks[layer].attention.W_O.to(change), out=heads)
        heads.copy_(apply_norm(post_norm, written + heads) - apply_norm(post_norm, written))

    def _meet(
        self,
        scores: Float[Tensor, "source destination"],
        seen: Float[Tensor, "visible token d_model"],
        norm: Norm | None,
        resid: Float[Tensor, "token d_model"],
        gradients: Float[Tensor, "reader token d_model"],
        columns: Sequence[int],
    ) -> None:
        """Add the scores of some sources with readers of one stream."""
        if norm is None:
            scores[: len(seen), columns] += seen.flatten(1) @ gradients.flatten(1).T
            return
        inner = torch.cat((gradients, centred(norm, resid)[None])).permute(1, 2, 0).contiguous()
        products = torch.bmm(seen.transpose(0, 1), inner)  # [token visible reader + 1]
        ratio = scale_ratio(norm, resid, seen, products[..., -1].T)
        linear = torch.einsum("st,tsr->sr", ratio, products[..., :-1])
        overlap = torch.einsum("td,rtd->tr", resid, gradients)
        scores[: len(seen), columns] += linear + (ratio - 1) @ overlap


def scale_ratio(
    norm: Norm,
    resid: Float[Tensor, "token d_model"],
    changes: Float[Tensor, "source token d_model"],
    overlap: Float[Tensor, "source token"],
) -> Float[Tensor, "source token"]:
    """sigma / sigma': the norm's scale at the stream, over that at the stream changed by each source alone.

    Args:
        overlap: C(x) . change.
    """
    size = torch.linalg.vector_norm(changes, dim=-1).square()
    if norm.centred:
        size = size - changes.sum(-1).square() / changes.shape[-1]
    inverse_square = norm.inverse_scale(resid)[:, 0].square()
    relative = 1 + (2 * overlap + size) / changes.shape[-1] * inverse_square
    return relative.clamp(min=norm.eps * inverse_square).rsqrt()  # sigma' is at least the square root of eps


def centred(norm: Norm, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """C(x): without its mean, where the norm takes the mean away."""
    return x - x.mean(-1, keepdim=True) if norm.centred else x
