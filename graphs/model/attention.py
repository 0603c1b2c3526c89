"""One attention layer: projections, rotary positions, grouped keys and values, and what heads write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, AttentionScores, Operations, linear


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding on the first dimensions of a head.

    Attributes:
        tables: positions [1 pos] to (cos, sin), each [1 pos d_rotary].
        adjacent: neighbouring dimensions rotate together; otherwise the two halves do.
    """

    tables: Callable[[Tensor], tuple[Tensor, Tensor]]
    adjacent: bool = False

    def rotate(self, x: Float[Tensor, "batch row head d_head"], rows: Int[Tensor, "#batch row"]) -> Tensor:
        """Rotate each row by its position."""
        cos, sin = (table.to(x.device, x.dtype)[:, :, None] for table in self.tables(rows))
        d_rotary = cos.shape[-1]
        turning, still = x[..., :d_rotary], x[..., d_rotary:]
        if self.adjacent:
            turned = torch.stack((-turning[..., 1::2], turning[..., 0::2]), dim=-1).flatten(-2)
        else:
            first, second = turning.chunk(2, dim=-1)
            turned = torch.cat((-second, first), dim=-1)
        return torch.cat((turning * cos + turned * sin, still), dim=-1)


@dataclass(frozen=True)
class Attention:
    """Weights of one attention layer. `W_K`, `W_V` have key-value heads, the others query heads."""

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

    @property
    def group_size(self) -> int:
        """Query heads for each key-value head."""
        return len(self.W_Q) // len(self.W_K)

    def per_query_head(self, kv: Float[Tensor, "batch pos kv_head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """Keys or values written out for each query head."""
        return kv if self.group_size == 1 else kv.repeat_interleave(self.group_size, dim=2)

    def scores(self, rows: Int[Tensor, "batch row"] | None, keys: Int[Tensor, "1 pos"]) -> AttentionScores:
        """Scale and mask for queries at `rows` (None: all positions) over keys at positions 0, 1, ..."""
        if rows is None and (self.window is None or self.window >= keys.shape[1]):
            return AttentionScores(self.scale, self.softcap, None)
        queries = keys if rows is None else rows.to(keys.device)
        distance = queries[:, :, None] - keys
        visible = distance >= 0
        if self.window is not None:
            visible = visible & (distance < self.window)
        return AttentionScores(self.scale, self.softcap, visible[:, None])

    def mix(
        self,
        q: Float[Tensor, "batch row head d_head"],
        k: Float[Tensor, "batch pos head d_head"],
        v: Float[Tensor, "batch pos head d_head"],
        rows: Int[Tensor, "batch row"] | None,
        operations: Operations = EXACT,
    ) -> Float[Tensor, "batch row head d_head"]:
        """Attend: from projected q, k, v of any equal set of heads to each head's mixed values z."""
        keys = torch.arange(k.shape[1], device=k.device)[None]
        q, k = operations.norm(self.q_norm, q), operations.norm(self.k_norm, k)
        if self.rotary is not None:
            q, k = self.rotary.rotate(q, keys if rows is None else rows), self.rotary.rotate(k, keys)
        scores = self.scores(rows, keys)
        z = operations.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scores)
        return z.transpose(1, 2)


def project(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Tensor | None) -> Tensor:
    """One linear map for each head from a shared input: [batch row d_model] to [batch row head d_head]."""
    flat = linear(x, weight.transpose(0, 1).flatten(1), None if bias is None else bias.flatten())
    return flat.unflatten(-1, weight.shape[::2])


def write(z: Float[Tensor, "batch row head d_head"], W_O: Tensor, b_O: Tensor | None) -> Tensor:
    """The summed write of all heads, [batch row d_model]; the bias belongs to no head."""
    return linear(z.flatten(-2), W_O.flatten(0, 1), b_O)
