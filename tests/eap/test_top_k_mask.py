"""Soft top-k masks: gates against plain Python, their gradients, and what the start and the training do."""

from __future__ import annotations

import math

import pytest
import torch
from models import logit_difference, prompt_pairs, tiny
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.methods.top_k_mask import N_SIZES, WIDTH, TopKMask, soft_top_k
from edge_circuits.graphs import Graph, metrics

PAIRS = prompt_pairs([4, 3], positions=[-1, -2])


def literal(values: list[float], k: float) -> list[float]:
    """Gates that add up to k, by trying thresholds ever nearer."""

    def gates(t: float) -> list[float]:
        return [1 / (1 + math.exp(min(-(value - t) / WIDTH, 700))) for value in values]

    low, high = min(values) - 50, max(values) + 50
    while high - low > 1e-13 * max(1, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if sum(gates(middle)) > k else (low, middle)
    return gates((low + high) / 2)


def some_logits(n: int = 12) -> tuple[Tensor, Tensor]:
    """Logits [4, 5] and a mask of n edges."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return logits, torch.arange(20).view(4, 5) < n


@pytest.mark.parametrize("k", [0.01, 1.0, 3.7, 11.0, 11.999])
def test_gates_are_those_of_plain_python_and_add_up_to_k(k: float) -> None:
    logits, mask = some_logits()
    gates = soft_top_k(logits, mask, k)
    assert gates[mask].tolist() == pytest.approx(literal(logits[mask].tolist(), k), rel=1e-9)
    assert gates.sum().item() == pytest.approx(k, rel=1e-9) and not gates[~mask].any()


def test_gradients_are_differences_of_gates_that_add_up_to_k() -> None:
    logits, mask = some_logits()
    upstream = torch.linspace(-1, 2, 20, dtype=torch.float64).view(4, 5)
    leaf = logits.clone().requires_grad_()
    (soft_top_k(leaf, mask, 3.7) * upstream).sum().backward()
    step = 1e-5
    for at in mask.nonzero().tolist():
        sides = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[tuple(at)] += sign * step
            gates = literal(moved[mask].tolist(), 3.7)
            sides.append(sum(gate * weight for gate, weight in zip(gates, upstream[mask].tolist())))
        assert leaf.grad[tuple(at)].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)
    assert leaf.grad.sum().item() == pytest.approx(0, abs=1e-12)  # moving all alike changes nothing


def test_training_begins_with_the_ranks_of_the_scores_it_starts_from() -> None:
    """One step moves each number by the learning rate at most, so ranks whose logs are farther apart stay."""
    model = tiny("gpt2").model
    begun = eap.score(model, PAIRS, logit_difference, TopKMask(steps=1, start="eap"), quiet=True)
    eap_scores = eap.score(model, PAIRS, logit_difference, "eap", quiet=True)
    best = [edge for edge, _ in eap_scores.top(8)]
    assert [edge for edge, _ in begun.top(8)] == best
    other = eap.score(model, PAIRS, logit_difference, TopKMask(steps=1, start="none"), quiet=True)
    assert [edge for edge, _ in other.top(8)] != best


def test_scores_are_mean_gates_over_sizes() -> None:
    """At the start: of an edge of rank r among n, by plain Python."""
    model = tiny("attention-only").model
    graph = Graph.from_model(model)
    method = TopKMask(steps=1, start="none")
    mask, n = graph.edge_mask, graph.n_edges
    logits = torch.zeros(mask.shape)
    logits[mask] = -torch.arange(1.0, n + 1).log()
    sizes = [math.exp((at + 0.5) / N_SIZES * math.log(n)) for at in range(N_SIZES)]
    by_size = [literal([-math.log(rank) for rank in range(1, n + 1)], k) for k in sizes]
    expected = [sum(column) / N_SIZES for column in zip(*by_size)]
    assert method.shown(logits, mask)[mask].tolist() == pytest.approx(expected, abs=1e-6)


def test_training_finds_circuits_that_keep_more_of_the_metric() -> None:
    """Circuits of every size, cut from scores after training and before, on other prompts."""
    from edge_circuits.benchmarks import planted
    from edge_circuits.graphs.measures.curves import curves

    model, _, task = planted.load("twice")
    pairs, held_out, metric = task.pairs(16, seed=1), task.pairs(32, seed=2), metrics.load(task.task.metric)
    methods = {"before": eap.EAP(), "after": TopKMask(steps=40, start="eap")}
    found = {name: eap.score(model, pairs, metric, method, quiet=True) for name, method in methods.items()}
    areas = {name: curve.area("cmd", clipped=True) for name, curve in curves(model, found, held_out, metric).items()}
    assert areas["after"] < areas["before"] - 0.008, areas


def test_scores_depend_on_the_seed_alone_and_starts_are_checked() -> None:
    model = tiny("attention-only").model
    runs = [
        eap.score(model, PAIRS, logit_difference, TopKMask(steps=3, seed=seed), quiet=True).scores for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    with pytest.raises(
        ValueError, match="start: expected a method that scores batch by batch, or 'none', got 'learned-mask'"
    ):
        eap.score(model, PAIRS, logit_difference, TopKMask(start="learned-mask"), quiet=True)
    with pytest.raises(ValueError, match="method: expected one of .*'magic'"):
        eap.score(model, PAIRS, logit_difference, "top-k-mask:start=magic", quiet=True)
    with pytest.raises(ValueError, match="gradient on the clean prompt is zero"):
        eap.score(model, PAIRS, "kl", TopKMask(), quiet=True)
