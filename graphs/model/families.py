"""What the reader of bridges has to be told of an architecture; everything else is read from the model itself.

Norms and where they stand, biases, grouped heads, gates, experts, activation functions, windows, clipping, sinks and learned
positions are seen in the model. A `Family` tells the rest: which attribute is the scale of the scores, how rotary pairs are
laid out, what is scaled, which norms are shared, and which settings are not read. docs/architectures.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Angles = Callable[[nn.Module, nn.Module, Tensor], tuple[Tensor, Tensor]]
"""The model of Hugging Face, its attention module and positions [1 pos] to tables of cosines and sines, [1 pos angle] each."""


def _global_and_sliding(config: Any, layer: int) -> int | None:
    """The window of a layer by the names that most configurations share."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None and layer_types[layer] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


@dataclass(frozen=True)
class Family:
    """The facts of an architecture, as functions of Hugging Face's attention module or configuration.

    Attributes:
        scale: The factor of the attention scores.
        window: How many keys a query of a layer sees, from its own back; None for all.
        adjacent: Neighbouring dimensions of a head rotate together; otherwise its two halves do.
        spread: From the model's table of angles to one as wide as the dimensions that rotate.
        angles: The tables, where they lie in the attention module; by default the model's rotary module makes them.
        rotates: Whether an attention layer rotates at all.
        shared_norms: The norms of queries and keys are over all heads together.
        clip: The bound of queries, keys and values.
        slopes: From the Hugging Face model to the slope of each head (ALiBi).
        normalised: From the router of experts to whether the weights of those chosen sum to 1.
        embed_scale: The factor of the embedding.
        write_scale: The factor of what attention and MLPs write.
        logit_scale: The factor of the logits.
        longest: The longest prompt that is read, where positions have a bound.
        only: Settings with the values that are read; another value is refused.
    """

    scale: Callable[[nn.Module], float] = lambda attention: attention.scaling
    window: Callable[[Any, int], int | None] = _global_and_sliding
    adjacent: bool = False
    spread: Callable[[Tensor], Tensor] = lambda table: table
    angles: Angles | None = None
    rotates: Callable[[nn.Module], bool] = lambda attention: True
    shared_norms: bool = False
    clip: Callable[[Any], float | None] = lambda config: getattr(config, "clip_qkv", None)
    slopes: Callable[[nn.Module], Tensor] | None = None
    normalised: Callable[[nn.Module], bool] = lambda router: router.norm_topk_prob
    embed_scale: Callable[[Any], float] = lambda config: 1.0
    write_scale: Callable[[Any], float] = lambda config: 1.0
    logit_scale: Callable[[Any], float] = lambda config: 1.0
    longest: Callable[[Any], int | None] = lambda config: None
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)


def _each_twice(table: Tensor) -> Tensor:
    return table.repeat_interleave(2, dim=-1)


def _first_half_twice(table: Tensor) -> Tensor:
    return _each_twice(table[..., : table.shape[-1] // 2])


def _after_itself(table: Tensor) -> Tensor:
    return torch.cat((table, table), dim=-1)


def _bloom_slopes(model: nn.Module) -> Tensor:
    decoder = model.transformer
    bias = decoder.build_alibi_tensor(torch.ones(1, 2), decoder.num_heads, torch.float32)  # [head 1 pos]
    return bias[:, 0, 1] - bias[:, 0, 0]


def _mpt_slopes(model: nn.Module) -> Tensor:
    bias = model.transformer.build_mpt_alibi_tensor(model.config.n_heads, 2)  # [head 1 pos]
    return bias[:, 0, 1] - bias[:, 0, 0]


def _up_to_long_angles(config: Any) -> int | None:
    """The length up to which angles do not depend on the prompt's length."""
    rotary = config.rope_parameters
    return rotary["original_max_position_embeddings"] if rotary["rope_type"] == "longrope" else None


def _gptj_angles(model: nn.Module, attention: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    sin, cos = attention.embed_positions[positions].chunk(2, dim=-1)
    return cos, sin


def _native_angles(model: nn.Module, attention: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    return model.rotary.cos_cached[positions], model.rotary.sin_cached[positions]


FAMILIES: dict[str, Family] = {
    "GPT2LMHeadModel": Family(),
    "GPTNeoXForCausalLM": Family(),
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(),
    "Qwen2ForCausalLM": Family(),
    "Qwen3ForCausalLM": Family(),
    "GemmaForCausalLM": Family(),
    "Gemma2ForCausalLM": Family(),
    "Gemma3ForCausalLM": Family(only={"use_bidirectional_attention": (False, None)}),
    "OlmoForCausalLM": Family(),
    "PhiForCausalLM": Family(),
    "Phi3ForCausalLM": Family(longest=_up_to_long_angles),
    "GPTJForCausalLM": Family(
        scale=lambda attention: 1 / attention.scale_attn,
        adjacent=True,
        angles=_gptj_angles,
        spread=_each_twice,
        longest=lambda config: config.n_positions,
    ),
    "GPTNeoForCausalLM": Family(
        scale=lambda attention: 1.0,
        window=lambda config, layer: config.window_size if config.attention_layers[layer] == "local" else None,
    ),
    "OPTForCausalLM": Family(only={"do_layer_norm_before": (True,)}),
    "FalconForCausalLM": Family(
        scale=lambda attention: attention.head_dim**-0.5, only={"alibi": (False,), "new_decoder_architecture": (False,)}
    ),
    "StableLmForCausalLM": Family(),
    "GraniteForCausalLM": Family(
        embed_scale=lambda config: config.embedding_multiplier,
        write_scale=lambda config: config.residual_multiplier,
        logit_scale=lambda config: 1 / config.logits_scaling,
    ),
    "SmolLM3ForCausalLM": Family(rotates=lambda attention: bool(attention.use_rope)),
    "CohereForCausalLM": Family(adjacent=True, logit_scale=lambda config: config.logit_scale),
    "Cohere2ForCausalLM": Family(
        adjacent=True,
        rotates=lambda attention: attention.sliding_window is not None,
        logit_scale=lambda config: config.logit_scale,
    ),
    "GlmForCausalLM": Family(adjacent=True, spread=_first_half_twice),
    "Glm4ForCausalLM": Family(adjacent=True, spread=_first_half_twice),
    "Ministral3ForCausalLM": Family(longest=lambda config: config.rope_parameters["original_max_position_embeddings"]),
    "Olmo2ForCausalLM": Family(shared_norms=True),
    "Olmo3ForCausalLM": Family(shared_norms=True),
    "BloomForCausalLM": Family(scale=lambda attention: attention.inv_norm_factor, slopes=_bloom_slopes),
    "MptForCausalLM": Family(
        scale=lambda attention: attention.softmax_scale,
        slopes=_mpt_slopes,
        clip=lambda config: config.attn_config.clip_qkv,
    ),
    "MixtralForCausalLM": Family(normalised=lambda router: True),
    "Qwen3MoeForCausalLM": Family(),
    "OlmoeForCausalLM": Family(shared_norms=True),
    "GptOssForCausalLM": Family(spread=_after_itself, normalised=lambda router: True),
    "TransformerLensNative": Family(
        scale=lambda attention: 1 / attention.scale,
        window=lambda config, layer: None,
        adjacent=True,
        angles=_native_angles,
        longest=lambda config: config.n_ctx,
    ),
}

LOADED_AS = {"MinistralForCausalLM": "MistralForCausalLM"}
"""Architectures that TransformerLens does not know, and those of the same modules that it knows."""
