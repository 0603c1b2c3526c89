"""What edge attribution must satisfy, without any second implementation of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from models import (
    HUGGING_FACE,
    KINDS,
    RAGGED,
    hugging_face,
    logit_difference,
    native,
    prompt_pairs,
    relative_error,
    tiny,
)
from torch import Tensor, nn

from edge_circuits import eap
from edge_circuits.graphs import Circuit, Graph, PromptPairs, ScoredGraph, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.execution import run_batch
from edge_circuits.graphs.running.patching import cut_values
from edge_circuits.graphs.running.plan import make_plan

PAIRS = prompt_pairs([6, 4], positions=[-1, 1], seed=2)


def score(model: nn.Module, pairs: PromptPairs, metric: object = logit_difference, **settings: object) -> ScoredGraph:
    return eap.score(model, pairs, metric, **{"method": "eap", "quiet": True, **settings})


def linear_model() -> nn.Module:
    """No norms, no MLPs, and attention that is even whatever is read: linear in every source."""
    model = native(attn_only=True, normalization_type=None, n_layers=3).double()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.q.weight.zero_()
            block.attn.q.bias.zero_()
    return model


@pytest.mark.parametrize("intervention", ["patching", "zero", "mean", "mean-positional"])
def test_linear_model_and_metric_equal_exact_patching(intervention: str) -> None:
    model = linear_model()
    scored = score(model, PAIRS, intervention=intervention)
    with torch.no_grad():
        clean = metric_of(model, Circuit.full(scored.graph), intervention)
        for edge in scored.graph.edges[::11]:
            exact = (
                metric_of(model, Circuit.full(scored.graph) - Circuit.from_edges(scored.graph, [edge]), intervention)
                - clean
            )
            assert scored.score(edge) == pytest.approx(exact, rel=1e-9, abs=1e-12), edge
    queries_and_keys = [
        scored.scores[:, scored.graph.part_destinations(layer, part)] for layer in range(3) for part in "qk"
    ]
    assert all((scores == 0).all() for scores in queries_and_keys)
    assert (scored.values.abs() > 1e-4).sum() > 50


def metric_of(model: nn.Module, circuit: Circuit, intervention: str) -> float:
    return logit_difference(run(model, circuit, PAIRS, intervention), PAIRS).mean().item()


@pytest.mark.parametrize("kind", KINDS)
def test_identical_prompts_score_zero(kind: str) -> None:
    pairs = PromptPairs(
        RAGGED.clean, RAGGED.clean, RAGGED.answers, RAGGED.wrong_answers, attention_mask=RAGGED.mask.long()
    )
    assert (score(tiny(kind).model, pairs).scores == 0).all()
    assert (score(tiny(kind).model, pairs, intervention="zero").values != 0).any()


def test_scores_are_linear_in_the_metric() -> None:
    def other(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return -2 * logit_difference(logits, pairs) + logits.square().mean(1)

    def square(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return logits.square().mean(1)

    model = tiny("gpt2").model
    expected = -2 * score(model, RAGGED).scores + score(model, RAGGED, square).scores
    assert relative_error(score(model, RAGGED, other).scores, expected) < 1e-12


# By actually cutting a little


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox-parallel"])
@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_scores_are_slopes_of_cutting_an_edge_a_little(kind: str) -> None:
    model, step = tiny(kind).model, 1e-4
    scored, transformer = score(model, PAIRS), adapt(model)
    cut = cut_values(transformer, [PAIRS], "patching")(PAIRS)
    generator = torch.Generator().manual_seed(0)
    for index in torch.randperm(scored.graph.n_edges, generator=generator)[:16].tolist():
        source, destination = scored.graph.edge_index(scored.graph.edges[index])
        ends = []
        for kept in (1 - step, 1 + step):  # cut a little; the opposite of that
            mask = scored.graph.edge_mask.double()
            mask[source, destination] = kept
            with torch.no_grad():
                logits = run_batch(transformer, make_plan(scored.graph, mask, "patching"), PAIRS, cut)
            ends.append(logit_difference(logits, PAIRS).mean().item())
        slope = (ends[0] - ends[1]) / (2 * step)
        assert scored.score(scored.graph.edges[index]) == pytest.approx(slope, rel=1e-4, abs=1e-6), scored.graph.edges[
            index
        ]


def test_positive_means_that_cutting_raises_the_metric() -> None:
    model = tiny("gpt2").model
    scored = score(model, RAGGED)
    clean = logit_difference(run(model, Circuit.full(scored.graph), RAGGED), RAGGED).mean()
    into_logits = [(edge, value) for edge, value in scored.top(30) if edge.endswith("->logits")][:3]
    assert into_logits
    for edge, value in into_logits:  # nearly linear there
        without = Circuit.full(scored.graph) - Circuit.from_edges(scored.graph, [edge])
        change = logit_difference(run(model, without, RAGGED), RAGGED).mean() - clean
        assert change.sign() == torch.tensor(value).sign()


# Out-edges sum to the node


@dataclass(frozen=True)
class Places:
    """Where a Hugging Face model shows what its sources write."""

    layers: str
    attention_out: str
    mlp: str


FAMILIES = {
    "gpt2": Places("transformer.h", "attn.c_proj", "mlp"),
    "neox": Places("gpt_neox.layers", "attention.dense", "mlp"),
    "gemma2": Places("model.layers", "self_attn.o_proj", "post_feedforward_layernorm"),
    "": Places("model.layers", "self_attn.o_proj", "mlp"),
}


def node_scores(kind: str, pairs: PromptPairs) -> dict[str, float]:
    """Attribution of whole nodes through Hugging Face's own forward pass: (corrupted - clean) . gradient at clean."""
    module = hugging_face(kind).double().requires_grad_(False)
    places = next(places for family, places in FAMILIES.items() if kind.startswith(family))
    totals: dict[str, float] = {}
    for row in range(len(pairs)):
        pair = pairs[[row]]
        clean, corrupted = (_written(module, places, tokens) for tokens in (pair.clean, pair.corrupted))
        value = logit_difference(clean.pop("")[:, int(pair.positions)], pair)
        gradients = torch.autograd.grad(value.sum(), list(clean.values()), materialize_grads=True)
        for (name, kept), gradient in zip(clean.items(), gradients):
            by_head = ((corrupted[name] - kept) * gradient).sum((0, 1))
            n_heads = module.config.num_attention_heads if name.startswith("a") else 1
            for head, part in enumerate(by_head.unflatten(0, (n_heads, -1)).sum(1).tolist()):
                source = f"{name}.h{head}" if name.startswith("a") else name
                totals[source] = totals.get(source, 0.0) + part / len(pairs)
    return totals


def _written(module: nn.Module, places: Places, tokens: Tensor) -> dict[str, Tensor]:
    """What `input`, the heads (before the output weights) and MLPs give; under "" the logits."""
    kept: dict[str, Tensor] = {}
    handles = []

    def keep(name: str, output: Tensor) -> None:
        kept[name] = output if output.requires_grad else output.requires_grad_()

    for layer, block in enumerate(module.get_submodule(places.layers)):
        out, mlp = block.get_submodule(places.attention_out), block.get_submodule(places.mlp)
        handles.append(out.register_forward_pre_hook(lambda _, inputs, name=f"a{layer}": keep(name, inputs[0])))
        handles.append(mlp.register_forward_hook(lambda _, inputs, output, name=f"m{layer}": keep(name, output)))
    handles.append(
        next(module.get_submodule(places.layers).children()).register_forward_pre_hook(
            lambda _, inputs: keep("input", inputs[0])
        )
    )
    kept[""] = module(tokens).logits
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_out_edges_of_a_source_sum_to_its_node_score(kind: str) -> None:
    scored = score(tiny(kind).model, PAIRS)
    ours = dict(zip(scored.graph.sources, scored.scores.sum(1).tolist()))
    theirs = node_scores(kind, PAIRS)
    assert ours.keys() == theirs.keys()
    largest = max(abs(value) for value in theirs.values())
    for source, value in theirs.items():  # Hugging Face takes RMS norms in float32
        assert ours[source] == pytest.approx(value, abs=1e-5 * largest), source


def test_graph_of_a_circuit_run_is_the_graph_of_the_scores() -> None:
    assert score(tiny("llama").model, PAIRS).graph == Graph.from_model(tiny("llama").model)
