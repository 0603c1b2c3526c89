"""Exact scores within a budget: which edges they are, what they cost, and that they are exact."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny

from edge_circuits import eap
from edge_circuits.eap.budget import (
    CALL,
    ELEMENTWISE,
    PATCHED_CALLS,
    PLAIN,
    START,
    START_CALLS,
    affordable,
    edge_prices,
)
from edge_circuits.eap.methods import exact
from edge_circuits.graphs import ScoredGraph
from edge_circuits.graphs.model.adapter import adapt

PAIRS = prompt_pairs([7, 7, 5], positions=[-1, -1, -1], seed=3)


def scored(method="eap", kind="gpt2", **settings):
    return eap.score(tiny(kind).model, PAIRS, logit_difference, method, quiet=True, **settings)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_largest_edges_become_exact_and_the_others_stay(kind):
    cheap, exact, bought = scored(kind=kind), scored("exact", kind), scored(kind=kind, budget=16)
    n = int(bought.exact.sum())
    assert 10 < n < cheap.graph.n_edges / 2
    largest = cheap.scores.abs().flatten().topk(n).values[-1]
    assert torch.equal(bought.exact, cheap.scores.abs() >= largest)
    # float64: other candidates are stacked in a call
    torch.testing.assert_close(bought.scores[bought.exact], exact.scores[bought.exact], rtol=1e-9, atol=1e-12)
    assert torch.equal(bought.scores[~bought.exact], cheap.scores[~bought.exact])


def test_more_buys_more_and_enough_buys_all():
    few, more, all_ = (scored(budget=budget) for budget in (10, 20, 10_000))
    assert 0 < few.exact.sum() < more.exact.sum()
    assert not (few.exact & ~more.exact).any()
    assert torch.equal(all_.exact, all_.graph.edge_mask)
    torch.testing.assert_close(all_.scores, scored("exact").scores, rtol=1e-9, atol=1e-12)


def in_order(scores):
    """Places of edges, the largest first."""
    edges = tiny_graph().edge_mask
    return edges.nonzero()[scores[edges].abs().argsort(descending=True, stable=True)]


def tiny_graph():
    return adapt(tiny("gpt2").model).graph


def test_what_is_bought_is_paid_for():
    """The next edge would have been too dear."""
    transformer = adapt(tiny("gpt2").model)
    scores, batches = scored().scores, PAIRS.batches()
    spent = edge_prices(transformer, batches, in_order(scores)[:, 1])
    for budget in (spent[40].item(), spent[40].item() + 1e-9, spent[40].item() - 1e-9):
        chosen = affordable(transformer, batches, scores.abs(), budget)
        n = 41 if budget >= spent[40] else 40
        assert {tuple(place) for place in chosen.nonzero().tolist()} == {*map(tuple, in_order(scores)[:n].tolist())}


def test_prices_counted_by_hand():
    """GPT-2 of 3 layers, 4 heads of 8 and width 32: 4 x 32 x 8 weights a head, 8 x 32 x 32 an MLP, 32 x 40 to logits."""
    transformer = adapt(tiny("gpt2").model)
    graph, beside = transformer.graph, ELEMENTWISE * 32 // 2
    head, mlp, logits = 4 * 32 * 8 + beside // 4, 8 * 32 * 32 + beside, 32 * 40
    n_tokens, n_answers = 3 * 7, 3  # padded
    plain = PLAIN * (n_tokens * (3 * (4 * head + mlp) + logits) + 3 * CALL)
    start = START + 2 * n_tokens * 3 * (4 * head + mlp) + START_CALLS * 3 * CALL
    last = (4 * head + mlp + logits) * n_answers
    keys_and_values = 2 * 32 * 32
    by_hand = {
        "logits": (1, logits * n_answers),
        "m2": (2, (mlp + logits) * n_answers),
        "a2.h1<k>": (2, (head + mlp + logits) * n_answers),
        "m1": (3, (mlp + keys_and_values) * n_tokens + last),
        "a1.h0<v>": (3, (head + mlp + keys_and_values) * n_tokens + last),
        "m0": (4, (mlp + 4 * head + mlp + keys_and_values) * n_tokens + last),
    }
    for name, (n_layers, work) in by_hand.items():
        price = edge_prices(transformer, PAIRS.batches(), torch.tensor([graph.destination_index(name)] * 3))
        first = work + n_layers * PATCHED_CALLS * CALL
        assert price.tolist() == pytest.approx([(start + first + more * work) / plain for more in range(3)], rel=1e-12)


def test_calls_are_counted_by_stacks_and_by_prompts_that_run_together(monkeypatch):
    monkeypatch.setattr(
        exact, "STACKED_TOKENS", 6
    )  # of a model 32 wide eight times as many: 3 candidates of 2 x 7 tokens
    transformer = adapt(tiny("gpt2").model)
    mlp = transformer.graph.mlp_destination(1)
    destinations = torch.tensor([mlp, mlp, 0, mlp, mlp, mlp])
    call = 3 * PATCHED_CALLS * CALL

    def paid(pairs):
        spent = edge_prices(transformer, pairs.batches(), destinations)
        return spent.diff() * PLAIN * (pairs.clean.numel() * per_token + 3 * CALL)

    per_token = 3 * (4 * 32 * 32 + 8 * 32 * 32 + ELEMENTWISE * 32) + 32 * 40
    second, _, third, fourth, fifth = paid(PAIRS[:2]).tolist()
    assert second == pytest.approx(third) == pytest.approx(fifth) and fourth - third == pytest.approx(call)
    apart = prompt_pairs([7, 3], positions=[-1, -1], seed=3)  # too unlike to run together: a stack of 6 and one of 16
    second, _, third, fourth, fifth = paid(apart).tolist()
    assert second == pytest.approx(third) == pytest.approx(fourth) == pytest.approx(fifth)


def test_the_result_says_which_are_exact_also_from_a_file(tmp_path):
    bought = scored(budget=12)
    bought.save(tmp_path / "scores.json")
    assert torch.equal(ScoredGraph.load(tmp_path / "scores.json").exact, bought.exact)
    assert bought.metadata["settings"]["budget"] == 12 and bought.metadata["method"] == "eap"
    assert not scored().exact.any() and scored("exact").exact.sum() == bought.graph.n_edges


MORE = prompt_pairs([7, 7, 5, 6, 7, 5], positions=[-1] * 6, seed=3)


def grouped(method="eap", **settings):
    return eap.score_groups(tiny("gpt2").model, MORE, logit_difference, method, n_groups=3, quiet=True, **settings)


def test_groups_buy_the_same_edges_those_whose_interval_reaches_farthest():
    """So an exact score is exact in every group, and the groups add up to it."""
    cheap, exact, bought = grouped(), grouped("exact"), grouped(budget=25)
    chosen = bought.exact
    assert 10 < chosen.sum() < cheap.graph.n_edges / 2
    for found, measured, estimated in zip(bought.per_group, exact.per_group, cheap.per_group):
        torch.testing.assert_close(found[chosen], measured[chosen], rtol=1e-9, atol=1e-12)
        assert torch.equal(found[~chosen], estimated[~chosen])
    bars = eap.error_bars(cheap)
    reach = torch.stack((bars.low.abs(), bars.high.abs(), cheap.scores.abs())).amax(0)
    edges = cheap.graph.edge_mask
    assert reach[chosen].min() >= reach[edges & ~chosen].max()
    largest = cheap.scores.abs() >= cheap.scores.abs()[edges].topk(int(chosen.sum())).values[-1]
    assert (chosen & ~largest).any()  # some are in doubt alone
    assert bought.metadata["settings"]["budget"] == 25 and bought.metadata["settings"]["n_groups"] == 3
    whole = eap.score(tiny("gpt2").model, MORE, logit_difference, "exact", quiet=True)
    torch.testing.assert_close(bought.scores[chosen], whole.scores[chosen], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "method, budget, message",
    [
        ("eap", 0, "budget: expected a finite number above 0, got 0"),
        ("eap", 1, "budget: expected .* plain passes or more, the price of one edge here, got 1; give as much"),
        (
            "random",
            5,
            "budget: expected None for a method whose scores are no estimates of effects, got 5 with 'random'",
        ),
        ("exact", 5, "budget: expected None for a method .* got 5 with 'exact'"),
    ],
)
def test_budgets_are_refused(method, budget, message):
    for scoring in (scored,) if method == "random" else (scored, grouped):  # random scores have no groups
        with pytest.raises(ValueError, match=message):
            scoring(method, budget=budget)
