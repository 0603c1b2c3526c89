"""The methods beside EAP and RelP, each against itself written slowly from its paper, and their refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random

import pytest
import torch
from models import RAGGED, curved, logit_difference, one_by_one, prompt_pairs, prompts_of, relative_error, tiny
from references.edges import circuit_logits, cut_values, edge_attribution, forward, source_values
from references.literal import Literal
from torch import Tensor

from edge_circuits import eap
from edge_circuits.benchmarks.planted import load
from edge_circuits.graphs import Circuit, Graph, PromptPairs, prune, run
from edge_circuits.graphs.scores import ScoredGraph

SHAPES = ("gpt2", "llama", "gemma2", "attention-only")
PAIRS = prompt_pairs([5, 3], positions=[-1, -2])
TOLERANCE = 1e-9  # of the largest score; both sides are float64


def scored(
    kind: str, method: str | eap.Method, pairs: PromptPairs = PAIRS, metric: Callable = curved, **settings: object
) -> ScoredGraph:
    """A method's scores of a tiny model, in float64."""
    return eap.score(tiny(kind).model, pairs, metric, method, quiet=True, **settings)


def error(found: ScoredGraph, expected: Mapping[str, float]) -> float:
    """Largest difference, in units of the largest expected score."""
    assert set(found.graph.edges) == set(expected)
    named = torch.tensor([found.score(edge) for edge in expected], dtype=torch.float64)
    return relative_error(named, torch.tensor(list(expected.values()), dtype=torch.float64))


def moved_gradient(
    model: Literal,
    tokens: list[int],
    change: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    loss: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Change of each source times the gradient at each destination, in a run whose named sources write `start`."""
    strengths: dict[str, Tensor] = {}

    def read(source: str, value: Tensor, destination: str) -> Tensor:
        edge = f"{source}->{destination}"
        strengths.setdefault(edge, torch.zeros((), dtype=torch.float64, requires_grad=True))
        return start.get(source, value) + strengths[edge] * change[source]

    _, out = forward(model, tokens, read)
    slopes = torch.autograd.grad(loss(out), list(strengths.values()), materialize_grads=True)
    return {edge: slope.item() for edge, slope in zip(strengths, slopes)}


def slow_integrated(
    kind: str,
    pairs: PromptPairs,
    metric: Callable,
    fractions: list[float] | list[list[float]],
    activations: bool,
    intervention: str = "patching",
    every_edge: bool = False,
) -> dict[str, float]:
    """EAP-IG by the book: a run for each prompt, point and (for activations) place, gradients edge by edge.

    `fractions` may be lists of their own for each prompt. With `every_edge`, all edges take the mean over all places.
    A place is `input`, the heads of a layer together, or an MLP; without `activations`, all edges use the place `input`.
    """
    model = tiny(kind).literal
    prompts, value_of = prompts_of(pairs), one_by_one(metric, pairs)
    heads = [tuple(f"a{layer}.h{head}" for head in range(model.n_heads)) for layer in range(model.n_layers)]
    places = [("input",), *heads, *((f"m{layer}",) for layer in range(model.n_layers) if model.mlps)]
    totals: dict[str, float] = {}
    for row, (prompt, cut) in enumerate(zip(prompts, cut_values(model, prompts, intervention))):
        clean = source_values(model, prompt.clean)
        change = {source: cut[source] - clean[source] for source in clean}
        own = fractions[row] if isinstance(fractions[0], list) else fractions
        for place in places if activations else places[:1]:
            for fraction in own:
                at = {source: cut[source] + fraction * (clean[source] - cut[source]) for source in place}
                slopes = moved_gradient(
                    model, prompt.clean, change, at, lambda out: value_of(out[prompt.position], row)
                )
                for edge, slope in slopes.items():
                    if every_edge or not activations or edge.split("->")[0] in place:
                        share = 1 / len(own) / len(pairs) / (len(places) if every_edge else 1)
                        totals[edge] = totals.get(edge, 0.0) + slope * share
    return totals


def slow_metric(kind: str, pairs: PromptPairs, metric: Callable, kept: Mapping[str, float]) -> float:
    """The mean metric of a circuit, run literally."""
    return metric(circuit_logits(tiny(kind).literal, prompts_of(pairs), kept), pairs).mean().item()


# Integrated gradients


@pytest.mark.parametrize("kind", ["gpt2", "attention-only"])
def test_the_published_activations_give_every_edge_the_mean_over_all_places(kind: str) -> None:
    expected = slow_integrated(kind, PAIRS, curved, [1 / 2, 1], activations=True, every_edge=True)
    assert error(scored(kind, "eap-ig-all-activations:steps=2"), expected) < TOLERANCE
    assert error(scored(kind, "eap-ig-activations:steps=2"), expected) > 0.01


def test_random_points_are_drawn_for_each_prompt_by_itself() -> None:
    points = [[(step + draw.random()) / 2 for step in range(2)] for draw in (Random("7 0"), Random("7 1"))]
    expected = slow_integrated("gpt2", PAIRS, curved, points, activations=False)
    for batch_size in (1, 2):
        assert error(scored("gpt2", "eap-ig:steps=2,rule=random,seed=7", batch_size=batch_size), expected) < TOLERANCE
    assert error(scored("gpt2", "eap-ig:steps=2,rule=random,seed=8"), expected) > 0.01


@pytest.mark.parametrize("kind", SHAPES)
def test_integrated_gradients_are_the_mean_of_the_points(kind: str) -> None:
    expected = slow_integrated(kind, PAIRS, curved, [0, 1 / 3, 2 / 3], activations=False)
    assert error(scored(kind, "eap-ig:steps=3"), expected) < TOLERANCE


def test_midpoints_lie_between() -> None:
    expected = slow_integrated("gpt2", PAIRS, curved, [0.25, 0.75], activations=False)
    assert error(scored("gpt2", "eap-ig:steps=2,rule=midpoint"), expected) < TOLERANCE


def test_more_points_than_are_held_at_once_give_the_mean() -> None:
    expected = slow_integrated("attention-only", PAIRS, curved, [k / 7 for k in range(7)], activations=False)
    assert error(scored("attention-only", "eap-ig:steps=7"), expected) < TOLERANCE


@pytest.mark.parametrize("kind", SHAPES)
def test_integrated_gradients_over_activations(kind: str) -> None:
    expected = slow_integrated(kind, PAIRS, curved, [0, 0.5], activations=True)
    assert error(scored(kind, "eap-ig-activations:steps=2"), expected) < TOLERANCE


def test_integrated_gradients_to_zero() -> None:
    expected = slow_integrated("gpt2", PAIRS, curved, [0, 0.5], activations=True, intervention="zero")
    assert error(scored("gpt2", "eap-ig-activations:steps=2", intervention="zero"), expected) < TOLERANCE


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_last_layer_mlp_scores_complete_the_difference() -> None:
    """The metric's change when m's value alone goes from clean to cut equals m->logits, with points enough."""
    cut = {edge: float(edge != "m2->logits") for edge in scored("gpt2", "random").graph.edges}
    effect = slow_metric("gpt2", PAIRS, curved, cut) - slow_metric("gpt2", PAIRS, curved, dict.fromkeys(cut, 1.0))
    gaps = {
        (rule, steps): abs(scored("gpt2", f"eap-ig-activations:steps={steps},rule={rule}").score("m2->logits") - effect)
        for rule, steps in (("left", 4), ("left", 40), ("midpoint", 4), ("midpoint", 40))
    }
    assert gaps["left", 40] < 0.15 * gaps["left", 4]  # order one
    assert gaps["midpoint", 40] < 0.02 * gaps["midpoint", 4]  # order two
    assert gaps["midpoint", 40] < 1e-4 * abs(effect)


def test_input_edges_complete_the_difference_of_the_prompts() -> None:
    """The edges out of `input` hold the whole gradient at the embedding, so they sum to the whole difference."""
    whole = run_mean("gpt2", Circuit.empty) - run_mean("gpt2", Circuit.full)
    sums = {steps: scored("gpt2", f"eap-ig:steps={steps},rule=midpoint").scores[0].sum().item() for steps in (8, 80)}
    assert abs(sums[80] - whole) < 1e-3 * abs(whole)
    assert abs(sums[80] - whole) < 0.1 * abs(sums[8] - whole)


def run_mean(kind: str, circuit: Callable[[Graph], Circuit]) -> float:
    model = tiny(kind).model
    return curved(run(model, circuit(Graph.from_model(model)), PAIRS), PAIRS).mean().item()


def test_one_left_point_is_the_gradient_at_the_cut_prompt() -> None:
    """... which with EAP on exchanged prompts has the opposite change."""
    swapped = scored("llama", "eap", PAIRS.swapped())
    assert relative_error(scored("llama", "eap-ig:steps=1").scores, -swapped.scores) < TOLERANCE


@pytest.mark.parametrize("kind", SHAPES)
def test_clean_corrupted_is_the_mean_of_two_gradients(kind: str) -> None:
    one, other = scored(kind, "eap"), scored(kind, "eap", PAIRS.swapped())
    assert relative_error(scored(kind, "clean-corrupted").scores, (one.scores - other.scores) / 2) < TOLERANCE


def test_clean_corrupted_against_literal_gradients() -> None:
    expected = slow_integrated("gpt2", PAIRS, curved, [0, 1], activations=False)
    assert error(scored("gpt2", "clean-corrupted"), expected) < TOLERANCE


# Exact patching


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "rms-gated-grouped"])
def test_exact_scores_are_single_cuts(kind: str) -> None:
    found, model = scored(kind, "exact", RAGGED), tiny(kind).model
    full = Circuit.full(found.graph)
    clean = curved(run(model, full, RAGGED), RAGGED)
    for edge in found.graph.edges[:: max(1, found.graph.n_edges // 40)]:
        effect = (curved(run(model, full - Circuit.from_edges(found.graph, [edge]), RAGGED), RAGGED) - clean).mean()
        assert found.score(edge) == pytest.approx(effect.item(), abs=1e-11), edge


@pytest.mark.parametrize("intervention", ["patching", "zero", "mean"])
def test_exact_scores_are_literal_single_cuts(intervention: str) -> None:
    found = scored("attention-only", "exact", intervention=intervention)
    prompts, literal, every = prompts_of(PAIRS), tiny("attention-only").literal, dict.fromkeys(found.graph.edges, 1.0)
    clean = curved(circuit_logits(literal, prompts, every, intervention), PAIRS)
    for edge in found.graph.edges[::9]:
        cut = curved(circuit_logits(literal, prompts, every | {edge: 0.0}, intervention), PAIRS)
        assert found.score(edge) == pytest.approx((cut - clean).mean().item(), abs=1e-11), edge


def test_exact_with_key_value_heads_cuts_the_shared_reader() -> None:
    found, model = scored("llama", "exact", kv_destinations="kv-head"), tiny("llama").model
    full = Circuit.full(found.graph)
    for edge in ("input->a1.h1<k>", "m0->a2.h0<v>", "a0.h3->a1.h0<v>"):
        cut = curved(run(model, full - Circuit.from_edges(found.graph, [edge]), PAIRS), PAIRS)
        assert found.score(edge) == pytest.approx(
            (cut - curved(run(model, full, PAIRS), PAIRS)).mean().item(), abs=1e-11
        )


def test_exact_of_some_edges_equals_exact_of_all() -> None:
    every = scored("gpt2", "exact").scores
    chosen = torch.rand(every.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    some = scored("gpt2", eap.Exact(chosen)).scores
    torch.testing.assert_close(some, every * chosen, rtol=0, atol=1e-12)


# Head importance


@pytest.mark.parametrize("kind", ["gpt2", "attention-only"])
def test_head_importance_is_that_of_the_lesser_node(kind: str) -> None:
    """A node's value moved along its change, all its readers at once; then the lesser of the two ends."""
    model, prompts = tiny(kind).literal, prompts_of(PAIRS)
    value_of = one_by_one(curved, PAIRS)
    sensitivity: dict[str, float] = {}
    for row, (prompt, cut) in enumerate(zip(prompts, cut_values(model, prompts, "patching"))):
        clean = source_values(model, prompt.clean)
        strengths = {source: torch.zeros((), dtype=torch.float64, requires_grad=True) for source in clean}
        _, out = forward(
            model,
            prompt.clean,
            lambda source, value, destination: value + strengths[source] * (cut[source] - clean[source]),
        )
        slopes = torch.autograd.grad(value_of(out[prompt.position], row), list(strengths.values()))
        for source, slope in zip(strengths, slopes):
            sensitivity[source] = sensitivity.get(source, 0.0) + slope.item() / len(prompts)
    importance = {source: abs(value) for source, value in sensitivity.items()} | {"input": math.inf, "logits": math.inf}

    found = scored(kind, "hisp")
    expected = {}
    for edge in found.graph.edges:
        source, reader = edge.split("->")
        expected[edge] = min(importance[source], importance[reader.split("<")[0]])
    largest = max(value for value in expected.values() if value < math.inf)
    assert error(found, {edge: min(value, largest) for edge, value in expected.items()}) < TOLERANCE


def test_head_importance_of_shared_keys_is_that_of_the_greatest_head() -> None:
    per_query, per_key = scored("llama", "hisp"), scored("llama", "hisp", kv_destinations="kv-head")
    for group in (0, 1):
        heads = [per_query.score(f"input->a1.h{head}<k>") for head in (2 * group, 2 * group + 1)]
        assert per_key.score(f"input->a1.h{group}<k>") == pytest.approx(max(heads), rel=1e-9)


# Information flow routes


@pytest.mark.parametrize("kind", ["gpt2", "attention-only", "neox-parallel"])
def test_information_flow_is_the_share_of_proximity(kind: str) -> None:
    """Equations 3 and 4, edge by edge and position by position."""
    model, found = tiny(kind).literal, scored(kind, "information-flow-routes")
    graph, expected = found.graph, dict.fromkeys(found.graph.edges, 0.0)
    for prompt in prompts_of(PAIRS):
        values, streams = source_values(model, prompt.clean), {}

        def read(source: str, value: Tensor, destination: str) -> Tensor:
            streams.setdefault(destination, {})[source] = value
            return value

        forward(model, prompt.clean, read)
        for destination, writes in streams.items():
            positions = [prompt.position] if destination == "logits" else range(prompt.position + 1)
            for position in positions:
                read_sum = sum(values[source][position] for source in writes) + biases(model, writes)
                near = {
                    s: max(read_sum.abs().sum() - (read_sum - values[s][position]).abs().sum(), 0.0) for s in writes
                }
                for source in writes:
                    share = float(near[source] / sum(near.values())) if sum(near.values()) else 0.0
                    expected[f"{source}->{destination}"] += share / len(positions) / len(PAIRS)
    assert set(expected) == set(graph.edges)
    assert error(found, expected) < TOLERANCE


def biases(model: Literal, writes: Mapping[str, Tensor]) -> Tensor:
    """The output biases of the attention layers that a destination sees, which belong to no source."""
    layers = {int(source.split(".")[0][1:]) for source in writes if source.startswith("a")}
    nothing = torch.zeros(1, next(iter(writes.values())).shape[1], dtype=torch.float64)
    return sum((model.attention_out(layer, nothing)[0] for layer in layers), start=nothing[0])


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "rms-gated-grouped"])
def test_shares_add_up_to_one(kind: str) -> None:
    found = scored(kind, "information-flow-routes", RAGGED)
    torch.testing.assert_close(found.scores.sum(0), torch.ones(found.graph.n_destinations).double(), rtol=0, atol=1e-9)


def test_information_flow_routes_are_grown_from_logits() -> None:
    """The largest shares of a planted model form no path; grown greedily they hold half of the circuit."""
    planted = load("twice")
    found = eap.score(planted.model, planted.task.pairs(16), logit_difference, "information-flow-routes", quiet=True)
    k = planted.circuit.n_edges
    with pytest.warns(UserWarning, match="so the circuit is empty; .*strategy='greedy'"):
        assert prune(found, k).n_edges == 0
    grown = prune(found, k, strategy="greedy")
    assert grown.n_edges == k and (grown & planted.circuit).n_edges >= k / 2


def test_information_flow_needs_no_metric_and_no_corrupted_prompt() -> None:
    other = PromptPairs(
        PAIRS.clean.tolist(), prompt_pairs([5, 5], seed=7).corrupted.tolist(), positions=PAIRS.positions.tolist()
    )
    same = PromptPairs(PAIRS.clean.tolist(), PAIRS.clean.tolist(), positions=PAIRS.positions.tolist())
    results = [
        eap.score(tiny("gpt2").model, each, broken_metric, "information-flow-routes", quiet=True)
        for each in (other, same)
    ]
    assert torch.equal(results[0].scores, results[1].scores)


def broken_metric(logits: Tensor, pairs: PromptPairs) -> Tensor:
    raise AssertionError("no metric is to be called")


# Random scores


def test_random_scores_depend_on_the_seed_alone() -> None:
    one = scored("gpt2", "random:seed=5")
    assert torch.equal(one.scores, scored("gpt2", "random:seed=5", RAGGED, batch_size=1).scores)
    assert not torch.equal(one.scores, scored("gpt2", "random:seed=6").scores)
    assert one.values.mean().abs() < 4 / math.sqrt(one.graph.n_edges)
    assert one.values.std().item() == pytest.approx(1, abs=0.15)


# What all share


GRADIENTS = ("eap", "relp", "gim", "eap-ig", "eap-ig-activations", "eap-ig-all-activations", "clean-corrupted")


@pytest.mark.parametrize("method", [*GRADIENTS, "exact", "hisp", "information-flow-routes"])
def test_batches_make_no_difference(method: str) -> None:
    whole = scored("gpt2", method, RAGGED)
    assert relative_error(scored("gpt2", method, RAGGED, batch_size=1).scores, whole.scores) < TOLERANCE


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations", "clean-corrupted"])
def test_on_the_edges_into_logits_of_a_linear_model_all_estimates_are_exact(method: str) -> None:
    exact = scored("attention-only", "exact", metric=logit_difference)
    found = scored("attention-only", method, metric=logit_difference)
    assert relative_error(found.scores[1:, -1], exact.scores[1:, -1]) < TOLERANCE


def test_eap_is_the_literal_edge_attribution() -> None:
    expected = edge_attribution(tiny("gpt2").literal, prompts_of(PAIRS), one_by_one(curved, PAIRS))
    assert error(scored("gpt2", "eap"), expected) < TOLERANCE


def test_exact_patching_tells_the_metric_which_prompts_it_sees() -> None:
    """Prompts run by length, and many candidates at once; `indices` say which prompts of the whole set they are."""
    weights = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    pairs = prompt_pairs([9, 3, 9])
    found = scored("gpt2", "exact", pairs, lambda logits, some: weights[some.indices] * logit_difference(logits, some))
    each = [scored("gpt2", "exact", pairs[[row]], logit_difference).scores for row in range(3)]
    expected = sum(weight * one for weight, one in zip(weights, each)) / 3
    assert relative_error(found.scores, expected) < TOLERANCE


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact"])
def test_equal_prompts_score_zero(method: str) -> None:
    same = PromptPairs(PAIRS.clean[:1].tolist(), PAIRS.clean[:1].tolist(), [3], [4])
    assert scored("gpt2", method, same, logit_difference).scores.abs().max() < 1e-12


def test_results_name_their_settings() -> None:
    assert scored("attention-only", "eap-ig:steps=3,rule=midpoint").metadata["settings"] == {
        "intervention": "patching",
        "n_prompts": 2,
        "reader": "linear",
        "exact_sources": 4,
        "steps": 3,
        "rule": "midpoint",
        "at": "inputs",
        "seed": 0,
    }
    assert scored("attention-only", "random:seed=9").metadata["settings"]["seed"] == 9
    assert scored("attention-only", "eap-ig").metadata["settings"]["steps"] == 5


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("eag", {}, "method: expected one of 'eap', .*got 'eag'"),
        ("eap:steps=5", {}, "method 'eap' has no setting 'steps'; it has reader, exact_sources, metric_as"),
        ("eap-ig:steps=0", {}, "steps: expected a whole number from 1 to 1000, got 0"),
        ("eap-ig:steps=many", {}, "method 'eap-ig': expected a whole number for steps, got 'many'"),
        (
            "eap-ig:steps=1001",
            {},
            "steps: expected a whole number from 1 to 1000, got 1001; more points add cost and no accuracy",
        ),
        ("eap-ig-activations:steps=5000", {}, "steps: expected a whole number from 1 to 1000, got 5000"),
        ("eap-ig:rule=right", {}, "rule: expected one of 'left', 'midpoint', 'random', got 'right'"),
        ("eap", {"intervention": "noise"}, "intervention: expected one of 'patching', 'zero', .*got 'noise'"),
        ("eap", {"token_chunk": 0}, "token_chunk: expected a whole number from 1, got 0"),
        (
            eap.Exact(torch.ones(2, 2, dtype=torch.bool)),
            {},
            r"edges: expected a bool mask of shape \(9, 25\), got torch.bool of shape \(2, 2\)",
        ),
    ],
)
def test_bad_settings_are_refused(
    method: str | eap.Method, settings: dict, message: str, without_type_checks: None
) -> None:
    with pytest.raises(ValueError, match=message):
        scored("attention-only", method, **settings)


def test_a_mask_of_numbers_is_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=r"edges: expected a bool mask of shape \(9, 25\), got torch.int64 of shape"):
        scored("attention-only", eap.Exact(torch.full((9, 25), 2)))


@pytest.mark.parametrize("method", ["eap", "relp", "hisp"])
def test_a_metric_without_gradient_at_clean_is_refused(method: str) -> None:
    def flat(logits: Tensor, pairs: PromptPairs) -> Tensor:
        return logits.sum(1)

    flat.zero_gradient_at_clean = True
    with pytest.raises(ValueError, match="gradient on the clean prompt is zero .*method='exact'"):
        scored("attention-only", method, metric=flat)
    for other in ("exact", "eap-ig", "eap-ig-activations", "clean-corrupted"):  # they look elsewhere too
        assert scored("attention-only", other, metric=flat).scores.any()


def test_exact_refuses_a_metric_that_is_not_one_value_a_prompt() -> None:
    with pytest.raises(ValueError, match=r"must return one value a prompt, shape \(\d,\); got \(\)"):
        scored("attention-only", "exact", metric=lambda logits, pairs: logits.sum())
