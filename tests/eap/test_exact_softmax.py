"""Edges into queries and keys taken exactly through the pattern, against an edge at a time on literal models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import GRADIENT, curved, logit_difference, one_by_one, prompt_pairs, prompts_of, tiny
from references.exact_reader import exact_reader_scores, single_edge_effects
from references.lrp import ruled
from torch import Tensor

from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.patching import cut_values

PAIRS = prompt_pairs([5, 3], positions=[-2, -1])
EVERY = 31  # one edge of so many is checked
EXACT_SOFTMAX = replace(GRADIENT, reader="softmax", exact_sources=1000)


def scores(kind: str, rules: RelP, token_chunk: int = 4, **settings: object) -> tuple[Graph, Tensor]:
    """The graph and the mean edge scores of a tiny model."""
    transformer = adapt(tiny(kind).model, **settings)
    cuts = cut_values(transformer, [PAIRS], "patching")
    job = Job(transformer, curved, cuts, "patching", token_chunk)
    return transformer.graph, rules.scores(job, PAIRS) / len(PAIRS)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "qwen3", "attention-only"])
def test_scores_are_those_of_one_edge_at_a_time(kind: str) -> None:
    graph, found = scores(kind, EXACT_SOFTMAX)
    edges = [edge for edge in graph.edges if edge.endswith(("<q>", "<k>"))][::EVERY]
    expected = exact_reader_scores(
        tiny(kind).literal, prompts_of(PAIRS), one_by_one(curved, PAIRS), edges, softmax=True
    )
    for edge, value in expected.items():
        assert abs(found[graph.edge_index(edge)] - value) < 1e-10 * found.abs().max(), edge


def test_rules_above_the_reader_stay_what_they_are() -> None:
    graph, found = scores("gpt2", RelP(reader="softmax", exact_sources=1000, attention="ah"))
    edges, model = [edge for edge in graph.edges if edge.endswith(("<q>", "<k>"))][::EVERY], tiny("gpt2").literal
    with ruled(model, "ln", "identity", "ah"):
        expected = exact_reader_scores(model, prompts_of(PAIRS), one_by_one(curved, PAIRS), edges, softmax=True)
    for edge, value in expected.items():
        assert abs(found[graph.edge_index(edge)] - value) < 1e-10 * found.abs().max(), edge


def test_chunks_of_prompts_change_nothing() -> None:
    assert (scores("llama", EXACT_SOFTMAX)[1] - scores("llama", EXACT_SOFTMAX, token_chunk=64)[1]).abs().max() < 1e-12


def test_key_value_heads_change_their_whole_group() -> None:
    graph, by_query_head = scores("qwen3", EXACT_SOFTMAX)
    grouped, by_kv_head = scores("qwen3", EXACT_SOFTMAX, kv_destinations="kv-head")
    one = by_query_head[:, graph.part_destinations(1, "k")].unflatten(1, (grouped.n_kv_heads, -1)).sum(2)
    assert (one - by_kv_head[:, grouped.part_destinations(1, "k")]).abs().max() < 1e-12


def test_in_the_last_layer_of_attention_alone_the_scores_are_exact() -> None:
    """Nothing but a linear map is above the last heads of a model without MLPs and norms."""
    transformer = adapt(tiny("attention-only").model)
    graph, last = transformer.graph, transformer.graph.n_layers - 1
    cuts = cut_values(transformer, [PAIRS], "patching")
    job = Job(transformer, logit_difference, cuts, "patching", 64)
    edges = [edge for edge in graph.edges if f"->a{last}" in edge][::5]
    exact = single_edge_effects(
        tiny("attention-only").literal, prompts_of(PAIRS), one_by_one(logit_difference, PAIRS), edges
    )
    for rules, agrees in ((EXACT_SOFTMAX, True), (GRADIENT, False)):
        found = rules.scores(job, PAIRS) / len(PAIRS)
        errors = [found[graph.edge_index(edge)] - effect for edge, effect in zip(edges, exact)]
        assert (torch.stack(errors).abs().max() < 1e-12) == agrees
