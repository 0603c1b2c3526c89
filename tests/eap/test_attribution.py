"""Edge attribution patching against the slow reference: every destination's input a sum, one derivative an edge."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from models import (
    KINDS,
    RAGGED,
    bridged,
    curved,
    hugging_face,
    logit_difference,
    one_by_one,
    prompt_pairs,
    prompts_of,
    relative_error,
    tiny,
)
from references import edges
from references.hugging_face import literal_of
from torch import Tensor

from edge_circuits import eap
from edge_circuits.graphs import Graph, ScoredGraph

PAIRS = prompt_pairs([7, 4], positions=[-1, 1], seed=1)
OTHER_INTERVENTIONS = ("zero", "mean", "mean-positional")
MIXED = [(kind, OTHER_INTERVENTIONS[index % 3]) for index, kind in enumerate(KINDS)]
MIXED += [(kind, each) for kind in ("llama", "gemma2") for each in OTHER_INTERVENTIONS if (kind, each) not in MIXED]


def in_order(graph: Graph, scores: dict[str, float]) -> Tensor:
    """Reference scores in edge order; every edge has one and nothing else does."""
    assert scores.keys() == set(graph.edges)
    return torch.tensor([scores[edge] for edge in graph.edges], dtype=torch.float64)


@cache
def expected(kind: str, intervention: str = "patching", grouped: bool = False) -> dict[str, float]:
    pairs = RAGGED if intervention == "patching" else PAIRS
    return edges.edge_attribution(
        tiny(kind).literal, prompts_of(pairs), one_by_one(curved, pairs), intervention, grouped
    )


def ours(kind: str, dtype: torch.dtype, intervention: str = "patching", grouped: bool = False) -> ScoredGraph:
    pairs, kv_destinations = RAGGED if intervention == "patching" else PAIRS, "kv-head" if grouped else "query-head"
    model = tiny(kind, dtype).model
    return eap.score(
        model, pairs, curved, "eap", intervention=intervention, kv_destinations=kv_destinations, quiet=True
    )


DTYPES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]  # the largest errors seen are 4e-15 and 2e-6


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_reference(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    scored = ours(kind, dtype)
    assert scored.scores.dtype == dtype
    assert relative_error(scored.values, in_order(scored.graph, expected(kind))) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize(("kind", "intervention"), MIXED)
def test_other_interventions_are_those_of_the_reference(
    kind: str, intervention: str, dtype: torch.dtype, tolerance: float
) -> None:
    scored = ours(kind, dtype, intervention)
    assert relative_error(scored.values, in_order(scored.graph, expected(kind, intervention))) < tolerance


@pytest.mark.parametrize("kind", ["llama", "rms-norm-pre"])  # two key-value heads; one
@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_key_value_heads_are_those_of_the_reference(kind: str, intervention: str) -> None:
    scored = ours(kind, torch.float64, intervention, grouped=True)
    assert scored.graph.n_kv_heads == tiny(kind).literal.n_kv_heads
    assert relative_error(scored.values, in_order(scored.graph, expected(kind, intervention, True))) < 1e-12


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "rms-norm-pre", "rms-gated-grouped"])
def test_key_value_heads_are_sums_over_their_group(kind: str) -> None:
    queries, keys = ours(kind, torch.float64), ours(kind, torch.float64, grouped=True)
    group = keys.graph.n_heads // keys.graph.n_kv_heads
    for layer in range(keys.graph.n_layers):
        for part in "kv":
            per_query_head = queries.scores[:, queries.graph.part_destinations(layer, part)]
            shared = keys.scores[:, keys.graph.part_destinations(layer, part)]
            torch.testing.assert_close(shared, per_query_head.unflatten(1, (-1, group)).sum(2), rtol=1e-11, atol=1e-14)
        for part in (keys.graph.part_destinations(layer, "q"),):
            there = queries.graph.part_destinations(layer, "q")
            torch.testing.assert_close(keys.scores[:, part], queries.scores[:, there], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_hidden_layers=1),
        dict(num_attention_heads=1, num_key_value_heads=1),
        dict(num_key_value_heads=4),
        dict(head_dim=4),
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("lengths", [[1], [4]])
def test_small_and_odd_shapes(settings: dict[str, int], lengths: list[int]) -> None:
    module, pairs = hugging_face("llama", **settings), prompt_pairs(lengths)
    literal = literal_of("LlamaForCausalLM", module.state_dict(), module.config)
    scored = eap.score(bridged(module.double()), pairs, logit_difference, "eap", quiet=True)
    slow = edges.edge_attribution(literal, prompts_of(pairs), one_by_one(logit_difference, pairs))
    assert relative_error(scored.values, in_order(scored.graph, slow)) < 1e-12


def test_a_sequence_of_one_token_has_no_query_and_key_scores() -> None:
    scored = eap.score(tiny("gpt2").model, prompt_pairs([1, 1]), logit_difference, "eap", quiet=True)
    for layer in range(3):
        for part in "qk":  # the only key gets all attention, whatever the scores
            assert scored.scores[:, scored.graph.part_destinations(layer, part)].abs().max() < 1e-15
        assert scored.scores[:, scored.graph.part_destinations(layer, "v")].abs().max() > 1e-3
