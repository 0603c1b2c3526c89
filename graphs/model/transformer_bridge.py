"""Reads a `TransformerBridge` (TransformerLens 4), around a Hugging Face model or native, into a `Transformer`.

What an architecture does not say by itself is in `edge_circuits.graphs.model.families`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.attention import Attention, Rotary
from edge_circuits.graphs.model.families import FAMILIES, Family
from edge_circuits.graphs.model.mlp import Experts, Mlp
from edge_circuits.graphs.model.norm import Norm, apply_norm
from edge_circuits.graphs.model.transformer import Block, Transformer
from edge_circuits.graphs.model.weights import Reader, activation_of, check_tokens, positive

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
ACTIVATION_NAMES = ("act_fn", "act", "activation_fn", "gelu_impl")


def transformer_of(model: nn.Module, graph: Graph, read: Reader) -> Transformer:
    """A checked `TransformerBridge` as plain tensors."""
    bridge = _Bridge(model, FAMILIES[model.cfg.architecture], read)
    config, unembed = model.cfg, model.unembed.original_component
    return Transformer(
        graph=graph,
        embed=bridge.embedding(),
        blocks=tuple(bridge.block(block, layer) for layer, block in enumerate(model.blocks)),
        final_norm=bridge.norm(model.ln_final),
        W_U=bridge.read(unembed.weight).T,
        b_U=bridge.read(getattr(unembed, "bias", None)),
        logit_scale=bridge.family.logit_scale(bridge.settings),
        logit_softcap=positive(getattr(config, "output_logits_soft_cap", None)),
        n_ctx=bridge.longest,
        positions=bridge.added_positions(),
        name=f"{getattr(config, 'model_name', None) or 'model'} ({config.architecture})",
        device=model.embed.original_component.weight.device,
    )


def logits_of(model: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    """The model's own logits [batch pos d_vocab]."""
    return model(tokens)


@dataclass(frozen=True)
class _Bridge:
    """A bridge, the facts of its architecture, and how its weights are taken."""

    model: nn.Module
    family: Family
    read: Reader

    @property
    def settings(self) -> Any:
        """The configuration of Hugging Face; of a native model, TransformerLens' own."""
        return getattr(self.model.original_model, "config", self.model.cfg)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The bridge's components by name."""
        return dict(self.model.named_children())

    @property
    def longest(self) -> int | None:
        """The length at which a table of positions ends; None where positions are computed."""
        return self.model.cfg.n_ctx if "pos_embed" in self.parts else self.family.longest(self.settings)

    def positions(self) -> Tensor | None:
        """The learned positions, from that of the first token on."""
        if "pos_embed" not in self.parts:
            return None
        table = self.parts["pos_embed"].original_component
        return self.read(table.weight)[getattr(table, "offset", 0) :]

    def added_positions(self) -> Tensor | None:
        """The same as far as they are simply added: none of them where a norm follows."""
        W_pos = self.positions()
        return W_pos if W_pos is None or "embed_ln" not in self.parts else W_pos[:0]

    def embedding(self) -> Callable[[Int[Tensor, "batch pos"]], Tensor]:
        """From tokens to the start of the residual stream, by the model's own modules."""
        tokens_to_resid = self.model.embed.original_component
        d_vocab = len(self.read(tokens_to_resid.weight))
        W_pos = self.positions()
        norm = self.norm(self.parts["embed_ln"]) if "embed_ln" in self.parts else None
        scale, longest = self.family.embed_scale(self.settings), self.longest

        def embed(tokens: Int[Tensor, "batch pos"]) -> Tensor:
            check_tokens(tokens, d_vocab, longest)
            with torch.set_grad_enabled(self.read.trainable and torch.is_grad_enabled()):
                resid = tokens_to_resid(tokens)
                resid = resid if scale == 1 else resid * scale
                if W_pos is not None:
                    resid = resid + W_pos[: tokens.shape[1]].to(resid.device)
                return apply_norm(norm, resid)

        return embed

    def norm(self, module: nn.Module) -> Norm | None:
        """LayerNorm or RMSNorm, with weights of its own for each head where it has them."""
        inner = getattr(module, "original_component", module)
        kind = type(inner).__name__
        if isinstance(inner, nn.Identity):
            return None
        if isinstance(getattr(inner, "norms", None), nn.ModuleList):  # one for each head
            each = [self.norm(norm) for norm in inner.norms]
            return replace(
                each[0], weight=_stacked([norm.weight for norm in each]), bias=_stacked([norm.bias for norm in each])
            )
        centred = "LayerNorm" in kind
        if not centred and "RMSNorm" not in kind:
            raise ValueError(f"norm {kind} is not supported; LayerNorm and RMSNorm are.")
        weight = self.read(getattr(inner, "weight", None))
        if getattr(
            module, "uses_weight_offset", getattr(self.model.cfg, "rmsnorm_uses_offset", False)
        ):  # the latter before version 4
            weight = 1 + weight
        names = (name for name in ("eps", "variance_epsilon") if hasattr(inner, name))
        eps = next((getattr(inner, name) for name in names), self.model.cfg.eps)
        return Norm(centred, eps, weight, self.read(getattr(inner, "bias", None)))

    def block(self, block: nn.Module, layer: int) -> Block:
        """A layer. One norm before both attention and MLP is read as two that are equal."""
        parts = dict(block.named_children())
        norms = {
            name: self.norm(parts[name]) if name in parts else None for name in ("ln1", "ln1_post", "ln2", "ln2_post")
        }
        parallel = bool(self.model.cfg.parallel_attn_mlp)
        if parallel and "ln2" not in parts:
            norms["ln2"] = self.norm(parts["ln1"])
        has_mlp = "mlp" in parts
        return Block(
            attention_norm=norms["ln1"],
            attention=self.attention(block.attn, layer),
            mlp_norm=norms["ln2"] if has_mlp else None,
            mlp=self.mlp(block.mlp) if has_mlp else None,
            attention_post_norm=norms["ln1_post"],
            mlp_post_norm=norms["ln2_post"],
            parallel=parallel,
        )

    def attention(self, module: nn.Module, layer: int) -> Attention:
        """The attention of a layer."""
        inner, family, parts = module.original_component, self.family, dict(module.named_children())
        if not (getattr(inner, "causal", True) and getattr(inner, "is_causal", True)):
            raise ValueError("bidirectional attention is not supported; attention_dir must be 'causal'.")
        weights = {
            name: self.read(getattr(module, name)) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
        }
        write_scale = family.write_scale(self.settings)
        weights["b_O"] = _scaled(weights["b_O"], write_scale)
        softcaps = (getattr(inner, name, None) for name in ("attn_logit_softcapping", "attn_scores_soft_cap"))
        q_norm, k_norm = (self.norm(parts[name]) if name in parts else None for name in ("q_norm", "k_norm"))
        return Attention(
            **weights,
            scale=family.scale(inner),
            softcap=next((positive(cap) for cap in softcaps if cap is not None), None),
            window=family.window(self.settings, layer),
            rotary=self.rotary(inner, layer),
            q_norm=q_norm,
            k_norm=_for_query_heads(k_norm, len(weights["W_Q"])),
            shared_norms=family.shared_norms,
            clip=family.clip(self.settings),
            slopes=None if family.slopes is None else family.slopes(self.model.original_model),
            sinks=self.read(getattr(inner, "sinks", None)),
            write_scale=write_scale,
        )

    def mlp(self, module: nn.Module) -> Mlp | Experts:
        """The MLP of a layer, dense or routed."""
        inner, parts = module.original_component, dict(module.named_children())
        if hasattr(inner, "experts"):
            return self.experts(inner)
        is_gated = "gate" in parts or "dense_gate" in parts
        mid_norm, write_scale = getattr(inner, "ln", None), self.family.write_scale(self.settings)
        activation = next(getattr(inner, name) for name in ACTIVATION_NAMES if hasattr(inner, name))
        return Mlp(
            **{name: self.read(getattr(module, name)) for name in ("W_in", "W_out", "b_in")},
            b_out=_scaled(self.read(module.b_out), write_scale),
            activation=activation_of(activation, self.model.cfg.act_fn),
            W_gate=self.read(module.W_gate) if is_gated else None,
            b_gate=self.read(module.b_gate) if is_gated else None,
            mid_norm=None if mid_norm is None else self.norm(mid_norm),
            write_scale=write_scale,
        )

    def experts(self, block: nn.Module) -> Experts:
        """A routed layer: a router and experts in one tensor each, as every family of Hugging Face has them."""
        router, experts = getattr(block, "gate", None) or block.router, block.experts
        router = getattr(router, "original_component", router)
        W_gate, W_in = self._gate_and_signal(experts, "gate_up_proj", experts.is_transposed)
        b_gate, b_in = self._gate_and_signal(experts, "gate_up_proj_bias", False)
        W_out = self.read(experts.down_proj)
        is_clamped = hasattr(experts, "limit")
        activation = experts.act_fn if not is_clamped else partial(_clamped_gate, experts.alpha, experts.limit)
        signal = activation_of(lambda x: x.clamp(-experts.limit, experts.limit), "clamp") if is_clamped else None
        return Experts(
            W_router=self.read(router.weight).T,
            b_router=self.read(getattr(router, "bias", None)),
            n_chosen=router.top_k,
            normalised=self.family.normalised(router),
            W_in=W_in,
            W_gate=W_gate,
            W_out=W_out if experts.is_transposed else W_out.transpose(1, 2),
            b_in=b_in,
            b_gate=b_gate,
            b_out=self.read(getattr(experts, "down_proj_bias", None)),
            activation=activation_of(activation, self.model.cfg.act_fn),
            signal=signal,
            offset=1.0 if is_clamped else 0.0,
        )

    def _gate_and_signal(
        self, experts: nn.Module, name: str, is_transposed: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The two halves of a tensor, or its even and its odd entries; d_mlp last."""
        both = self.read(getattr(experts, name, None))
        if both is None:
            return None, None
        if both.dim() == 3 and not is_transposed:
            both = both.transpose(1, 2)
        return both.chunk(2, dim=-1) if experts.is_concatenated else (both[..., ::2], both[..., 1::2])

    def rotary(self, attention: nn.Module, layer: int) -> Rotary | None:
        """The rotation of a layer, its angles from the model's own tables or module."""
        family, hugging_face = self.family, self.model.original_model
        if getattr(self.model.cfg, "positional_embedding_type", None) != "rotary" or not family.rotates(attention):
            return None
        if family.angles is not None:
            made = partial(family.angles, hugging_face, attention)
        else:
            made = self._angles(self.model.rotary_emb.original_component, layer)
        return Rotary(lambda rows: tuple(family.spread(table) for table in made(rows)), family.adjacent)

    def _angles(self, module: nn.Module, layer: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The angles of a rotary module, which may have a base for each type of layer (Gemma 3)."""
        types = getattr(module, "rope_type", "default")
        of_layer = (self.settings.layer_types[layer],) if isinstance(types, dict) else ()
        kind = types[of_layer[0]] if of_layer else types
        if kind not in STATIC_ROTARY and not (kind == "longrope" and self.longest):
            raise ValueError(
                f"rotary embedding of type {kind!r} is not supported; supported: {', '.join(STATIC_ROTARY)}."
            )
        like = self.model.embed.original_component.weight[:0]  # tells device and type, and costs nothing to move
        return lambda rows: module(like, rows.to(like.device), *of_layer)


def _clamped_gate(alpha: float, limit: float, x: Tensor) -> Tensor:
    return x.clamp(max=limit) * torch.sigmoid(alpha * x.clamp(max=limit))


def _scaled(bias: Tensor | None, scale: float) -> Tensor | None:
    return bias if bias is None or scale == 1 else bias * scale


def _stacked(each: list[Tensor | None]) -> Tensor | None:
    return None if each[0] is None else torch.stack(each)


def _for_query_heads(norm: Norm | None, n_heads: int) -> Norm | None:
    """A norm of key-value heads, written out for each query head where heads have weights of their own."""
    if norm is None or norm.weight is None or norm.weight.dim() == 1:
        return norm
    group = n_heads // len(norm.weight)
    weight, bias = (None if each is None else each.repeat_interleave(group, 0) for each in (norm.weight, norm.bias))
    return replace(norm, weight=weight, bias=bias)
