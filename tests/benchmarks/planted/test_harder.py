"""The harder planted circuits: their causal models by hand, where heads are to look, and the three checks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from edge_circuits.benchmarks.planted import (
    HARDER,
    Planted,
    backup,
    counts,
    induction,
    interventions,
    load,
    planted_task,
    tasks_of,
    twice,
    two_hops,
)
from edge_circuits.benchmarks.planted.causal import CausalModel, sink, total
from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.benchmarks.planted.train import Losses, train
from edge_circuits.benchmarks.planted.verify import edge_cost, report, verify
from edge_circuits.graphs import Circuit, metrics, run

MOVERS = {
    "backup": backup.MAINS,
    "induction": induction.INDUCTION,
    "twice": twice.MOVERS,
    "two_hops": two_hops.SECOND_HOP,
}
MOVERS |= {f"counts.{which}": movers for which, movers in counts.MOVERS.items()}


@pytest.fixture(params=HARDER)
def task(request: pytest.FixtureRequest) -> PlantedTask:
    """Each harder task, without weights."""
    return planted_task(request.param)


def test_causal_models_answer_their_tasks_and_every_edge_counts(task: PlantedTask) -> None:
    pairs, metric = task.pairs(64, seed=2), metrics.load(task.task.metric)
    whole = task.target(pairs)
    assert metrics.accuracy(whole, pairs).mean() == 1
    torch.testing.assert_close(task.target(pairs, task.causal.edges), task.target(pairs.swapped()))
    right = metric(whole, pairs)
    for edge in task.causal.edges:
        change = (right - metric(task.target(pairs, (edge,)), pairs)).mean()
        assert change.abs() > 0.06 * right.mean(), edge


def test_heads_are_to_look_where_the_answer_is(task: PlantedTask) -> None:
    pairs = task.pairs(20, seed=1)
    wanted = task.attends(pairs.clean, pairs.positions)
    for row, position in enumerate(pairs.positions.tolist()):
        for node in MOVERS[task.name]:
            keys = wanted[node][row, position].nonzero()[:, 0]
            assert len(keys) and keys.max() <= position
            assert set(pairs.clean[row, keys].tolist()) == set(pairs.answers[row].tolist()) - {-1}


def test_induction_by_hand() -> None:
    """Five words, then the second again: the word before is the last one at the third alone."""
    tokens = torch.tensor([[1, 5, 6, 7, 8, 9, 6, 0]])
    before = induction.previous([tokens])
    assert before.tolist() == [[0, 1, 5, 6, 7, 8, 9, 6]]
    weights = induction.induction([tokens], [before, before], [tokens])[0]
    assert weights[7].item() == pytest.approx(math.exp(5) / (math.exp(5) + 4))
    assert weights.sum().item() == pytest.approx(1)
    one_cut = induction.induction([tokens], [before, torch.zeros_like(before)], [tokens])[0]
    assert one_cut[7].item() == pytest.approx(math.exp(2.5) / (math.exp(2.5) + 4))


def test_twice_by_hand() -> None:
    """Seven words, one twice: a mover weights its two places by e^8, and the five other words by e^4."""
    words = torch.tensor([[5, 3, 2, 9, 7, 17, 5]])
    counts = twice.count([words])
    assert counts[0, 5].item() == 2 and counts.sum().item() == 7
    moved = twice.mover([counts, counts], [words], [words])[0]
    assert moved[5].item() == pytest.approx(2 * math.exp(4) / (2 * math.exp(4) + 5))


def test_two_hops_by_hand() -> None:
    """Pairs 5 6, 6 7, 8 9, 9 10 and 5: the first look-up finds 6 with weight e^3 among four, the second asks for it."""
    tokens = torch.tensor([[6, 7, 8, 9, 5, 6, 9, 10, 5]])
    keys = two_hops.previous([tokens])
    assert keys.argmax(-1).tolist() == [[6, 8, 5, 9]]
    found = two_hops.first_look_up([tokens], [keys, keys], [tokens])[0]
    first = math.exp(3) / (math.exp(3) + 3)
    assert found[6].item() == pytest.approx(first) and found.sum().item() == pytest.approx(1)
    moved = two_hops.look_up([found[None], found[None]], [keys, keys], [tokens])[0]
    scores = [3 * found[key].item() for key in (6, 8, 5, 9)]
    assert moved[7].item() == pytest.approx(math.exp(scores[0]) / sum(map(math.exp, scores)))
    half = two_hops.look_up([found[None], found[None]], [keys, torch.zeros_like(keys)], [tokens])[0]
    assert half[7] < moved[7] - 0.1


def test_backup_by_hand() -> None:
    """The word that comes twice has a score of 10 - 8.5 if no main moved it, of 6 - 8.5 if both did; against all stands 0."""
    words = torch.tensor([[5, 3, 2, 9, 7, 17, 5]])
    counts, nothing = twice.count([words]), torch.zeros(1, 19)
    answer = nothing.index_fill(1, torch.tensor([5]), 1.0)
    for mains, taken in (((nothing, nothing), 0.0), ((answer, nothing), 2.0), ((answer, answer), 4.0)):
        moved = backup.backup([counts, counts, *mains], [words], [words])[0]
        weight, others = 2 * math.exp(1.5 - taken), math.exp(-3.5)
        assert moved[5].item() == pytest.approx(weight / (1 + weight + 5 * others))
        assert moved[3].item() == pytest.approx(others / (1 + weight + 5 * others))


def test_the_backup_does_little_until_the_mains_are_cut() -> None:
    planted = load("backup")
    model, task = planted.model, planted.task
    pairs, metric = task.pairs(96, seed=5), metrics.load(task.task.metric)
    backup_out = task.causal.out_edges(backup.BACKUP)
    mains_out = tuple(edge for node in backup.MAINS for edge in task.causal.out_edges(node))

    def kept(*cut: str) -> float:
        return metric(run(model, Circuit.full(task.graph) - Circuit.from_edges(task.graph, cut), pairs), pairs).mean()

    whole = kept()
    assert kept(*backup_out) > 0.8 * whole and kept(*mains_out) > 0.6 * whole
    assert kept(*mains_out, *backup_out) < 0.1 * whole


def test_two_tasks_of_one_model_share_nodes_and_weights() -> None:
    one, other = (load(task.name) for task in tasks_of("counts"))
    assert all(torch.equal(*both) for both in zip(one.model.parameters(), other.model.parameters()))
    shared = {node for node in one.circuit.nodes if node in other.circuit.nodes}
    assert {*counts.COUNT, "input", "logits"} == shared and one.task.model == other.task.model == "counts"
    assert set((one.circuit & other.circuit).edges) == {f"input->{node}<v>" for node in counts.COUNT}
    pairs = one.task.pairs(64, seed=6)
    kept = [metrics.accuracy(run(one.model, planted.circuit, pairs), pairs).mean() for planted in (one, other)]
    assert kept[0] > 0.95 and kept[1] < 0.5  # each circuit answers its own question


def test_the_larger_circuit_has_heads_that_hurt() -> None:
    task = planted_task("two_hops")
    assert task.graph.n_layers >= 6 and task.graph.n_edges >= 5000 and 50 <= len(task.causal.edges) <= 150
    pairs, metric = task.pairs(64, seed=5), metrics.load(task.task.metric)
    right = metric(task.target(pairs), pairs).mean()
    for node in two_hops.NEGATIVE:
        without = metric(task.target(pairs, task.causal.out_edges(node)), pairs).mean()
        assert without > 1.2 * right


def test_a_circuit_without_positions_is_true_under_every_intervention() -> None:
    rows = [interventions.row(*each) for each in interventions.checked(["twice"], 64, quiet=True)]
    assert [one["intervention"] for one in rows] == ["patching", "zero", "mean", "mean-positional"]
    assert all(one["trained"] and not one["failed"] and one["kept"] > 0.99 for one in rows)
    assert "true 1.00" in interventions.text(rows)


def test_an_intervention_under_which_a_circuit_is_not_true_is_told() -> None:
    result = verify(load("induction"), 48, intervention="zero", quiet=True)
    told = interventions.row("zero", result)
    assert not told["trained"] and 1 in told["failed"] and told["kept"] < 0.5
    assert f"not {', '.join(map(str, told['failed']))} {told['kept']:.2f}" in interventions.text([told])


@pytest.mark.parametrize(
    "name",
    [
        "induction",
        "twice",
        "backup",
        *(f"counts.{which}" for which in counts.MOVERS),
        pytest.param("two_hops", marks=pytest.mark.slow),
    ],
)
def test_a_shipped_circuit_is_the_circuit(name: str) -> None:
    result = verify(load(name), n_prompts=96, quiet=True)
    assert result.passed, report(result)


def test_an_edge_that_hurts_gains_when_it_is_cut() -> None:
    """With the answers exchanged for the wrong answers, every edge hurts, and the cost is the gain."""
    planted = load("induction")

    def opposed(inputs: list[torch.Tensor]) -> torch.Tensor:
        return -total(inputs, induction.STRENGTH)

    *variables, last = planted.task.causal.variables
    against = CausalModel((*variables, sink("logits", opposed, *last.reads["inputs"])))
    pairs, metric = planted.task.pairs(32, seed=4), metrics.logit_difference
    edge, whole = "a1.h2->logits", Circuit.full(planted.task.graph)
    before = {
        "whole": metric(run(planted.model, whole, pairs), pairs),
        "circuit": metric(run(planted.model, planted.circuit, pairs), pairs),
    }
    costs = [
        edge_cost(edge, Planted(planted.model, planted.circuit, one), pairs, before)
        for one in (planted.task, replace(planted.task, causal=against))
    ]
    assert [cost.hurts for cost in costs] == [False, True]
    assert costs[1].expected == pytest.approx(costs[0].expected, rel=0.1)
    assert costs[0].in_model > 1 and costs[1].in_model == pytest.approx(-costs[0].in_model, rel=0.1)


def test_other_interventions_are_trained_too() -> None:
    tiny = {**planted_task("induction").settings, "d_model": 16, "d_head": 4, "d_mlp": 16}
    task = replace(planted_task("induction"), settings=tiny, interventions=("patching", "zero", "mean"))
    training = Training(steps=2, alone=1, batch_size=8)
    model, losses = train((task,), training, quiet=True)
    assert len(losses) == 2
    parts = Losses(task, training)(model, task.pairs(8), 0)
    assert "circuit, other" in parts and parts["circuit, other"].isfinite()
    assert "circuit, other" not in Losses(replace(task, interventions=("patching",)), training)(model, task.pairs(8), 0)


def test_nodes_are_taken_out_in_half_of_the_steps() -> None:
    task = planted_task("backup")
    assert task.training.taken_out == backup.MAINS
    mains_out = {edge for node in backup.MAINS for edge in task.causal.out_edges(node)}
    drawn = {name: Losses(task, replace(task.training, taken_out=name)) for name in ((), backup.MAINS)}
    shares = [sum(mains_out <= each.draw_cut() for _ in range(400)) / 400 for each in drawn.values()]
    assert shares[0] < 0.05 and 0.4 < shares[1] < 0.6


def test_the_weight_of_squares_grows_in_two_steps() -> None:
    losses = Losses(planted_task("induction"), Training(steps=100, alone=40, squares_alone=4.0, squares=10.0))
    assert [losses.squares(step) for step in (0, 20, 40, 70, 100)] == [0, 2, 4, 7, 10]
    usual = Losses(planted_task("induction"), Training(steps=100, alone=40))
    assert [usual.squares(step) for step in (0, 40, 70)] == [0, 0, 1]
