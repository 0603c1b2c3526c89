"""Experts as nodes of their own, against Hugging Face's routed layer with every other expert silent."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hub_models import HUB, hub_model, hub_module
from models import RAGGED, curved, prompt_pairs, tiny
from references.modules import replacing
from test_feature_edges import every, summed
from torch import Tensor, nn

from edge_circuits.eap import IntegratedGradients
from edge_circuits.eap.feature_edges import score_feature_edges
from edge_circuits.eap.feature_scores import score_features
from edge_circuits.eap.methods.method import Method
from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.eap.scoring import score
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.features.dictionary import Coordinates, experts, heads
from edge_circuits.graphs.features.running import run_features
from edge_circuits.graphs.features.sites import Site
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.execution import run

ROUTED = [kind for kind in HUB if "num_experts_per_tok" in HUB[kind].settings]
EVEN = prompt_pairs([6, 6], seed=3)
WHOLE = [Coordinates(Site("mlp_out", 1), 1, 32)]
"""The last layer's MLP as one node."""


@cache
@torch.no_grad()
def writes(kind: str, clean: bool) -> Tensor:
    """What each expert of the last layer writes on the prompts, [expert batch pos d_model]: all others write nothing."""
    module, given, alone = hub_module(kind), [], []
    mlp = module.model.layers[1].mlp
    handle = mlp.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    module(EVEN.clean if clean else EVEN.corrupted, use_cache=False)
    handle.remove()
    weights = [getattr(mlp.experts, name) for name in ("down_proj", "down_proj_bias") if hasattr(mlp.experts, name)]
    before = [weight.clone() for weight in weights]
    for expert in range(len(before[0])):
        for weight, old in zip(weights, before):
            weight.data = torch.zeros_like(old)
            weight.data[expert] = old[expert]
        out = mlp(given[0])
        alone.append(out[0] if isinstance(out, tuple) else out)
    return torch.stack(alone)


@pytest.mark.parametrize("kind", ROUTED)
def test_an_expert_writes_what_the_layer_does_when_all_others_are_silent(kind: str) -> None:
    transformer = adapt(hub_model(kind))
    with torch.no_grad():
        kept = transformer.forward(transformer.embed(EVEN.clean))
        ours = transformer.blocks[1].mlp.writes(kept.mlp_normed[1]).movedim(-2, 0)
    assert (ours - writes(kind, True)).abs().max() < 2e-6 * ours.abs().max()
    torch.testing.assert_close(ours.sum(0), kept.mlp_out[1], rtol=1e-12, atol=1e-12)
    assert ours.any(-1).sum(0).eq(2).all()  # two experts a token


def metric_with(module: nn.Module, change: Tensor) -> Tensor:
    """The mean metric of Hugging Face's model when something is added to what the last MLP writes."""
    with torch.no_grad(), replacing({module.model.layers[1].mlp: lambda old: old + change.view(old.shape)}):
        logits = module(EVEN.clean, use_cache=False).logits
    return curved(logits[torch.arange(len(EVEN)), EVEN.positions], EVEN).mean()


@pytest.mark.parametrize("kind", ROUTED)
def test_exact_scores_are_hugging_face_s_with_one_expert_s_write_of_the_corrupted_prompt(kind: str) -> None:
    """Experts that one of the prompts does not choose come from zero, or go to it."""
    module, changes = hub_module(kind), writes(kind, False) - writes(kind, True)
    found = score_features(
        hub_model(kind), experts(hub_model(kind))[-1:], EVEN, curved, "exact", by_position=False, quiet=True
    )
    expected = torch.stack([metric_with(module, change) for change in changes]) - metric_with(module, 0 * changes[0])
    ours = torch.zeros_like(expected)
    ours[found.index[:, 2]] = found.scores
    assert (ours - expected).abs().max() < 2e-5 * expected.abs().max() > 0
    assert found.names[0] == f"m1.e{found.index[0, 2]}"


@pytest.mark.parametrize("kind", ROUTED)
@pytest.mark.parametrize("method", ["eap", "relp", IntegratedGradients(steps=2)], ids=str)
def test_scores_of_experts_sum_to_their_layer_s(kind: str, method: str | Method) -> None:
    model = hub_model(kind)
    parts, whole = (
        score_features(model, each, RAGGED, curved, method, quiet=True) for each in (experts(model)[-1:], WHOLE)
    )
    assert parts.total(0) == pytest.approx(whole.total(0), rel=1e-9)
    assert len(set(parts.index[:, 2].tolist())) > 2
    if method == "relp":
        parts = score_features(model, experts(model)[-1:], EVEN, curved, method, quiet=True)
        nodes = score_nodes(model, EVEN, curved, method, quiet=True)
        assert parts.total(0) == pytest.approx(nodes.mean("mlp_out")[1].sum().item(), rel=1e-9)


@pytest.mark.parametrize("kind", ROUTED)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_edges_of_experts_sum_to_the_graph_s(kind: str, method: str) -> None:
    """From experts and into them: what a layer reads moves their outputs and, but for RelP, their weights."""
    model = hub_model(kind)
    nodes = [Coordinates(Site("embed"), 1, 32), *heads(model), *experts(model)]
    edges = summed(score_feature_edges(model, nodes, every(nodes), EVEN, curved, method))
    scored = score(model, EVEN, curved, method, quiet=True)
    for (start, end), value in edges.items():
        place = scored.graph.source_index(start), scored.graph.destination_index(end)
        assert abs(value - scored.scores[place].item()) < 1e-11 * scored.scores.abs().max()
    assert {"m1"} <= {start for start, _ in edges} & {end for _, end in edges}


@pytest.mark.parametrize("kind", ROUTED)
def test_runs_keep_the_model_and_cut_the_layer(kind: str) -> None:
    model, transformer = hub_model(kind), adapt(hub_model(kind))
    everyone = every(experts(model))
    own = run(model, Circuit.full(transformer.graph), EVEN)
    torch.testing.assert_close(run_features(model, experts(model), everyone, EVEN), own, rtol=1e-12, atol=1e-12)
    nobody, nothing = (
        run_features(model, each, every(each)[:0], EVEN, "mean") for each in (experts(model)[-1:], WHOLE)
    )
    torch.testing.assert_close(nobody, nothing, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(nobody, own, rtol=1e-3)


def test_a_model_without_routed_layers_has_no_experts() -> None:
    with pytest.raises(
        ValueError, match=r"experts: expected a model with routed layers, got .*; take ec.neurons\(model\)"
    ):
        experts(tiny("gpt2").model)
    table = [Coordinates(Site("experts", 0), 4, 32)]
    with pytest.raises(ValueError, match="no layer of experts there"):
        run_features(tiny("gpt2").model, table, every(table), EVEN)
