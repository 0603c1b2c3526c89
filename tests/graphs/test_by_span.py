"""Circuits by span: runs against a reference token by token, pruning, and what is refused."""

from __future__ import annotations

import pytest
import torch
from models import RAGGED, prompt_pairs, prompts_of, relative_error, tiny
from references.spans import span_circuit_logits

from edge_circuits.graphs import Circuit, Graph, PromptPairs, run
from edge_circuits.graphs.by_span import SpanCircuit, SpanScores, prune_spans

LENGTHS = [7, 5, 6]
PLAIN = prompt_pairs(LENGTHS, positions=[-1, -2, -1])
PAIRS = PromptPairs(
    *([side[row, :n].tolist() for row, n in enumerate(LENGTHS)] for side in (PLAIN.clean, PLAIN.corrupted)),
    PLAIN.answers,
    PLAIN.wrong_answers,
    positions=PLAIN.positions,
    spans={"first": [(0, 2), (0, 1), (1, 1)], "end": [-1, -2, (3, None)]},
)
NAMES = ("first", "end", "rest")
ROWS = [PAIRS.spans.stretches(row) for row in range(len(PAIRS))]


def random_circuit(graph: Graph, density: float, seed: int) -> SpanCircuit:
    generator = torch.Generator().manual_seed(seed)
    shape = (*graph.edge_mask.shape, len(NAMES))
    return SpanCircuit(graph, NAMES, (torch.rand(shape, generator=generator) < density) & graph.edge_mask[:, :, None])


@pytest.mark.parametrize("intervention", ["patching", "zero"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox-parallel", "gemma2", "attention-only"])
def test_a_run_is_that_of_the_reference(kind: str, intervention: str) -> None:
    graph = Graph.from_model(tiny(kind).model)
    circuit = random_circuit(graph, 0.5, 1)
    kept = {tuple(name.split("@")) for name in circuit.edges}
    expected = span_circuit_logits(tiny(kind).literal, prompts_of(PAIRS), ROWS, kept, intervention)
    with torch.no_grad():
        assert relative_error(run(tiny(kind).model, circuit, PAIRS, intervention), expected) < 1e-9


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_edges_kept_at_every_span_are_the_circuit_without_positions(kind: str) -> None:
    graph = Graph.from_model(tiny(kind).model)
    anywhere = random_circuit(graph, 0.3, 2).anywhere
    everywhere = SpanCircuit(graph, NAMES, anywhere.mask[:, :, None].repeat(1, 1, len(NAMES)))
    with torch.no_grad():
        expected = run(tiny(kind).model, anywhere, PAIRS)
        assert relative_error(run(tiny(kind).model, everywhere, PAIRS), expected) < 1e-9


def test_pruning_removes_what_is_on_no_path_and_changes_no_run() -> None:
    graph = Graph.from_model(tiny("gpt2").model)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn((*graph.edge_mask.shape, 3), generator=generator) * graph.edge_mask[:, :, None]
    scores = SpanScores(graph, NAMES, values)
    circuit = prune_spans(scores, 120)
    assert 0 < circuit.n_edges < 120
    chosen = torch.zeros_like(circuit.mask)
    for name, _ in scores.top(120):
        edge, span = name.split("@")
        chosen[(*graph.edge_index(edge), NAMES.index(span))] = True
    assert int(chosen.sum()) == 120 and not (circuit.mask & ~chosen).any()
    with torch.no_grad():
        whole = run(tiny("gpt2").model, SpanCircuit(graph, NAMES, chosen), PAIRS)
        assert relative_error(run(tiny("gpt2").model, circuit, PAIRS), whole) < 1e-9


def test_a_path_by_hand() -> None:
    """a0.h0 reads <v> at "first"; what it writes may be read at "end", but only where its <q> or <v> let it move."""
    graph = Graph(2, 1, mlps=False)
    values = torch.zeros(*graph.edge_mask.shape, 2)
    for edge, span in [("input->a0.h0<v>", 0), ("a0.h0->logits", 1), ("a0.h0->a1.h0<v>", 0), ("input->a1.h0<q>", 0)]:
        values[(*graph.edge_index(edge), span)] = 1.0
    circuit = prune_spans(SpanScores(graph, ("first", "end"), values), 4)
    assert circuit.edges == ("input->a0.h0<v>@first", "a0.h0->logits@end")


def test_scores_by_span() -> None:
    graph = Graph(1, 1, mlps=False)
    values = torch.zeros(*graph.edge_mask.shape, 2)
    values[(*graph.edge_index("input->logits"), 1)] = -3.0
    values[(*graph.edge_index("input->a0.h0<q>"), 0)] = 2.0
    scores = SpanScores(graph, ("a", "b"), values)
    assert scores.top(2) == [("input->logits@b", -3.0), ("input->a0.h0<q>@a", 2.0)]
    assert scores.at("b").score("input->logits") == -3.0 and scores.total.score("input->a0.h0<q>") == 2.0
    with pytest.raises(ValueError, match="span: expected one of 'a', 'b', got 'c'"):
        scores.at("c")


def test_other_spans_are_refused() -> None:
    graph = Graph.from_model(tiny("gpt2").model)
    circuit = random_circuit(graph, 0.5, 0)
    with pytest.raises(ValueError, match=r"pairs.spans: expected those of the circuit, .* got None; give PromptPairs"):
        run(tiny("gpt2").model, circuit, RAGGED)
    with pytest.raises(ValueError, match=r"mask: expected a tensor of shape .* \[source destination span\]"):
        SpanCircuit(graph, ("a",), circuit.mask)
    with pytest.raises(ValueError, match="mask: expected False where there is no edge"):
        SpanCircuit(graph, NAMES, torch.ones_like(circuit.mask))
    assert isinstance(circuit.anywhere, Circuit)
