"""Tiny random models of the hub's decoder families, with settings that are easily read wrongly, and where their modules are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from models import D_VOCAB, N_CTX, WINDOW, bridged, scatter
from references.modules import Modules, Names
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
_SIZES |= dict(vocab_size=D_VOCAB, max_position_embeddings=N_CTX)
_GROUPED = _SIZES | dict(num_key_value_heads=2)
_MIXED = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
_EXPERTS = dict(num_experts_per_tok=2, experts_implementation="eager")  # the other one has no float64
_BASES = {
    "sliding_attention": dict(rope_type="default", rope_theta=100.0),
    "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1000.0),
}
_YARN = dict(rope_type="yarn", rope_theta=100.0, factor=8.0, original_max_position_embeddings=16)
_YARN |= dict(beta_fast=32.0, beta_slow=1.0, truncate=False)
_LONG = dict(rope_type="longrope", rope_theta=100.0, original_max_position_embeddings=16, factor=4.0)
_LONG |= dict(short_factor=[1.0, 1.5, 2.0, 3.0], long_factor=[4.0, 5.0, 6.0, 7.0])
_HEADS = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=D_VOCAB)


def _head_by_head(model: Modules) -> str:
    return ("q" * model.d_head + "k" * model.d_head + "v" * model.d_head) * model.n_heads


def _thirds(model: Modules) -> str:
    return "".join(part * model.d_head * model.n_heads for part in "qkv")


def _grouped(model: Modules) -> str:
    return "q" * model.d_head * model.n_heads + "".join(part * model.d_head * model.n_kv_heads for part in "kv")


_GPT = dict(layers="transformer.h", attention="attn", out="out_proj")
_BLOOM = dict(layers="transformer.h", attention="self_attention", projections=("query_key_value",), out="dense")


@dataclass(frozen=True)
class Kind:
    """A family's model: the class of Hugging Face, its settings, and where its modules are."""

    family: str
    settings: dict[str, Any]
    names: Names = Names()
    parallel: bool = False


HUB: dict[str, Kind] = {
    "gemma3": Kind(
        "Gemma3",
        _GROUPED
        | _MIXED
        | dict(head_dim=8, query_pre_attn_scalar=12, rope_parameters=_BASES, final_logit_softcapping=3.0),
    ),
    "olmo": Kind("Olmo", _GROUPED | dict(clip_qkv=0.5)),
    "olmo2": Kind("Olmo2", _GROUPED),
    "olmo3": Kind("Olmo3", _GROUPED | _MIXED | dict(rope_parameters=_BASES)),
    "phi": Kind("Phi", _GROUPED | dict(partial_rotary_factor=0.5), Names(out="dense"), parallel=True),
    "phi3": Kind(
        "Phi3",
        _GROUPED | dict(sliding_window=WINDOW, pad_token_id=0, partial_rotary_factor=0.75),
        Names(projections=("qkv_proj",), together=_grouped),
    ),
    "phi3-long": Kind(
        "Phi3",
        _GROUPED | dict(pad_token_id=0, original_max_position_embeddings=16, rope_parameters=_LONG),
        Names(projections=("qkv_proj",), together=_grouped),
    ),
    "gptj": Kind(
        "GPTJ",
        dict(n_embd=32, n_layer=2, n_head=4, n_positions=N_CTX, vocab_size=D_VOCAB, rotary_dim=4),
        Names(**_GPT),
        True,
    ),
    "gpt-neo": Kind(
        "GPTNeo",
        dict(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=40, vocab_size=D_VOCAB)
        | dict(max_position_embeddings=N_CTX, window_size=WINDOW, attention_types=[[["local", "global"], 1]]),
        Names(**(_GPT | dict(attention="attn.attention"))),
    ),
    "opt": Kind(
        "OPT",
        _HEADS | dict(ffn_dim=40, max_position_embeddings=N_CTX, word_embed_proj_dim=32),
        Names("model.decoder.layers", out="out_proj", mlp_out="fc2"),
    ),
    "falcon": Kind(
        "Falcon", _HEADS | dict(multi_query=True, bias=True), Names(**_BLOOM, together=_grouped), parallel=True
    ),
    "falcon-sequential": Kind(
        "Falcon", _HEADS | dict(multi_query=False, parallel_attn=False), Names(**_BLOOM, together=_head_by_head)
    ),
    "bloom": Kind(
        "Bloom",
        dict(hidden_size=30, n_layer=2, n_head=3, vocab_size=D_VOCAB),  # slopes of three heads follow another rule
        Names(**_BLOOM, together=_head_by_head, mlp_out="mlp.dense_4h_to_h"),
    ),
    "mpt": Kind(
        "Mpt",
        dict(d_model=30, n_layers=2, n_heads=3, vocab_size=D_VOCAB, max_seq_len=N_CTX, attn_config=dict(clip_qkv=0.5)),
        Names("transformer.blocks", "attn", ("Wqkv",), _thirds, "out_proj", "ffn.down_proj"),
    ),
    "stablelm": Kind("StableLm", _GROUPED | dict(use_qkv_bias=True, partial_rotary_factor=0.75)),
    "stablelm-parallel": Kind(
        "StableLm", _GROUPED | dict(use_parallel_residual=True, qk_layernorm=True), parallel=True
    ),
    "granite": Kind(
        "Granite",
        _GROUPED
        | dict(embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.3, logits_scaling=2.0)
        | dict(attention_bias=True, mlp_bias=True),
    ),
    "smollm3": Kind("SmolLM3", _GROUPED | dict(no_rope_layers=[0, 1], pad_token_id=0)),
    "cohere": Kind("Cohere", _GROUPED | dict(logit_scale=0.3, use_qk_norm=True), parallel=True),
    "cohere2": Kind("Cohere2", _GROUPED | _MIXED | dict(logit_scale=0.3), parallel=True),
    "glm": Kind("Glm", _GROUPED | dict(head_dim=8, pad_token_id=0)),
    "glm4": Kind("Glm4", _GROUPED | dict(head_dim=8, attention_bias=True, pad_token_id=0)),
    "ministral": Kind("Ministral", _GROUPED | _MIXED | dict(head_dim=8)),
    "ministral3": Kind(
        "Ministral3",
        _GROUPED | dict(head_dim=8, sliding_window=None, rope_parameters=_YARN | dict(llama_4_scaling_beta=0.1)),
    ),
    "mixtral": Kind("Mixtral", _GROUPED | _EXPERTS | dict(num_local_experts=4, sliding_window=WINDOW)),
    "qwen3-moe": Kind(
        "Qwen3Moe",
        _GROUPED
        | _EXPERTS
        | dict(head_dim=8, num_experts=5, moe_intermediate_size=16, mlp_only_layers=[0], norm_topk_prob=False),
    ),
    "olmoe": Kind("Olmoe", _GROUPED | _EXPERTS | dict(num_experts=4, clip_qkv=0.5, norm_topk_prob=True)),
    "gpt-oss": Kind(
        "GptOss", _GROUPED | _EXPERTS | _MIXED | dict(head_dim=8, num_local_experts=4, rope_parameters=_YARN)
    ),
}


def hub_module(kind: str, dtype: torch.dtype = torch.float64, **settings: Any) -> nn.Module:
    """A Hugging Face model that no bridge has touched."""
    made = HUB[kind]
    torch.manual_seed(0)  # for what `scatter` adds to
    config = getattr(transformers, f"{made.family}TextConfig", None) or getattr(transformers, f"{made.family}Config")
    return scatter(getattr(transformers, f"{made.family}ForCausalLM")(config(**(made.settings | settings)))).to(dtype)


@cache
def hub_model(kind: str, dtype: torch.dtype = torch.float64) -> TransformerBridge:
    """The bridge around a model of a kind, made once; not to be changed."""
    return bridged(hub_module(kind, dtype))


@cache
def hub_reference(kind: str) -> Modules:
    """The same model as nodes, float64, by its own modules."""
    return Modules(hub_module(kind), HUB[kind].names, HUB[kind].parallel)
