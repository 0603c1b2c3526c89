"""Reads a `HookedTransformer` (TransformerLens 2 and 3) into a `Transformer`.

`HookedTransformer` holds each weight in the layout of the paper, heads first, so there is little to do but to name what
differs: attention divides by `attn_scale`, a gated MLP adds `b_in` after the gate, keys and values of grouped heads
are in `_W_K` and `_W_V` (`W_K` is a copy for each query head), and rotary angles are tables.

Which processing of the weights keeps edge scores:
- `HookedTransformer.from_pretrained_no_processing` has the weights of the Hugging Face model, so all scores and
  circuits equal those of the bridge.
- `fold_ln`, `center_writing_weights` and `refactor_factored_attn_matrices` change the weights and not what a destination
  makes of the stream, so scores stay equal up to rounding (TransformerLens processes in float32).
- `center_unembed` takes the mean over the vocabulary from the logits: metrics that a shift of all logits does not move
  (logit difference, log probability, KL) keep their scores, a single logit does not.
- `fold_value_biases` moves what a head writes for every input (`b_V W_O`) to the output bias, which belongs to no head.
  With `patching`, `mean` and `mean-positional` a head's change is the same; with `zero` scores and circuits differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.attention import Attention, Rotary
from edge_circuits.graphs.model.mlp import Mlp
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.transformer import Block, Transformer
from edge_circuits.graphs.model.weights import Reader, activation_of, check_tokens, positive

NORMS = {"LayerNorm": True, "LayerNormPre": True, "RMSNorm": False, "RMSNormPre": False}  # class to whether it centres


def transformer_of(model: nn.Module, graph: Graph, read: Reader) -> Transformer:
    """A checked `HookedTransformer` as plain tensors."""
    config = model.cfg
    return Transformer(
        graph=graph,
        embed=_embedding(model, read),
        blocks=tuple(_block(block, config, read) for block in model.blocks),
        final_norm=_norm(getattr(model, "ln_final", None), read),
        W_U=read(model.unembed.W_U),
        b_U=read(model.unembed.b_U),
        logit_softcap=positive(getattr(config, "output_logits_soft_cap", None)),
        n_ctx=config.n_ctx,
        positions=read(model.pos_embed.W_pos) if config.positional_embedding_type == "standard" else None,
        name=f"{config.model_name or 'model'} (HookedTransformer)",
        device=model.embed.W_E.device,
    )


@torch.no_grad()
def logits_of(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    """The model's own logits [batch pos d_vocab]; no token counts as padding, whatever the tokenizer says."""
    return model(tokens, attention_mask=torch.ones_like(tokens))


def _embedding(model: nn.Module, read: Reader) -> Callable[[Int[Tensor, "batch pos"]], Tensor]:
    W_E, longest = read(model.embed.W_E), model.cfg.n_ctx
    W_pos = read(model.pos_embed.W_pos) if model.cfg.positional_embedding_type == "standard" else None

    def embed(tokens: Int[Tensor, "batch pos"]) -> Tensor:
        check_tokens(tokens, len(W_E), longest)
        resid = W_E[tokens.to(W_E.device)]
        return resid if W_pos is None else resid + W_pos[: tokens.shape[1]]

    return embed


def _norm(module: nn.Module | None, read: Reader) -> Norm | None:
    if module is None or isinstance(module, nn.Identity):
        return None
    kind = type(module).__name__
    if kind not in NORMS:
        raise ValueError(f"norm {kind} is not supported; supported: {', '.join(NORMS)}.")
    return Norm(NORMS[kind], module.eps, read(getattr(module, "w", None)), read(getattr(module, "b", None)))


def _block(block: nn.Module, config: Any, read: Reader) -> Block:
    parts = dict(block.named_children())
    mlp = parts.get("mlp")
    return Block(
        attention_norm=_norm(block.ln1, read),
        attention=_attention(block.attn, config, read),
        mlp_norm=None if mlp is None else _norm(block.ln2, read),
        mlp=None if mlp is None else _mlp(mlp, config, read),
        attention_post_norm=_norm(parts.get("ln1_post"), read),
        mlp_post_norm=_norm(parts.get("ln2_post"), read),
        parallel=bool(config.parallel_attn_mlp),
    )


def _attention(module: nn.Module, config: Any, read: Reader) -> Attention:
    stored = "_" if hasattr(module, "_W_K") else ""  # grouped heads: the plain names are copies for each query head
    shared = {name: read(getattr(module, stored + name)) for name in ("W_K", "W_V", "b_K", "b_V")}
    return Attention(
        **{name: read(getattr(module, name)) for name in ("W_Q", "W_O", "b_Q", "b_O")},
        **shared,
        scale=1 / float(module.attn_scale),
        softcap=positive(getattr(config, "attn_scores_soft_cap", None)),
        window=config.window_size if module.attn_type == "local" else None,
        rotary=_rotary(module, config) if config.positional_embedding_type == "rotary" else None,
        q_norm=_norm(getattr(module, "q_norm", None), read),
        k_norm=_norm(getattr(module, "k_norm", None), read),
    )


def _rotary(module: nn.Module, config: Any) -> Rotary:
    """A layer's own angles: layers may differ in their base."""

    def tables(rows: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = module.rotary_sin, module.rotary_cos
        if int(rows.max()) >= len(cos):  # the tables grow with the prompts a model has seen; it is left as it is
            sin, cos = module.calculate_sin_cos_rotary(
                config.rotary_dim, config.n_ctx, base=module._rotary_base(), dtype=config.dtype
            )
        rows = rows.to(cos.device)
        return cos[rows], sin[rows]

    return Rotary(tables, adjacent=bool(config.rotary_adjacent_pairs))


def _mlp(module: nn.Module, config: Any, read: Reader) -> Mlp:
    activation = activation_of(module.act_fn, config.act_fn)
    W_in, W_out, b_in, b_out = (read(getattr(module, name)) for name in ("W_in", "W_out", "b_in", "b_out"))
    if not config.gated_mlp:
        return Mlp(W_in, W_out, b_in, b_out, activation, mid_norm=_norm(getattr(module, "ln", None), read))
    if getattr(module, "ln", None) is not None:
        given = f"gated_mlp=True and act_fn={config.act_fn!r}"
        raise ValueError(f"HookedTransformer with {given} is not supported: it does not use W_in.")
    return Mlp(
        W_in, W_out, None, b_out + b_in @ W_out, activation, W_gate=read(module.W_gate)
    )  # b_in comes after the gate
