"""Learned masks: the gates, and what training does with them."""

from __future__ import annotations

import math

import pytest
import torch
from models import logit_difference, native, prompt_pairs, tiny

from edge_circuits import eap
from edge_circuits.eap.methods.learned_mask import BETA, GAMMA, ZETA, hard_concrete, open_probability
from edge_circuits.graphs import Circuit, Graph, PromptPairs, prune, run

PAIRS = prompt_pairs([4, 3], positions=[-1, -2])


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_gates_are_open_as_often_as_said(logit: float) -> None:
    logits = torch.full((200, 500), logit, dtype=torch.float64)
    gates = hard_concrete(logits, torch.Generator().manual_seed(0))
    expected = 1 / (1 + math.exp(-logit) * (-GAMMA / ZETA) ** BETA)  # equation 12
    assert (gates > 0).double().mean().item() == pytest.approx(expected, abs=0.01)
    assert open_probability(logits)[0, 0].item() == pytest.approx(expected, abs=1e-6)
    assert gates.min() >= 0 and gates.max() <= 1


def one_path() -> tuple[torch.nn.Module, PromptPairs]:
    """A model in which a0.h1 alone says the answer: the last token again."""
    model = native(n_layers=1, n_heads=3, d_model=12, d_head=4, attn_only=True, normalization_type=None, d_vocab=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
        attention = model.blocks[0].attn
        model.embed.weight[:, :4] = 3 * torch.eye(4)
        attention.W_V[1, :4] = torch.eye(4)
        attention.W_O[1, :, 4:8] = torch.eye(4)
        model.unembed.W_U[4:8] = 3 * torch.eye(4)
    clean = torch.randint(4, (16, 1), generator=generator)
    corrupted = (clean + torch.randint(1, 4, (16, 1), generator=generator)) % 4
    return model, PromptPairs(clean, corrupted, clean[:, -1].tolist(), corrupted[:, -1].tolist())


def test_training_finds_the_one_path_that_matters() -> None:
    model, pairs = one_path()
    found = eap.score(model, pairs, logit_difference, "learned-mask", quiet=True)
    wanted = {"input->a0.h1<v>", "a0.h1->logits"}
    assert {edge for edge, _ in found.top(2)} == wanted
    assert found.scores[found.graph.edge_mask].sort(descending=True).values[2] < 0.5
    kept = logit_difference(run(model, prune(found, 2), pairs), pairs)
    torch.testing.assert_close(
        kept, logit_difference(run(model, Circuit.full(found.graph), pairs), pairs), rtol=0.1, atol=0.5
    )


def test_without_a_price_gates_stay_open_and_with_a_high_one_they_close() -> None:
    model, pairs = one_path()
    free, dear = (
        eap.score(model, pairs, logit_difference, eap.LearnedMask(penalty=penalty), quiet=True)
        for penalty in (0.0, 1000.0)
    )
    edges = Graph.from_model(model).edge_mask
    assert free.scores[edges].mean() > 0.8 and dear.scores[edges].max() < 0.1


def test_scores_are_probabilities_that_depend_on_the_seed_alone() -> None:
    model = tiny("attention-only").model
    runs = [
        eap.score(model, PAIRS, logit_difference, eap.LearnedMask(steps=3, seed=seed), quiet=True) for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].scores, runs[1].scores) and not torch.equal(runs[0].scores, runs[2].scores)
    assert runs[0].scores.min() >= 0 and runs[0].scores.max() <= 1
    assert not runs[0].scores[~runs[0].graph.edge_mask].any()


def test_the_parameters_are_not_trained() -> None:
    model = tiny("gpt2").model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    eap.score(model, PAIRS, logit_difference, eap.LearnedMask(steps=2), quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_a_penalty_is_a_number_from_0_up(penalty: float) -> None:
    with pytest.raises(ValueError, match="penalty: expected a finite number from 0, got"):
        eap.LearnedMask(penalty=penalty)
