"""Curves of faithfulness over size, their areas by hand, and the intervals against drawing one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import logit_difference, prompt_pairs, tiny

from edge_circuits.graphs import Circuit, ScoredGraph, prune, run
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.measures.curves import SHARES, Curve, curves
from edge_circuits.graphs.measures.values import Ends

PAIRS = prompt_pairs([6, 5, 6, 4], seed=1)


def made_up(
    heights: list[float], shares: tuple[float, ...] = (0.1, 0.5, 1.0), n_edges: tuple[int, ...] = (5, 40, 100)
) -> Curve:
    """A curve of given faithfulness on two prompts that go from 1 to 3."""
    ends = Ends(torch.tensor([2.0, 4.0]).double(), torch.tensor([0.0, 2.0]).double())
    values = torch.tensor([[2 * height, 2 + 2 * height] for height in heights]).double()
    return Curve(shares, n_edges, n_edges, 100, ends, values, torch.zeros_like(values))


def test_areas_by_hand() -> None:
    """Trapezoids over 0.1, 0.5, 1 of 0.5, 1.5, 1: 0.4 x 1 + 0.5 x 1.25 = 1.025; |1 - f| = 0.5, 0.5, 0: 0.2 + 0.125."""
    curve = made_up([0.5, 1.5, 1.0])
    assert curve.faithfulness.tolist() == pytest.approx([0.5, 1.5, 1.0])
    assert curve.area("cpr") == pytest.approx(0.4 * 1.0 + 0.5 * 1.25)
    assert curve.area("cmd") == pytest.approx(0.4 * 0.5 + 0.5 * 0.25)
    assert curve.area("cpr", clipped=True) == pytest.approx(0.4 * 0.75 + 0.5 * 1.0)
    assert curve.area("cmd", clipped=True) == pytest.approx(0.4 * 0.25)
    assert curve.area("cpr", over="kept") == pytest.approx(0.35 * 1.0 + 0.6 * 1.25)
    assert curve.area("cpr", over="points") == pytest.approx(1.0) and curve.area("cmd", over="points") == pytest.approx(
        1 / 3
    )
    expected = (math.log(5) * 1.0 + math.log(2) * 1.25) / math.log(10)
    assert curve.area("cpr", over="log-share") == pytest.approx(expected)


def test_perfect_and_useless_curves_with_the_shares_of_mib() -> None:
    n_edges = tuple(int(1000 * share) for share in SHARES)
    perfect, useless = (made_up([height] * 10, SHARES, n_edges) for height in (1.0, 0.0))
    assert (perfect.area("cpr"), perfect.area("cmd")) == pytest.approx((0.999, 0))
    assert (useless.area("cpr"), useless.area("cmd")) == pytest.approx((0, 0.999))
    assert perfect.area("cpr", over="log-share") == pytest.approx(1)


def random_scores(graph: object, seed: int) -> ScoredGraph:
    noise = torch.randn(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed))
    return ScoredGraph(graph, noise * graph.edge_mask)


@pytest.mark.parametrize("intervention", ["patching", "mean"])
@pytest.mark.parametrize("by", ["absolute", "negative"])
def test_curves_equal_running_one_circuit_at_a_time(by: str, intervention: str) -> None:
    model = tiny("gpt2").model
    graph = Graph.from_model(model)
    scored, shares = {"one": random_scores(graph, 1), "other": random_scores(graph, 2)}, (0.001, 0.3, 1.0)
    found = curves(model, scored, PAIRS, logit_difference, intervention, shares=shares, by=by)
    assert list(found) == ["one", "other"]
    for name, curve in found.items():
        assert curve.k == (0, int(0.3 * graph.n_edges), graph.n_edges) and curve.n_all == graph.n_edges
        for point, k in enumerate(curve.k):
            circuit = prune(scored[name], k, by=by)
            with torch.no_grad():
                expected = logit_difference(run(model, circuit, PAIRS, intervention), PAIRS)
            # float64; sums of a few hundred terms in another order
            assert torch.allclose(curve.values[point], expected, rtol=0, atol=1e-10)
            assert curve.n_edges[point] == circuit.n_edges
        assert curve.faithfulness[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-9)
    assert not torch.allclose(found["one"].values[1], found["other"].values[1])


def test_each_name_may_have_its_own_ranking() -> None:
    model = tiny("attention-only").model
    scores = random_scores(Graph.from_model(model), 1)
    found = curves(
        model,
        {"a": scores, "b": scores},
        PAIRS,
        logit_difference,
        shares=(0.2, 0.4),
        by={"a": "absolute", "b": "negative"},
    )
    alone = curves(model, {"b": scores}, PAIRS, logit_difference, shares=(0.2, 0.4), by="negative")
    assert torch.equal(found["b"].values, alone["b"].values) and not torch.equal(found["a"].values, found["b"].values)


@pytest.mark.parametrize(("name", "clipped"), [("cpr", False), ("cmd", True)])
def test_intervals_equal_drawing_one_by_one(name: str, clipped: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = 3 + torch.rand(8, generator=generator).double(), torch.rand(8, generator=generator).double()
    values = 4 * torch.rand(3, 8, generator=generator).double()
    curve = Curve((0.1, 0.5, 1.0), (1, 5, 10), (1, 5, 10), 10, Ends(clean, corrupted), values, values)
    chosen = torch.randint(8, (30, 8), generator=torch.Generator().manual_seed(5))
    expected = [
        Curve(curve.shares, curve.k, curve.n_edges, 10, Ends(clean[row], corrupted[row]), values[:, row], values).area(
            name, clipped=clipped
        )
        for row in chosen
    ]
    interval = curve.interval(name, clipped=clipped, n_resamples=30, confidence=0.8, seed=5)
    assert np.allclose(interval.resamples, expected, rtol=0, atol=1e-12)
    assert (interval.low, interval.high) == pytest.approx(np.quantile(expected, [0.1, 0.9]), abs=1e-12)
    assert interval.value == pytest.approx(curve.area(name, clipped=clipped))


def test_draws_in_which_the_ends_meet_are_left_out() -> None:
    ends = Ends(torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 0.0]).double())
    curve = Curve((0.5, 1.0), (1, 2), (1, 2), 2, ends, torch.ones(2, 2).double(), torch.ones(2, 2).double())
    drawn = curve.resampled_faithfulness(400, seed=0)
    assert 250 < len(drawn) < 350 and drawn.isfinite().all()  # one draw in four has the second prompt twice


@pytest.mark.usefixtures("without_type_checks")
def test_refusals() -> None:
    model = tiny("attention-only").model
    scored = {"a": random_scores(Graph.from_model(model), 1)}
    for shares in ((0.5,), (0.5, 0.2), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(ValueError, match="shares: expected two or more ascending numbers above 0 and up to 1"):
            curves(model, scored, PAIRS, logit_difference, shares=shares)
    with pytest.raises(ValueError, match="scored: expected scores under one or more names, got none"):
        curves(model, {}, PAIRS, logit_difference)
    with pytest.raises(
        ValueError, match='scored: expected scores under one or more names, got ScoredGraph; give {"name"'
    ):
        curves(model, scored["a"], PAIRS, logit_difference)
    curve = made_up([0.5, 1.5, 1.0])
    with pytest.raises(ValueError, match="area: expected one of 'cpr', 'cmd', got 'auc'"):
        curve.area("auc")
    with pytest.raises(ValueError, match="over: expected one of 'share', 'kept', 'log-share', 'points', got 'x'"):
        curve.area("cpr", over="x")
    with pytest.raises(ValueError, match="n_resamples: expected a whole number from 2, got 1"):
        curve.interval("cpr", n_resamples=1)
    with pytest.raises(ValueError, match="confidence: expected a finite number above 0 and below 1, got 95"):
        curve.interval("cpr", confidence=95)
    one = Curve(
        curve.shares,
        curve.k,
        curve.n_edges,
        100,
        Ends(curve.ends.clean[:1], curve.ends.corrupted[:1]),
        curve.values[:, :1],
        curve.values,
    )
    with pytest.raises(ValueError, match="expected at least 2 for an interval over prompts, got 1"):
        one.interval("cpr")


def test_the_same_metric_everywhere_is_refused() -> None:
    model = tiny("attention-only").model
    with pytest.raises(ValueError, match="metric: expected different means"):
        curves(model, {"a": random_scores(Graph.from_model(model), 1)}, PAIRS, lambda logits, pairs: 0 * logits[:, 0])
    assert Circuit.full(Graph.from_model(model)).n_edges > 0
