"""One attention layer: projections, positions, grouped keys and values, and what heads write.

Where a norm of queries (or keys) is over all heads together (OLMo 2), heads share a scale. What a destination <q> of head h
reads then gives this head's query: all heads are projected from h's own input, the scale is theirs, and h keeps its slice. So with
every edge kept this is the model, and an edge into one head's <q> moves that head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, AttentionScores, Operations, linear
from edge_circuits.graphs.nodes import Part

HIDDEN = 2**30  # a position that no query sees


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding on the first dimensions of a head.

    Attributes:
        tables: positions [1 pos] to (cos, sin), each [1 pos d_rotary].
        adjacent: neighbouring dimensions rotate together; otherwise the two halves do.
    """

    tables: Callable[[Tensor], tuple[Tensor, Tensor]]
    adjacent: bool = False

    def rotate(self, x: Float[Tensor, "batch row head d_head"], rows: Int[Tensor, "prompt row"]) -> Tensor:
        """Rotate each row by its position; a batch of copies of the prompts, or one prompt for all, repeats them."""
        cos, sin = (_repeated(table.to(x.device, x.dtype)[:, :, None], len(x)) for table in self.tables(rows))
        d_rotary = cos.shape[-1]
        turning, still = x[..., :d_rotary], x[..., d_rotary:]
        if self.adjacent:
            turned = torch.stack((-turning[..., 1::2], turning[..., 0::2]), dim=-1).flatten(-2)
        else:
            first, second = turning.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1)
        turned = turning * cos + turned * sin
        return torch.cat((turned, still), dim=-1) if still.shape[-1] else turned


class Past(NamedTuple):
    """Keys and values at positions before those that are computed, the same in every run of a batch.

    Attributes:
        k, v: as queries meet them, keys normalised and rotated. [batch past head d_head]
        start: the first position of each prompt that is computed; what stands there and behind in `k` and `v` is hidden. [batch]
    """

    k: Float[Tensor, "batch past head d_head"]
    v: Float[Tensor, "batch past head d_head"]
    start: Int[Tensor, " batch"]

    def before(
        self, k: Tensor, v: Tensor, keys: Int[Tensor, "batch pos"], heads: Sequence[int] | None
    ) -> tuple[Tensor, Tensor, Int[Tensor, "batch past_and_pos"]]:
        """Keys, values and positions of keys with the past ones before them; hidden ones have a position that no query sees."""
        earlier = torch.arange(self.k.shape[1], device=k.device)
        earlier = torch.where(earlier < self.start.to(k.device)[:, None], earlier, HIDDEN)
        some = slice(None) if heads is None or len(heads) == self.k.shape[2] else list(heads)
        k, v = (
            torch.cat((each[:, :, some].to(x.device).repeat(len(x) // len(each), 1, 1, 1), x), dim=1)
            for each, x in ((self.k, k), (self.v, v))
        )
        return k, v, torch.cat((earlier, keys), dim=1)


@dataclass(frozen=True)
class Attention:
    """Weights of one attention layer. `W_K`, `W_V` have key-value heads, the others query heads.

    Attributes:
        q_norm, k_norm: norms of queries and keys before their rotation, each head by itself or, with `shared_norms`, all heads
            together. A weight of [head d_head] has a row for each query head.
        clip: projections are cut off beyond it, on both sides (OLMo).
        slopes: what a position further back takes from a head's score (ALiBi, Press et al. 2022); [head].
        sinks: a logit of each head beside its scores, whose share of the pattern goes nowhere (gpt-oss); [head].
        write_scale: factor of what heads mix, and so of what they write (Granite).
    """

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv_head d_head"] | None
    b_V: Float[Tensor, "kv_head d_head"] | None
    b_O: Float[Tensor, " d_model"] | None
    scale: float
    softcap: float | None = None
    window: int | None = None
    rotary: Rotary | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    shared_norms: bool = False
    clip: float | None = None
    slopes: Float[Tensor, " head"] | None = None
    sinks: Float[Tensor, " head"] | None = None
    write_scale: float = 1.0

    @property
    def group_size(self) -> int:
        """Query heads for each key-value head."""
        return len(self.W_Q) // len(self.W_K)

    def per_query_head(self, kv: Float[Tensor, "batch pos kv_head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """Keys or values written out for each query head."""
        return kv if self.group_size == 1 else kv.repeat_interleave(self.group_size, dim=2)

    def projection(self, part: Part) -> tuple[Tensor, Tensor | None]:
        """Weight [projection d_model d_head] and bias of the queries, keys or values."""
        return {"q": (self.W_Q, self.b_Q), "k": (self.W_K, self.b_K), "v": (self.W_V, self.b_V)}[part]

    def shared_norm(self, part: Part) -> Norm | None:
        """The norm over all heads of a part, where there is one; it belongs to the projection."""
        return {"q": self.q_norm, "k": self.k_norm, "v": None}[part] if self.shared_norms else None

    def project(
        self,
        part: Part,
        x: Float[Tensor, "*n d_model"],
        which: Sequence[int] | None = None,
        operations: Operations = EXACT,
    ) -> Float[Tensor, "*n projection d_head"]:
        """Queries, keys or values from one normalised input, before rotation and norms of single heads.

        Args:
            which: the projections that are asked for, `W_K` and `W_V` having one for each key-value head; None for all.
        """
        weight, bias = self.projection(part)
        norm = self.shared_norm(part)
        if norm is not None:
            out = operations.norm(norm, _project(x, weight, bias).flatten(-2)).unflatten(-1, weight.shape[::2])
            return out if which is None else out[..., list(which), :]
        return _project(x, _rows(weight, which), _rows(bias, which))

    def scores(
        self, rows: Int[Tensor, "batch row"] | None, keys: Int[Tensor, "#batch pos"], heads: Sequence[int] | None = None
    ) -> AttentionScores:
        """Scale, mask and logits of position for queries at `rows` (None: all positions) over keys at these positions."""
        slopes, sinks = (_rows(each, heads) for each in (self.slopes, self.sinks))
        bias = None if slopes is None else (slopes.to(keys.device)[:, None] * keys[:, None])[:, :, None]
        if rows is None and (self.window is None or self.window >= keys.shape[1]):
            return AttentionScores(self.scale, self.softcap, None, bias, sinks)
        queries = keys if rows is None else rows.to(keys.device)
        distance = queries[:, :, None] - keys[:, None]
        visible = distance >= 0
        if self.window is not None:
            visible = visible & (distance < self.window)
        return AttentionScores(self.scale, self.softcap, visible[:, None], bias, sinks)

    def mix(
        self,
        q: Float[Tensor, "batch row head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        rows: Int[Tensor, "batch row"] | None,
        operations: Operations = EXACT,
        heads: Sequence[int] | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "batch row head d_head"]:
        """Attend: from projected q, k, v of some query heads to each head's mixed values z.

        Args:
            heads: which heads; None for all.
            past: what stands before `k` and `v`, of a batch of which this one is copies; rows are counted from `k` and `v`.
        """
        keys = torch.arange(k.shape[1], device=k.device)[None]
        if past is not None:
            start = past.start.to(k.device)[:, None]
            keys, rows = keys + start, None if rows is None else rows + _repeated(start, len(rows))
        queries = keys if rows is None else rows
        q, k = self._ready("q", q, queries, heads, operations), self._ready("k", k, keys, heads, operations)
        v = self._clipped(v)
        if past is None:
            scores = self.scores(rows, keys, heads)
        else:
            k, v, keys = past.before(k, v, keys, heads)
            scores = self.scores(queries, _repeated(keys, len(queries)), heads).repeated(len(q))
        z = operations.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scores)
        return (z if self.write_scale == 1 else z * self.write_scale).transpose(1, 2)

    def past(
        self,
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        start: Int[Tensor, " batch"],
    ) -> Past:
        """From projected keys and values at every position, those before each prompt's start."""
        ready = self._ready("k", k, torch.arange(k.shape[1], device=k.device)[None])
        n_past = int(start.max())
        return Past(ready[:, :n_past], self._clipped(v)[:, :n_past], start)

    def _ready(
        self, part: Part, x: Tensor, at: Tensor, heads: Sequence[int] | None = None, operations: Operations = EXACT
    ) -> Float[Tensor, "batch row head d_head"]:
        """Projected queries or keys as they meet: cut off, normalised, rotated by their positions."""
        x = self._clipped(x)
        if not self.shared_norms:
            x = operations.norm(_of_heads(self.q_norm if part == "q" else self.k_norm, heads), x)
        return x if self.rotary is None else self.rotary.rotate(x, at)

    def _clipped(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


def _repeated(x: Tensor, n: int) -> Tensor:
    """As many copies, one after the other, as make n rows of it; one row stands for all."""
    return x if len(x) in (1, n) else x.repeat(n // len(x), *[1] * (x.dim() - 1))


def _rows(x: Tensor | None, heads: Sequence[int] | None) -> Tensor | None:
    """The rows of some heads; a view where they are neighbours."""
    if x is None or heads is None:
        return x
    first, last = heads[0], heads[-1]
    return x[first : last + 1] if list(heads) == list(range(first, last + 1)) else x[list(heads)]


def _of_heads(norm: Norm | None, heads: Sequence[int] | None) -> Norm | None:
    """A norm of single heads for some of them."""
    if norm is None or norm.weight is None or norm.weight.dim() == 1:
        return norm
    return replace(norm, weight=_rows(norm.weight, heads), bias=_rows(norm.bias, heads))


def _project(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Tensor | None) -> Tensor:
    """One linear map for each head from a shared input: [*n d_model] to [*n head d_head]."""
    flat = linear(x, weight.transpose(0, 1).flatten(1), None if bias is None else bias.flatten())
    return flat.unflatten(-1, weight.shape[::2])


def write(z: Float[Tensor, "batch row head d_head"], W_O: Tensor, b_O: Tensor | None) -> Tensor:
    """The summed write of all heads, [batch row d_model]; the bias belongs to no head."""
    return linear(z.flatten(-2), W_O.flatten(0, 1), b_O)
