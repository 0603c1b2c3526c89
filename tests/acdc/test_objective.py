"""The KL divergence from the whole model, and task metrics."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny
from torch.nn.functional import kl_div

from edge_circuits.acdc.objective import Objective, as_objective
from edge_circuits.graphs.model.adapter import adapt

PAIRS = prompt_pairs([5, 5, 5], seed=1)


def logits(n, scale=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, 3, 40, generator=generator, dtype=torch.float64).to(dtype)


def divergence(clean, other):
    """KL(clean || other), summed over prompts."""
    return kl_div(other.double().log_softmax(-1), clean.double().log_softmax(-1), log_target=True, reduction="sum")


def test_divergence_from_the_clean_model():
    clean, candidates = logits(1)[0], logits(4, seed=1)
    totals = Objective("kl", [PAIRS], [clean]).total(0, candidates)
    assert totals.dtype == torch.float64
    assert totals.tolist() == pytest.approx([divergence(clean, each).item() for each in candidates], rel=1e-12)


def test_float32_rounds_at_its_own_precision():
    """Also where logits are large and all are shifted, which changes nothing."""
    clean = logits(1, scale=30.0, dtype=torch.float32)[0]
    near = (clean + 0.03 * logits(1, dtype=torch.float32, seed=1)[0])[None]
    expected = divergence(clean, near[0]).item()
    assert expected > 1e-4
    objective = Objective("kl", [PAIRS], [clean])
    assert objective.total(0, near).item() == pytest.approx(expected, abs=1e-6)
    assert objective.total(0, near + 64.0).item() == pytest.approx(expected, abs=3e-5)
    assert objective.total(0, clean[None]).item() == pytest.approx(0, abs=1e-6)


def test_a_metric_is_negated_and_summed_over_prompts():
    candidates = logits(2)
    totals = Objective(logit_difference, [PAIRS], [candidates[0]]).total(0, candidates)
    assert totals.tolist() == pytest.approx([-logit_difference(each, PAIRS).sum().item() for each in candidates])


def test_names():
    assert Objective("kl", [PAIRS], [logits(1)[0]]).name == "kl"
    assert Objective(logit_difference, [PAIRS], [logits(1)[0]]).name == "logit_difference"


def test_a_metric_by_name():
    candidates = logits(2)
    metric = as_objective("logit_difference", adapt(tiny("gpt2").model), PAIRS)
    by_name, given = (Objective(each, [PAIRS], [candidates[0]]) for each in (metric, logit_difference))
    assert by_name.name == "logit_difference"
    assert torch.equal(by_name.total(0, candidates), given.total(0, candidates))
