"""Reads a `TransformerBridge` (TransformerLens 4), around a Hugging Face model or native, into a `Transformer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.attention import Attention, Rotary
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.transformer import Block, Mlp, Transformer
from edge_circuits.graphs.model.weights import Read, activation_of, check_tokens, positive, reader

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")


def transformer_of(model: nn.Module, graph: Graph, trainable: bool) -> Transformer:
    """A checked `TransformerBridge` as plain tensors."""
    config, rotary, read = model.cfg, _rotary(model), reader(trainable)
    return Transformer(
        graph=graph,
        embed=_embedding(model, trainable),
        blocks=tuple(_block(block, layer, config, model, rotary, read) for layer, block in enumerate(model.blocks)),
        final_norm=_norm(model.ln_final, config, read),
        W_U=read(model.unembed.original_component.weight).T,
        b_U=read(getattr(model.unembed.original_component, "bias", None)),
        logit_softcap=positive(getattr(config, "output_logits_soft_cap", None)),
        n_ctx=_longest_prompt(model),
        name=f"{getattr(config, 'model_name', None) or 'model'} ({config.architecture})",
        device=model.embed.original_component.weight.device,
    )


def _embedding(model: nn.Module, trainable: bool) -> Callable[[Int[Tensor, "batch pos"]], Tensor]:
    tokens_to_resid = model.embed.original_component
    positions = model.pos_embed.original_component if "pos_embed" in dict(model.named_children()) else None
    d_vocab, longest = len(tokens_to_resid.weight), _longest_prompt(model)

    def embed(tokens: Int[Tensor, "batch pos"]) -> Tensor:
        check_tokens(tokens, d_vocab, longest)
        with torch.set_grad_enabled(trainable and torch.is_grad_enabled()):
            resid = tokens_to_resid(tokens)
            return resid if positions is None else resid + positions.weight[: tokens.shape[1]].to(resid.device)

    return embed


def _longest_prompt(model: nn.Module) -> int | None:
    """The length at which a table of positions ends; None where positions are computed."""
    learned = "pos_embed" in dict(model.named_children())
    return model.cfg.n_ctx if learned or model.cfg.architecture == "TransformerLensNative" else None


def _norm(module: nn.Module, config: Any, read: Read) -> Norm | None:
    inner = getattr(module, "original_component", module)
    kind = type(inner).__name__
    if isinstance(inner, nn.Identity):
        return None
    centred = isinstance(inner, nn.LayerNorm) or kind == "NativeLayerNormPre"
    if not centred and "RMSNorm" not in kind:
        raise ValueError(f"norm {kind} is not supported; LayerNorm and RMSNorm are.")
    weight = read(getattr(inner, "weight", None))
    if getattr(
        module, "uses_weight_offset", getattr(config, "rmsnorm_uses_offset", False)
    ):  # the latter before version 4
        weight = 1 + weight
    eps = next((getattr(inner, name) for name in ("eps", "variance_epsilon") if hasattr(inner, name)), config.eps)
    return Norm(centred, eps, weight, read(getattr(inner, "bias", None)))


def _block(block: nn.Module, layer: int, config: Any, model: nn.Module, rotary: Rotary | None, read: Read) -> Block:
    parts = dict(block.named_children())
    mlp = parts.get("mlp")
    return Block(
        attention_norm=_norm(block.ln1, config, read),
        attention=_attention(block.attn, layer, config, model, rotary, read),
        mlp_norm=None if mlp is None else _norm(block.ln2, config, read),
        mlp=None if mlp is None else _mlp(mlp, config, read),
        attention_post_norm=_norm(block.ln1_post, config, read) if "ln1_post" in parts else None,
        mlp_post_norm=_norm(block.ln2_post, config, read) if "ln2_post" in parts else None,
        parallel=bool(config.parallel_attn_mlp),
    )


def _attention(
    module: nn.Module, layer: int, config: Any, model: nn.Module, rotary: Rotary | None, read: Read
) -> Attention:
    inner = module.original_component
    parts = dict(module.named_children())
    native = config.architecture == "TransformerLensNative"
    if native and not inner.causal:
        raise ValueError("bidirectional attention is not supported; attention_dir must be 'causal'.")
    return Attention(
        **{name: read(getattr(module, name)) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")},
        scale=1 / inner.scale if native else inner.scaling,
        softcap=positive(inner.attn_scores_soft_cap if native else getattr(inner, "attn_logit_softcapping", None)),
        window=None if native else _window(model.original_model.config, layer),
        rotary=rotary,
        q_norm=_norm(module.q_norm, config, read) if "q_norm" in parts else None,
        k_norm=_norm(module.k_norm, config, read) if "k_norm" in parts else None,
    )


def _window(hf_config: Any, layer: int) -> int | None:
    """Sliding window of a layer, in keys; None where attention reaches back to the start."""
    layer_types = getattr(hf_config, "layer_types", None)
    if layer_types is not None and layer_types[layer] != "sliding_attention":
        return None
    return getattr(hf_config, "sliding_window", None)


def _mlp(module: nn.Module, config: Any, read: Read) -> Mlp:
    inner = module.original_component
    gated = "gate" in dict(module.named_children())
    mid_norm = getattr(inner, "ln", None)
    return Mlp(
        W_in=read(module.W_in),
        W_out=read(module.W_out),
        b_in=read(module.b_in),
        b_out=read(module.b_out),
        activation=activation_of(inner.act_fn if hasattr(inner, "act_fn") else inner.act, config.act_fn),
        W_gate=read(module.W_gate) if gated else None,
        b_gate=read(module.b_gate) if gated else None,
        mid_norm=None if mid_norm is None else _norm(mid_norm, config, read),
    )


def _rotary(model: nn.Module) -> Rotary | None:
    if getattr(model.cfg, "positional_embedding_type", None) != "rotary":
        return None
    if model.cfg.architecture == "TransformerLensNative":
        native = model.original_model.rotary
        return Rotary(lambda rows: (native.cos_cached[rows], native.sin_cached[rows]), adjacent=True)
    module = model.rotary_emb.original_component
    kind = getattr(module, "rope_type", "default")
    if kind not in STATIC_ROTARY:
        raise ValueError(f"rotary embedding of type {kind!r} is not supported; supported: {', '.join(STATIC_ROTARY)}.")
    like = model.embed.original_component.weight[:0]  # tells device and type, and costs nothing to move
    return Rotary(lambda rows: module(like, rows.to(like.device)))
