"""Scores that follow the metric's curve, against the formula prompt by prompt, and the blend of two methods."""

from __future__ import annotations

import pytest
import torch
from models import curved, logit_difference, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.metric_curve import MetricCurve, metric_curve
from edge_circuits.graphs import Circuit, Graph, PromptPairs, run

PAIRS = prompt_pairs([5, 3, 5], positions=[-2, -1, -1], seed=4)
SETTINGS = dict(reader="exact", exact_sources=1000)


def ends(kind: str, pairs: PromptPairs) -> tuple[Tensor, Tensor]:
    """The logits of the clean and of the corrupted prompts."""
    graph = Graph.from_model(tiny(kind).model)
    with torch.no_grad():
        return tuple(run(tiny(kind).model, circuit(graph), pairs) for circuit in (Circuit.full, Circuit.empty))


def slowly(kind: str, method: eap.Method, row: int) -> Tensor:
    """The curve's scores of one prompt, with the mean over the line and the curve itself taken finely."""
    pairs = PAIRS[[row]]
    clean, cut = ends(kind, pairs)
    way, mean = cut - clean, 0.0
    for step in range(400):
        logits = (clean + (step + 0.5) / 400 * way).requires_grad_()
        mean = mean + torch.autograd.grad(curved(logits, pairs).sum(), logits)[0] / 400
    by_slope = eap.score(tiny(kind).model, pairs, curved, method, quiet=True).scores
    by_mean = eap.score(tiny(kind).model, pairs, lambda logits, _: (logits * mean).sum(1), method, quiet=True).scores
    along = (by_mean / (mean * way).sum()).clamp(-1, 2)
    logits = clean.clone().requires_grad_()
    slope = (torch.autograd.grad(curved(logits, pairs).sum(), logits)[0] * way).sum()
    heights = [(curved(clean + a * way, pairs) - curved(clean, pairs)).item() for a in along.flatten().tolist()]
    return by_slope + torch.tensor(heights, dtype=along.dtype).view_as(along) - along * slope


@pytest.mark.parametrize("method", [eap.EAP(), eap.RelP(reader="norm")])
def test_scores_follow_the_curve_of_each_prompt(method: eap.Method) -> None:
    bent = type(method)(**(method.settings | {"metric_as": "curve"}))
    found = eap.score(tiny("gpt2").model, PAIRS, curved, bent, quiet=True).scores
    straight = eap.score(tiny("gpt2").model, PAIRS, curved, method, quiet=True).scores
    expected = sum(slowly("gpt2", method, row) for row in range(len(PAIRS))) / len(PAIRS)
    size = expected.abs().max()
    assert (found - expected).abs().max() < 5e-3 * size  # the curve is read at 61 places, the mean at 8
    assert (straight - expected).abs().max() > 2e-2 * size


def test_a_linear_metric_has_no_curve_and_changes_nothing() -> None:
    clean, cut = ends("gpt2", PAIRS)
    assert metric_curve(logit_difference, PAIRS, clean, cut) is None
    assert metric_curve(curved, PAIRS, clean, cut) is not None
    one, other = (
        eap.score(tiny("gpt2").model, PAIRS, logit_difference, eap.EAP(metric_as=how), quiet=True).scores
        for how in ("slope", "curve")
    )
    assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_an_edge_that_moves_the_logits_along_the_line_has_its_exact_effect() -> None:
    """Whatever the metric: an edge that goes a share of the way adds the curve's height there."""
    clean, cut = ends("gpt2", PAIRS)
    curve = metric_curve(curved, PAIRS, clean, cut)
    shares = torch.tensor([-0.5, 0.0, 0.05, 0.3, 1.0, 1.7], dtype=clean.dtype)[None, :, None].expand(3, 6, 1)
    bent = curve.bent(shares * curve.slope[:, None, None], shares * curve.span[:, None, None])
    for number, share in enumerate(shares[0, :, 0].tolist()):
        effect = curved(clean + share * (cut - clean), PAIRS) - curved(clean, PAIRS)
        assert torch.allclose(bent[:, number, 0], effect, atol=1e-3 * curve.heights.abs().max().item())


def test_a_line_that_goes_nowhere_leaves_the_scores() -> None:
    heights = torch.zeros(61, 1)
    curve = MetricCurve(heights, torch.zeros(1), torch.zeros(1, 4), torch.zeros(1))
    scores = torch.tensor([[[1.0, -2.0]]])
    assert torch.equal(curve.bent(scores, 3 * scores), scores)


def test_any_batching_gives_the_same() -> None:
    found = [
        eap.score(tiny("gemma2").model, PAIRS, curved, "blend", batch_size=size, quiet=True).scores for size in (1, 3)
    ]
    assert torch.allclose(*found, rtol=0, atol=1e-10)


def test_a_curve_that_comes_back_leaves_the_scores_by_slope() -> None:
    """Its span is small beside its bend, so that scores over it are no share of the way."""
    places = torch.linspace(-1, 2, 61, dtype=torch.float64)[:, None]
    returning, falling = places * (1.05 - places), -places * (1 + places)
    scores, by_mean = torch.tensor([[[0.01, -0.02]]]).double(), torch.tensor([[[0.3, -0.1]]]).double()
    for heights, slope, span, follows in ((returning, 1.05, 0.05, False), (falling, -1.0, -2.0, True)):
        curve = MetricCurve(heights, torch.tensor([slope]).double(), torch.zeros(1, 4), torch.tensor([span]).double())
        assert torch.equal(curve.bent(scores, by_mean), scores) is not follows


def beyond_the_clean_end(logits: Tensor, pairs: PromptPairs) -> Tensor:
    """A metric that is straight from the clean to the cut logits of the first prompt, and bends away from both."""
    clean, cut = (end[:1] for end in ends("gpt2", PAIRS))
    way = (cut - clean) / (cut - clean).square().sum()
    along = ((logits - clean) * way).sum(1)
    return along - (-0.3 - along).clamp(min=0)


def test_a_bend_beyond_the_clean_end_counts_whatever_runs_beside() -> None:
    clean, cut = (end[:1] for end in ends("gpt2", PAIRS))
    curve = metric_curve(beyond_the_clean_end, PAIRS[:1], clean, cut)
    assert curve is not None and abs(curve.heights[0, 0].item() + 1.7) < 1e-9
    settings = dict(method=eap.EAP(metric_as="curve"), quiet=True)
    alone, together = (
        eap.score(tiny("gpt2").model, PAIRS, beyond_the_clean_end, batch_size=size, **settings).scores
        for size in (1, 3)
    )
    assert torch.allclose(alone, together, rtol=0, atol=1e-10)


@pytest.mark.parametrize("metric", [logit_difference, curved])
def test_a_blend_is_the_gradient_for_small_effects_and_relevance_for_large_ones(metric) -> None:
    found, share = eap.score(tiny("llama").model, PAIRS, metric, eap.Blend(exact_sources=1000), quiet=True).scores, 0.1
    small, large = (
        sum(eap.score(tiny("llama").model, PAIRS[[row]], metric, method, quiet=True).scores for row in range(3)) / 3
        for method in (eap.EAP(metric_as="curve", **SETTINGS), eap.RelP(metric_as="curve", **SETTINGS))
    )
    weight = large**2 / (large**2 + (share * large.abs().max()) ** 2)
    expected = weight * large + (1 - weight) * small
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max()


def test_groups_of_prompts_add_up_to_the_blend_of_all() -> None:
    settings = dict(method="blend", quiet=True)
    whole = eap.score(tiny("llama").model, PAIRS, curved, **settings)
    groups = eap.score_groups(tiny("llama").model, PAIRS, curved, n_groups=2, **settings)
    assert (groups.scores - whole.scores).abs().max() < 1e-10 * whole.scores.abs().max()
    assert groups.metadata["method"] == "blend" and groups.metadata["settings"]["share"] == 0.1
    alone = eap.score(tiny("llama").model, PAIRS[1:2], curved, **settings).scores / 3
    assert not torch.allclose(groups.per_group[1], alone, rtol=1e-3)  # weights are those of all prompts


@pytest.mark.usefixtures("without_type_checks")
def test_equal_prompts_score_zero_and_a_share_is_positive() -> None:
    found = eap.score(tiny("gpt2").model, PAIRS.identical(), curved, "blend", quiet=True).scores
    assert found.abs().max() < 1e-12
    with pytest.raises(ValueError, match="share: expected a finite number above 0, got 0.0"):
        eap.Blend(share=0.0)
