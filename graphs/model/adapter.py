"""Reads a TransformerLens model into a `Transformer`: with `edge_circuits.graphs.model.hooked_transformer` the only file that knows its names.

`adapt(model)` takes a `TransformerBridge` (TransformerLens 4) around a GPT-2, GPT-NeoX, Llama, Mistral, Qwen2,
Qwen3, Gemma or Gemma 2 model of Hugging Face, or a native one; or a `HookedTransformer` (TransformerLens 2 and 3), which
`edge_circuits.graphs.model.hooked_transformer` reads. Weights are views of the model's own, never copies to be edited; the model is not
hooked or changed. On first sight of a model, and again whenever its hooks are others, its logits are compared with
the adapted ones on a few tokens, so a setting that is not known is refused instead of silently wrong.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from edge_circuits.graphs.graph import Graph, KVDestinations
from edge_circuits.graphs.model import hooked_transformer
from edge_circuits.graphs.model.attention import Attention, Rotary
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.supported import is_hooked_transformer
from edge_circuits.graphs.model.transformer import Block, Mlp, Transformer
from edge_circuits.graphs.model.weights import Read, activation_of, check_tokens, positive, reader

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
_checked: weakref.WeakKeyDictionary[nn.Module, tuple[int, ...]] = weakref.WeakKeyDictionary()


def adapt(model: nn.Module, *, trainable: bool = False, kv_destinations: KVDestinations = "query-head") -> Transformer:
    """A model as plain tensors.

    Args:
        model: a `TransformerBridge` or a `HookedTransformer`; it is only read.
        trainable: keep the weights' gradients, so that results can be differentiated with respect to them.
        kv_destinations: "query-head" gives each query head its own <k> and <v> destination, "kv-head" one for
            each key-value head.

    Raises:
        ValueError: not a model of TransformerLens, an architecture, version or setting that is not supported,
            offloaded weights, or logits that differ from the model's own.
    """
    graph, hooked = Graph.from_model(model, kv_destinations), is_hooked_transformer(model)
    if not (seen := _checked.get(model) == _hooks(model)):
        _check_in_memory(model)
    if hooked:
        transformer = hooked_transformer.transformer_of(model, graph, reader(trainable))
    else:
        transformer = _bridged(model, graph, trainable)
    if not seen:
        _check_logits(model, transformer, hooked_transformer.logits_of if hooked else nn.Module.__call__)
        _checked[model] = _hooks(model)  # a model may set hooks of its own on its first pass
    return transformer


def _check_in_memory(model: nn.Module) -> None:
    """Refuse offloaded weights, which have values only while the model itself runs."""
    away = next((name for name, weight in model.named_parameters() if weight.is_meta), None)
    if away is not None:
        raise ValueError(
            f"expected every weight on a device that computes, got {away.replace('_original_component.', '')} on 'meta': "
            "it is offloaded, to disk or to the CPU. Load the model with a device_map of GPUs alone (or of 'cpu' alone): "
            "spread it over more of them, or load it in bfloat16."
        )


def _bridged(model: nn.Module, graph: Graph, trainable: bool) -> Transformer:
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


def _hooks(model: nn.Module) -> tuple[int, ...]:
    """What hooks are on the model; handles are never used twice."""
    return tuple(
        handle
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for handle in hooks
    )


@torch.no_grad()
def _check_logits(model: nn.Module, transformer: Transformer, logits_of: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Refuse a model whose own logits the adapted one does not give, on a few tokens."""
    n_tokens = min(12, transformer.n_ctx or 12)
    d_vocab = min(model.cfg.d_vocab, transformer.W_U.shape[1])
    tokens = (torch.arange(2 * n_tokens, device=transformer.device).view(2, -1) * 7919 + 1) % d_vocab
    expected = logits_of(model, tokens).to(transformer.device)
    kept = transformer.forward(transformer.embed(tokens))
    ours = transformer.unembed(kept.final)
    spread = (expected - expected.mean(-1, keepdim=True)).abs().max().item()
    error = (ours - expected).abs().max().item()
    tolerance = {torch.float64: 1e-4, torch.float32: 1e-3}.get(transformer.dtype, 0.1)
    if not error <= tolerance * max(spread, 1e-6):
        raise ValueError(
            f"{transformer.name}: the logits computed from its weights differ from the model's own by {error:.2g} "
            f"(largest logit {spread:.2g}). A hook on the model or a setting that is not supported changes what it "
            "computes; remove hooks with model.reset_hooks(), or report the model's configuration."
        )
