"""Node scores, against literal models and against the edges."""

from __future__ import annotations

import pytest
import torch
from models import GRADIENT, RAGGED, curved, logit_difference, one_by_one, prompts_of, tiny
from references.lrp import ruled
from references.nodes import node_scores
from references.nodes import patched_nodes as reference
from torch import Tensor

from edge_circuits.eap import patched_nodes
from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.eap.node_scores import NodeScores, score_nodes
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import cut_values

KINDS = ("gpt2", "gemma2", "neox-parallel", "attention-only", "rms-gated-grouped")
METRIC = one_by_one(curved, RAGGED)
RULES = {"eap": GRADIENT, "relp": RelP()}


def nodes(
    kind: str, method: RelP | str = "eap", direction: str = "noising", pairs: PromptPairs = RAGGED, **settings: object
) -> NodeScores:
    """Scores of a tiny model."""
    return score_nodes(tiny(kind).model, pairs, curved, method, direction, quiet=True, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_scores_are_the_literal_derivatives(kind: str, method: str) -> None:
    found, model, row = nodes(kind, method), tiny(kind).literal, 3
    prompt, metric = prompts_of(RAGGED)[row], one_by_one(curved, RAGGED)
    rules = RULES[method]
    with ruled(model, rules.norm, rules.activation, rules.attention, rules.gate):
        for node_kind in found.kinds:
            for layer in range(model.n_layers):
                scores = found.per_prompt[node_kind][row, layer]
                scores = scores[1] if node_kind == "heads" else scores
                expected = node_scores(model, prompt, lambda out: metric(out, row), node_kind, layer, head=1)
                scale = found.per_prompt[node_kind][row].nan_to_num().abs().max()
                assert (scores[: len(expected)] - expected).abs().max() < 1e-10 * scale, (node_kind, layer)


@pytest.mark.parametrize("kind", (*KINDS, "llama"))
def test_exact_scores_are_those_of_every_position_patched_one_by_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patched_nodes, "STACKED_TOKENS", 3 * RAGGED.clean.numel())  # several calls, the last of fewer
    found, model = nodes(kind, "exact"), tiny(kind).literal
    assert set(found.kinds) == set(nodes(kind).kinds) - {"heads"}
    for number, node_kind in enumerate(found.kinds):
        for row, layer in ((0, number % 2), (3, model.n_layers - 1 - number % 2)):
            expected = reference(
                model, prompts_of(RAGGED)[row], lambda out, row=row: METRIC(out, row), node_kind, layer
            )
            scores = found.per_prompt[node_kind][row, layer][: len(expected)]
            assert (scores - expected).abs().max() < 1e-9, (node_kind, layer, row)


def test_restoring_is_cutting_of_the_exchanged_pairs_with_the_sign_of_cutting() -> None:
    found, expected = nodes("llama", "exact", "denoising"), nodes("llama", "exact", pairs=RAGGED.swapped())
    for kind in found.kinds:
        assert (found.per_prompt[kind] + expected.per_prompt[kind]).nan_to_num().abs().max() < 1e-12


def test_nothing_changes_towards_the_same_prompt() -> None:
    found = nodes("gpt2", "exact", pairs=RAGGED.identical())
    assert all(value.nan_to_num().abs().max() < 1e-12 for value in found.per_prompt.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["eap", "relp"])
def test_a_source_is_worth_the_sum_of_its_edges(kind: str, method: str) -> None:
    transformer = adapt(tiny(kind).model)
    graph = transformer.graph
    job = Job(transformer, curved, cut_values(transformer, [RAGGED], "patching"), "patching", 64)
    by_source = RULES[method].scores(job, RAGGED).sum(1)
    found = {name: value.nan_to_num().sum((0, -1)) for name, value in nodes(kind, method).per_prompt.items()}
    assert (found["resid_pre"][0] - by_source[0]).abs() < 1e-10 * by_source.abs().max()
    for layer in range(graph.n_layers):
        assert (
            found["heads"][layer] - by_source[graph.head_sources(layer)]
        ).abs().max() < 1e-10 * by_source.abs().max()
        if graph.mlps:
            assert (found["mlp_out"][layer] - by_source[graph.mlp_source(layer)]).abs() < 1e-10 * by_source.abs().max()


@pytest.mark.parametrize("method", ["eap", "relp"])
def test_denoising_is_noising_of_the_exchanged_pairs_with_the_sign_of_cutting(method: str) -> None:
    found = nodes("gpt2", method, "denoising")
    expected = nodes("gpt2", method, pairs=RAGGED.swapped())
    for kind in found.kinds:
        assert torch.equal(found.per_prompt[kind].isnan(), expected.per_prompt[kind].isnan())
        assert (found.per_prompt[kind] + expected.per_prompt[kind]).nan_to_num().abs().max() < 1e-12


def test_for_a_linear_model_both_directions_are_exact_at_the_end() -> None:
    """The last stream and a metric linear in it: its score is corrupted minus clean, from either side."""
    model = tiny("attention-only").model
    logits = [model(tokens[None])[0] for tokens in (RAGGED.clean[0], RAGGED.corrupted[0])]
    pair = RAGGED[[0]]
    change = logit_difference(logits[1][-1:], pair) - logit_difference(logits[0][-1:], pair)
    for direction in ("noising", "denoising"):
        scores = score_nodes(model, pair, logit_difference, direction=direction, quiet=True)
        assert abs(scores.mean("resid_post")[-1].sum() - change) < 1e-10


def test_prompts_of_unequal_length_are_aligned_and_do_not_touch_each_other() -> None:
    together = nodes("gpt2", "relp")
    longest = RAGGED.clean.shape[1]
    for row, length in enumerate(RAGGED.lengths.tolist()):
        alone = nodes("gpt2", "relp", pairs=RAGGED[[row]])
        for kind, value in together.per_prompt.items():
            assert value.shape[-1] == longest
            assert value[row][..., length:].isnan().all()
            assert not value[row][..., :length].isnan().any()
            assert (value[row][..., int(RAGGED.positions[row]) + 1 : length] == 0).all()
            assert (value[row][..., :length] - alone.per_prompt[kind][0]).abs().max() < 1e-12
    first = together.mean("heads")[..., 0]
    assert torch.allclose(first, together.per_prompt["heads"][..., 0].mean(0))
    assert torch.equal(together.mean("resid_pre")[:, -1], together.per_prompt["resid_pre"][0, :, -1])  # of one prompt


def test_kinds_of_node_by_architecture() -> None:
    every = ("resid_pre", "resid_mid", "resid_post", "attention_out", "mlp_out", "heads")
    assert nodes("gpt2").kinds == every
    assert nodes("neox-parallel").kinds == tuple(kind for kind in every if kind != "resid_mid")
    assert nodes("attention-only").kinds == tuple(kind for kind in every if kind not in ("resid_mid", "mlp_out"))
    assert nodes("gpt2").mean("heads").shape == (3, 4, 8)


def test_results_name_their_rules() -> None:
    metadata = nodes("gpt2", RelP(attention="secant")).metadata
    assert metadata["settings"]["attention"] == "secant"
    assert (metadata["method"], metadata["direction"], metadata["n_prompts"]) == ("relp", "noising", 4)


def test_bad_input_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="method: expected one of a single backward pass for nodes, got 'eap-ig'"):
        nodes("gpt2", "eap-ig")
    with pytest.raises(ValueError, match="edges: expected None for nodes"):
        nodes("gpt2", Exact(adapt(tiny("gpt2").model).graph.edge_mask))
    with pytest.raises(ValueError, match="direction: expected one of 'noising', 'denoising', got 'up'"):
        nodes("gpt2", direction="up")
    with pytest.raises(ValueError, match="reader: expected 'linear' for nodes, got 'norm'; leave it out"):
        nodes("gpt2", RelP(reader="norm"))
    with pytest.raises(ValueError, match="metric_as: expected 'slope' for nodes, got 'curve'; leave it out"):
        nodes("gpt2", RelP(metric_as="curve"))
    with pytest.raises(ValueError, match="kind: expected one of 'resid_pre', .*, got 'resid'"):
        nodes("gpt2").mean("resid")

    def divergence(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return logits.square().sum(1)

    divergence.zero_gradient_at_clean = True
    with pytest.raises(ValueError, match="gradient on the clean prompt is zero.*direction='denoising'"):
        score_nodes(tiny("gpt2").model, RAGGED, divergence, quiet=True)
    score_nodes(tiny("gpt2").model, RAGGED, divergence, direction="denoising", quiet=True)
