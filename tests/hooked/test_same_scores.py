"""A HookedTransformer has the scores and circuits of the bridge of TransformerLens 4, for the same weights in float32."""

from __future__ import annotations

from copy import deepcopy

import families
import hooked
import numpy
import pytest
import torch
from make_bridge_scores import FILE

from edge_circuits import eap
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt

TOLERANCE = 1e-5  # a sum of a few thousand products in float32, taken in another order


@pytest.mark.parametrize("kind", families.KINDS)
def test_scores_and_circuits_are_the_bridges(kind: str) -> None:
    ours = families.measured(hooked.hooked(kind))
    with numpy.load(FILE) as bridge:
        assert {name for name in bridge if name.startswith(f"{kind}/")} == {f"{kind}/{name}" for name in ours}
        for name, value in ours.items():
            assert families.relative_error(value, torch.from_numpy(bridge[f"{kind}/{name}"])) < TOLERANCE, name


def test_another_weight_gives_other_scores() -> None:
    model = hooked.hooked("gpt2")
    with torch.no_grad():
        model.blocks[1].attn.W_K[0, 0, 0] += 0.1
    with numpy.load(FILE) as bridge:
        assert (
            families.relative_error(families.measured(model)["eap"], torch.from_numpy(bridge["gpt2/eap"]))
            > 100 * TOLERANCE
        )


@pytest.mark.parametrize(
    ("kind", "graph"),
    [
        ("gpt2", Graph(2, 4)),
        ("neox-parallel", Graph(2, 4, parallel=True)),
        ("attention-only", Graph(2, 4, mlps=False)),
        ("llama", Graph(2, 4)),
    ],
)
def test_graph_of_a_model(kind: str, graph: Graph) -> None:
    assert Graph.from_model(hooked.hooked(kind)) == graph


def test_graph_of_key_value_heads() -> None:
    assert Graph.from_model(hooked.hooked("llama"), kv_destinations="kv-head").n_kv_heads == 2


@pytest.mark.parametrize("kind", ["gpt2", "llama", "rms-gated-grouped"])
def test_model_comes_back_as_it_was(kind: str) -> None:
    model = hooked.hooked(kind)
    before, modes = deepcopy(model.state_dict()), [module.training for module in model.modules()]
    families.measured(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(point._forward_hooks or point._backward_hooks for point in model.hook_dict.values())


def test_weights_can_be_trained_through_a_circuit() -> None:
    from edge_circuits.graphs import run

    model, pairs = hooked.hooked("llama"), families.prompt_pairs()
    graph = adapt(model).graph
    run(model, families.half_of(graph), pairs).sum().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(
        grads[name].abs().max() > 0 for name in ("embed.W_E", "blocks.0.attn._W_K", "blocks.1.mlp.W_gate", "ln_final.w")
    )


# Processing of the weights: the same logits (up to a shift), and the same scores where the reader's docstring says so

PROCESSED = dict(
    fold_ln=dict(fold_ln=True),
    center_writing_weights=dict(center_writing_weights=True),
    center_unembed=dict(center_unembed=True),
    fold_value_biases=dict(fold_value_biases=True),
    refactor=dict(refactor_factored_attn_matrices=True),
)
NONE = dict.fromkeys((*list(PROCESSED)[:4], "refactor_factored_attn_matrices"), False)


def processed(kind: str, **settings: bool) -> hooked.HookedTransformer:
    """A model in float64 whose weights TransformerLens has processed, which it does in float32."""
    weights, plain = hooked.hooked(kind, dtype=torch.float64).state_dict(), families.HUGGING_FACE[kind].hooked
    if settings.get("fold_ln"):  # as `from_pretrained` does before it loads
        plain = plain | dict(normalization_type=plain.get("normalization_type", "LN") + "Pre")
    model = hooked.empty(**plain, dtype=torch.float64)
    model.load_and_process_state_dict(weights, **(NONE | settings))
    return model


def scores(model: hooked.HookedTransformer, method: str, intervention: str = "patching") -> torch.Tensor:
    """Scores by the logit difference."""
    pairs = families.prompt_pairs()
    return eap.score(
        model, pairs, families.logit_difference, method=method, intervention=intervention, quiet=True
    ).scores


@pytest.mark.parametrize("processing", PROCESSED)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_processed_weights_keep_scores(processing: str, method: str) -> None:
    before, after = processed("gpt2"), processed("gpt2", **PROCESSED[processing])
    old, new = before.state_dict(), after.state_dict()
    assert any(not torch.equal(new[name], old[name]) for name in {*old} & {*new})
    assert families.relative_error(scores(after, method), scores(before, method)) < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_folded_rms_norms_keep_scores(kind: str) -> None:
    before, after = processed(kind), processed(kind, fold_ln=True)
    assert after.cfg.normalization_type == "RMSPre"
    assert families.relative_error(scores(after, "eap"), scores(before, "eap")) < TOLERANCE


@pytest.mark.parametrize("intervention", ["patching", "mean", "mean-positional"])
def test_folded_value_biases_keep_scores_but_for_zero(intervention: str) -> None:
    before, after = processed("gpt2"), processed("gpt2", fold_value_biases=True)
    assert families.relative_error(scores(after, "eap", intervention), scores(before, "eap", intervention)) < TOLERANCE
    assert families.relative_error(scores(after, "eap", "zero"), scores(before, "eap", "zero")) > 1e-3


def test_a_single_logit_moves_with_a_centred_unembedding() -> None:
    pairs = families.prompt_pairs()
    first, second = (
        eap.score(model, pairs, lambda logits, pairs: logits[:, 0], method="eap", quiet=True).scores
        for model in (processed("gpt2"), processed("gpt2", center_unembed=True))
    )
    assert families.relative_error(second, first) > 1e-3
