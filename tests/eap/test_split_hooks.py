"""The same scores from TransformerLens itself: inputs split by head, results by head, and backward hooks.

This is how published implementations compute edge attribution patching. It shares nothing with the packages here
but the model. One prompt at a time.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from models import RAGGED, build, curved, relative_error, tiny
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from edge_circuits import eap
from edge_circuits.graphs import Graph, PromptPairs


def split(model: TransformerBridge) -> TransformerBridge:
    model.set_use_split_qkv_input(True)
    model.set_use_attn_result(True)
    model.set_use_hook_mlp_in(True)
    return model


def source_values(model: TransformerBridge, tokens: Tensor, n_layers: int) -> Tensor:
    """[source pos d_model]"""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    values = [cache["blocks.0.hook_resid_pre"][0][None]]
    for layer in range(n_layers):
        values += [
            cache[f"blocks.{layer}.attn.hook_result"][0].transpose(0, 1),
            cache[f"blocks.{layer}.hook_mlp_out"][0][None],
        ]
    return torch.cat(values)


def destination_gradients(model: TransformerBridge, pair: PromptPairs, n_layers: int) -> Tensor:
    """[destination pos d_model]"""
    kept: dict[str, Tensor] = {}

    def keep(gradient: Tensor, hook: object, name: str) -> None:
        kept[name] = gradient[0].detach().clone()

    names = [f"blocks.{layer}.attn.hook_{part}_input" for layer in range(n_layers) for part in "qkv"]
    names += [f"blocks.{layer}.hook_mlp_in" for layer in range(n_layers)] + [f"blocks.{n_layers - 1}.hook_resid_post"]
    with model.hooks(bwd_hooks=[(name, partial(keep, name=name)) for name in names]):
        logits = model(pair.clean)[:, int(pair.positions)]
        curved(logits, pair).sum().backward()
    rows = []
    for layer in range(n_layers):
        rows += [kept[f"blocks.{layer}.attn.hook_{part}_input"].transpose(0, 1) for part in "qkv"]
        rows.append(kept[f"blocks.{layer}.hook_mlp_in"][None])
    return torch.cat([*rows, kept[f"blocks.{n_layers - 1}.hook_resid_post"][None]])


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        ("gpt2", torch.float64, 1e-12),
        ("gpt2", torch.float32, 1e-5),
        ("neox-parallel", torch.float64, 1e-12),
        ("llama", torch.float32, 1e-5),
        ("qwen2", torch.float32, 1e-5),
    ],
)
def test_scores_are_those_of_split_inputs(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = split(build(kind, dtype).model)
    graph = Graph.from_model(tiny(kind, dtype).model, kv_destinations="kv-head")  # keys and values split as they are
    total = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
    for row in range(len(RAGGED)):
        pair = RAGGED[[row]]
        clean, corrupted = (source_values(model, tokens, graph.n_layers) for tokens in (pair.clean, pair.corrupted))
        gradients = destination_gradients(model, pair, graph.n_layers)
        total += torch.einsum("spm,dpm->sd", (corrupted - clean).double(), gradients.double())
    scored = eap.score(tiny(kind, dtype).model, RAGGED, curved, "eap", kv_destinations="kv-head", quiet=True)
    assert relative_error(scored.scores, total / len(RAGGED) * graph.edge_mask) < tolerance


def test_a_split_model_is_scored_all_the_same() -> None:
    scored = eap.score(split(build("gpt2", torch.float64).model), RAGGED, curved, "eap", quiet=True)
    assert torch.equal(scored.scores, eap.score(tiny("gpt2").model, RAGGED, curved, "eap", quiet=True).scores)
