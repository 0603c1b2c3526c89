"""Tiny models with the same weights in every version of TransformerLens, and prompts for them.

Each weight's noise comes from a seed made of its name, so it does not depend on the order or on the version in which a
model names its parameters. Nothing here imports TransformerLens at the top: the file is used with versions 2, 3 and 4.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.prompts.pairs import PromptPairs

VERSION = int(version("transformer_lens").split(".")[0])
HAS_HOOKED_TRANSFORMER = VERSION < 4

D_VOCAB, N_CTX, WINDOW = 30, 16, 4
SHAPE = dict(n_layers=2, d_model=32, n_heads=4, d_head=8, d_vocab=D_VOCAB, n_ctx=N_CTX, d_mlp=48)


@dataclass(frozen=True)
class Family:
    """One model of Hugging Face and the settings with which a HookedTransformer, from version `since` on, is the same model."""

    name: str
    hugging_face: dict[str, Any]
    converter: str
    hooked: dict[str, Any] = field(default_factory=dict)
    since: int = 2


_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
_SIZES |= dict(vocab_size=D_VOCAB, max_position_embeddings=N_CTX)
_GROUPED = _SIZES | dict(num_key_value_heads=2)
_WIDE = _GROUPED | dict(head_dim=16)
_GEMMA2 = dict(query_pre_attn_scalar=12, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, sliding_window=WINDOW)

_NEOX = dict(act_fn="gelu", positional_embedding_type="rotary", rotary_dim=2)
_LLAMA = dict(act_fn="silu", normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=8)
_LLAMA |= dict(gated_mlp=True, n_key_value_heads=2, eps=1e-6, final_rms=True)
_GEMMA = _LLAMA | dict(act_fn="gelu_new", d_head=16, rotary_dim=16)
_CAPS = dict(attn_scale=12**0.5, attn_scores_soft_cap=2.0, output_logits_soft_cap=3.0)
_LOCAL = dict(use_local_attn=True, window_size=WINDOW)

_PARTLY = dict(act_fn="gelu_new", positional_embedding_type="rotary", rotary_dim=4, parallel_attn_mlp=True)
_GPTJ = dict(n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=N_CTX, vocab_size=D_VOCAB, rotary_dim=4)
_NEO = dict(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48, vocab_size=D_VOCAB, window_size=WINDOW)
_NEO |= dict(max_position_embeddings=N_CTX, attention_types=[[["global", "local"], 1]])
_OPT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=D_VOCAB)
_OPT |= dict(max_position_embeddings=N_CTX, word_embed_proj_dim=32)

_TYPES = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
_BASES = {
    "sliding_attention": dict(rope_type="default", rope_theta=100.0),
    "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1000.0),
}
_TWO_BASES = dict(rotary_base_local=100, rotary_base=1000, rotary_scaling_factor=8.0, attn_types=["local", "global"])

_GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=N_CTX, vocab_size=D_VOCAB)

HUGGING_FACE = {
    "gpt2": Family("GPT2LMHeadModel", _GPT2, "gpt2", dict(act_fn="gelu_new")),
    "neox-parallel": Family(
        "GPTNeoXForCausalLM", _SIZES | dict(use_parallel_residual=True), "neox", _NEOX | dict(parallel_attn_mlp=True)
    ),
    "neox-sequential": Family("GPTNeoXForCausalLM", _SIZES | dict(use_parallel_residual=False), "neox", _NEOX),
    "llama": Family("LlamaForCausalLM", _GROUPED, "llama", _LLAMA),
    "mistral": Family(
        "MistralForCausalLM",
        _GROUPED | dict(sliding_window=WINDOW),
        "mistral",
        _LLAMA | _LOCAL | dict(attn_types=["local"] * 2),
    ),
    "qwen2": Family("Qwen2ForCausalLM", _GROUPED, "qwen2", _LLAMA),
    "qwen3": Family("Qwen3ForCausalLM", _WIDE, "qwen3", _LLAMA | dict(d_head=16, rotary_dim=16, use_qk_norm=True)),
    "gemma": Family("GemmaForCausalLM", _WIDE, "gemma", _GEMMA),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _WIDE | _GEMMA2,
        "gemma",
        _GEMMA | _CAPS | _LOCAL | dict(attn_types=["local", "global"], use_normalization_before_and_after=True),
    ),
    "gptj": Family("GPTJForCausalLM", _GPTJ, "gptj", _PARTLY | dict(rotary_adjacent_pairs=True)),
    "phi": Family("PhiForCausalLM", _SIZES | dict(partial_rotary_factor=0.5), "phi", _PARTLY),
    "gpt-neo": Family(
        "GPTNeoForCausalLM",
        _NEO,
        "neo",
        _LOCAL | dict(act_fn="gelu_new", use_attn_scale=False, attn_types=["global", "local"]),
    ),
    "opt": Family("OPTForCausalLM", _OPT, "opt", dict(act_fn="relu")),
    "phi3": Family(
        "Phi3ForCausalLM",
        _GROUPED | dict(sliding_window=WINDOW, pad_token_id=0),
        "phi3",
        _LLAMA | _LOCAL | dict(attn_types=["local"] * 2, eps=1e-5),
    ),
    "olmo": Family(
        "OlmoForCausalLM",
        _SIZES,
        "olmo",
        dict(act_fn="silu", gated_mlp=True, positional_embedding_type="rotary", rotary_dim=8),
        since=3,
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM",
        _WIDE | _TYPES | dict(query_pre_attn_scalar=12, rope_parameters=_BASES),
        "gemma",
        _GEMMA
        | _LOCAL
        | _TWO_BASES
        | dict(attn_scale=12**0.5, use_normalization_before_and_after=True, use_qk_norm=True),
        since=3,
    ),
}

NATIVE: dict[str, dict[str, Any]] = {
    "attention-only": dict(attn_only=True, normalization_type=None, d_mlp=None),
    "solu": dict(normalization_type="LN", act_fn="solu_ln", final_rms=True),
    "layer-norm-pre": dict(normalization_type="LNPre", act_fn="relu"),
    "rms-gated-grouped": dict(normalization_type="RMS", act_fn="silu", gated_mlp=True, n_key_value_heads=2)
    | dict(attn_scores_soft_cap=2.0, output_logits_soft_cap=3.0, positional_embedding_type="rotary", rotary_dim=8)
    | dict(rotary_adjacent_pairs=True),
}
"""Models that TransformerLens 4 builds itself, by the settings that they share with HookedTransformer."""

KINDS = (*(kind for kind, family in HUGGING_FACE.items() if family.since <= VERSION), *NATIVE)


def noise(name: str, shape: torch.Size) -> Tensor:
    """Random numbers that belong to a weight's name: large enough that attention is uneven."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else 0.2)


def scatter(module: nn.Module) -> nn.Module:
    """The weights of a Hugging Face model, by name; one-dimensional ones are added to what they start from."""
    for name, parameter in module.named_parameters():
        made = noise(name.replace("embed_out.", "lm_head."), parameter.shape)  # the name before and in version 5
        parameter.data = parameter.data + made if parameter.dim() == 1 else made
    return module.eval()


def hugging_face(kind: str) -> nn.Module:
    """A Hugging Face model, float32."""
    family = HUGGING_FACE[kind]
    model = getattr(transformers, family.name)
    return scatter(model(model.config_class(**family.hugging_face)))


def hooked_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Noise for all weights that a HookedTransformer names; norms' weights are around one, gated MLPs without bias."""
    gated = any(name.endswith("W_gate") for name in weights)
    made = {name: noise(name, old.shape) + (1.0 if name.endswith(".w") else 0.0) for name, old in weights.items()}
    return {name: 0 * new if gated and ".mlp.b_" in name else new for name, new in made.items()}


def prompt_pairs() -> PromptPairs:
    """Prompts of unequal length, of one token, and with answers in the middle and at the start."""
    generator, lengths = torch.Generator().manual_seed(0), (8, 5, 1, 6)
    clean, corrupted = ([torch.randint(D_VOCAB, (n,), generator=generator).tolist() for n in lengths] for _ in range(2))
    answers = torch.stack([torch.randperm(D_VOCAB, generator=generator)[:3] for _ in lengths])
    return PromptPairs(clean, corrupted, answers[:, :2].tolist(), answers[:, 2].tolist(), positions=[-1, 0, -1, -3])


def logit_difference(logits: Float[Tensor, "batch d_vocab"], pairs: PromptPairs) -> Float[Tensor, " batch"]:
    """Mean logit of the answers minus that of the wrong ones."""
    return logits.gather(1, pairs.answers).mean(1) - logits.gather(1, pairs.wrong_answers).mean(1)


def half_of(graph: Graph) -> Circuit:
    """A random half of a graph's edges."""
    generator = torch.Generator().manual_seed(0)
    return Circuit(graph, (torch.rand(graph.edge_mask.shape, generator=generator) < 0.5) & graph.edge_mask)


@cache
def measured(model: nn.Module) -> dict[str, Tensor]:
    """What is compared between versions: scores [source destination] by three methods, and logits of a circuit."""
    from edge_circuits import eap
    from edge_circuits.graphs import run

    pairs = prompt_pairs()
    scored = {
        method: eap.score(model, pairs, logit_difference, method=method, quiet=True) for method in ("eap", "relp")
    }
    grouped = eap.score(model, pairs, logit_difference, method="eap", kv_destinations="kv-head", quiet=True)
    with torch.no_grad():
        logits = run(model, half_of(scored["eap"].graph), pairs)
    values = {method: scores.scores for method, scores in scored.items()} | {"eap-kv-head": grouped.scores}
    return {name: value.detach() for name, value in (values | {"circuit": logits}).items()}


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected value."""
    return ((value.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1e-9)).item()
