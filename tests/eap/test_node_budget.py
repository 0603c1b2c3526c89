"""Exact scores of nodes within a budget: which nodes they are, that they are exact, and what they cost."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from models import RAGGED, curved, one_by_one, prompts_of, tiny
from references.nodes import patched_nodes

from edge_circuits.eap.budget import PLAIN, affordable_nodes, node_prices
from edge_circuits.eap.node_scores import NodeScores, score_nodes
from edge_circuits.graphs.model.adapter import adapt

KINDS = ("gpt2", "gemma2", "neox-parallel", "attention-only")
METRIC = one_by_one(curved, RAGGED)


def nodes(kind: str, method: str = "eap", direction: str = "noising", **settings: object) -> NodeScores:
    return score_nodes(tiny(kind).model, RAGGED, curved, method, direction, quiet=True, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_is_every_position_patched_one_by_one_and_the_rest_stays(kind: str) -> None:
    found, cheap, model = nodes(kind, budget=8), nodes(kind), tiny(kind).literal
    measured = {name: int(mask.sum()) for name, mask in found.exact.items()}
    assert 5 < sum(measured.values()) < 0.8 * sum(mask.numel() for mask in found.exact.values())
    assert measured["heads"] > 0 and measured["attention_out"] > 0
    for name, chosen in found.exact.items():
        assert chosen.shape == cheap.mean(name).shape
        assert torch.equal(
            found.per_prompt[name][:, ~chosen].nan_to_num(), cheap.per_prompt[name][:, ~chosen].nan_to_num()
        )
        for place in chosen.any(-1).nonzero().tolist():  # layer, and head if it is one
            for row in (0, 3):
                metric = partial(METRIC, row=row)
                expected = patched_nodes(model, prompts_of(RAGGED)[row], metric, name, *place)
                at = (*place, slice(len(expected)))
                difference = found.per_prompt[name][row][at] - expected
                assert difference[chosen[at]].abs().sum() < 1e-9, (name, place, row)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_enough_buys_what_method_exact_gives_bit_for_bit(direction: str) -> None:
    """Stacked as there, so that not even rounding differs."""
    found, exact = nodes("gpt2", "relp", direction, budget=10_000), nodes("gpt2", "exact", direction, heads=True)
    for kind, mask in exact.exact.items():
        assert mask.all()
        assert torch.equal(found.per_prompt[kind].nan_to_num(7), exact.per_prompt[kind].nan_to_num(7))
        assert torch.equal(found.exact[kind], mask)


def test_the_largest_are_bought_as_far_as_the_budget_goes() -> None:
    cheap, transformer, budget = nodes("gpt2"), adapt(tiny("gpt2").model), 5.0
    means = {kind: cheap.mean(kind) for kind in cheap.kinds}
    batches = RAGGED.batches()
    chosen = affordable_nodes(transformer, batches, means, budget)
    prices = node_prices(transformer, batches, RAGGED.clean.shape[1])
    assert torch.equal(chosen["resid_post"][:-1], chosen["resid_pre"][1:])  # the same streams, bought once
    once = {kind: slice(-1, None) if kind == "resid_post" else slice(None) for kind in means}
    of_kind = {"heads": prices[:-1, None].expand_as(means["heads"]), "resid_post": prices[-1:]}
    price = torch.cat([of_kind.get(kind, prices[:-1]).flatten() for kind in once])
    bought = torch.cat([chosen[kind][of].flatten() for kind, of in once.items()])
    sizes = torch.cat([means[kind][of].abs().flatten() for kind, of in once.items()])
    assert sizes[bought].min() >= sizes[~bought].max()
    left = budget - 2 / PLAIN - price[bought].sum()
    assert 0 <= left < price[sizes.masked_fill(bought, -1).argmax()]


def test_more_buys_more() -> None:
    few, more = nodes("llama", budget=2).exact, nodes("llama", budget=4).exact
    assert 0 < sum(mask.sum() for mask in few.values()) < sum(mask.sum() for mask in more.values())
    assert all(not (few[kind] & ~more[kind]).any() for kind in few)
    assert not any(mask.any() for mask in nodes("llama").exact.values())


def test_the_result_says_its_budget() -> None:
    assert nodes("gpt2", budget=2).metadata["settings"]["budget"] == 2
    assert "budget" not in nodes("gpt2").metadata["settings"]


@pytest.mark.parametrize(
    "method, budget, message",
    [
        ("eap", 0, "a finite number above 0"),
        ("eap", 0.7, ".* plain passes or more, the price of one node"),
        ("exact", 5, "None for a method"),
    ],
)
def test_budgets_are_refused(method: str, budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"budget: expected {message}"):
        nodes("gpt2", method, budget=budget)
