"""Logits of a circuit in which one destination reads less, against a run of that circuit."""

from __future__ import annotations

import pytest
import torch
from models import KINDS, prompt_pairs, tiny

from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running import cached_run
from edge_circuits.graphs.running.cached_run import CachedRun, Place
from edge_circuits.graphs.running.dependents import bit_columns, leading_to_logits, leads_on
from edge_circuits.graphs.running.execution import run
from edge_circuits.graphs.running.incremental import move_on, run_candidates
from edge_circuits.graphs.running.patching import cut_values

PAIRS = prompt_pairs([9, 9, 7], positions=[-1, -2, -1], seed=3)
TOLERANCE = 1e-12  # float64; sums of a few hundred terms in another order


class Case:
    """A model, a batch, and the cached run of a circuit."""

    def __init__(
        self, kind, density=1.0, intervention="patching", kv_destinations="query-head", seed=0, only_input=False
    ):
        self.model, self.intervention = tiny(kind).model, intervention
        transformer = adapt(self.model, kv_destinations=kv_destinations)
        self.graph, self.batch = transformer.graph, PAIRS.batches()[0]
        self.generator = torch.Generator().manual_seed(seed)
        self.mask = self.random(density) & self.graph.edge_mask
        self.mask[1:] &= not only_input
        cut = cut_values(transformer, [self.batch], intervention)(self.batch)
        with torch.no_grad():
            self.cached = CachedRun(transformer, self.mask, self.batch, cut)

    def random(self, density):
        return torch.rand(self.graph.edge_mask.shape, generator=self.generator) < density

    def destinations(self, n):
        """Some destinations with in-edges and a path to `logits`, `logits` first."""
        leading = leading_to_logits(self.graph, bit_columns(self.mask))
        last = self.graph.n_destinations - 1
        live = [d for d in range(last) if self.mask[:, d].any() and leads_on(self.graph, leading, d)]
        return [last, *reversed(live[:: max(1, len(live) // n)])]

    def candidates(self, destination, n=3):
        return torch.stack([self.mask[:, destination] & self.random(0.6)[:, destination] for _ in range(n)])

    def error(self, logits, destination=None, kept=None):
        """Largest difference from the circuit run by itself, relative to the largest logit."""
        mask = self.mask.clone()
        if destination is not None:
            mask[:, destination] = kept
        with torch.no_grad():
            expected = run(self.model, Circuit(self.graph, mask), PAIRS, self.intervention)[self.batch.indices]
        return ((logits - expected).abs().max() / expected.abs().max()).item()


def assert_as_run_by_itself(case, n_destinations=3):
    assert case.error(case.cached.logits) < TOLERANCE
    for place, destination in enumerate(case.destinations(n_destinations)):
        candidates = case.candidates(destination)
        logits = run_candidates(case.cached, destination, candidates)
        assert case.error(logits[2 * (place % 2)], destination, candidates[2 * (place % 2)]) < TOLERANCE
        if place % 2:
            move_on(case.cached, destination, candidates[1])
            case.mask[:, destination] = candidates[1]
            assert case.error(case.cached.logits) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture(kind):
    assert_as_run_by_itself(Case(kind, 0.6))


@pytest.mark.parametrize(
    "kind, density", [("gpt2", 1.0), ("gpt2", 0.15), ("neox-parallel", 0.95), ("neox-parallel", 1.0), ("gemma2", 1.0)]
)
def test_full_and_sparse_circuits(kind, density):
    assert_as_run_by_itself(Case(kind, density, seed=1))


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "neox-parallel", "rms-gated-grouped", "attention-only"])
@pytest.mark.parametrize("cut", ["a0.h1<k>", "a1.h0<q>", "logits"])
def test_layers_from_which_on_no_edge_is_cut(kind, cut):
    case = Case(kind)
    destination = case.graph.destination_index(cut)
    for other in (None, destination):
        if other is not None:
            case.mask[:, other] = False
            move_on(case.cached, other, case.mask[:, other])
        layers = {"a0.h1<k>": 1, "a1.h0<q>": 2, "logits": case.graph.n_layers + 1}
        assert case.cached.whole_from == (0 if other is None else layers[cut])
        for name in ("a0.h0<v>", "m0", "a1.h1<q>", "logits"):
            if name in case.graph.destinations:
                at = case.graph.destination_index(name)
                candidates = case.candidates(at)
                assert case.error(run_candidates(case.cached, at, candidates)[1], at, candidates[1]) < TOLERANCE


@pytest.mark.parametrize(
    "kind, intervention", [("gpt2", "zero"), ("gpt2", "mean"), ("layer-norm", "mean-positional"), ("gemma2", "zero")]
)
def test_every_intervention(kind, intervention):
    assert_as_run_by_itself(Case(kind, 0.5, intervention))


@pytest.mark.parametrize("kind", ["llama", "rms-gated-grouped"])
def test_key_value_heads_as_destinations(kind):
    assert_as_run_by_itself(Case(kind, 0.5, kv_destinations="kv-head"), n_destinations=6)


def test_nothing_changes_without_room_for_the_runs_inputs(monkeypatch):
    monkeypatch.setattr(cached_run, "CACHED_BYTES", 0)
    case = Case("gpt2", 0.6)
    assert_as_run_by_itself(case)
    assert not case.cached._inputs


def test_a_destination_that_moves_nothing_leaves_the_logits():
    case = Case("gpt2", only_input=True)  # nobody reads heads and MLPs
    destination = case.graph.destination_index("a0.h0<q>")
    logits = run_candidates(case.cached, destination, torch.zeros(2, case.graph.n_sources, dtype=torch.bool))
    assert torch.equal(logits, case.cached.logits.expand(2, *case.cached.logits.shape))


def test_candidates_do_not_influence_each_other():
    case = Case("neox-sequential", 0.7)
    destination = case.destinations(8)[4]
    candidates = case.candidates(destination, n=5)
    together = run_candidates(case.cached, destination, candidates)
    alone = torch.cat([run_candidates(case.cached, destination, kept[None]) for kept in candidates])
    assert (together - alone).abs().max() < TOLERANCE * alone.abs().max()


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
@pytest.mark.parametrize("n_cut", [1, 6])
def test_what_candidates_read_is_the_same_from_either_side(kind, n_cut):
    """Few cut edges are taken from the run's own input, many from the cut values."""
    case = Case(kind)
    destination = case.graph.mlp_destination(1)
    kept = case.mask[:, destination].repeat(2, 1)
    kept[0, :n_cut], kept[1, 1 : n_cut + 1] = False, False
    weights, place = kept.to(torch.float64), Place("mlp_in", 1, True)
    expected = case.cached.read(place, weights, case.graph.n_seen(destination))
    found = case.cached.read_candidates(place, destination, weights)
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


def test_on_how_many_tokens_a_candidate_runs():
    case = Case("gpt2")
    last = case.graph.n_layers - 1
    tokens = {name: case.cached.n_tokens(case.graph.destination_index(name)) for name in case.graph.destinations}
    everywhere, at_answer = case.batch.clean.numel(), len(case.batch)
    for name, found in tokens.items():
        only_the_answer = name == "logits" or name in (f"m{last}", *(f"a{last}.h{head}<q>" for head in range(4)))
        assert found == (at_answer if only_the_answer else everywhere)
