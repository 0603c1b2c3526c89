"""Hypothesis tests of circuits against literal sums, permutations and runs, and on circuits whose verdict is known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from models import logit_difference, prompt_pairs, random_circuit, tiny

from edge_circuits.graphs import Circuit, run
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.measures import hypotheses
from edge_circuits.graphs.measures.hypotheses import equivalence, hypothesis_tests, independence, minimality_p_values

PAIRS = prompt_pairs([6, 5, 6, 4], seed=1)


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(
    ("better", "worse", "margin"), [(5, 5, 0.1), (9, 1, 0.1), (0, 12, 0.1), (6, 4, 0.0), (7, 4, 0.2), (1, 0, 0.3)]
)
def test_equivalence_is_the_largest_chance_within_the_margin(better: int, worse: int, margin: float) -> None:
    n = better + worse
    far = [k for k in range(n + 1) if abs(k - n / 2) >= abs(better - n / 2)]
    grid = [0.5 - margin + 2 * margin * step / 50 for step in range(51)]
    expected = max(sum(binomial(n, k, p) for k in far) for p in grid)
    model = torch.zeros(n + 2).double()
    circuit = torch.tensor([1.0] * better + [-1.0] * worse + [0.0] * 2).double()
    found = equivalence(circuit, model, margin)
    assert found.p_value == pytest.approx(expected, abs=1e-9)
    assert (found.share_better, found.n_ties) == (pytest.approx(better / n), 2)


def test_equal_metrics_are_equivalent() -> None:
    assert equivalence(torch.ones(4), torch.ones(4)) == hypotheses.Equivalence(0.5, 4, 1.0)


def literal_hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """trace(K H L H) / (n - 1)^2 with matrices as they are written."""
    n = len(x)

    def kernel(values: torch.Tensor) -> torch.Tensor:
        pairs = [abs(values[i] - values[j]).item() for i in range(n) for j in range(n) if i != j]
        width = sorted(pairs)[(len(pairs) - 1) // 2]
        return torch.tensor(
            [[math.exp(-((a - b) ** 2) / (2 * width**2)) for a in values.tolist()] for b in values.tolist()],
            dtype=torch.double,
        )

    centre = torch.eye(n).double() - 1 / n
    return torch.trace(kernel(x) @ centre @ kernel(y) @ centre).item() / (n - 1) ** 2


def noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()


def test_independence_equals_permuting_one_by_one() -> None:
    x, y = noise(9, 1), 0.7 * noise(9, 1) + noise(9, 2)
    found = independence(x, y, n_permutations=40, seed=3)
    generator = torch.Generator().manual_seed(3)
    permuted = [literal_hsic(x, y[torch.randperm(9, generator=generator)]) for _ in range(40)]
    assert found.hsic == pytest.approx(literal_hsic(x, y), abs=1e-12)
    assert found.p_value == (1 + sum(value >= found.hsic - 1e-12 for value in permuted)) / 41


def test_independence_tells_what_depends() -> None:
    x = noise(60, 1)
    assert independence(x, x**2, 200).p_value < 0.01  # no correlation, yet dependent
    p_values = [independence(noise(40, seed), noise(40, 100 + seed), 100).p_value for seed in range(20)]
    assert sum(p < 0.05 for p in p_values) <= 4 and 0.3 < sum(p_values) / 20 < 0.7
    assert independence(torch.ones(10), noise(10, 1), 50).p_value == 1


def test_minimality_counts_the_stray_edges_below() -> None:
    strays = torch.tensor([0.0, 0.1, 0.2, 0.3]).double()
    found = minimality_p_values(torch.tensor([0.25, 0.0, 9.0]).double(), strays, quantile=0.8)
    expected = [sum(binomial(4, k, 0.8) for k in range(below + 1)) for below in (3, 0, 4)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("intervention", ["patching", "zero"])
def test_circuits_are_run_as_they_are_written(intervention: str) -> None:
    model = tiny("attention-only").model
    circuit = random_circuit(Graph.from_model(model), 0.2, seed=2)

    def value(one: Circuit) -> torch.Tensor:
        with torch.no_grad():
            return logit_difference(run(model, one, PAIRS, intervention), PAIRS)

    found = hypothesis_tests(
        model, circuit, PAIRS, logit_difference, intervention, n_permutations=30, n_stray=5, seed=7
    )
    clean = value(Circuit.full(circuit.graph))
    assert found.equivalence == equivalence(value(circuit), clean)
    assert found.independence.p_value == independence(value(~circuit), clean, 30, 7).p_value
    edges = circuit.edges[::7]
    changes = dict(zip(circuit.edges, found.minimality.changes.tolist()))
    for edge in edges:
        expected = (value(circuit) - value(circuit - Circuit.from_edges(circuit.graph, [edge]))).abs().mean().item()
        assert changes[edge] == pytest.approx(expected, abs=1e-10)
    strays = hypotheses._strays(circuit, 5, 7)
    expected = [(value(larger) - value(cut)).abs().mean().item() for larger, cut in strays]
    assert found.minimality.stray_changes.tolist() == pytest.approx(expected, abs=1e-10)
    for larger, cut in strays:
        assert (larger - cut).n_edges == 1 and not (circuit - cut).n_edges and (larger - circuit).n_edges
        assert (Circuit.full(circuit.graph).live() & larger) == larger and any(changes.values())


def test_added_paths_lead_from_input_to_logits() -> None:
    graph = Graph.from_model(tiny("gpt2").model)
    circuit = Circuit.from_edges(graph, ["input->logits"])
    for larger, _ in hypotheses._strays(circuit, 20, 0):
        assert larger.is_live and larger.n_edges > 1


def test_superfluous_edges_are_found_with_bonferroni() -> None:
    circuit = Circuit.from_edges(Graph.from_model(tiny("gpt2").model), ["input->logits", "m0->logits"])
    strays = torch.linspace(0, 1, 100).double()
    changes = torch.tensor([2.0, 0.5]).double()
    p_values = minimality_p_values(changes, strays)
    found = hypotheses.MinimalityTest(circuit, changes, strays, p_values, level=0.05)
    needless = circuit.edges[1]
    assert found.superfluous == (needless,) and found.p_value == pytest.approx(2 * p_values[1].item())
    close = hypotheses.MinimalityTest(circuit, changes, strays, torch.tensor([0.9, 0.03]).double(), level=0.05)
    assert close.superfluous == () and close.p_value == pytest.approx(0.06)


@pytest.mark.usefixtures("without_type_checks")
def test_refusals() -> None:
    model = tiny("attention-only").model
    graph = Graph.from_model(model)
    circuit = Circuit.from_edges(graph, ["input->logits"])

    def ask(one: Circuit = circuit, pairs=PAIRS, **settings: float) -> object:
        return hypothesis_tests(model, one, pairs, logit_difference, **settings)

    for one, n in ((Circuit.empty(graph), 0), (Circuit.full(graph), graph.n_edges)):
        with pytest.raises(ValueError, match=f"circuit: expected some edges and not all, got {n} of {graph.n_edges}"):
            ask(one)
    with pytest.raises(ValueError, match="pairs: expected 3 or more to test with, got 2"):
        ask(pairs=PAIRS[:2])
    with pytest.raises(ValueError, match="margin: expected a finite number from 0 and below 0.5, got 0.5"):
        ask(margin=0.5)
    with pytest.raises(ValueError, match="quantile: expected a finite number above 0 and below 1, got 90"):
        ask(quantile=90)
    with pytest.raises(ValueError, match="level: expected a finite number above 0 and below 1, got 0"):
        ask(level=0)
    with pytest.raises(ValueError, match="n_stray: expected a whole number from 1, got 0"):
        ask(n_stray=0)


def test_a_circuit_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.from_model(tiny("attention-only").model)
    monkeypatch.setattr(hypotheses, "_random_path", lambda *given: ["input->logits"])
    with pytest.raises(
        ValueError, match="circuit: expected one to which paths can be added, got .*; test a smaller one"
    ):
        hypotheses._strays(Circuit.from_edges(graph, ["input->logits"]), 1, 0)


def test_a_handful_of_prompts_says_what_it_cannot_tell() -> None:
    """By hand: 3 prompts give p-values from .6**3 + .4**3 = .28 and 1/3! = .17 on; 1 stray edge .1 for each edge."""
    model = tiny("attention-only").model
    circuit = random_circuit(Graph.from_model(model), 0.2, seed=2)
    three = prompt_pairs([4, 5, 6], seed=1)
    with pytest.warns(UserWarning, match="cannot reject it at level 0.05"):
        found = hypothesis_tests(model, circuit, three, logit_difference, n_permutations=30, n_stray=1)
    assert [line.split(":")[0] for line in found.cannot_tell] == ["equivalence", "independence", "minimality"]
    assert "3 prompts without ties" in found.cannot_tell[0] and "below 0.28" in found.cannot_tell[0]
    assert "below 0.17" in found.cannot_tell[1]
    assert found.equivalence.p_value >= 0.28 and found.independence.p_value > 0.05


def test_enough_prompts_and_stray_edges_can_tell() -> None:
    model = tiny("attention-only").model
    circuit = random_circuit(Graph.from_model(model), 0.2, seed=2)
    with warnings.catch_warnings(action="error"):
        found = hypothesis_tests(
            model, circuit, prompt_pairs([5] * 8, seed=1), logit_difference, n_permutations=30, n_stray=10
        )
    assert found.cannot_tell == ()
