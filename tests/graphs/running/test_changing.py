"""Prompts that begin alike: what is not run again is what cannot change, against the slow reference and runs of every position."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hub_models import hub_model
from models import KINDS, curved, prompt_pairs, prompts_of, random_circuit, relative_error, tiny
from references import edges
from torch import Tensor

import edge_circuits as ec
from edge_circuits.eap.scoring import score
from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.node_circuits import ScoredNodes, prune_nodes
from edge_circuits.graphs.running import execution
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.changing import changing_rows, n_changing
from edge_circuits.graphs.running.incremental import move_on, run_candidates
from edge_circuits.graphs.running.patching import cut_values

pytestmark = pytest.mark.filterwarnings("ignore:pairs. 1 of 5 have the same")
INTERVENTIONS = ("patching", "zero", "mean", "mean-positional")


def alike_until(pairs: PromptPairs, starts: list[int | None]) -> PromptPairs:
    """The same pairs with corrupted prompts that are the clean ones before these positions, and differ there; None: nowhere."""
    clean, corrupted = ([row[:n].tolist() for row, n in zip(x, pairs.lengths)] for x in (pairs.clean, pairs.corrupted))
    for here, there, start in zip(clean, corrupted, starts):
        there[:start] = here[:start]
        if start is not None:
            there[start] = (here[start] + 1) % 40
    answers, wrong = pairs.answers.tolist(), pairs.wrong_answers.tolist()
    return PromptPairs(clean, corrupted, answers, wrong, positions=pairs.positions.tolist())


LATE = alike_until(prompt_pairs([9, 7, 8, 3, 6], positions=[-1, -2, -1, -1, -1], seed=1), [5, 3, 7, None, 2])
"""Differing in the middle, at the last token, nowhere, and early in a short one."""
LAST = alike_until(prompt_pairs([6, 6], seed=2), [5, 5])
WITH_ONE_AT_THE_START = alike_until(prompt_pairs([6, 4, 5], seed=3), [4, 0, 4])
SETS = {"late": LATE, "last": LAST, "start": WITH_ONE_AT_THE_START}


@cache
def expected(kind: str, grouped: bool, name: str, intervention: str) -> tuple[Circuit, Tensor]:
    """A random circuit and its logits, the slow way."""
    graph = Graph.from_model(tiny(kind).model, "kv-head" if grouped else "query-head")
    circuit = random_circuit(graph, 0.5, seed=3)
    kept = dict.fromkeys(circuit.edges, True)
    return circuit, edges.circuit_logits(tiny(kind).literal, prompts_of(SETS[name]), kept, intervention, grouped)


CASES = [(kind, False, "late", "patching") for kind in KINDS] + [("llama", True, "late", "patching")]
CASES += [(kind, False, name, "patching") for kind in ("gpt2", "mistral") for name in ("last", "start")]
CASES += [(kind, False, "late", other) for kind in ("gpt2", "llama") for other in INTERVENTIONS[1:]]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("without_type_checks")
def test_circuits_are_those_of_the_reference(case: tuple[str, bool, str, str]) -> None:
    circuit, logits = expected(*case)
    with torch.no_grad():
        assert relative_error(run(tiny(case[0]).model, circuit, SETS[case[2]], case[3]), logits) < 1e-12


@pytest.mark.parametrize("kind", ["gptj", "bloom", "mpt", "olmo", "olmo2", "phi3-long", "mixtral", "olmoe", "gpt-oss"])
def test_other_architectures_are_as_when_every_position_runs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALiBi, parallel layers, clipped projections, norms over all heads, experts, sinks, and windows among them."""
    model = hub_model(kind)
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=1)

    def found() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            scores = score(model, LATE, curved, ec.Exact(random_circuit(circuit.graph, 0.1, seed=2).mask), quiet=True)
            return run(model, circuit, LATE), scores.scores

    ours = found()
    monkeypatch.setattr(execution, "since_changed", lambda transformer, batch, cut: cut)
    for some, all_positions in zip(ours, found()):
        assert relative_error(some, all_positions) < 1e-12


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "llama", "gemma2", "attention-only"])
@pytest.mark.parametrize("density", [1.0, 0.6])
def test_candidates_and_what_they_move_are_the_circuits_by_themselves(kind: str, density: float) -> None:
    model = tiny(kind).model
    transformer = adapt(model)
    mask = random_circuit(transformer.graph, density, seed=5).mask
    cached = CachedRun(transformer, mask, LATE, cut_values(transformer, [LATE], "patching")(LATE))
    assert cached.cut.embed.shape[1] == 4
    for name in ("logits", "a1.h2<k>", "a0.h0<q>"):
        destination = transformer.graph.destination_index(name)
        kept = mask[:, destination].repeat(2, 1)
        kept[0], kept[1, 0] = False, False
        logits = run_candidates(cached, destination, kept)
        for candidate, ours in zip(kept, logits):
            mask[:, destination] = candidate
            assert relative_error(ours, run(model, Circuit(transformer.graph, mask), LATE).detach()) < 1e-12
        move_on(cached, destination, kept[1])
        assert relative_error(cached.logits, logits[1]) < 1e-12


@pytest.mark.parametrize("intervention", INTERVENTIONS)
def test_exact_scores_are_literal_single_cuts(intervention: str) -> None:
    found = score(tiny("attention-only").model, LATE, curved, "exact", intervention=intervention, quiet=True)
    prompts, literal = prompts_of(LATE), tiny("attention-only").literal
    every = dict.fromkeys(found.graph.edges, 1.0)
    clean = curved(edges.circuit_logits(literal, prompts, every, intervention), LATE)
    for edge in found.graph.edges[::17]:
        cut = curved(edges.circuit_logits(literal, prompts, every | {edge: 0.0}, intervention), LATE)
        assert found.score(edge) == pytest.approx((cut - clean).mean().item(), abs=1e-11), edge


def test_circuits_of_nodes_left_padding_and_several_answers() -> None:
    model = tiny("llama").model
    graph = Graph.from_model(model)
    circuit = prune_nodes(ScoredNodes(graph, torch.randn(graph.n_sources - 1)), 8)
    kept = dict.fromkeys(circuit.edges, True)
    slow = edges.circuit_logits(tiny("llama").literal, prompts_of(LATE), kept, "patching")
    assert relative_error(run(model, circuit, LATE).detach(), slow) < 1e-12
    left = [
        torch.stack([row.roll(9 - int(n)) for row, n in zip(x, LATE.lengths)]) for x in (LATE.clean, LATE.corrupted)
    ]
    padded = PromptPairs(*left, attention_mask=LATE.mask.flip(1).int(), positions=LATE.positions.tolist())
    assert torch.equal(run(model, circuit, padded), run(model, circuit, LATE))
    columns = [x.tolist() for x in (LAST.clean, LAST.corrupted)]
    several = PromptPairs(*columns, positions={"before": 3, "where they differ": 5})
    assert changing_rows(several).tolist() == [[3, 4, 5], [3, 4, 5]]
    each = [run(model, circuit, PromptPairs(*columns, positions=[place] * 2)) for place in (3, 5)]
    assert relative_error(run(model, circuit, several).detach(), torch.stack(each, 1).detach()) < 1e-12


def test_which_positions_run() -> None:
    assert n_changing(LATE, "patching").tolist() == [4, 3, 1, 1, 4]
    assert n_changing(LATE, "zero").tolist() == [9, 6, 8, 3, 6]
    assert changing_rows(LATE)[:, 0].tolist() == [5, 3, 5, 2, 2]
    assert changing_rows(LATE).shape[1] == 4
    assert changing_rows(LAST).tolist() == [[4, 5], [4, 5]]  # one position could not be told from the answer
    assert changing_rows(prompt_pairs([1, 3], positions=[0, 0])).tolist() == [[0], [0]]
    assert changing_rows(WITH_ONE_AT_THE_START).tolist() == [[2, 3, 4, 5], [0, 1, 2, 3], [2, 3, 4, 5]]
