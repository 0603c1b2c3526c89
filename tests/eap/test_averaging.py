"""Means of several methods' scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny

from edge_circuits import eap

PAIRS = prompt_pairs([5, 4, 5, 3], seed=2)


def scored(method: str, kind: str = "attention-only", **settings):
    return eap.score(tiny(kind).model, PAIRS, logit_difference, method, quiet=True, **settings)


def test_a_mean_is_taken_edge_by_edge_and_says_of_what() -> None:
    parts = [scored("eap"), scored("relp"), scored("exact")]
    mean = eap.mean_scores(parts)
    for edge in mean.graph.edges[::7]:
        assert mean.score(edge) == pytest.approx(sum(part.score(edge) for part in parts) / 3, abs=1e-12)
    assert [one["method"] for one in mean.metadata["of"]] == ["eap", "relp", "exact"]
    assert mean.metadata["method"] == "mean" and mean.metadata["metric"] == "logit_difference"
    assert mean.per_group is None


def test_groups_are_kept_where_all_have_them() -> None:
    model = tiny("attention-only").model
    parts = [
        eap.score_groups(model, PAIRS, logit_difference, method, n_groups=2, quiet=True) for method in ("eap", "eap-ig")
    ]
    mean = eap.mean_scores(parts)
    assert torch.allclose(mean.per_group, (parts[0].per_group + parts[1].per_group) / 2)
    assert torch.allclose(mean.per_group.sum(0), mean.scores, atol=1e-12)
    assert eap.mean_scores([parts[0], scored("eap")]).per_group is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="scored: expected one result of `score` or more, got none"):
        eap.mean_scores([])
    with pytest.raises(
        ValueError, match="scored: expected scores of Graph.* alone, got some of Graph.*; score one model"
    ):
        eap.mean_scores([scored("eap"), scored("eap", "gpt2")])
    with pytest.raises(ValueError, match="expected one metric, intervention and number of prompts"):
        eap.mean_scores([scored("eap"), scored("eap", intervention="zero")])
    with pytest.raises(ValueError, match="expected scores with a sign, got those of method 'hisp'; leave them out"):
        eap.mean_scores([scored("eap"), scored("hisp")])
    unknown = replace(scored("eap"), metadata={})
    assert torch.equal(eap.mean_scores([unknown]).scores, unknown.scores)
