"""Exact patching of nodes against the slow reference, and node scores that are known to agree."""

from __future__ import annotations

import pytest
import torch
from models import RAGGED, curved, logit_difference, one_by_one, prompts_of, tiny
from references import edges

import edge_circuits as ec
from edge_circuits.graphs.node_circuits import ScoredNodes


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("intervention", ["patching", "mean"])
@pytest.mark.usefixtures("without_type_checks")
def test_every_node_cut_one_by_one(kind, intervention):
    literal, prompts, metric = tiny(kind).literal, prompts_of(RAGGED), one_by_one(curved, RAGGED)
    found = ec.patch_nodes(tiny(kind).model, RAGGED, curved, intervention, batch_size=3)
    cuts = edges.cut_values(literal, prompts, intervention)
    for node, score in zip(found.graph.sources[1:], found.scores.tolist()):
        changes = []
        for row, (prompt, cut) in enumerate(zip(prompts, cuts)):
            without = edges.forward(literal, prompt.clean, lambda s, value, _: cut[s] if s == node else value)[1]
            clean = edges.logits(literal, prompt.clean)
            changes.append(metric(without[prompt.position], row) - metric(clean[prompt.position], row))
        assert score == pytest.approx(sum(changes).item() / len(changes), abs=1e-11)


@pytest.mark.parametrize("method", ["eap", "relp"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention-only"])
def test_scores_by_position_sum_to_those_of_the_edges_that_leave_a_node(kind, method):
    arguments = tiny(kind).model, RAGGED, curved, method
    by_position = ec.score_nodes(*arguments, quiet=True).by_node
    by_edge = ScoredNodes.of(ec.score(*arguments, quiet=True))
    assert by_position.graph == by_edge.graph
    torch.testing.assert_close(by_position.scores, by_edge.scores, rtol=0, atol=1e-9)
    assert ec.prune_nodes(by_position, 3) == ec.prune_nodes(ec.score_nodes(*arguments, quiet=True), 3)


def test_scores_without_heads_are_refused():
    scores = ec.score_nodes(tiny("attention-only").model, RAGGED[[1]], logit_difference, "exact", quiet=True)
    with pytest.raises(ValueError, match="scores: expected scores of heads, got .*patch_nodes"):
        scores.by_node  # noqa: B018


def test_the_last_heads_of_a_linear_model_are_exact():
    model = tiny("attention-only").model
    exact = ec.patch_nodes(model, RAGGED, logit_difference)
    estimate = ec.score_nodes(model, RAGGED, logit_difference, "eap", quiet=True).by_node
    torch.testing.assert_close(exact.scores[-4:], estimate.scores[-4:], rtol=1e-9, atol=1e-11)
