"""The hub's decoder families: the model of Hugging Face itself is the reference, taken apart by hooks on its modules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hub_models import HUB, hub_model, hub_module, hub_reference
from models import (
    D_VOCAB,
    RAGGED,
    bridged,
    curved,
    logit_difference,
    one_by_one,
    prompt_pairs,
    prompts_of,
    random_circuit,
    relative_error,
)
from references import edges
from references.exact_reader import exact_reader_scores, single_edge_effects
from torch import Tensor

from edge_circuits import acdc, eap
from edge_circuits.eap import EAP, Exact, RelP
from edge_circuits.graphs import Graph, PromptPairs, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.transformer import Transformer

TOKENS = torch.arange(18).reshape(2, 9) * 7 % D_VOCAB
PAIRS = prompt_pairs([7, 3], positions=[-1, -2])
FLOAT32 = 2e-5
"""Hugging Face takes RMS norms, softmax and rotary angles in float32."""


@pytest.mark.parametrize("kind", HUB)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 2e-6), (torch.bfloat16, 0.05)], ids=str
)
def test_logits_are_those_of_hugging_face(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    transformer = adapt(hub_model(kind, dtype))
    with torch.no_grad():
        expected = hub_module(kind, dtype)(TOKENS, use_cache=False).logits
        ours = transformer.unembed(transformer.forward(transformer.embed(TOKENS)).final)
    error = (ours - expected).abs().amax(-1).flatten().sort().values / expected.abs().max()
    rounding_picks_experts = dtype == torch.bfloat16 and "num_experts_per_tok" in HUB[kind].settings
    assert error[len(error) // 2 if rounding_picks_experts else -1] < tolerance


@pytest.mark.parametrize("kind", HUB)
def test_gradients_are_those_of_hugging_face(kind: str) -> None:
    scored = eap.score(hub_model(kind), PAIRS, curved, "eap", quiet=True)
    expected = edges.edge_attribution(hub_reference(kind), prompts_of(PAIRS), one_by_one(curved, PAIRS))
    values = torch.tensor([expected[edge] for edge in scored.graph.edges], dtype=torch.float64)
    ours = scored.scores.T[scored.graph.edge_mask.T]
    assert relative_error(ours, values) < FLOAT32


@pytest.mark.parametrize("kind", ["olmo2", "olmoe", "stablelm-parallel"])
def test_gradients_of_key_value_heads(kind: str) -> None:
    scored = eap.score(hub_model(kind), PAIRS, curved, "eap", kv_destinations="kv-head", quiet=True)
    expected = edges.edge_attribution(hub_reference(kind), prompts_of(PAIRS), one_by_one(curved, PAIRS), grouped=True)
    values = torch.tensor([expected[edge] for edge in scored.graph.edges], dtype=torch.float64)
    assert relative_error(scored.scores.T[scored.graph.edge_mask.T], values) < FLOAT32


def one_edge_into_each(graph: Graph) -> list[str]:
    """An edge into each kind of destination of a model of two layers."""
    sources = {
        "a1.h2<q>": "m0",
        "a1.h1<k>": "a0.h1",
        "a1.h0<v>": "input",
        "m0": "input",
        "m1": "a0.h2",
        "logits": "a1.h1",
    }
    return [f"{source}->{destination}" for destination, source in sources.items()]


@pytest.mark.parametrize("kind", HUB)
def test_exact_patching_is_that_of_hugging_face(kind: str) -> None:
    model = hub_model(kind)
    graph = Graph.from_model(model)
    chosen, mask = one_edge_into_each(graph), torch.zeros_like(graph.edge_mask)
    for edge in chosen:
        mask[graph.edge_index(edge)] = True
    scored = eap.score(model, PAIRS, curved, Exact(edges=mask), quiet=True)
    with torch.no_grad():
        expected = single_edge_effects(hub_reference(kind), prompts_of(PAIRS), one_by_one(curved, PAIRS), chosen)
    ours = torch.stack([scored.scores[graph.edge_index(edge)] for edge in chosen])
    assert relative_error(ours, torch.stack(expected)) < FLOAT32


@pytest.mark.parametrize("kind", HUB)
def test_circuits_are_those_of_hugging_face(kind: str) -> None:
    model, intervention = hub_model(kind), "mean" if len(kind) % 2 else "patching"
    circuit = random_circuit(Graph.from_model(model), 0.6, seed=1)
    with torch.no_grad():
        ours = run(model, circuit, PAIRS, intervention)
        kept = dict.fromkeys(circuit.edges, True)
        expected = edges.circuit_logits(hub_reference(kind), prompts_of(PAIRS), kept, intervention)
    assert relative_error(ours, expected) < FLOAT32


@pytest.mark.parametrize("kind", ["olmo2", "bloom", "stablelm-parallel", "gpt-oss"])
def test_readers_go_through_what_heads_share_and_add(kind: str) -> None:
    """Exactly through norms, positions and sinks; each of these is in the head's own module alone."""
    scored = eap.score(hub_model(kind), PAIRS, curved, EAP(reader="softmax", exact_sources=1000), quiet=True)
    chosen = one_edge_into_each(scored.graph)[:2]
    prompts, metric = prompts_of(PAIRS), one_by_one(curved, PAIRS)
    expected = exact_reader_scores(hub_reference(kind), prompts, metric, chosen, softmax=True)
    largest = scored.scores.abs().max()
    for edge, value in expected.items():
        assert abs(scored.scores[scored.graph.edge_index(edge)] - value) < FLOAT32 * largest


def test_without_a_norm_before_it_a_reader_takes_the_shared_norm_s_slope() -> None:
    """OLMo 2 has no norm that reads the stream but the last, so that nothing is left to be exact below `logits`."""
    plain, exact = (
        eap.score(hub_model("olmo2"), PAIRS, curved, EAP(reader=r), quiet=True).scores for r in ("linear", "norm")
    )
    queries_and_keys = [name.endswith(("<q>", "<k>")) for name in Graph.from_model(hub_model("olmo2")).destinations]
    # of `input` alone: heads write through a norm, which this reader takes exactly
    assert relative_error(exact[:1, queries_and_keys], plain[:1, queries_and_keys]) < 1e-10


# Relevance


@cache
def without_biases(kind: str) -> Transformer:
    """A model in which nothing is added that is no source, and nothing is cut off or capped."""
    module = hub_module(kind)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    transformer = adapt(bridged(module))
    blocks = [replace(block, attention=replace(block.attention, clip=None)) for block in transformer.blocks]
    blocks = [replace(block, mlp=replace(block.mlp, offset=0.0)) for block in blocks]
    return replace(transformer, blocks=tuple(blocks), logit_softcap=None)


def relevance_by_layer(transformer: Transformer, method: RelP) -> tuple[float, list[float]]:
    """The metric, and the relevance of the residual stream before each layer and before `logits`."""
    operations = method.operations(transformer, RAGGED, lambda: None)
    kept = transformer.forward(transformer.embed(RAGGED.clean).requires_grad_(), None, operations)
    logits = transformer.unembed(kept.final, operations)
    metric = logits[..., 3].sum() - 2 * logits[..., 5].sum()
    streams = [*kept.attention_in, kept.final]
    gradients = torch.autograd.grad(metric, streams)
    return metric.item(), [(x.detach() * gradient).sum().item() for x, gradient in zip(streams, gradients)]


@pytest.mark.parametrize("kind", HUB)
def test_relevance_is_conserved_from_layer_to_layer(kind: str) -> None:
    """Weights of experts, sinks, slopes and factors too are numbers by which a linear map is frozen."""
    metric, relevances = relevance_by_layer(without_biases(kind), RelP(attention="ah"))
    assert max(abs(relevance - metric) for relevance in relevances) < 1e-10 * abs(metric)


@pytest.mark.parametrize("kind", [kind for kind in HUB if "num_experts_per_tok" in HUB[kind].settings])
def test_relevance_is_not_conserved_where_routing_takes_part(kind: str) -> None:
    metric, relevances = relevance_by_layer(without_biases(kind), RelP(attention="ah", gate="exact"))
    assert max(abs(relevance - metric) for relevance in relevances) > 1e-3 * abs(metric)


# What every model can do


@pytest.mark.parametrize("kind", HUB)
def test_padding_and_batches_change_nothing(kind: str) -> None:
    model = hub_model(kind)
    together = eap.score(model, RAGGED, logit_difference, "relp", quiet=True).scores
    one_at_a_time = eap.score(model, RAGGED, logit_difference, "relp", batch_size=1, quiet=True).scores
    assert relative_error(together, one_at_a_time) < 1e-10
    left = PAIRS.clean.clone(), PAIRS.corrupted.clone()
    for tokens in left:
        tokens[1] = tokens[1].roll(4)
    mask = torch.tensor([[1] * 7, [0] * 4 + [1] * 3])
    padded = PromptPairs(*left, PAIRS.answers, PAIRS.wrong_answers, positions=[-1, -2], attention_mask=mask)
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=0)
    assert torch.equal(run(model, circuit, padded), run(model, circuit, PAIRS))


def kl_to(whole: Tensor, logits: Tensor) -> float:
    """Mean over prompts."""
    whole, logits = whole.log_softmax(-1), logits.log_softmax(-1)
    return (whole.exp() * (whole - logits)).sum(-1).mean().item()


@pytest.mark.parametrize("kind", HUB)
def test_acdc_ends_at_the_circuit_that_it_measured(kind: str) -> None:
    model = hub_model(kind)
    circuit = acdc.discover(model, PAIRS, "kl", threshold=0.02, quiet=True)
    cut = [decision for decision in circuit.trace.decisions if decision.value_after is not None and not decision.kept]
    assert 0 < circuit.mask.sum() < circuit.graph.n_edges and cut
    with torch.no_grad():
        whole = run(model, circuit.full(circuit.graph), PAIRS)
        assert kl_to(whole, run(model, circuit, PAIRS)) == pytest.approx(cut[-1].value_after, rel=1e-6)
