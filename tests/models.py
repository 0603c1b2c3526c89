"""Tiny random models of every supported architecture, each with its literal counterpart, and prompts for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from jaxtyping import Float
from references.edges import Prompt
from references.hugging_face import literal_of
from references.literal import Literal
from references.native import Native
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.families import LOADED_AS
from edge_circuits.graphs.prompts.pairs import PromptPairs

D_VOCAB = 40
N_CTX = 32
WINDOW = 4  # shorter than most test prompts

_SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
_SIZES |= dict(vocab_size=D_VOCAB, max_position_embeddings=N_CTX)
_GROUPED = _SIZES | dict(num_key_value_heads=2)
_GEMMA2 = dict(query_pre_attn_scalar=12, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, num_hidden_layers=3)

HUGGING_FACE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", dict(n_embd=32, n_layer=3, n_head=4, n_positions=N_CTX, vocab_size=D_VOCAB)),
    "neox-parallel": ("GPTNeoX", _SIZES | dict(use_parallel_residual=True)),
    "neox-sequential": ("GPTNeoX", _SIZES | dict(use_parallel_residual=False)),
    "llama": ("Llama", _GROUPED | dict(num_hidden_layers=3)),
    "mistral": ("Mistral", _GROUPED | dict(sliding_window=WINDOW)),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", _GROUPED | dict(head_dim=16)),
    "gemma": ("Gemma", _GROUPED | dict(head_dim=16)),
    "gemma2": ("Gemma2", _GROUPED | dict(head_dim=16, sliding_window=WINDOW) | _GEMMA2),
}

_SMALL = dict(n_layers=2, d_model=24, n_heads=4, d_head=6, n_ctx=N_CTX, d_vocab=D_VOCAB, d_mlp=32)
NATIVE: dict[str, dict[str, Any]] = {
    "attention-only": dict(attn_only=True, normalization_type=None),
    "layer-norm": dict(normalization_type="LN", act_fn="gelu"),
    "rms-gated-grouped": dict(normalization_type="RMS", act_fn="silu", gated_mlp=True, n_key_value_heads=2)
    | dict(positional_embedding_type="rotary", attn_scores_soft_cap=2.0, output_logits_soft_cap=3.0),
    "layer-norm-pre": dict(normalization_type="LNPre", act_fn="relu", positional_embedding_type="rotary", rotary_dim=4),
    "rms-norm-pre": dict(normalization_type="RMSPre", act_fn="gelu_new", n_key_value_heads=1),
    "solu": dict(normalization_type="LN", act_fn="solu_ln", final_rms=True),
}

KINDS = (*HUGGING_FACE, *NATIVE)


@dataclass(frozen=True)
class Tiny:
    """A model as the packages get it, and the same weights as a literal model in float64."""

    model: TransformerBridge
    literal: Literal


def scatter(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights in float32, large enough that attention is uneven; norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.3 * noise if parameter.dim() == 1 else 0.2 * noise
    return module.eval()


def hugging_face(kind: str, **settings: Any) -> nn.Module:
    """A Hugging Face model that no bridge has touched, float32."""
    family, defaults = HUGGING_FACE[kind]
    config = getattr(transformers, f"{family}Config")(**(defaults | settings))
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return scatter(getattr(transformers, name)(config))


def bridged(module: nn.Module) -> TransformerBridge:
    """A bridge around a Hugging Face model, without a tokenizer."""
    name = type(module).__name__
    return build_bridge_from_module(module, LOADED_AS.get(name, name), hf_config=module.config).eval()


def native(**settings: Any) -> TransformerBridge:
    """A native model, float32."""
    return scatter(TransformerBridge.boot_native(TransformerBridgeConfig(**(_SMALL | settings))))


def build(kind: str, dtype: torch.dtype = torch.float32) -> Tiny:
    """A fresh model of a kind, for tests that change it."""
    if kind in NATIVE:
        model = native(**NATIVE[kind])
        return Tiny(model.to(dtype), Native(model.original_model.state_dict(), model.cfg))
    module = hugging_face(kind)
    literal = literal_of(type(module).__name__, module.state_dict(), module.config)
    return Tiny(bridged(module.to(dtype)), literal)


@cache
def tiny(kind: str, dtype: torch.dtype = torch.float64) -> Tiny:
    """The model of a kind, made once; not to be changed. The literal one has the weights before any rounding."""
    return build(kind, dtype)


def prompt_pairs(lengths: Sequence[int], positions: Sequence[int] | None = None, seed: int = 0) -> PromptPairs:
    """Random pairs with two answers and one wrong answer each."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(D_VOCAB, (n,), generator=generator).tolist()

    clean, corrupted = [tokens(n) for n in lengths], [tokens(n) for n in lengths]
    answers = torch.stack([torch.randperm(D_VOCAB, generator=generator)[:3] for _ in lengths])
    return PromptPairs(clean, corrupted, answers[:, :2].tolist(), answers[:, 2].tolist(), positions=positions)


RAGGED = prompt_pairs([8, 5, 1, 6], positions=[-1, 0, -1, -3])
"""Prompts of unequal length, of one token, and with answers in the middle and at the start."""


def prompts_of(pairs: PromptPairs) -> list[Prompt]:
    """The same pairs for the references."""
    rows = zip(pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.lengths.tolist(), pairs.positions.tolist())
    return [Prompt(clean[:n], corrupted[:n], position) for clean, corrupted, n, position in rows]


def logit_difference(logits: Float[Tensor, "batch d_vocab"], pairs: PromptPairs) -> Float[Tensor, " batch"]:
    """Mean logit of the answers minus that of the wrong ones."""
    return logits.gather(1, pairs.answers).mean(1) - logits.gather(1, pairs.wrong_answers).mean(1)


def curved(logits: Float[Tensor, "batch d_vocab"], pairs: PromptPairs) -> Float[Tensor, " batch"]:
    """Log probability of the first answer: a metric that is not linear in the logits."""
    return logits.log_softmax(1).gather(1, pairs.answers[:, :1])[:, 0]


def one_by_one(metric: Callable[[Tensor, PromptPairs], Tensor], pairs: PromptPairs) -> Callable[[Tensor, int], Tensor]:
    """A metric as the references call it: logits [d_vocab] and a row."""
    return lambda logits, row: metric(logits[None], pairs[[row]])[0]


GRADIENT = RelP(norm="exact", activation="exact", gate="exact")
"""No rule at all: edge attribution patching."""


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected value."""
    return ((value.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-9)).item()


def random_circuit(graph: Graph, density: float, seed: int) -> Circuit:
    """Each edge kept with the same probability."""
    generator = torch.Generator().manual_seed(seed)
    return Circuit(graph, (torch.rand(graph.edge_mask.shape, generator=generator) < density) & graph.edge_mask)
