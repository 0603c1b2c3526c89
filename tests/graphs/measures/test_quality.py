"""Measures of circuits against a model worked by hand, a slow literal version, and their identities."""

from __future__ import annotations

import pytest
import torch
from models import RAGGED, logit_difference, native, prompt_pairs, random_circuit, tiny
from torch import Tensor

from edge_circuits.graphs import Circuit, PromptPairs, metrics, run
from edge_circuits.graphs.graph import Graph
from edge_circuits.graphs.measures.quality import measure, minimality
from edge_circuits.graphs.measures.values import Ends, values_of
from edge_circuits.graphs.scores import ScoredGraph

INTERVENTIONS = ("patching", "zero", "mean", "mean-positional")
PAIRS = prompt_pairs([7, 5, 7, 6, 3], seed=4)
EXACT = dict(rel=0, abs=1e-9)  # float64: sums of a few hundred terms in another order


def value(model, circuit, pairs=PAIRS, intervention="patching", metric=logit_difference) -> Tensor:
    with torch.no_grad():
        return metric(run(model, circuit, pairs, intervention), pairs).double()


def literal_share(model, circuit, intervention, metric=logit_difference) -> float:
    """Faithfulness as it is written, one circuit at a time."""
    full, empty = (f(circuit.graph) for f in (Circuit.full, Circuit.empty))
    clean, corrupted, own = (
        value(model, each, PAIRS, intervention, metric).mean().item() for each in (full, empty, circuit)
    )
    return (own - corrupted) / (clean - corrupted)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("kind", ["gpt2", "attention-only"])
def test_equals_running_one_circuit_at_a_time(kind: str, intervention: str) -> None:
    model = tiny(kind).model
    circuits = [random_circuit(Graph.from_model(model), density, seed=1) for density in (0.9, 0.3)]
    for circuit, measured in zip(
        circuits, measure(model, circuits, PAIRS, logit_difference, intervention, batch_size=2), strict=True
    ):
        assert measured.circuit is circuit
        assert measured.faithfulness == pytest.approx(literal_share(model, circuit, intervention), **EXACT)
        assert measured.completeness == pytest.approx(literal_share(model, ~circuit, intervention), **EXACT)
        assert torch.allclose(measured.values, value(model, circuit, PAIRS, intervention), rtol=0, atol=1e-10)
        assert measured.divergence == pytest.approx(literal_divergence(model, circuit, intervention), **EXACT)
        assert measured.accuracy == value(model, circuit, PAIRS, intervention, metrics.accuracy).mean().item()


def literal_divergence(model, circuit, intervention) -> float:
    with torch.no_grad():
        clean = run(model, Circuit.full(circuit.graph), PAIRS, intervention).log_softmax(-1)
        other = run(model, circuit, PAIRS, intervention).log_softmax(-1)
    return sum((p.exp() * (p - q)).sum().item() for p, q in zip(clean, other)) / len(PAIRS)


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("kind", ["gpt2", "layer-norm"])
def test_the_full_and_the_empty_circuit(kind: str, intervention: str) -> None:
    model = tiny(kind).model
    graph = Graph.from_model(model)
    full, empty = measure(model, [Circuit.full(graph), Circuit.empty(graph)], PAIRS, logit_difference, intervention)
    assert (full.faithfulness, full.completeness, full.divergence) == pytest.approx((1, 0, 0), **EXACT)
    assert (empty.faithfulness, empty.completeness) == pytest.approx((0, 1), **EXACT)
    assert empty.divergence > 0 and full.accuracy_kept in (None, 1)


@pytest.mark.parametrize(
    ("kind", "density", "intervention"),
    [("gpt2", 0.5, "patching"), ("gpt2", 0.25, "patching"), ("gpt2", 0.4, "zero"), ("gemma2", 0.6, "mean")]
    + [("attention-only", 0.3, "mean-positional"), ("layer-norm", 1.0, "zero"), ("rms-gated-grouped", 0.4, "patching")],
)
def test_minimality_equals_leaving_out_each_edge(kind: str, density: float, intervention: str) -> None:
    model = tiny(kind).model
    circuit = random_circuit(Graph.from_model(model), density, seed=2)
    found = minimality(model, circuit, PAIRS, logit_difference, intervention, batch_size=3)
    own = value(model, circuit, PAIRS, intervention)
    assert torch.allclose(found.values, own, rtol=0, atol=1e-10)
    clean, corrupted = (
        value(model, f(circuit.graph), PAIRS, intervention).mean() for f in (Circuit.full, Circuit.empty)
    )
    costs, checked = found.by_edge(), []
    for edge in circuit.edges[:: max(1, len(circuit.edges) // 12)]:
        without = value(model, circuit - Circuit.from_edges(circuit.graph, [edge]), PAIRS, intervention)
        checked.append(((own.mean() - without.mean()) / (clean - corrupted)).item())
        assert costs[edge] == pytest.approx(checked[-1], **EXACT), edge
    assert max(map(abs, checked)) > 1e-4


def by_hand() -> tuple[object, PromptPairs]:
    """One head, no norm, no MLP, prompts of one token t, so that the pattern is 1.

    The embedding of t is e_t (one-hot), the head writes e_t / 2, the unembedding doubles: logits = 2 (e_t + e_t / 2), the first
    part by input->logits, the second by input->a0.h0<v> and a0.h0->logits.
    """
    model = native(
        n_layers=1, n_heads=1, d_model=3, d_head=3, d_vocab=3, attn_only=True, normalization_type=None, n_ctx=4
    )
    scales = {"tok_embed": 1.0, "v": 1.0, "o": 0.5, "head": 2.0}
    for name, parameter in model.original_model.named_parameters():
        scale = (
            scales.get(name.split("._original_component")[-2].split(".")[-1], 0.0) if name.endswith("weight") else 0.0
        )
        parameter.data = scale * torch.eye(*parameter.shape) if scale else torch.zeros_like(parameter)
    pairs = PromptPairs([[0], [1]], [[1], [2]], answers=[0, 1], wrong_answers=[1, 2])
    return model, pairs


def test_a_model_by_hand() -> None:
    """Clean: 3 for the answer and 0 for the wrong one, m = 3; corrupted: the other way round, m = -3.

    input->logits alone: 2 for the answer, and the head's corrupted 1 for the wrong one: m = 1, faithfulness (1 + 3) / 6 = 2/3.
    The path through the head alone: m = 1 - 2 = -1, so 1/3. Each is the rest of the other, as q and k do nothing. Inside of
    both, leaving out either edge of the path costs all that the path gives.
    """
    model, pairs = by_hand()
    graph = Graph.from_model(model)
    direct = Circuit.from_edges(graph, ["input->logits"])
    path = Circuit.from_edges(graph, ["input->a0.h0<v>", "a0.h0->logits"])
    first, second, both = measure(model, [direct, path, direct | path], pairs, metrics.logit_difference)
    assert (first.faithfulness, first.completeness) == pytest.approx((2 / 3, 1 / 3), abs=1e-6)
    assert (second.faithfulness, second.completeness) == pytest.approx((1 / 3, 2 / 3), abs=1e-6)
    assert (both.faithfulness, both.completeness) == pytest.approx((1, 0), abs=1e-6)
    assert (first.accuracy, first.accuracy_kept) == (1, 1) and (second.accuracy, second.accuracy_kept) == (0, 0)
    clean, other = (torch.tensor(logits).double().log_softmax(0) for logits in ([3.0, 0.0, 0.0], [2.0, 1.0, 0.0]))
    assert first.divergence == pytest.approx((clean.exp() * (clean - other)).sum().item(), abs=1e-6)
    costs = minimality(model, direct | path, pairs, metrics.logit_difference).by_edge()
    assert costs == pytest.approx({"input->logits": 2 / 3, "input->a0.h0<v>": 1 / 3, "a0.h0->logits": 1 / 3}, abs=1e-6)


def test_accuracy_kept_asks_the_prompts_that_the_model_gets_right() -> None:
    model, _pairs = by_hand()
    graph = Graph.from_model(model)
    mixed = PromptPairs([[0], [1]], [[1], [0]], answers=[0, 2], wrong_answers=[1, 1])
    measured = measure(
        model, [Circuit.from_edges(graph, ["input->logits"]), Circuit.empty(graph)], mixed, metrics.logit_difference
    )
    assert measured[0].model_right.tolist() == [True, False]
    assert [one.accuracy_kept for one in measured] == [1, 0] and [one.accuracy for one in measured] == [0.5, 0]
    without_wrong = PromptPairs([[0], [1]], [[1], [0]], answers=[0, 2])
    assert measure(model, Circuit.full(graph), without_wrong, metrics.log_probability)[0].accuracy == 0.5
    never = PromptPairs([[0], [1]], [[1], [2]], answers=[2, 0], wrong_answers=[0, 1])
    assert measure(model, Circuit.full(graph), never, metrics.logit_difference)[0].accuracy_kept is None


def test_prompts_of_unequal_length_come_back_in_order() -> None:
    model = tiny("gpt2").model
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=3)
    found = values_of(model, [circuit, circuit], RAGGED, logit_difference, batch_size=2)
    one_by_one = torch.cat([value(model, circuit, pair) for pair in RAGGED])
    assert torch.allclose(found.metric[0], one_by_one, rtol=0, atol=1e-10)
    assert torch.equal(found.metric[0], found.metric[1])


def test_equal_circuits_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_circuits.graphs.measures import values as measures_runs

    runs, before = [], measures_runs.run_batch
    monkeypatch.setattr(measures_runs, "run_batch", lambda *given: runs.append(1) or before(*given))
    model = tiny("attention-only").model
    full = Circuit.full(Graph.from_model(model))
    measure(model, [full, full, ~full], PAIRS, logit_difference)
    assert len(runs) == 2


@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_measured_is_refused() -> None:
    model = tiny("gpt2").model
    graph, other = Graph.from_model(model), Graph.from_model(tiny("attention-only").model)
    same = PromptPairs(PAIRS.clean, PAIRS.clean, PAIRS.answers, PAIRS.wrong_answers)
    for ask in (
        lambda: measure(model, Circuit.full(graph), same, logit_difference),
        lambda: minimality(model, Circuit.full(graph), same, logit_difference),
    ):
        with pytest.raises(
            ValueError,
            match="metric: expected different means on the clean model and with every edge cut, got .* over 5 prompts; .* take another",
        ):
            ask()
    with pytest.raises(ValueError, match="circuits: expected one or more, got none"):
        measure(model, [], PAIRS, logit_difference)
    with pytest.raises(ValueError, match="circuits: expected all of one graph"):
        measure(model, [Circuit.full(graph), Circuit.full(other)], PAIRS, logit_difference)
    with pytest.raises(
        ValueError, match="circuit: expected one of Graph.*, got one of Graph.*; take a circuit of this model"
    ):
        measure(model, Circuit.full(other), PAIRS, logit_difference)
    with pytest.raises(ValueError, match="intervention: expected one of 'patching'"):
        measure(model, Circuit.full(graph), PAIRS, logit_difference, "ablate")
    with pytest.raises(ValueError, match="must return one value a prompt"):
        measure(model, Circuit.full(graph), PAIRS, lambda logits, pairs: logits)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_difference_of_rounding_is_no_difference(noise: float) -> None:
    values = torch.tensor([1.0, 3.0], dtype=torch.double)
    with pytest.raises(ValueError, match="got 2 and 2 over 2 prompts"):
        Ends(values, values + noise).check()
    Ends(values, values - 1e-3).check()
    with pytest.raises(ValueError, match="got 0 and 0"):
        Ends(0 * values, 0 * values).check()


def test_measures_show_themselves() -> None:
    model = tiny("gpt2").model
    circuit = random_circuit(Graph.from_model(model), 0.5, seed=3)
    measured = measure(model, circuit, PAIRS, logit_difference)[0]
    rows = {name: value for name, value, _ in measured.table()}
    assert rows["faithfulness"] == measured.faithfulness and rows["divergence, nats"] == measured.divergence
    assert str(measured).startswith(f"{circuit.n_edges} of {circuit.graph.n_edges} edges, {len(PAIRS)} prompts\n")
    assert "<td>faithfulness</td>" in measured._repr_html_()


def test_what_is_no_circuit_and_what_are_no_pairs_is_refused(without_type_checks: None) -> None:
    model = tiny("gpt2").model
    graph = Graph.from_model(model)
    scored = ScoredGraph(graph, graph.edge_mask.float())
    for circuits in (scored, [scored], graph):
        with pytest.raises(
            ValueError, match="circuits: expected a Circuit, or several, got (ScoredGraph|Graph); prune"
        ):
            measure(model, circuits, PAIRS, logit_difference)
    with pytest.raises(ValueError, match="circuit: expected a Circuit, got ScoredGraph; prune makes"):
        run(model, scored, PAIRS)
    for call in (measure, run):
        with pytest.raises(ValueError, match="pairs: expected PromptPairs, got tuple; PromptPairs"):
            call(model, Circuit.full(graph), ([[1]], [[2]]), *([logit_difference] if call is measure else []))
