"""Why a head attends: which pairs of sources, one on the query's side and one on the key's, make its attention score.

    found = why_attends(model, pairs, "a5.h1", query=-1, key=3)
    found.difference                       # score of that key less the mean score of the other keys
    found.top(5)                           # [("a3.h0", "input", 2.1), ...]

A score is bilinear in the query's and the key's stream once the norms hold their scale: with x_s what source s writes, each x_s is
centred and divided by the scale of the whole stream at that token, projected, (normed and) rotated, and

    score(query, key) = sum over s, t of  scale (R W_Q x_s + ...) . (R W_K x_t + ...)

Since a softmax is the same when all scores of a row rise together, what counts is a key's score less that of others: `terms` are
those differences, pair of sources by pair of sources, and they sum to `difference` exactly. Biases belong to no source and are
`constant`, and so is a score's own bias of position (ALiBi). A soft cap of scores is left out: terms sum to what goes into it.

After Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (the QK circuit); Kamath et al. 2025, Tracing Attention
Computation Through Feature Interactions (pairs of features). Norms are held by row and prompt; nothing is cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal, whole_number
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.transformer import Activations, Transformer
from edge_circuits.graphs.nodes import Part, parse_source
from edge_circuits.graphs.prompts.pairs import check_pairs
from edge_circuits.graphs.surroundings import in_plain_surroundings
from edge_circuits.graphs.tables import Table

CONSTANT = "constant"
Where = str | int
"""A span by its name, or a position of every prompt; negative counts from its end."""


@dataclass(frozen=True)
class Attending:
    """What makes a head attend, the mean over prompts.

    Attributes:
        head: Its name.
        query: The tokens that attend, as they were asked for.
        key: The tokens attended to; a mean over them where they are several.
        sources: `input` and all that the head sees, and `constant` at the end.
        terms: What each pair adds to the score of the key less that of others, before the softmax. [query_source key_source]
        pattern: The attention that goes from the query to the key.
        metadata: Model, number of prompts, and what the key is compared with.
    """

    head: str
    query: Where
    key: Where
    sources: tuple[str, ...]
    terms: Float[Tensor, "query_source key_source"]
    pattern: float
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """The score of the key less that of others: the sum of all terms."""
        return float(self.terms.sum())

    def top(self, n: int) -> list[tuple[str, str, float]]:
        """The n pairs of largest |term|, largest first: source of the query, source of the key, term."""
        order = self.terms.abs().flatten().sort(descending=True, stable=True).indices[: whole_number("n", n)]
        places = [divmod(int(place), len(self.sources)) for place in order]
        return [(self.sources[q], self.sources[k], float(self.terms[q, k])) for q, k in places]

    def table(self, top: int = 20) -> Table:
        """The pairs of largest |term|."""
        title = (
            f"{self.head} from {self.query} to {self.key}: attention {self.pattern:.3g}, score {self.difference:+.4g}"
        )
        return Table(("query's source", "key's source", "adds"), tuple(self.top(top)), title)


@in_plain_surroundings
@torch.no_grad()
def why_attends(
    model: nn.Module, pairs: PromptPairs, head: str, query: Where, key: Where, against: Where | None = None
) -> Attending:
    """Why a head attends from some tokens of the clean prompts to others.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Prompts, with spans where tokens are named by them; the corrupted ones are not looked at.
        head: Its name, "a5.h1".
        query: The tokens that attend; where they are several, the mean over them.
        key: The tokens that are attended to; the mean over those that a query sees.
        against: The tokens that they are compared with; None: all others that the query sees.

    Raises:
        ValueError: There is no such head or span, a position outside of a prompt, a query that sees no such key or no
            other, or a model that clips queries and keys.
    """
    check_pairs(pairs)
    transformer = adapt(model)
    graph = transformer.graph
    node = parse_source(choice("head", head, [name for name in graph.sources if name.startswith("a")]))
    if transformer.blocks[node.layer].attention.clip is not None:
        raise refusal("model", "queries and keys that are linear in the stream", "a model that clips them")
    terms, pattern = [], []
    for row in range(len(pairs)):
        one = pairs[[row]].to(transformer.device)
        tokens = {name: _tokens(one, row, name, where) for name, where in (("query", query), ("key", key))}
        other = ~tokens["key"] if against is None else _tokens(one, row, "against", against)
        found = _one_prompt(transformer, node.layer, node.head, one, tokens["query"], tokens["key"], other, row)
        terms.append(found[0]), pattern.append(found[1])
    n_seen = int(graph.n_visible[graph.part_destinations(node.layer, "q").start])
    about = {"model": transformer.name, "n_prompts": len(pairs), "against": "others" if against is None else against}
    mean = torch.stack(terms).mean(0).cpu()
    return Attending(head, query, key, (*graph.sources[:n_seen], CONSTANT), mean, sum(pattern) / len(pairs), about)


def _tokens(one: PromptPairs, row: int, name: str, where: Where) -> Bool[Tensor, " pos"]:
    """Where the asked tokens of a single prompt are."""
    length = int(one.lengths[0])
    if isinstance(where, str):
        spans = () if one.spans is None else one.spans.names
        found = one.spans.where(spans.index(choice(name, where, spans, "or give a position")))[0]
        if not found.any():
            raise refusal(name, f"a span with tokens in every prompt, {where!r}", f"none in row {row}")
        return found
    at = whole_number(name, where, -length, length - 1, f"row {row} has {length} tokens") % length
    return torch.arange(length, device=one.device) == at


def _one_prompt(
    transformer: Transformer,
    layer: int,
    head: int,
    one: PromptPairs,
    query: Bool[Tensor, " pos"],
    key: Bool[Tensor, " pos"],
    other: Bool[Tensor, " pos"],
    row: int,
) -> tuple[Float[Tensor, "query_source key_source"], float]:
    """The terms of a single prompt, and the attention that goes from query to key."""
    block, kept = transformer.blocks[layer], transformer.forward(transformer.embed(one.clean))
    attention, device = block.attention, block.device
    places = torch.arange(len(query), device=device)[None]
    q, k = (_projected(transformer, layer, head, part, kept) for part in ("q", "k"))
    if attention.rotary is not None:
        q, k = (attention.rotary.rotate(each[None], places)[0] for each in (q, k))
    scores = attention.scores(places, places, [head])
    visible = scores.mask(len(query), len(query), device)[0, 0]
    total = torch.einsum("qsd,ktd->qk", q, k)[None, None] * scores.scale
    attended = replace(scores, scale=1.0).pattern(total, torch.eye(len(query), dtype=total.dtype, device=device))[0, 0]
    bias = torch.zeros_like(visible, dtype=q.dtype) if scores.bias is None else scores.bias[0, 0].expand_as(visible)
    terms, pattern = [], []
    for at in query.to(device).nonzero()[:, 0].tolist():
        weights = _mean_over("key", row, key.to(device) & visible[at]) - _mean_over(
            "against", row, other.to(device) & visible[at]
        )
        each = scores.scale * torch.einsum("sd,k,ktd->st", q[at], weights.to(q), k)
        each[-1, -1] += (bias[at] * weights.to(q)).sum()
        terms.append(each)
        pattern.append(float(attended[at][key.to(device)].sum()))
    return torch.stack(terms).mean(0), sum(pattern) / len(pattern)


def _mean_over(name: str, row: int, chosen: Bool[Tensor, " pos"]) -> Float[Tensor, " pos"]:
    """Weights that take the mean over tokens."""
    if not chosen.any():
        raise refusal(name, "tokens that every query sees", f"none in row {row}", "give others")
    return chosen / chosen.sum()


def _projected(
    transformer: Transformer, layer: int, head: int, part: Part, kept: Activations
) -> Float[Tensor, "pos source d_head"]:
    """The query or key of a head at every token, source by source, before its rotation; the constant last."""
    block = transformer.blocks[layer]
    attention, whole = block.attention, kept.attention_in[layer][0]
    written = torch.stack([each.to(whole) for each in _written(transformer, layer, kept)], dim=1)
    parts = torch.cat((written, (whole - written.sum(1))[:, None]), dim=1)
    parts = _norm_of_parts(block.attention_norm, whole, parts)
    projection = head // (1 if part == "q" else attention.group_size)
    weight, bias = attention.projection(part)
    projected = parts @ weight[projection]
    if bias is not None:
        projected[:, -1] += bias[projection]
    norm = attention.q_norm if part == "q" else attention.k_norm
    if norm is None:
        return projected
    if not attention.shared_norms:
        return _norm_of_parts(_of_head(norm, head), projected.sum(1), projected)
    every = parts.sum(1) @ weight.transpose(0, 1).flatten(1) + (0.0 if bias is None else bias.flatten())
    gain = 1.0 if norm.weight is None else norm.weight.view(weight.shape[::2])[projection]
    return projected * norm.inverse_scale(every)[:, None] * gain  # RMSNorm: nothing is centred


def _written(transformer: Transformer, layer: int, kept: Activations) -> Iterator[Float[Tensor, "pos d_model"]]:
    """What `input` and each source of the layers below write, heads through the scale of a post-norm."""
    yield kept.embed[0]
    for below, block in enumerate(transformer.blocks[:layer]):
        writes = torch.einsum("phd,hdm->phm", kept.z[below][0], block.attention.W_O)
        if block.attention_post_norm is not None:
            linear = replace(block.attention_post_norm, bias=None)
            writes = _norm_of_parts(linear, kept.attention_sum[below][0], writes)
        yield from writes.unbind(1)
        if block.mlp is not None:
            yield kept.mlp_out[below][0]


def _norm_of_parts(norm: Norm | None, whole: Float[Tensor, "pos d"], parts: Float[Tensor, "pos part d"]) -> Tensor:
    """Parts of a norm's input behind the norm, whose scale is that of the whole; the bias goes to the last part."""
    if norm is None:
        return parts
    parts = parts - parts.mean(-1, keepdim=True) if norm.centred else parts
    parts = parts * norm.inverse_scale(whole)[:, None]
    parts = parts if norm.weight is None else parts * norm.weight.to(parts)
    if norm.bias is not None:
        parts = torch.cat((parts[:, :-1], parts[:, -1:] + norm.bias.to(parts)), dim=1)
    return parts


def _of_head(norm: Norm, head: int) -> Norm:
    """A norm of single heads for one of them."""
    if norm.weight is None or norm.weight.dim() == 1:
        return norm
    return replace(norm, weight=norm.weight[head], bias=None if norm.bias is None else norm.bias[head])
