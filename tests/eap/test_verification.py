"""The self-checks pass on sound models, and each of six planted faults is caught by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models import bridged, hugging_face, logit_difference, native, prompt_pairs, tiny

from edge_circuits import eap
from edge_circuits.eap import edge_checks
from edge_circuits.eap.verification import Check, Verification, verify
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.model import adapter, transformer_bridge
from edge_circuits.graphs.running import changing, execution, patching

PAIRS = prompt_pairs([7, 5, 6, 5], positions=[-1, -2, -1, -1], seed=5)
MODEL_CHECK, CUT_CHECK, PADDING_CHECK = "logits against the model's own", "all edges cut", "all prompts in a batch"


def checked(model: torch.nn.Module, graph: ScoredGraph | None = None, **settings) -> Verification:
    scored = graph or eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    return verify(model, scored, PAIRS, logit_difference, n_edges=20, bf16=False, **settings)


def named(result: Verification, name: str) -> Check:
    (found,) = [check for check in result.checks if check.name.startswith(name)]
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox-parallel"])
def test_sound_models_pass_what_has_to_be_exact(kind: str) -> None:
    result = checked(tiny(kind).model)
    exact = [check for check in result.checks if check.at_most]
    assert len(exact) == 19 and all(check.passed for check in exact), result.text
    assert len(result.text.splitlines()) == len(result.checks) == 22
    assert str(result).endswith(result.text) and "of 22 checks passed" in result._repr_html_()


def test_exact_scores_agree_with_exact_patching_entirely() -> None:
    model = tiny("gpt2").model
    result = checked(model, eap.score(model, PAIRS, logit_difference, "exact", quiet=True))
    assert result.passed, result.text
    assert all(check.value == pytest.approx(1.0, abs=1e-6) for check in result.checks if not check.at_most)


@pytest.mark.parametrize("intervention", ["zero", "mean-positional"])
def test_scores_are_held_against_the_intervention_they_were_made_with(intervention: str) -> None:
    model = tiny("gpt2").model
    scored = eap.score(model, PAIRS, logit_difference, "exact", intervention=intervention, quiet=True)
    result = checked(model, scored)
    assert result.passed, result.text
    assert all(check.value == pytest.approx(1.0, abs=1e-6) for check in result.checks if not check.at_most)


@pytest.mark.parametrize("name", ["soft_gates", "without_an_edge"])
def test_single_edges_are_looked_at_under_that_intervention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = getattr(edge_checks, name)
    monkeypatch.setattr(edge_checks, name, lambda *args: seen.append(args[-1]) or right(*args))
    model = tiny("gpt2").model
    scored = eap.score(model, PAIRS, logit_difference, "eap", intervention="zero", quiet=True)
    result = checked(model, scored)
    assert seen == ["zero"] and all(check.passed for check in result.checks if check.at_most), result.text


def test_bfloat16_keeps_ranks() -> None:
    model = native(normalization_type="LN", act_fn="gelu", d_model=16, d_head=8, d_mlp=16)
    scored = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    dtype = next(model.parameters()).dtype
    check = named(verify(model, scored, PAIRS, logit_difference, n_edges=4), "Spearman of scores in bfloat16")
    assert 0.7 < check.value < 1.0 and next(model.parameters()).dtype is dtype


# Six faults. The adapter's own comparison on first sight is switched off, so that these checks are on their own.


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_check_logits", lambda *_: None)


def faulty(monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable) -> Verification:
    """The checks of a model that the adapter reads wrongly."""
    right = getattr(transformer_bridge, name)
    monkeypatch.setattr(transformer_bridge, name, lambda *args, **kwargs: spoil(right(*args, **kwargs)))
    return checked(bridged(hugging_face("gpt2").double()))


def test_a_wrong_norm_weight(monkeypatch: pytest.MonkeyPatch, trusting: None) -> None:
    result = faulty(monkeypatch, "Norm", lambda norm: replace(norm, weight=norm.weight * 1.05))
    assert not named(result, MODEL_CHECK).passed and not named(result, CUT_CHECK).passed


def test_swapped_queries_and_keys(monkeypatch: pytest.MonkeyPatch, trusting: None) -> None:
    result = faulty(monkeypatch, "Attention", lambda a: replace(a, W_Q=a.W_K, W_K=a.W_Q, b_Q=a.b_K, b_K=a.b_Q))
    assert not named(result, MODEL_CHECK).passed


def test_a_dropped_bias(monkeypatch: pytest.MonkeyPatch, trusting: None) -> None:
    result = faulty(monkeypatch, "Mlp", lambda mlp: replace(mlp, b_in=None))
    assert not named(result, MODEL_CHECK).passed


def test_a_padding_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_column(pairs):
        return torch.full_like(pairs.positions[:, None], int(pairs.positions.max()))

    for module in (changing, execution, patching):
        monkeypatch.setattr(module, "answer_rows", last_column)
    monkeypatch.setattr("edge_circuits.eap.gradients.answer_rows", last_column)
    result = checked(tiny("gpt2").model)
    assert not named(result, PADDING_CHECK).passed and not named(result, MODEL_CHECK).passed


def test_a_stale_hook() -> None:
    model = bridged(hugging_face("gpt2").double())
    scored = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    handle = model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output * 0.5)
    result = checked(model, scored)
    handle.remove()
    assert not any(check.passed for check in result.checks if check.at_most)
    assert "hook" in result.checks[0].reason and "FAILED" in result.text.splitlines()[0]
    assert checked(model, scored).checks[0].passed


def test_a_wrong_sign() -> None:
    model = tiny("gpt2").model
    right = eap.score(model, PAIRS, logit_difference, "exact", quiet=True)
    result = checked(model, replace(right, scores=-right.scores))
    exact = [check for check in result.checks if check.at_most and not check.passed]
    assert [check.name for check in exact] == ["measured scores against exact patching again"]
    assert not any(check.passed for check in result.checks if not check.at_most)


def test_bad_input_is_refused() -> None:
    model = tiny("gpt2").model
    scored = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    with pytest.raises(ValueError, match="n_edges: expected a whole number from 1, got 0"):
        verify(model, scored, PAIRS, n_edges=0)
    with pytest.raises(ValueError, match="graph: expected finite scores"):
        verify(model, replace(scored, scores=scored.scores.masked_fill(scored.graph.edge_mask, float("nan"))), PAIRS)
