"""The same scores from TransformerLens itself: inputs split by head, results by head, and backward hooks.

This is how published implementations compute edge attribution patching on a HookedTransformer. It shares nothing with
the packages here but the model, and reaches settings that no Hugging Face model of the tests has. One prompt at a time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import families
import hooked
import pytest
import torch
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.model.adapter import adapt

TOLERANCE = 1e-10  # float64; the attention scale and the mask are float32 or exact
SPLIT = dict(use_split_qkv_input=True, use_attn_result=True, use_hook_mlp_in=True, ungroup_grouped_query_attention=True)


def blocks_hooks(graph: Graph, attention: str, mlp: str) -> list[list[str]]:
    """For each layer the hooks of its heads and of its MLP."""
    return [
        [f"blocks.{layer}.{name}" for name in (attention, *([mlp] if graph.mlps else []))]
        for layer in range(graph.n_layers)
    ]


def source_values(model: nn.Module, tokens: Tensor, graph: Graph) -> Tensor:
    """[source pos d_model]"""
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    values = [cache["blocks.0.hook_resid_pre"][0][None]]
    for heads, *mlp in blocks_hooks(graph, "attn.hook_result", "hook_mlp_out"):
        values += [cache[heads][0].transpose(0, 1), *(cache[name][0][None] for name in mlp)]
    return torch.cat(values)


def destination_gradients(model: nn.Module, pair: PromptPairs, graph: Graph) -> Tensor:
    """[destination pos d_model]"""
    kept: dict[str, Tensor] = {}

    def keep(gradient: Tensor, hook: object, name: str) -> None:
        kept[name] = gradient[0].detach().clone()

    last = f"blocks.{graph.n_layers - 1}.hook_resid_post"
    parts = {part: blocks_hooks(graph, f"hook_{part}_input", "hook_mlp_in") for part in "qkv"}
    names = {name for layers in parts.values() for layer in layers for name in layer} | {last}
    with model.hooks(bwd_hooks=[(name, partial(keep, name=name)) for name in names]):
        logits = model(pair.clean)[:, int(pair.positions)]
        families.logit_difference(logits, pair).sum().backward()
    rows = []
    for layer in range(graph.n_layers):
        rows += [kept[parts[part][layer][0]].transpose(0, 1) for part in "qkv"]
        rows += [kept[name][None] for name in parts["q"][layer][1:]]
    return torch.cat([*rows, kept[last][None]])


def scores_by_hooks(model: nn.Module, pairs: PromptPairs) -> Tensor:
    """[source destination]"""
    graph = adapt(model).graph
    total = torch.zeros(graph.n_sources, graph.n_destinations, dtype=torch.float64)
    for row in range(len(pairs)):
        pair = pairs[[row]]
        clean, corrupted = (source_values(model, tokens, graph) for tokens in (pair.clean, pair.corrupted))
        total += torch.einsum("spm,dpm->sd", corrupted - clean, destination_gradients(model, pair, graph))
    return total / len(pairs) * graph.edge_mask


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(parallel_attn_mlp=True),
        dict(attn_only=True, d_mlp=None, normalization_type=None),
        dict(gated_mlp=True, normalization_type="RMS", n_key_value_heads=2),
        dict(act_fn="solu_ln", normalization_type="LNPre", scale_attn_by_inverse_layer_idx=True),
        dict(use_local_attn=True, window_size=3, attn_types=["global", "local"], attn_scores_soft_cap=1.0),
        dict(positional_embedding_type="rotary", rotary_adjacent_pairs=True, rotary_dim=4, normalization_type="RMSPre"),
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_scores_are_those_of_split_inputs(settings: dict[str, Any]) -> None:
    model = hooked.random(**(dict(act_fn="gelu", dtype=torch.float64) | SPLIT | settings))
    scored = eap.score(model, families.prompt_pairs(), families.logit_difference, "eap", quiet=True)
    assert families.relative_error(scored.scores, scores_by_hooks(model, families.prompt_pairs())) < TOLERANCE
