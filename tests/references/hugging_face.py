"""Models of the Hugging Face architectures, written out from their state dicts and configurations."""

from __future__ import annotations

from typing import Any

import torch
from references.literal import (
    Literal,
    Scores,
    Weights,
    attend,
    capped,
    gelu,
    gelu_tanh,
    layer_norm,
    rms_norm,
    rotate,
    silu,
)
from torch import Tensor


def literal_of(architecture: str, weights: Weights, config: Any) -> Literal:
    """The literal model of an architecture, in float64."""
    weights = {name: weight.detach().double() for name, weight in weights.items()}
    family = {"GPT2LMHeadModel": Gpt2, "GPTNeoXForCausalLM": Neox}.get(architecture, Llama)
    return family(architecture, weights, config)


class Gpt2:
    """Radford et al. 2019: learned positions, LayerNorm before each branch, biases everywhere."""

    mlps, parallel = True, False

    def __init__(self, architecture: str, weights: Weights, config: Any) -> None:
        self.w, self.eps = weights, config.layer_norm_epsilon
        self.n_layers, self.n_heads, self.n_kv_heads = config.n_layer, config.n_head, config.n_head
        self.d_model, self.d_head = config.n_embd, config.n_embd // config.n_head

    def embed(self, tokens: list[int]) -> Tensor:
        return self.w["transformer.wte.weight"][tokens] + self.w["transformer.wpe.weight"][: len(tokens)]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, self.eps, self.w[f"transformer.{name}.weight"], self.w[f"transformer.{name}.bias"])

    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        weight = self.w[f"transformer.h.{layer}.attn.c_attn.weight"]  # columns: all q, all k, all v
        bias = self.w[f"transformer.h.{layer}.attn.c_attn.bias"]
        parts = []
        for part, x in enumerate((q_input, k_input, v_input)):
            start = part * self.d_model + head * self.d_head
            columns = slice(start, start + self.d_head)
            parts.append(self.norm(f"h.{layer}.ln_1", x) @ weight[:, columns] + bias[columns])
        z = attend(*parts, Scores(self.d_head**-0.5))
        rows = slice(head * self.d_head, (head + 1) * self.d_head)
        return z @ self.w[f"transformer.h.{layer}.attn.c_proj.weight"][rows]

    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        return heads + self.w[f"transformer.h.{layer}.attn.c_proj.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"transformer.h.{layer}.mlp"
        hidden = self.norm(f"h.{layer}.ln_2", x) @ self.w[f"{name}.c_fc.weight"] + self.w[f"{name}.c_fc.bias"]
        return gelu_tanh(hidden) @ self.w[f"{name}.c_proj.weight"] + self.w[f"{name}.c_proj.bias"]

    def logits(self, x: Tensor) -> Tensor:
        return self.norm("ln_f", x) @ self.w["lm_head.weight"].T


class Neox:
    """Black et al. 2022: rotary on a part of each head; attention and MLP in parallel, or one after the other."""

    mlps = True

    def __init__(self, architecture: str, weights: Weights, config: Any) -> None:
        self.w, self.eps, self.parallel = weights, config.layer_norm_eps, config.use_parallel_residual
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv_heads, self.d_head = self.n_heads, config.hidden_size // self.n_heads
        self.n_pairs = int(self.d_head * config.rope_parameters["partial_rotary_factor"]) // 2
        self.theta = config.rope_parameters["rope_theta"]

    def embed(self, tokens: list[int]) -> Tensor:
        return self.w["gpt_neox.embed_in.weight"][tokens]

    def norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(x, self.eps, self.w[f"gpt_neox.{name}.weight"], self.w[f"gpt_neox.{name}.bias"])

    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        name = f"gpt_neox.layers.{layer}.attention"
        parts = []
        for part, x in enumerate((q_input, k_input, v_input)):
            start = (3 * head + part) * self.d_head  # rows: head by head its q, its k, its v
            rows = slice(start, start + self.d_head)
            weight, bias = self.w[f"{name}.query_key_value.weight"][rows], self.w[f"{name}.query_key_value.bias"][rows]
            parts.append(self.norm(f"layers.{layer}.input_layernorm", x) @ weight.T + bias)
        q, k, v = parts
        first, second = slice(0, self.n_pairs), slice(self.n_pairs, 2 * self.n_pairs)
        q, k = rotate(q, first, second, self.theta), rotate(k, first, second, self.theta)
        columns = slice(head * self.d_head, (head + 1) * self.d_head)
        return attend(q, k, v, Scores(self.d_head**-0.5)) @ self.w[f"{name}.dense.weight"][:, columns].T

    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        return heads + self.w[f"gpt_neox.layers.{layer}.attention.dense.bias"]

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"gpt_neox.layers.{layer}.mlp"
        x = self.norm(f"layers.{layer}.post_attention_layernorm", x)
        hidden = gelu(x @ self.w[f"{name}.dense_h_to_4h.weight"].T + self.w[f"{name}.dense_h_to_4h.bias"])
        return hidden @ self.w[f"{name}.dense_4h_to_h.weight"].T + self.w[f"{name}.dense_4h_to_h.bias"]

    def logits(self, x: Tensor) -> Tensor:
        return self.norm("final_layer_norm", x) @ self.w["lm_head.weight"].T


class Llama:
    """Touvron et al. 2023 and its relatives.

    RMSNorm, rotary, grouped queries and a gated MLP; Mistral adds a window, Qwen 2 biases on q, k, v, Qwen 3 a norm
    on q and k, Gemma 1 + w as the norms' weight and a scaled embedding, Gemma 2 also post-norms, soft caps and a
    window in every other layer.
    """

    mlps, parallel = True, False

    def __init__(self, architecture: str, weights: Weights, config: Any) -> None:
        self.w, self.config, self.eps = weights, config, config.rms_norm_eps
        self.mistral, self.qwen3 = architecture.startswith("Mistral"), architecture.startswith("Qwen3")
        self.gemma, self.gemma2 = architecture.startswith("Gemma"), architecture.startswith("Gemma2")
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv_heads = config.num_key_value_heads
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads
        self.theta = config.rope_parameters["rope_theta"]

    def embed(self, tokens: list[int]) -> Tensor:
        scale = torch.tensor(self.config.hidden_size**0.5).double() if self.gemma else 1.0  # kept in float32
        return self.w["model.embed_tokens.weight"][tokens] * scale

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.w[f"model.{name}.weight"]
        return rms_norm(x, self.eps, 1 + weight if self.gemma else weight)

    def projected(self, layer: int, part: str, index: int, x: Tensor) -> Tensor:
        name, rows = f"model.layers.{layer}.self_attn", slice(index * self.d_head, (index + 1) * self.d_head)
        out = self.norm(f"layers.{layer}.input_layernorm", x) @ self.w[f"{name}.{part}_proj.weight"][rows].T
        if f"{name}.{part}_proj.bias" in self.w:
            out = out + self.w[f"{name}.{part}_proj.bias"][rows]
        if self.qwen3 and part in "qk":
            out = rms_norm(out, self.eps, self.w[f"{name}.{part}_norm.weight"])
        if part == "v":
            return out
        half = self.d_head // 2
        return rotate(out, slice(0, half), slice(half, self.d_head), self.theta)

    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        shared = head // (self.n_heads // self.n_kv_heads)
        q = self.projected(layer, "q", head, q_input)
        k, v = self.projected(layer, "k", shared, k_input), self.projected(layer, "v", shared, v_input)
        scores = Scores(self.d_head**-0.5)
        if self.mistral:
            scores = Scores(self.d_head**-0.5, window=self.config.sliding_window)
        if self.gemma2:
            window = self.config.sliding_window if layer % 2 == 0 else None
            scores = Scores(self.config.query_pre_attn_scalar**-0.5, self.config.attn_logit_softcapping, window)
        columns = slice(head * self.d_head, (head + 1) * self.d_head)
        return attend(q, k, v, scores) @ self.w[f"model.layers.{layer}.self_attn.o_proj.weight"][:, columns].T

    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        return self.norm(f"layers.{layer}.post_attention_layernorm", heads) if self.gemma2 else heads

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        name, norm = f"model.layers.{layer}.mlp", "pre_feedforward" if self.gemma2 else "post_attention"
        x = self.norm(f"layers.{layer}.{norm}_layernorm", x)
        activation = gelu_tanh if self.gemma else silu
        gate = activation(x @ self.w[f"{name}.gate_proj.weight"].T)
        out = (gate * (x @ self.w[f"{name}.up_proj.weight"].T)) @ self.w[f"{name}.down_proj.weight"].T
        return self.norm(f"layers.{layer}.post_feedforward_layernorm", out) if self.gemma2 else out

    def logits(self, x: Tensor) -> Tensor:
        logits = self.norm("norm", x) @ self.w["lm_head.weight"].T
        return capped(logits, self.config.final_logit_softcapping) if self.gemma2 else logits
