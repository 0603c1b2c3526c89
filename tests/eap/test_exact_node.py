"""Edges taken exactly through the whole destination, against an edge at a time on literal models."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from models import curved, logit_difference, native, one_by_one, prompt_pairs, prompts_of, tiny
from references.exact_reader import exact_reader_scores
from references.lrp import ruled
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.norm import apply_norm
from edge_circuits.graphs.model.transformer import take_rows
from edge_circuits.graphs.scores import ScoredGraph

PAIRS = prompt_pairs([5, 3], positions=[-2, -1])
EVERY = 23  # one edge of so many is checked, and the last, which end at the last MLP and at logits
ALL = 1000


def scored(kind: str, method: eap.Method, metric=curved, **settings: object) -> ScoredGraph:
    return eap.score(tiny(kind).model, PAIRS, metric, method, quiet=True, token_chunk=4, **settings)


@cache
def expected(kind: str) -> dict[str, float]:
    """The slow scores of some edges."""
    edges = scored(kind, eap.EAP()).graph.edges
    some = edges[::EVERY] + edges[-3:]
    return exact_reader_scores(tiny(kind).literal, prompts_of(PAIRS), one_by_one(curved, PAIRS), some, whole=True)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "neox-parallel", "solu", "rms-gated-grouped", "qwen3"])
def test_scores_are_those_of_one_edge_at_a_time(kind: str) -> None:
    found = scored(kind, eap.EAP(reader="exact", exact_sources=ALL))
    for edge, value in expected(kind).items():
        assert abs(found.score(edge) - value) < 1e-10 * found.scores.abs().max(), edge


def test_coefficients_beyond_the_destination_stay_those_of_the_method() -> None:
    found = scored("llama", eap.RelP(reader="exact", exact_sources=ALL))
    model, edges = tiny("llama").literal, found.graph.edges[::EVERY]
    with ruled(model, "ln", "identity", gate="half"):
        slow = exact_reader_scores(model, prompts_of(PAIRS), one_by_one(curved, PAIRS), edges, whole=True)
    for edge, value in slow.items():
        assert abs(found.score(edge) - value) < 1e-10 * found.scores.abs().max(), edge


def test_few_sources_leave_the_others_at_the_norm() -> None:
    norm, few, whole = (
        scored("gpt2", eap.EAP(reader=reader, exact_sources=n)).scores
        for reader, n in (("norm", ALL), ("exact", 2), ("exact", ALL))
    )
    same_as_norm, same_as_whole = ((few - other).abs() < 1e-12 for other in (norm, whole))
    assert (few - whole).abs().sum() < (norm - whole).abs().sum()
    edges = tiny_edges("gpt2")
    assert (~same_as_whole & edges).any() and (~same_as_norm & edges).any()


def tiny_edges(kind: str) -> Tensor:
    return scored(kind, eap.EAP()).graph.edge_mask


def test_where_all_beyond_is_linear_the_scores_are_exact_patching() -> None:
    """Without norms, nothing but linear maps is above the last heads' mixture and the last MLP."""
    model = native(normalization_type=None, act_fn="gelu").double()
    exact = eap.score(model, PAIRS, logit_difference, "exact", quiet=True)
    graph, last = exact.graph, exact.graph.n_layers - 1
    into = [graph.mlp_destination(last), graph.n_destinations - 1]
    for reader, agrees in (("exact", True), ("linear", False)):
        found = eap.score(model, PAIRS, logit_difference, eap.EAP(reader=reader, exact_sources=ALL), quiet=True)
        error = (found.scores - exact.scores)[:, into].abs().max()
        assert (error < 1e-12 * exact.scores.abs().max()) == agrees


def test_a_soft_cap_of_the_logits_is_taken_exactly() -> None:
    exact = scored("rms-gated-grouped", eap.Exact(), metric=logit_difference).scores[:, -1]
    found, norm = (
        scored("rms-gated-grouped", eap.EAP(reader=reader), metric=logit_difference).scores[:, -1]
        for reader in ("exact", "norm")
    )
    assert (found - exact).abs().max() < 1e-12 < 1e-4 < (norm - exact).abs().max()


def test_integrated_gradients_meet_the_same_changes_with_the_mean_coefficients() -> None:
    """Into the last MLP: its write's change at the clean prompt, times the mean gradient there over the points."""
    transformer = adapt(tiny("gpt2").model)
    graph, last, steps = transformer.graph, transformer.graph.n_layers - 1, 3
    found = scored("gpt2", eap.IntegratedGradients(steps=steps, reader="exact", exact_sources=ALL)).scores
    clean, cut = (transformer.forward(transformer.embed(tokens)) for tokens in (PAIRS.clean, PAIRS.corrupted))
    block, rows = transformer.blocks[last], PAIRS.positions[:, None]
    at_write = 0.0
    for step in range(steps):
        start = torch.lerp(cut.embed, clean.embed, step / steps).requires_grad_()
        with torch.enable_grad():
            kept = transformer.forward(start, rows)
            value = curved(transformer.unembed(kept.final[:, 0]), PAIRS).sum()
            at_write = at_write + torch.autograd.grad(value, kept.mlp_out[last])[0] / steps
    for source, name in ((0, "embed"), (graph.mlp_source(1), "mlp_out")):
        change = [x.embed if name == "embed" else x.mlp_out[1] for x in (cut, clean)]
        change = take_rows(change[0] - change[1], rows)
        stream = take_rows(clean.mlp_in[last], rows)
        moved = block.mlp(apply_norm(block.mlp_norm, stream + change)) - block.mlp(apply_norm(block.mlp_norm, stream))
        expected_score = (moved * at_write).sum() / len(PAIRS)
        assert abs(found[source, graph.mlp_destination(last)] - expected_score) < 1e-10 * found.abs().max()


@pytest.mark.parametrize(("at", "share"), [("activations", 1.0), ("all-activations", 1 - 1 / 5)])
def test_a_node_that_is_held_passes_nothing_on(at: str, share: float) -> None:
    """Beyond the last MLP all is linear, so every point is exact for it, but the one of five places that holds it."""
    model = native(normalization_type=None, act_fn="gelu").double()
    exact = eap.score(model, PAIRS, logit_difference, "exact", quiet=True)
    into = exact.graph.mlp_destination(exact.graph.n_layers - 1)
    method = eap.IntegratedGradients(steps=2, at=at, reader="exact", exact_sources=ALL)
    found = eap.score(model, PAIRS, logit_difference, method, quiet=True)
    assert 1 + 2 * exact.graph.n_layers == 5
    assert (found.scores - share * exact.scores)[:, into].abs().max() < 1e-12 * exact.scores.abs().max()


def test_bad_numbers_of_sources_are_refused() -> None:
    with pytest.raises(ValueError, match="exact_sources: expected a whole number from 1, got 0"):
        eap.EAP(exact_sources=0)
