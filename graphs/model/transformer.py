"""A decoder-only transformer as plain tensors and pure functions.

The adapter reads a user's model into these values; every method of the project computes with them, so the
model itself is never hooked, switched or edited. Prompts are right-padded and attention is causal, so padding
never reaches a real token and needs no mask.

Axis names: batch pos row head d_model d_head d_mlp d_vocab. A `row` is a position that is computed: all
positions, or the answer position alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.attention import Attention, Past, write
from edge_circuits.graphs.model.mlp import Experts, Mlp
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, Operations, linear

FEW_ROWS = 32


@dataclass(frozen=True)
class Block:
    """One layer. Post-norms act on what attention or the MLP writes (Gemma 2)."""

    attention_norm: Norm | None
    attention: Attention
    mlp_norm: Norm | None = None
    mlp: Mlp | Experts | None = None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    parallel: bool = False

    @property
    def device(self) -> torch.device:
        """Where a forward pass runs the layer."""
        return self.attention.W_Q.device


@dataclass
class Activations:
    """What one forward pass leaves behind; lists have an entry a layer, each on its layer's device.

    The last layer's q, z, MLP input and outputs hold the answer row only when the pass was asked for it, since
    nothing but `logits` reads them. q, k, v are projections before rotation and norms of single heads (after a norm that
    heads share), k and v written out for each query head. `attention_sum` is what the heads write, before a post-norm.
    """

    embed: Float[Tensor, "batch pos d_model"]
    attention_in: list[Tensor] = field(default_factory=list)  # residual stream read by q, k, v
    q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    z: list[Tensor] = field(default_factory=list)
    attention_sum: list[Tensor] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)  # residual stream read by the MLP
    mlp_normed: list[Tensor] = field(default_factory=list)  # the same behind the MLP's norm
    mlp_out: list[Tensor] = field(default_factory=list)
    final: Tensor | None = None  # residual stream read by logits

    def each(self, change: Callable[[Tensor], Tensor]) -> Activations:
        """A function of every value."""
        lists = {name: [change(x) for x in value] for name, value in vars(self).items() if isinstance(value, list)}
        final = None if self.final is None else change(self.final)
        return replace(self, embed=change(self.embed), final=final, **lists)

    def to(self, device: torch.device) -> Activations:
        """The same values on one device."""
        return self.each(lambda x: x.to(device))


def take_rows(x: Shaped[Tensor, "#batch pos *rest"], rows: Int[Tensor, "batch row"]) -> Tensor:
    """The given positions of each prompt: [batch row ...]."""
    if x.shape[0] == 1 and rows.shape[0] > 1:
        x = x.expand(rows.shape[0], *x.shape[1:])
    return x[torch.arange(len(rows), device=x.device)[:, None], rows.to(x.device)]


def at_rows(x: Shaped[Tensor, "#batch pos *rest"], rows: Int[Tensor, "batch row"]) -> Tensor:
    """The given positions, of a value that may hold them alone; every prompt has another number of positions than of rows."""
    return x if x.shape[1] == rows.shape[1] else take_rows(x, rows)


@dataclass(frozen=True)
class Transformer:
    """A whole model: embedding, blocks, final norm, unembedding.

    The layers' weights may be on several devices. A weight's product is taken where the weight is, and `forward` takes
    the stream along from layer to layer; prompts, circuits, scores and logits are on `device`.

    Attributes:
        embed: token ids [batch pos] to residual stream [batch pos d_model], positions included.
        n_ctx: longest prompt the positions allow; None if unbounded.
        positions: the learned positions that `embed` adds to the stream; None without, of no length where a norm follows.
        digest: gives the digest of the weights.
        device: where tokens go in.
    """

    graph: Graph
    embed: Callable[[Int[Tensor, "batch pos"]], Float[Tensor, "batch pos d_model"]]
    blocks: tuple[Block, ...]
    final_norm: Norm | None
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    n_ctx: int | None = None
    positions: Float[Tensor, "pos d_model"] | None = None
    digest: Callable[[], str] | None = None
    name: str = "model"
    device: torch.device = torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights and of the residual stream."""
        return self.W_U.dtype

    def unembed(
        self, resid: Float[Tensor, "*n d_model"], operations: Operations = EXACT
    ) -> Float[Tensor, "*n d_vocab"]:
        """Logits of a residual stream: final norm, unembedding, scale, soft cap."""
        return self.unembed_normed(operations.norm(self.final_norm, resid.to(self.W_U.device)))

    def unembed_normed(self, normed: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_vocab"]:
        """Logits of a residual stream behind the final norm: unembedding, scale, soft cap."""
        logits = _to_vocabulary(normed, self.W_U, self.b_U).to(self.device)
        logits = logits if self.logit_scale == 1 else logits * self.logit_scale
        if self.logit_softcap is None:
            return logits
        return torch.tanh(logits / self.logit_softcap) * self.logit_softcap

    def forward(
        self,
        embed: Float[Tensor, "batch pos d_model"],
        answer_rows: Int[Tensor, "batch row"] | None = None,
        operations: Operations = EXACT,
        past: Sequence[Past] = (),
    ) -> Activations:
        """Run all blocks from an embedded prompt.

        Args:
            embed: the residual stream at the start.
            answer_rows: when given, `final` holds these positions only and the last block's queries and MLP are
                computed there alone; what earlier layers hold is unchanged.
            operations: exact, or with relevance rules.
            past: each block's keys and values before the positions given, from which rows are counted.
        """
        kept = Activations(embed)
        resid = embed
        for layer, block in enumerate(self.blocks):
            rows = answer_rows if layer == len(self.blocks) - 1 else None
            resid = operations.source(layer, "stream", resid.to(block.device))
            resid = self._block(layer, resid, rows, operations, kept, past[layer] if past else None)
        resid = operations.source(len(self.blocks), "stream", resid)
        kept.final = resid.view_as(resid)
        return kept

    def _block(
        self,
        layer: int,
        resid: Tensor,
        rows: Tensor | None,
        operations: Operations,
        kept: Activations,
        past: Past | None,
    ) -> Tensor:
        block = self.blocks[layer]
        attention = block.attention
        kept.attention_in.append(resid)
        x = operations.norm(block.attention_norm, resid)
        query_x = x if rows is None else take_rows(x, rows)
        q = attention.project("q", query_x, operations=operations)
        k, v = (attention.per_query_head(attention.project(part, x, operations=operations)) for part in ("k", "v"))
        z = operations.source(layer, "heads", attention.mix(q, k, v, rows, operations, past=past))
        attention_sum = write(z, attention.W_O, attention.b_O)
        attention_out = operations.norm(block.attention_post_norm, attention_sum)
        attention_out = operations.source(layer, "attention", attention_out)
        for store, value in zip((kept.q, kept.k, kept.v, kept.z, kept.attention_sum), (q, k, v, z, attention_sum)):
            store.append(value)
        before = resid if rows is None else take_rows(resid, rows)
        after = before + attention_out
        if block.mlp is None:
            return after
        mlp_in = before if block.parallel else after
        mlp_in = operations.source(layer, "mlp_in", mlp_in)
        mlp_in = mlp_in.view_as(mlp_in)  # a branch of its own: its gradient is the MLP's alone
        mlp_normed = operations.norm(block.mlp_norm, mlp_in)
        inner = "neurons" if isinstance(block.mlp, Mlp) else "experts"
        asked = inner == "neurons" or layer in operations.experts
        mlp_out = block.mlp(mlp_normed, operations, partial(operations.source, layer, inner) if asked else None)
        mlp_out = operations.source(layer, "mlp", operations.norm(block.mlp_post_norm, mlp_out))
        kept.mlp_in.append(mlp_in)
        kept.mlp_normed.append(mlp_normed)
        kept.mlp_out.append(mlp_out)
        return after + mlp_out


def _to_vocabulary(x: Float[Tensor, "*n d_model"], W_U: Tensor, b_U: Tensor | None) -> Float[Tensor, "*n d_vocab"]:
    """`x @ W_U + b_U`; for few rows on a CPU the product is taken from the other side, which halves its time."""
    if x.device.type != "cpu" or x.numel() > FEW_ROWS * x.shape[-1]:
        return linear(x, W_U, b_U)
    logits = (W_U.T @ x.flatten(0, -2).T).T.unflatten(0, x.shape[:-1])
    return logits if b_U is None else logits + b_U
