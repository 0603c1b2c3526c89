"""Edge attribution without split inputs: changes of sources against gradients at destinations.

An edge's score is the sum over positions of (what the source changes by when cut) . (gradient at the destination's
input). No input is copied for each head:

1. a source's change is `(z_cut - z_clean)_h W_O^h` for a head, the difference of outputs for an MLP and `input`;
2. a backward pass gives `dq_h`, `dk_h`, `dv_h` [d_head], and the gradient at the stream each MLP and `logits` read;
3. the gradient at the stream that <q> of head h reads is `J^T W_Q^h dq_h`, J the Jacobian of the norm: with
   `g = w W_Q^h dq_h / sigma` and x hat the normalised input, `g - mean(g) - xhat mean(g . xhat)` for LayerNorm,
   `g - xhat mean(g . xhat)` for RMSNorm; with sigma held constant the last term drops;
4. all sources a layer sees meet all its destinations in one matrix product, chunk by chunk of tokens.

Reference: Syed, Rager and Conmy 2023, equation 2, for the score; computing it unsplit is this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.eap.gradients import Gradients
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.transformer import Activations, Block, Transformer, at_rows
from edge_circuits.graphs.nodes import PARTS, Part
from edge_circuits.graphs.running.patching import answer_rows, trimmed

Take = Callable[[Tensor], Tensor]
"""Picks the tokens of a chunk: [batch pos ...] to [token ...], in the type of the scores and on their device."""


@dataclass(frozen=True)
class Attribution:
    """What is attributed: the source changes of one batch against gradients averaged over `points`.

    Attributes:
        clean, cut: source values without and with the cut.
        points: gradients, of one pass (EAP, RelP) or of several (integrated gradients).
        constant_scale: the gradients hold every norm's scale constant (the LN-rule).
        constant_shared_scale: they hold that of norms constant which are over the queries or keys of all heads.
    """

    transformer: Transformer
    clean: Activations
    cut: Activations
    points: Sequence[Gradients]
    constant_scale: bool = False
    constant_shared_scale: bool = False

    @torch.no_grad()
    def scores(
        self, pairs: PromptPairs, token_chunk: int, span: int | None = None
    ) -> Float[Tensor, "*point source destination"]:
        """Edge scores summed over the batch; float32, or float64 for a float64 model.

        Args:
            token_chunk: tokens taken at a time; memory is bounded by n_sources x token_chunk x d_model numbers.
            span: sum over the tokens of this span alone; a token's share of a score is its own, if not beyond a softmax.
        """
        graph, embed = self.transformer.graph, self.clean.embed
        wide = torch.promote_types(embed.dtype, torch.float32)
        scores = torch.zeros(*self._each, *graph.edge_mask.shape, dtype=wide, device=embed.device)
        for take in _token_chunks(pairs, token_chunk, embed.device, span):
            self._add_every_token(scores, lambda x: take(x).to(scores))
        for take in _answer_chunks(pairs, token_chunk, embed.device, span):
            self._add_answers(scores, lambda x: take(x).to(scores))
        return scores * graph.edge_mask.to(scores.device)

    @property
    def _each(self) -> tuple[int, ...]:
        """How many scores an edge has: a single one, averaged over the points."""
        return ()

    def _add_every_token(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of all destinations but those that read the answer row alone.

        Up the model layer by layer. An MLP is met with the next layer's attention, so it also meets a few sources
        that it does not see; the edge mask drops those.
        """
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.head_sources(last).start, take)
        for layer in range(last + 1):
            parts = PARTS if layer < last else PARTS[1:]
            mlps = [graph.mlp_destination(layer - 1)] if layer > 0 and graph.mlps else []
            columns = mlps + [column for part in parts for column in self._columns(layer, part)]
            gradients = changes.new_empty(len(columns), *changes.shape[1:])
            self._attention_gradients(layer, parts, take, out=gradients[len(mlps) :])
            if mlps:
                gradients[0] = self._mlp_gradient(layer - 1, take)
            seen = changes[: graph.head_sources(layer).start]
            scores[: len(seen), columns] += seen.flatten(1) @ gradients.flatten(1).T
            if layer < last:
                self._fill(changes, layer, take)

    def _add_answers(self, scores: Tensor, take: Take) -> None:
        """Add a chunk's scores of the destinations that read the answer row alone: last <q>, last MLP, `logits`."""
        graph, last = self.transformer.graph, len(self.transformer.blocks) - 1
        changes = self._new_changes(graph.n_sources, take)
        for layer in range(last + 1):
            self._fill(changes, layer, take)
        mlps = [graph.mlp_destination(last)] if graph.mlps else []
        columns = [*self._columns(last, "q"), *mlps, graph.n_destinations - 1]
        gradients = changes.new_empty(len(columns), *changes.shape[1:])
        self._attention_gradients(last, ("q",), take, out=gradients[: graph.n_heads])
        if mlps:
            gradients[-2] = self._mlp_gradient(last, take)
        gradients[-1] = _mean(take(point.final) for point in self.points)
        scores[:, columns] += changes.flatten(1) @ gradients.flatten(1).T

    def _new_changes(self, n_sources: int, take: Take) -> Float[Tensor, "source token d_model"]:
        """Room for the changes of the first sources, that of `input` filled in."""
        first = take(self.cut.embed) - take(self.clean.embed)
        changes = first.new_empty(n_sources, *first.shape)
        changes[0] = first
        return changes

    def _fill(self, changes: Float[Tensor, "source token d_model"], layer: int, take: Take) -> None:
        """What the sources of a layer change by; heads through the Jacobian of a post-norm where there is one."""
        graph, block = self.transformer.graph, self.transformer.blocks[layer]
        change = take(self.cut.z[layer]) - take(self.clean.z[layer])
        heads = changes[graph.head_sources(layer)]
        torch.bmm(change.transpose(0, 1), block.attention.W_O.to(change), out=heads)
        if block.attention_post_norm is not None:
            written = take(self.clean.attention_sum[layer])
            heads.copy_(_through_post_norm(block.attention_post_norm, written, heads, self.constant_scale))
        if graph.mlps:
            torch.sub(
                take(self.cut.mlp_out[layer]), take(self.clean.mlp_out[layer]), out=changes[graph.mlp_source(layer)]
            )

    def _columns(self, layer: int, part: Part) -> range:
        where = self.transformer.graph.part_destinations(layer, part)
        return range(where.start, where.stop)

    def _mlp_gradient(self, layer: int, take: Take) -> Float[Tensor, "token d_model"]:
        return _mean(take(point.mlp_in[layer]) for point in self.points)

    def _attention_gradients(
        self, layer: int, parts: Sequence[Part], take: Take, out: Float[Tensor, "destination token d_model"]
    ) -> None:
        """Write the gradient at the stream each <q>, <k>, <v> of a layer reads, part by part, into `out`.

        The inner product of g and x hat needs no d_model-wide work: it is dq . (projection without its constants).
        """
        block = self.transformer.blocks[layer]
        norm, n_parts = block.attention_norm, self.transformer.graph.n_parts
        folded = {part: _fold(block, part, out) for part in parts}
        for index, point in enumerate(self.points):
            resid = take(point.activations.attention_in[layer])
            scale = 1.0 if norm is None else norm.inverse_scale(resid)[:, None]
            overlaps, start = [], 0
            for part in parts:
                weight, constant = (x.repeat_interleave(n_parts[part] // len(x), dim=0) for x in folded[part])
                gradient = take(getattr(point, part)[layer]) * (scale / len(self.points))
                projected = take(getattr(point.activations, part)[layer])
                if gradient.shape[1] > n_parts[part]:  # a key-value destination reads for its whole group
                    gradient = gradient.unflatten(1, (n_parts[part], -1)).sum(2)
                    projected = projected.unflatten(1, (n_parts[part], -1))[:, :, 0]
                shared = block.attention.shared_norm(part)
                if shared is not None:
                    x = resid if norm is None else norm.normalised(resid)
                    gradient, projected, drag = _before_shared_norm(shared, x, gradient, *folded[part])
                here = out[start : start + n_parts[part]]
                here.baddbmm_(gradient.transpose(0, 1), weight.transpose(1, 2), beta=min(index, 1))
                overlaps.append((gradient * (projected - constant)).sum(-1).T)
                if shared is not None and not self.constant_shared_scale:
                    here.addcmul_(drag.direction[None], drag.share.T[:, :, None], value=-1)
                    overlaps[-1] -= drag.share.T * drag.overlap
                start += n_parts[part]
            if norm is not None and not self.constant_scale:
                overlap = torch.cat(overlaps) / resid.shape[-1]
                out.addcmul_(norm.normalised(resid)[None], overlap[:, :, None], value=-1)


def _fold(block: Block, part: Part, like: Tensor) -> tuple[Tensor, Tensor]:
    """A projection with the norm's weight and centring folded in, [projection d_model d_head], and its constants."""
    norm = block.attention_norm
    weight, bias = block.attention.projection(part)
    weight = weight.to(like)
    constant = weight.new_zeros(weight.shape[::2]) if bias is None else bias.to(like)
    if norm is None:
        return weight, constant
    if norm.bias is not None:
        constant = constant + norm.bias.to(like) @ weight
    gain = weight.new_ones(weight.shape[1]) if norm.weight is None else norm.weight.to(like)
    if norm.centred:
        mean = (gain / len(gain)) @ weight
        return torch.addcmul(-mean[:, None], gain[:, None], weight), constant
    return (weight if norm.weight is None else gain[:, None] * weight), constant


class Drag(NamedTuple):
    """What a head's gradient loses in a norm that it shares with others: `share * direction` of each destination.

    Attributes:
        direction: [token d_model], and its product with the normalised input, `overlap` [token].
        share: [token destination].
    """

    direction: Tensor
    overlap: Tensor
    share: Tensor


def _before_shared_norm(
    norm: Norm,
    x: Float[Tensor, "token d_model"],
    gradient: Float[Tensor, "token destination d_head"],
    weight: Float[Tensor, "projection d_model d_head"],
    constant: Float[Tensor, "projection d_head"],
) -> tuple[Tensor, Tensor, Drag]:
    """The gradient at projections before an RMSNorm over all of them, and the projections, for each destination.

    With r all projections of a destination's input, s their scale and n = r / s, the gradient at r is that behind the norm times
    its weight over s in the head's own place, less `n (n . gradient) / d` in every place.
    """
    raw = torch.einsum("td,pdh->tph", x, weight) + constant
    inverse_scale = norm.inverse_scale(raw.flatten(1))[:, :, None]
    normalised, group = raw * inverse_scale, gradient.shape[1] // len(weight)
    gain = 1.0 if norm.weight is None else norm.weight.to(raw).view(raw.shape[1:]).repeat_interleave(group, 0)
    gradient = gradient * gain * inverse_scale
    share = (gradient * normalised.repeat_interleave(group, 1)).sum(-1) / raw[0].numel()
    direction = torch.einsum("tph,pdh->td", normalised, weight)
    overlap = (normalised * (raw - constant)).sum((1, 2))
    return gradient, raw.repeat_interleave(group, 1), Drag(direction, overlap, share)


def _through_post_norm(norm: Norm, written: Tensor, change: Tensor, constant_scale: bool) -> Tensor:
    """`J change`, J the norm's Jacobian at `written`."""
    change = change * norm.inverse_scale(written)
    if norm.centred:
        change = change - change.mean(-1, keepdim=True)
    if not constant_scale:
        normalised = norm.normalised(written)
        change = change - normalised * (change * normalised).mean(-1, keepdim=True)
    return change if norm.weight is None else change * norm.weight.to(change)


def _mean(tensors: Iterable[Tensor]) -> Tensor:
    first, *others = tensors
    return sum(others, start=first) / (1 + len(others)) if others else first


def _token_chunks(pairs: PromptPairs, token_chunk: int, device: torch.device, span: int | None) -> Iterator[Take]:
    """Chunks of the tokens up to each prompt's answer, or of those in a span; the gradient at later ones is zero."""
    positions = pairs.positions.to(device)
    counted = torch.arange(int(positions.max()) + 1, device=device) <= positions[:, None]
    if span is not None:
        counted &= (trimmed(pairs.spans.of_token, pairs) == span).to(device)
    if counted.all():  # no padding: slices, without a copy
        for start in range(0, counted.numel(), token_chunk):
            yield lambda x, start=start: x.flatten(0, 1)[start : start + token_chunk]
        return
    for chunk in filter(len, counted.nonzero().split(token_chunk)):
        yield lambda x, chunk=chunk: x[tuple(chunk.to(x.device).T)]


def _answer_chunks(pairs: PromptPairs, token_chunk: int, device: torch.device, span: int | None) -> Iterator[Take]:
    """Chunks of the answer rows, or of those in a span; a value that holds nothing else is taken as it is."""
    rows = answer_rows(pairs).to(device)
    if span is None:
        for chunk in torch.arange(len(pairs), device=device).split(max(1, token_chunk // rows.shape[1])):
            yield lambda x, chunk=chunk: at_rows(x, rows)[chunk.to(x.device)].flatten(0, 1)
        return
    here = pairs.spans.where(span).to(device).gather(1, rows)
    for chunk in filter(len, here.nonzero().split(token_chunk)):
        yield lambda x, chunk=chunk: at_rows(x, rows)[tuple(chunk.to(x.device).T)]
