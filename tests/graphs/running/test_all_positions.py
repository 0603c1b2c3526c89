"""A circuit's logits at every position, against the slow reference read at one position after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import prompt_pairs, prompts_of, random_circuit, relative_error, tiny
from references import edges

from edge_circuits.graphs import Circuit, Graph, run
from edge_circuits.graphs.model.adapter import adapt

PAIRS = prompt_pairs([7, 4], positions=[-1, 1], seed=1)
TOLERANCE = 1e-12  # float64


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox-parallel", "attention-only"])
@pytest.mark.parametrize("density, intervention", [(0.5, "patching"), (0.2, "zero"), (0.9, "mean-positional")])
def test_every_position_is_as_if_it_were_the_answer(kind, density, intervention):
    model = tiny(kind)
    circuit = random_circuit(adapt(model.model).graph, density, seed=3)
    found = run(model.model, circuit, PAIRS, intervention, positions="all")
    kept, prompts = dict.fromkeys(circuit.edges, True), prompts_of(PAIRS)
    assert found.shape[:2] == (2, 7)
    for position in range(7):
        at = [replace(prompt, position=min(position, len(prompt.clean) - 1)) for prompt in prompts]
        expected = edges.circuit_logits(model.literal, at, kept, intervention, False)
        rows = [row for row, prompt in enumerate(prompts) if position < len(prompt.clean)]
        assert relative_error(found[rows, position], expected[rows]) < TOLERANCE


def test_padding_is_nan_and_everything_else_is_not():
    model = tiny("llama").model
    found = run(model, Circuit.full(Graph.from_model(model)), PAIRS, positions="all", batch_size=1)
    assert torch.equal(found.isnan().all(-1), ~PAIRS.mask) and torch.equal(found.isnan().any(-1), ~PAIRS.mask)


def test_the_whole_graph_is_the_model_and_no_edge_the_model_on_the_corrupted_prompts():
    model = tiny("gpt2").model
    graph = Graph.from_model(model)
    for circuit, tokens in ((Circuit.full(graph), PAIRS.clean), (Circuit.empty(graph), PAIRS.corrupted)):
        found = run(model, circuit, PAIRS, positions="all")
        expected = model(tokens)
        # the bridge computes in float32 in places
        torch.testing.assert_close(found[PAIRS.mask], expected[PAIRS.mask].to(found.dtype), rtol=1e-4, atol=1e-4)


def test_the_answers_are_among_them():
    model = tiny("gemma2").model
    circuit = random_circuit(Graph.from_model(model), 0.4, seed=1)
    answers, everywhere = run(model, circuit, PAIRS), run(model, circuit, PAIRS, positions="all")
    at = everywhere[torch.arange(len(PAIRS)), PAIRS.positions]
    assert relative_error(at, answers) < TOLERANCE


@pytest.mark.usefixtures("without_type_checks")
def test_other_positions_are_refused():
    model = tiny("gpt2").model
    with pytest.raises(ValueError, match="positions: expected one of 'answer', 'all', got 'last'"):
        run(model, Circuit.full(Graph.from_model(model)), PAIRS, positions="last")
