"""The fast sweep decides as the plain one does, edge by edge."""

from __future__ import annotations

import pytest
import torch
from models import logit_difference, tiny
from plain_sweep import plain_sweep

from edge_circuits import acdc
from edge_circuits.acdc import algorithm, speculation
from edge_circuits.acdc.search import Search
from edge_circuits.graphs import Circuit, Graph, PromptPairs
from edge_circuits.graphs.metrics import log_probability

TOLERANCE = 1e-12  # float64; the same sums in another order


def assert_same_decisions(trace, decisions):
    """The same edges in the same order, decided alike, at the same values."""
    assert [each.edge for each in trace.decisions] == [each.edge for each in decisions]
    assert [each.kept for each in trace.decisions] == [each.kept for each in decisions]
    assert [each.value_after is None for each in trace.decisions] == [each.after is None for each in decisions]
    for mine, plain in zip(trace.decisions, decisions):
        assert mine.value_before == pytest.approx(plain.before, abs=TOLERANCE)
        if plain.after is not None:
            assert mine.value_after == pytest.approx(plain.after, abs=TOLERANCE)


def both(model, pairs, metric, threshold, **settings):
    """The fast and the plain sweep of the whole graph."""
    kv_destinations = settings.pop("kv_destinations", "query-head")
    circuit = acdc.discover(model, pairs, metric, threshold, kv_destinations=kv_destinations, quiet=True, **settings)
    start, direct = Circuit.full(Graph.from_model(model, kv_destinations)), settings.pop("direct_edges", False)
    plain = plain_sweep(model, start, pairs, metric, threshold, direct=direct, **settings)
    kept = Circuit.from_edges(start.graph, [each.edge for each in plain if each.kept and "->" in each.edge])
    assert circuit == kept and circuit.trace.n_kept == kept.n_edges
    return circuit.trace, plain


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize(
    "metric, threshold", [("kl", 0.0), ("kl", 0.003), ("kl", 0.03), (logit_difference, 0.03), (logit_difference, 0.5)]
)
def test_trained_model(trained, metric, threshold):
    trace, plain = both(*trained, metric, threshold)
    assert_same_decisions(trace, plain)
    if threshold == 0.03 and metric == "kl":
        assert 0 < trace.n_kept < trace.n_tried < len(plain)  # some stay, some are cut, some are skipped


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize(
    "kind, metric",
    [
        *((kind, "kl") for kind in ("gpt2", "neox-parallel", "llama", "gemma2", "attention-only")),
        *((kind, logit_difference) for kind in ("gpt2", "attention-only")),
    ],
)
def test_random_models(small, pairs, kind, metric):
    assert_same_decisions(*both(small(kind), pairs, metric, 0.003))


@pytest.mark.parametrize("kind", ["llama", "rms-gated-grouped"])
def test_bfloat16_decides_alike_but_for_near_ties(pairs, kind):
    narrow, wide = (
        acdc.discover(tiny(kind, dtype).model, pairs, "kl", 0.05, quiet=True).trace.decisions
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert any(each.kept for each in wide) and not all(each.near_tie for each in narrow)
    differing = [mine for mine, exact in zip(narrow, wide) if mine.kept != exact.kept]
    assert not differing or differing[0].near_tie


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize("kv_destinations, intervention", [("query-head", "zero"), ("kv-head", "patching")])
def test_direct_edges_of_random_models(small, pairs, kv_destinations, intervention):
    settings = dict(kv_destinations=kv_destinations, intervention=intervention, direct_edges=True)
    assert_same_decisions(*both(small("llama"), pairs, logit_difference, 0.003, **settings))


@pytest.mark.parametrize("metric, threshold", [("kl", 0.003), ("kl", 0.03), (logit_difference, 0.5)])
def test_direct_edges_are_tried_before_the_in_edges_of_their_layer_s_heads(trained, tmp_path, metric, threshold):
    trace, plain = both(*trained, metric, threshold, direct_edges=True)
    assert_same_decisions(trace, plain)
    direct = [each for each in trace.decisions if "->" not in each.edge]
    assert len(direct) == 18 and {each.kept for each in direct} == {True, False}
    untried = {each.edge.split("->")[1] for each in trace.decisions if "->" in each.edge and each.value_after is None}
    assert {each.edge for each in direct if not each.kept} <= untried
    trace.save(tmp_path / "trace.jsonl")
    assert type(trace).load(tmp_path / "trace.jsonl").circuit == trace.circuit
    sweep = acdc.sweep(*trained, metric, [threshold, threshold / 3], direct_edges=True, quiet=True)
    assert sweep.traces[1].kept == trace.kept and sweep.traces[1].edges == trace.edges


def test_direct_edges_with_an_order_are_refused(trained):
    with pytest.raises(ValueError, match="order: expected None with direct_edges"):
        acdc.discover(*trained, "kl", 0.1, order=["input->logits"], direct_edges=True)


@pytest.mark.parametrize("intervention", ["zero", "mean"])
def test_other_interventions(trained, intervention):
    assert_same_decisions(*both(*trained, "kl", 0.01, intervention=intervention))


@pytest.mark.parametrize("threshold", [0.01, 0.3])
def test_absolute_change(trained, threshold):
    assert_same_decisions(*both(*trained, logit_difference, threshold, change="absolute"))


def test_edges_that_the_objective_is_better_without_stay_under_absolute_change(trained):
    signed, absolute = (
        acdc.discover(*trained, logit_difference, 0.01, change=change, quiet=True) for change in ("signed", "absolute")
    )
    assert absolute != signed


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_key_value_heads_as_destinations(small, pairs):
    assert_same_decisions(*both(small("llama"), pairs, "kl", 0.001, kv_destinations="kv-head"))


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
def test_batches_do_not_matter(trained):
    model, pairs = trained
    _, plain = both(model, pairs, "kl", 0.01)
    for batch_size in (1, 4):
        assert_same_decisions(acdc.discover(model, pairs, "kl", 0.01, batch_size=batch_size, quiet=True).trace, plain)


@pytest.mark.parametrize("most", [1, 3])
def test_how_many_are_tried_at_a_time_does_not_matter(trained, monkeypatch, most):
    model, pairs = trained
    whole = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    monkeypatch.setattr(speculation, "MOST", most)
    fewer = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    assert [(d.edge, d.kept) for d in fewer.decisions] == [(d.edge, d.kept) for d in whole.decisions]
    assert fewer.values == pytest.approx(whole.values, abs=TOLERANCE)


def test_where_runs_are_made_afresh_does_not_matter(trained, monkeypatch):
    model, pairs = trained
    whole = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    monkeypatch.setattr(algorithm, "FRESH_AFTER", 1)
    fresh = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    assert fresh.kept == whole.kept
    assert fresh.values == pytest.approx(whole.values, abs=TOLERANCE)


def test_several_edges_are_tried_in_one_call(trained, monkeypatch):
    sizes, values = [], Search.values

    def counted(self, runs, destination, candidates):
        sizes.append(len(candidates))
        return values(self, runs, destination, candidates)

    monkeypatch.setattr(Search, "values", counted)
    trace = acdc.discover(*trained, "kl", 0.01, quiet=True).trace
    assert len(sizes) < 0.75 * trace.n_tried  # a third of the edges stays, and each of those ends a call
    assert max(sizes) > 4


def test_stacked_tokens_bound_the_candidates_of_a_call(trained, monkeypatch):
    model, pairs = trained
    sizes, values = [], Search.values

    def counted(self, runs, destination, candidates):
        if destination != self.graph.n_destinations - 1:  # there only the answer row runs
            sizes.append(len(candidates) * pairs.clean.numel())
        return values(self, runs, destination, candidates)

    monkeypatch.setattr(Search, "values", counted)
    acdc.discover(model, pairs, "kl", 0.01, stacked_tokens=80, quiet=True)
    assert 36 < max(sizes) <= 80


@pytest.mark.parametrize("change", ["signed", "absolute"])
def test_infinity_cuts_everything(small, pairs, change):
    trace = acdc.discover(small("gpt2"), pairs, "kl", float("inf"), change=change, quiet=True).trace
    assert trace.n_kept == 0
    assert trace.n_tried == trace.graph.n_sources  # in-edges of `logits`; after that nothing leads there
    assert not trace.circuit.edges


def test_zero_cuts_only_what_the_objective_is_better_without(small, pairs):
    trace = acdc.discover(small("gpt2"), pairs, logit_difference, 0.0, quiet=True).trace
    cut = [decision for decision in trace.decisions if not decision.kept]
    assert cut and all(decision.value_after < decision.value_before for decision in cut)
    absolute = acdc.discover(small("gpt2"), pairs, logit_difference, 0.0, change="absolute", quiet=True)
    assert absolute == Circuit.full(absolute.graph)


def test_same_call_same_numbers(trained):
    first, second = (acdc.discover(*trained, logit_difference, 0.01, quiet=True).trace for _ in range(2))
    assert first == second


def test_near_ties_are_flagged(trained):
    model, pairs = trained
    trace = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    assert not trace.near_ties
    decision = next(each for each in trace.decisions if each.kept)
    tied = decision.value_after - decision.value_before
    again = acdc.discover(model, pairs, "kl", tied, quiet=True).trace
    at = next(each for each in again.decisions if each.edge == decision.edge)
    if at.value_before == decision.value_before:  # the same circuit so far: its change is the threshold itself
        assert at.near_tie
        assert at in again.near_ties


def test_float32_decides_as_float64_where_no_near_tie_is_flagged(trained):
    model, pairs = trained
    wide = acdc.discover(model, pairs, "kl", 0.01, quiet=True).trace
    try:
        narrow = acdc.discover(model.to(torch.float32), pairs, "kl", 0.01, quiet=True).trace
    finally:
        model.to(torch.float64)
    assert 1e-8 < narrow.noise < 1e-5
    assert not narrow.near_ties
    assert narrow.kept == wide.kept


@pytest.mark.usefixtures("without_type_checks")  # which would take most of the time
@pytest.mark.parametrize("metric", ["kl", log_probability])
def test_answers_of_several_tokens(trained, metric):
    model, pairs = trained
    clean, corrupted = (rows[:, :-1].tolist() for rows in (pairs.clean, pairs.corrupted))
    answers = [[int(token)] if row % 2 else [int(token), 3, 4] for row, token in enumerate(pairs.answers[:, 0])]
    several = PromptPairs(clean, corrupted, answers, several_tokens=True)
    trace = acdc.discover(model, several, metric, 0.05, batch_size=4, quiet=True).trace
    assert_same_decisions(trace, plain_sweep(model, Circuit.full(trace.graph), several, metric, 0.05))
    assert 0 < trace.n_kept < trace.n_tried
