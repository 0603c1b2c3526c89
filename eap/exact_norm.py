"""Edge attribution with each edge's change taken exactly through the norm of the destination it enters.

A gradient takes the destination's norm linearly, at the clean stream. But a cut edge changes its destination's stream by a known
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
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.attribution import Attribution, Take
from edge_circuits.eap.gradients import Inside
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.nodes import PARTS, Part

N_EXACT = 4


@dataclass(frozen=True)
class NormAttribution(Attribution):
    """An attribution whose edges go exactly through their destination's norm; each point has scores of its own.

    What the points share is done once: the sources' changes, and what these do inside of a destination.
    """

    def __post_init__(self) -> None:
        assert all(point.inside is not None for point in self.points)

    @property
    def _each(self) -> tuple[int, ...]:
        return (len(self.points),)

    @cached_property
    def _linear(self) -> list[Attribution]:
        """What each point makes of the stream behind the norms, whose scale is taken exactly."""
        shared = (self.transformer, self.clean, self.cut)
        return [Attribution(*shared, [point], True, point.constant_scale) for point in self.points]

    def _add_every_token(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of all destinations but those that read the answer row alone."""
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.head_sources(last).start, take)
        for layer in range(last + 1):
            self._add_attention(scores, changes, layer, PARTS if layer < last else PARTS[1:], take)
            if layer < last:
                self._fill(changes, layer, take)
                self._add_mlp(scores, changes, layer, take)

    def _add_answers(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of the last <q>, the last MLP and `logits`."""
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.n_sources, take)
        for layer in range(last):
            self._fill(changes, layer, take)
        self._add_attention(scores, changes, last, ("q",), take)
        self._fill(changes, last, take)
        self._add_mlp(scores, changes, last, take)
        self._add_logits(scores, changes, take)

    def _add_attention(self, scores: Tensor, changes: Tensor, layer: int, parts: Sequence[Part], take: Take) -> None:
        columns = [column for part in parts for column in self._columns(layer, part)]
        gradients = changes.new_empty(*self._each, len(columns), *changes.shape[1:])
        for linear, out in zip(self._linear, gradients):
            linear._attention_gradients(layer, parts, take, out=out)
        seen = changes[: self.transformer.graph.head_sources(layer).start]
        norm = self.transformer.blocks[layer].attention_norm
        self._meet(scores, seen, norm, take(self.clean.attention_in[layer]), gradients, columns)

    def _add_mlp(self, scores: Tensor, changes: Tensor, layer: int, take: Take) -> None:
        graph = self.transformer.graph
        if not graph.mlps:
            return
        norm, resid = self.transformer.blocks[layer].mlp_norm, take(self.clean.mlp_in[layer])
        gradients = self._at_stream(norm, [take(inside.mlp_normed[layer]) for inside in self._insides], resid)
        column = graph.mlp_destination(layer)
        self._meet(scores, changes[: int(graph.n_visible[column])], norm, resid, gradients, [column])

    def _add_logits(self, scores: Tensor, changes: Tensor, take: Take) -> None:
        norm, resid = self.transformer.final_norm, take(self.clean.final)
        gradients = self._at_stream(norm, [take(inside.final_normed) for inside in self._insides], resid)
        self._meet(scores, changes, norm, resid, gradients, [self.transformer.graph.n_destinations - 1])

    @property
    def _insides(self) -> list[Inside]:
        return [point.inside for point in self.points]

    def _at_stream(
        self, norm: Norm | None, normed: Sequence[Tensor], resid: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "point 1 token d_model"]:
        """G of an MLP or `logits`, from each gradient behind the norm [token d_model]; those themselves without a norm."""
        gradient = torch.stack(list(normed))[:, None]
        if norm is None:
            return gradient
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
        scores: Float[Tensor, "point source destination"],
        seen: Float[Tensor, "visible token d_model"],
        norm: Norm | None,
        resid: Float[Tensor, "token d_model"],
        gradients: Float[Tensor, "point column token d_model"],
        columns: Sequence[int],
    ) -> None:
        """Add the scores of some sources with destinations of one stream."""
        gradients = gradients.flatten(0, 1)
        if norm is None:
            self._add(scores, columns, seen.flatten(1) @ gradients.flatten(1).T)
            return
        inner = torch.cat((gradients, centred(norm, resid)[None])).permute(1, 2, 0).contiguous()
        products = torch.bmm(seen.transpose(0, 1), inner)  # [token visible destination + 1]
        ratio = scale_ratio(norm, resid, seen, products[..., -1].T)
        linear = torch.einsum("st,tsr->sr", ratio, products[..., :-1])
        overlap = torch.einsum("td,rtd->tr", resid, gradients)
        self._add(scores, columns, linear + (ratio - 1) @ overlap)

    def _add(self, scores: Tensor, columns: Sequence[int], found: Float[Tensor, "visible points_column"]) -> None:
        scores[:, : len(found), columns] += found.unflatten(1, (len(scores), -1)).movedim(1, 0)


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
