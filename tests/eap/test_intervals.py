"""Scores with error bars: sums over groups against scoring at once, intervals against drawing one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import logit_difference, prompt_pairs, tiny

from edge_circuits import eap
from edge_circuits.eap import intervals as error_bars_file
from edge_circuits.eap.intervals import error_bars, score_groups
from edge_circuits.graphs import Graph, ScoredGraph, prune

PAIRS = prompt_pairs([7, 5, 7, 6, 3, 6, 5], seed=4)


@pytest.mark.parametrize("method", ["eap", "relp", "eap-ig", "exact"])
def test_groups_add_up_to_scoring_all_prompts(method: str) -> None:
    model = tiny("attention-only").model
    whole = eap.score(model, PAIRS, logit_difference, method, quiet=True)
    scored = score_groups(model, PAIRS, logit_difference, method, n_groups=3, quiet=True)
    # float64; sums over prompts in another order
    assert torch.allclose(scored.scores, whole.scores, rtol=0, atol=1e-10)
    assert scored.per_group.shape == (3, *whole.scores.shape) and scored.metadata["method"] == method
    assert scored.metadata["settings"] == {**whole.metadata["settings"], "n_prompts": 7, "n_groups": 3}
    second = eap.score(model, PAIRS[1::3], logit_difference, method, quiet=True)
    assert torch.allclose(scored.per_group[1], second.scores * 2 / 7, rtol=0, atol=1e-10)


def test_settings_reach_the_method() -> None:
    model = tiny("attention-only").model
    scored = score_groups(model, PAIRS, logit_difference, "eap-ig:steps=2", n_groups=2, intervention="zero", quiet=True)
    whole = eap.score(model, PAIRS, logit_difference, "eap-ig:steps=2", intervention="zero", quiet=True)
    assert torch.allclose(scored.scores, whole.scores, rtol=0, atol=1e-10)


def test_one_prompt_a_group_where_there_are_fewer() -> None:
    model = tiny("attention-only").model
    assert len(score_groups(model, PAIRS, logit_difference, quiet=True).per_group) == len(PAIRS)
    assert (
        prune(score_groups(model, PAIRS, logit_difference, quiet=True), 20, stable=0.8).metadata["pruning"]["n_stable"]
        < 20
    )


def made_up(seed: int = 0) -> ScoredGraph:
    graph = Graph(2, 2)
    groups = torch.randn(5, *graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    groups[:, 0, 0] = 0
    return ScoredGraph(graph, (groups * graph.edge_mask).sum(0), {}, groups * graph.edge_mask)


def test_bars_equal_drawing_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_bars_file, "EDGE_CHUNK", 7)
    scored = made_up()
    rows = torch.randint(5, (60, 5), generator=torch.Generator().manual_seed(9)).tolist()
    drawn = torch.stack([sum(scored.per_group[group] for group in row) for row in rows]).numpy()
    bars = error_bars(scored, confidence=0.8, n_resamples=60, seed=9)
    assert np.allclose(bars.low, np.quantile(drawn, 0.1, axis=0), rtol=0, atol=1e-12)
    assert np.allclose(bars.high, np.quantile(drawn, 0.9, axis=0), rtol=0, atol=1e-12)
    expected = (np.sign(drawn) == np.sign(scored.scores.numpy())).mean(0) * scored.graph.edge_mask.numpy()
    assert np.allclose(bars.sign_stability, expected, rtol=0, atol=1e-12)
    assert bars.sign_stability[0, 0] == 1 and 0.3 < expected[scored.graph.edge_mask].min() < 1
    assert bars.graph is scored and bars.confidence == 0.8


def test_equal_groups_leave_no_spread() -> None:
    same = made_up().per_group[:1].repeat(4, 1, 1)
    bars = error_bars(ScoredGraph(made_up().graph, same.sum(0), {}, same))
    assert torch.allclose(bars.low, same.sum(0)) and torch.allclose(bars.high, same.sum(0))
    assert bool((bars.sign_stability == 1)[made_up().graph.edge_mask].all())


def test_scoring_in_groups_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    model, settings = tiny("attention-only").model, dict(n_groups=3, quiet=True)
    first = score_groups(model, PAIRS, logit_difference, "eap", checkpoint=tmp_path, **settings)
    assert len(list(tmp_path.iterdir())) == 3
    again = score_groups(model, PAIRS, logit_difference, "eap", checkpoint=tmp_path, **settings)
    assert torch.equal(first.per_group, again.per_group)
    assert torch.equal(first.per_group, score_groups(model, PAIRS, logit_difference, "eap", **settings).per_group)


def test_refusals() -> None:
    model = tiny("attention-only").model

    def ask(*given, **settings):
        return score_groups(model, PAIRS, logit_difference, *given, quiet=True, **settings)

    for method in (eap.HeadImportance(), eap.LearnedMask(), eap.Random()):
        expected = (
            f"method: expected one whose scores are means over prompts, got '{method.name}': {method.not_additive}"
        )
        with pytest.raises(ValueError, match=expected):
            ask(method)
        assert not method.additive
    with pytest.raises(
        ValueError,
        match="intervention: expected one that groups of prompts have, got 'mean', whose means are over all prompts",
    ):
        ask(intervention="mean")
    with pytest.raises(
        ValueError, match="n_groups: expected 2 or more, of as many prompts, got 1 groups and 7 prompts"
    ):
        ask(n_groups=1)
    with pytest.raises(ValueError, match="got 20 groups and 1 prompts"):
        score_groups(model, PAIRS[:1], logit_difference)
    with pytest.raises(ValueError, match="method: expected one of 'eap', "):
        ask("nothing")
    with pytest.raises(ValueError, match="confidence: expected a finite number above 0 and below 1, got 95"):
        error_bars(made_up(), confidence=95.0)
    with pytest.raises(ValueError, match="n_resamples: expected a whole number from 2, got 0"):
        error_bars(made_up(), n_resamples=0)
    with pytest.raises(ValueError, match="expected scores kept group by group"):
        error_bars(ScoredGraph(Graph(1, 1), torch.zeros(3, 5)))


def test_error_bars_show_themselves() -> None:
    bars = error_bars(made_up(), n_resamples=50)
    edge, score, low, high, stability = bars.table(1).rows[0]
    place = bars.graph.graph.edge_index(edge)
    assert (edge, score) == bars.graph.top(1)[0] and (low, high) == (bars.low[place].item(), bars.high[place].item())
    assert stability == bars.sign_stability[place].item()
    assert str(bars).startswith("95% intervals\n") and "<caption>95% intervals</caption>" in bars._repr_html_()
