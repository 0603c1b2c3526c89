"""A decoder-only transformer as plain tensors and pure functions.

The adapter reads a user's model into these values; every method of the project computes with them, so the
model itself is never hooked, switched or edited. Prompts are right-padded and attention is causal, so padding
never reaches a real token and needs no mask.

Axis names: batch pos row head d_model d_head d_mlp d_vocab. A `row` is a position that is computed: all
positions, or the answer position alone.

`Operations` holds the four places where a relevance rule may differ from the exact computation: the norm, the
activation function, the multiplicative gate and attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from graphs.graph import Graph

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "solu": lambda x: x * F.softmax(x, dim=-1),
}


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`centred`) or RMSNorm: `(x - mean) / sqrt(var + eps) * weight + bias`, over the last axis."""

    centred: bool
    eps: float
    weight: Float[Tensor, " d"] | None = None
    bias: Float[Tensor, " d"] | None = None

    def inverse_scale(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 1"]:
        """1 / sigma, where sigma**2 is the variance (or mean square) plus eps."""
        spread = x.var(-1, keepdim=True, correction=0) if self.centred else x.square().mean(-1, keepdim=True)
        return (spread + self.eps).rsqrt()

    def normalised(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The input centred and scaled, before weight and bias (x hat)."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred * self.inverse_scale(x)


def apply_norm(norm: Norm | None, x: Float[Tensor, "*n d"], constant_scale: bool = False) -> Float[Tensor, "*n d"]:
    """The norm as the model computes it, in float32 at least; None is the identity.

    With `constant_scale` the value is the same and the gradient treats sigma as a constant (the LN-rule).
    """
    if norm is None:
        return x
    if norm.centred and not constant_scale:
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_scale = norm.inverse_scale(wide.detach() if constant_scale else wide)
    scaled = (wide - wide.mean(-1, keepdim=True) if norm.centred else wide) * inverse_scale
    scaled = scaled if norm.weight is None else scaled * norm.weight
    return (scaled if norm.bias is None else scaled + norm.bias).to(x.dtype)


@dataclass(frozen=True)
class AttentionScores:
    """How queries meet keys: scale, soft cap and which keys a query row sees.

    Attributes:
        visible: bool [batch|1, 1, row, pos]; None means plainly causal over all positions.
    """

    scale: float
    softcap: float | None
    visible: Tensor | None

    def mask(self, n_rows: int, n_keys: int, device: torch.device) -> Tensor:
        """`visible`, written out when it is causal."""
        if self.visible is not None:
            return self.visible
        return torch.ones(n_rows, n_keys, dtype=torch.bool, device=device).tril()

    def pattern(self, q: Tensor, k: Tensor) -> Float[Tensor, "batch head row pos"]:
        """The attention pattern, softmax in float32 at least."""
        scores = (q @ k.transpose(-1, -2)) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        hidden = ~self.mask(q.shape[-2], k.shape[-2], q.device)
        wide = torch.promote_types(q.dtype, torch.float32)
        return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1, dtype=wide).to(q.dtype)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores) -> Float[Tensor, "batch head row d_head"]:
    """Softmax attention; fused where there is no soft cap."""
    if scores.softcap is not None:
        return scores.pattern(q, k) @ v
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=scores.visible, is_causal=scores.visible is None, scale=scores.scale
    )


def unchanged(layer: int, kind: str, value: Tensor) -> Tensor:
    """The value itself."""
    return value


def exact_activation(name: str, x: Tensor) -> Tensor:
    """The activation function of that name."""
    return ACTIVATIONS[name](x)


@dataclass(frozen=True)
class Operations:
    """The non-linear steps of a forward pass, each replaceable by a relevance rule that keeps its value.

    Attributes:
        constant_scale: gradients treat the scale of every norm as a constant.
        source: given a layer, "heads" or "mlp" and what that layer's heads (z) or MLP give, what is to be written
            in its place.
    """

    constant_scale: bool = False
    source: Callable[[int, str, Tensor], Tensor] = unchanged
    activation: Callable[[str, Tensor], Tensor] = exact_activation
    gate: Callable[[Tensor, Tensor], Tensor] = torch.mul
    attention: Callable[[Tensor, Tensor, Tensor, AttentionScores], Tensor] = exact_attention

    def norm(self, norm: Norm | None, x: Tensor) -> Tensor:
        """The norm under these operations."""
        return apply_norm(norm, x, self.constant_scale)


EXACT = Operations()


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

    def scores(self, rows: Int[Tensor, "batch row"] | None, n_keys: int) -> AttentionScores:
        """Scale and mask for queries at `rows` (None: all positions) over keys 0 ... n_keys - 1."""
        if rows is None and (self.window is None or self.window >= n_keys):
            return AttentionScores(self.scale, self.softcap, None)
        device = self.W_Q.device
        queries = torch.arange(n_keys, device=device)[None] if rows is None else rows.to(device)
        distance = queries[:, :, None] - torch.arange(n_keys, device=device)
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
        scores = self.scores(rows, k.shape[1])
        z = operations.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scores)
        return z.transpose(1, 2)


def project(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Tensor | None) -> Tensor:
    """One linear map for each head from a shared input: [batch row d_model] to [batch row head d_head]."""
    flat = linear(x, weight.transpose(0, 1).flatten(1), None if bias is None else bias.flatten())
    return flat.unflatten(-1, weight.shape[::2])


def write(z: Float[Tensor, "batch row head d_head"], W_O: Tensor, b_O: Tensor | None) -> Tensor:
    """The summed write of all heads, [batch row d_model]; the bias belongs to no head."""
    return linear(z.flatten(-2), W_O.flatten(0, 1), b_O)


@dataclass(frozen=True)
class Mlp:
    """Weights of one MLP; gated when `W_gate` is there; `mid_norm` is the norm of SoLU models."""

    W_in: Float[Tensor, "d_model d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_in: Float[Tensor, " d_mlp"] | None
    b_out: Float[Tensor, " d_model"] | None
    activation: str
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    mid_norm: Norm | None = None

    def __call__(self, x: Float[Tensor, "*n d_model"], operations: Operations = EXACT) -> Tensor:
        """The MLP's output for a normalised input."""
        hidden = linear(x, self.W_in, self.b_in)
        if self.W_gate is None:
            hidden = operations.norm(self.mid_norm, operations.activation(self.activation, hidden))
        else:
            gate = operations.activation(self.activation, linear(x, self.W_gate, self.b_gate))
            hidden = operations.gate(gate, hidden)
        return linear(hidden, self.W_out, self.b_out)


def linear(x: Tensor, weight: Float[Tensor, "d_in d_out"], bias: Tensor | None) -> Tensor:
    """`x @ weight + bias`, in one call."""
    return F.linear(x, weight.T, bias)


@dataclass(frozen=True)
class Block:
    """One layer. Post-norms act on what attention or the MLP writes (Gemma 2)."""

    attention_norm: Norm | None
    attention: Attention
    mlp_norm: Norm | None = None
    mlp: Mlp | None = None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    parallel: bool = False


Layers = list[Tensor] | Sequence[Tensor]
"""An entry a layer; a sequence may make its entries when they are asked for (`graphs.candidates`)."""


@dataclass
class Activations:
    """What one forward pass leaves behind; lists have an entry a layer.

    The last layer's q, z, MLP input and outputs hold the answer row only when the pass was asked for it, since
    nothing but `logits` reads them. q, k, v are projections before their norms and rotation, k and v written out
    for each query head. `attention_sum` is what the heads write, before a post-norm.
    """

    embed: Float[Tensor, "batch pos d_model"]
    attention_in: Layers = field(default_factory=list)  # residual stream read by q, k, v
    q: Layers = field(default_factory=list)
    k: Layers = field(default_factory=list)
    v: Layers = field(default_factory=list)
    z: Layers = field(default_factory=list)
    attention_sum: Layers = field(default_factory=list)
    mlp_in: Layers = field(default_factory=list)  # residual stream read by the MLP
    mlp_out: Layers = field(default_factory=list)
    final: Tensor | None = None  # residual stream read by logits


def take_rows(x: Float[Tensor, "#batch pos *rest"], rows: Int[Tensor, "batch row"]) -> Tensor:
    """The given positions of each prompt: [batch row ...]."""
    if x.shape[0] == 1 and rows.shape[0] > 1:
        x = x.expand(rows.shape[0], *x.shape[1:])
    return x[torch.arange(len(rows), device=x.device)[:, None], rows.to(x.device)]


@dataclass(frozen=True)
class Transformer:
    """A whole model: embedding, blocks, final norm, unembedding.

    Attributes:
        embed: token ids [batch pos] to residual stream [batch pos d_model], positions included.
        n_ctx: longest prompt the positions allow; None if unbounded.
    """

    graph: Graph
    embed: Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos d_model"]]
    blocks: tuple[Block, ...]
    final_norm: Norm | None
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None
    logit_softcap: float | None = None
    n_ctx: int | None = None
    name: str = "model"

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return self.blocks[0].attention.W_Q.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and of the residual stream."""
        return self.W_U.dtype

    def unembed(self, resid: Float[Tensor, "*n d_model"], operations: Operations = EXACT) -> Float[Tensor, "*n d_vocab"]:
        """Logits of a residual stream: final norm, unembedding, soft cap."""
        logits = linear(operations.norm(self.final_norm, resid), self.W_U, self.b_U)
        if self.logit_softcap is None:
            return logits
        return torch.tanh(logits / self.logit_softcap) * self.logit_softcap

    def forward(
        self,
        embed: Float[Tensor, "batch pos d_model"],
        answer_rows: Int[Tensor, "batch row"] | None = None,
        operations: Operations = EXACT,
    ) -> Activations:
        """Run all blocks from an embedded prompt.

        Args:
            embed: the residual stream at the start.
            answer_rows: when given, `final` holds these positions only and the last block's queries and MLP are
                computed there alone; what earlier layers hold is unchanged.
            operations: exact, or with relevance rules.
        """
        kept = Activations(embed)
        resid = embed
        for layer, block in enumerate(self.blocks):
            rows = answer_rows if layer == len(self.blocks) - 1 else None
            resid = self._block(layer, resid, rows, operations, kept)
        kept.final = resid.view_as(resid)
        return kept

    def _block(self, layer: int, resid: Tensor, rows: Tensor | None, operations: Operations, kept: Activations) -> Tensor:
        block = self.blocks[layer]
        attention = block.attention
        kept.attention_in.append(resid)
        x = operations.norm(block.attention_norm, resid)
        query_x = x if rows is None else take_rows(x, rows)
        q = project(query_x, attention.W_Q, attention.b_Q)
        k = attention.per_query_head(project(x, attention.W_K, attention.b_K))
        v = attention.per_query_head(project(x, attention.W_V, attention.b_V))
        z = operations.source(layer, "heads", attention.mix(q, k, v, rows, operations))
        attention_sum = write(z, attention.W_O, attention.b_O)
        attention_out = operations.norm(block.attention_post_norm, attention_sum)
        for store, value in zip((kept.q, kept.k, kept.v, kept.z, kept.attention_sum), (q, k, v, z, attention_sum)):
            store.append(value)
        before = resid if rows is None else take_rows(resid, rows)
        after = before + attention_out
        if block.mlp is None:
            return after
        mlp_in = before if block.parallel else after
        mlp_in = mlp_in.view_as(mlp_in)  # a branch of its own: its gradient is the MLP's alone
        mlp_out = block.mlp(operations.norm(block.mlp_norm, mlp_in), operations)
        mlp_out = operations.source(layer, "mlp", operations.norm(block.mlp_post_norm, mlp_out))
        kept.mlp_in.append(mlp_in)
        kept.mlp_out.append(mlp_out)
        return after + mlp_out
