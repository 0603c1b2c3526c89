"""Edges taken exactly through their reader's norm, against an edge at a time on literal models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import GRADIENT, curved, logit_difference, one_by_one, prompt_pairs, prompts_of, tiny
from references.exact_reader import exact_reader_scores, single_edge_effects
from references.lrp import ruled
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.exact_norm import scale_ratio
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import cut_values

PAIRS = prompt_pairs([5, 3], positions=[-2, -1])
EVERY = 31  # one edge of so many is checked
EXACT_NORM = replace(GRADIENT, reader="norm")


def scores(kind: str, rules: RelP, pairs: PromptPairs = PAIRS, **settings: object) -> tuple[Graph, Tensor]:
    """The graph and the mean edge scores of a tiny model."""
    transformer = adapt(tiny(kind).model, **settings)
    cuts = cut_values(transformer, [pairs], "patching")
    job = Job(transformer, curved, cuts, "patching", 4)
    return transformer.graph, rules.scores(job, pairs) / len(pairs)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "neox-parallel", "solu", "layer-norm-pre", "rms-norm-pre"])
def test_scores_are_those_of_one_edge_at_a_time(kind: str) -> None:
    graph, found = scores(kind, EXACT_NORM)
    edges = graph.edges[::EVERY] + graph.edges[-3:]
    expected = exact_reader_scores(tiny(kind).literal, prompts_of(PAIRS), one_by_one(curved, PAIRS), edges)
    for edge, value in expected.items():
        assert abs(found[graph.edge_index(edge)] - value) < 1e-10 * found.abs().max(), edge


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rules_above_the_reader_stay_what_they_are(kind: str) -> None:
    rules = RelP(reader="norm", gate="exact")
    graph, found = scores(kind, rules)
    edges, model = graph.edges[::EVERY], tiny(kind).literal
    with ruled(model, "ln", "identity"):
        expected = exact_reader_scores(model, prompts_of(PAIRS), one_by_one(curved, PAIRS), edges)
    for edge, value in expected.items():
        assert abs(found[graph.edge_index(edge)] - value) < 1e-10 * found.abs().max(), edge


def test_key_value_heads_sum_their_query_heads() -> None:
    graph, by_query_head = scores("qwen3", EXACT_NORM)
    grouped, by_kv_head = scores("qwen3", EXACT_NORM, kv_destinations="kv-head")
    for letter in "kv":
        one = by_query_head[:, graph.part_destinations(1, letter)].unflatten(1, (grouped.n_kv_heads, -1)).sum(2)
        assert (one - by_kv_head[:, grouped.part_destinations(1, letter)]).abs().max() < 1e-12


def test_into_logits_the_score_of_a_linear_metric_is_exact() -> None:
    """Nothing but the norm stands between an edge into `logits` and the logits."""
    transformer = adapt(tiny("gpt2").model)
    cuts = cut_values(transformer, [PAIRS], "patching")
    job = Job(transformer, logit_difference, cuts, "patching", 64)
    edges = [edge for edge in transformer.graph.edges if edge.endswith("->logits")]
    exact = single_edge_effects(tiny("gpt2").literal, prompts_of(PAIRS), one_by_one(logit_difference, PAIRS), edges)
    for rules, agrees in ((EXACT_NORM, True), (GRADIENT, False)):
        found = rules.scores(job, PAIRS)[:, -1] / len(PAIRS)
        assert ((found - torch.stack(exact)).abs().max() < 1e-12) == agrees


def test_a_small_change_scores_as_the_gradient_does() -> None:
    """The finite difference tends to the derivative."""
    _graph, _ = scores("gpt2", GRADIENT)
    transformer = adapt(tiny("gpt2").model)
    cut = cut_values(transformer, [PAIRS], "patching")
    clean = transformer.forward(transformer.embed(PAIRS.clean[:, :4]), PAIRS.positions[:, None])

    def nearly_clean(batch: PromptPairs) -> object:
        far = cut(batch)
        lerp = {
            name: [torch.lerp(a, b, 1e-6) for a, b in zip(getattr(clean, name), getattr(far, name))]
            for name in ("z", "mlp_out")
        }
        return replace(clean, embed=torch.lerp(clean.embed, far.embed, 1e-6), **lerp)

    job = Job(transformer, curved, nearly_clean, "patching", 64)
    exact, linear = EXACT_NORM.scores(job, PAIRS), GRADIENT.scores(job, PAIRS)
    assert (exact - linear).abs().max() < 1e-4 * linear.abs().max()


@pytest.mark.parametrize("centred", [True, False])
def test_scale_ratio_of_a_stream_that_is_wiped_out_is_finite(centred: bool) -> None:
    norm, x = Norm(centred, 1e-6), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    inner = x - x.mean(1, keepdim=True) if centred else x
    ratio = scale_ratio(norm, x, -x[None], -(inner * inner).sum(1)[None])
    assert torch.isfinite(ratio).all()
    assert (ratio <= 1.001 / (norm.inverse_scale(x)[:, 0] * 1e-3)).all()
