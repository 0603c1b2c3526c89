"""Native models of TransformerLens, written out from their state dicts and configurations."""

from __future__ import annotations

import re
from typing import Any

from references.literal import (
    Scores,
    Weights,
    attend,
    capped,
    gelu,
    gelu_tanh,
    layer_norm,
    relu,
    rms_norm,
    rotate,
    silu,
    solu,
)
from torch import Tensor

ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_tanh, "relu": relu, "silu": silu, "solu_ln": solu}


class Native:
    """Norms LN, RMS, LNPre, RMSPre or none; learned or rotary positions; plain, gated or SoLU MLPs, or none."""

    parallel = False

    def __init__(self, weights: Weights, config: Any) -> None:
        self.w = {
            re.sub(r"_original_component\.", "", name): weight.detach().double() for name, weight in weights.items()
        }
        self.config, self.mlps, self.d_head = config, not config.attn_only, config.d_head
        self.n_layers, self.n_heads = config.n_layers, config.n_heads
        self.n_kv_heads = config.n_key_value_heads or config.n_heads

    def embed(self, tokens: list[int]) -> Tensor:
        out = self.w["tok_embed.weight"][tokens]
        return out + self.w["pos.weight"][: len(tokens)] if "pos.weight" in self.w else out

    def linear(self, name: str, x: Tensor, rows: slice = slice(None)) -> Tensor:
        out = x @ self.w[f"{name}.weight"][rows].T
        return out + self.w[f"{name}.bias"][rows] if f"{name}.bias" in self.w else out

    def norm(self, name: str, x: Tensor, kind: str | None) -> Tensor:
        weight, bias = self.w.get(f"{name}.weight", 1.0), self.w.get(f"{name}.bias", 0.0)
        if kind is None:
            return x
        if kind.startswith("RMS"):
            return rms_norm(x, self.config.eps, weight)
        return layer_norm(x, self.config.eps, weight, bias)

    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        shared = head // (self.n_heads // self.n_kv_heads)
        parts = {}
        for part, index, x in (("q", head, q_input), ("k", shared, k_input), ("v", shared, v_input)):
            x = self.norm(f"layers.{layer}.ln1", x, self.config.normalization_type)
            rows = slice(index * self.d_head, (index + 1) * self.d_head)
            parts[part] = self.linear(f"layers.{layer}.attn.{part}", x, rows)
        if self.config.positional_embedding_type == "rotary":
            d_rotary = self.config.rotary_dim or self.d_head
            even, odd = slice(0, d_rotary, 2), slice(1, d_rotary, 2)  # neighbours turn together
            for part in "qk":
                parts[part] = rotate(parts[part], even, odd, self.config.rotary_base)
        scores = Scores(self.d_head**-0.5, _if_positive(self.config.attn_scores_soft_cap))
        columns = slice(head * self.d_head, (head + 1) * self.d_head)
        return (
            attend(parts["q"], parts["k"], parts["v"], scores) @ self.w[f"layers.{layer}.attn.o.weight"][:, columns].T
        )

    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        return heads + self.w[f"layers.{layer}.attn.o.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, activation = f"layers.{layer}.mlp", ACTIVATIONS[self.config.act_fn]
        x = self.norm(f"layers.{layer}.ln2", x, self.config.normalization_type)
        if self.config.gated_mlp:
            return self.linear(f"{name}.out", activation(self.linear(f"{name}.gate", x)) * self.linear(f"{name}.in", x))
        hidden = activation(self.linear(f"{name}.in", x))
        hidden = self.norm(f"{name}.ln", hidden, "LN" if self.config.act_fn == "solu_ln" else None)
        return self.linear(f"{name}.out", hidden)

    def logits(self, x: Tensor) -> Tensor:
        kind = "RMS" if self.config.final_rms else self.config.normalization_type
        return capped(
            self.linear("head", self.norm("ln_out", x, kind)), _if_positive(self.config.output_logits_soft_cap)
        )


def _if_positive(cap: float) -> float | None:
    return cap if cap > 0 else None
