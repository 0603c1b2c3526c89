"""A circuit as a function of tokens: against the slow reference, token by token, and the model's own logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import build, prompt_pairs, prompts_of, random_circuit, relative_error, tiny
from references import edges
from torch.utils.flop_counter import FlopCounterMode

from edge_circuits.graphs import Circuit, Graph, as_model, run
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import PromptPairs

REFERENCE = prompt_pairs([9, 6, 7], seed=2)
NEW = prompt_pairs([7, 4], seed=1)
KINDS = [
    "gpt2",
    "llama",
    "gemma2",
    "attention-only",
]  # learned positions; rotary, grouped; soft caps and post-norms; no MLPs
TOLERANCE = 1e-12  # float64


def literal_logits(kind: str, circuit: Circuit, pairs: PromptPairs, intervention: str) -> list[torch.Tensor]:
    """Logits of new prompts [pos d_vocab], each position the slow way; means over the reference's corrupted prompts."""
    literal, kept = tiny(kind).literal, dict.fromkeys(circuit.edges, True)
    grouped, others = circuit.graph.n_kv_heads is not None, [] if intervention == "patching" else prompts_of(REFERENCE)
    found = []
    for prompt in prompts_of(pairs):
        # the new prompt is run with the cut values of a reference prompt, of which it takes as many as it has tokens
        if others:
            longest = max(others, key=lambda each: len(each.clean))
            cut = edges.cut_values(literal, others, intervention)[others.index(longest)]

            def read(source, value, destination):
                return value if f"{source}->{destination}" in kept else cut[source][: len(value)]

            found.append(edges.forward(literal, prompt.clean, read, grouped)[1])
        else:
            at = [replace(prompt, position=position) for position in range(len(prompt.clean))]
            found.append(edges.circuit_logits(literal, at, kept, intervention, grouped))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("intervention", ["mean", "mean-positional", "zero", "patching"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_are_those_of_the_reference_with_padding_on_either_side(kind, intervention, side):
    model = tiny(kind).model
    grouped = "kv-head" if kind == "llama" else "query-head"
    circuit = random_circuit(adapt(model, kv_destinations=grouped).graph, 0.5, seed=3)
    ours = as_model(model, circuit, REFERENCE if intervention.startswith("mean") else None, intervention)
    width, lengths = NEW.clean.shape[1], NEW.lengths.tolist()

    def placed(rows):
        at = [slice(width - n, width) if side == "left" else slice(n) for n in lengths]
        out = torch.full((len(lengths), width), 5)
        for row, (where, n) in enumerate(zip(at, lengths)):
            out[row, where] = rows[row, :n]
        return out

    mask = placed(torch.ones_like(NEW.clean)) * placed(NEW.mask.long()).eq(1)
    corrupted = placed(NEW.corrupted) if intervention == "patching" else None
    logits = ours(placed(NEW.clean), attention_mask=mask, corrupted=corrupted)
    assert torch.equal(logits.isnan().all(-1), mask == 0)
    for row, expected in enumerate(literal_logits(kind, circuit, NEW, intervention)):
        assert relative_error(logits[row][mask[row].bool()], expected) < TOLERANCE


@pytest.mark.parametrize("intervention", ["mean", "mean-positional", "zero", "patching"])
def test_on_its_own_reference_it_is_run(intervention):
    model = tiny("gpt2").model
    circuit = random_circuit(Graph.from_model(model), 0.3, seed=1)
    ours = as_model(model, circuit, REFERENCE if intervention.startswith("mean") else None, intervention)
    corrupted = REFERENCE.corrupted if intervention == "patching" else None
    logits = ours(REFERENCE.clean, attention_mask=REFERENCE.mask.long(), corrupted=corrupted)
    expected = run(model, circuit, REFERENCE, intervention, positions="all")
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12, equal_nan=True)


def test_the_whole_graph_is_the_model_under_both_signatures():
    model = tiny("llama").model
    ours, tokens = as_model(model, Circuit.full(Graph.from_model(model)), REFERENCE), NEW.clean[:1]
    expected = model(tokens).to(torch.float64)
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-4, atol=1e-4)  # the bridge computes in float32 in places
    assert torch.equal(ours(tokens[0]), ours(tokens))
    assert torch.equal(ours(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits, ours(tokens))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("intervention", ["mean-positional", "patching"])
def test_greedy_text_is_that_of_the_reference_token_by_token(kind, intervention):
    model = tiny(kind).model
    circuit = random_circuit(Graph.from_model(model), 0.6, seed=4)
    ours = as_model(model, circuit, REFERENCE if intervention.startswith("mean") else None, intervention)
    mask = NEW.mask.long().flip(1)  # padded on the left
    clean, corrupted = (
        torch.stack([row.roll(NEW.clean.shape[1] - n) for row, n in zip(tokens, NEW.lengths.tolist())])
        for tokens in (NEW.clean, NEW.corrupted)
    )
    found = ours.generate(clean, 3, attention_mask=mask, corrupted=corrupted if intervention == "patching" else None)
    assert torch.equal(found[:, :-3], clean)
    for row, prompt in enumerate(prompts_of(NEW)):
        expected, other = list(prompt.clean), list(prompt.corrupted)
        for _ in range(3):
            pair = PromptPairs([expected], [other])
            token = int(literal_logits(kind, circuit, pair, intervention)[0][-1].argmax())
            expected.append(token)
            other.append(token)
        assert found[row, -3:].tolist() == expected[-3:]


def test_sampling_follows_the_softmax_and_its_generator():
    model = tiny("gpt2").model
    ours = as_model(model, random_circuit(Graph.from_model(model), 0.6, seed=4), None, "zero")
    tokens = NEW.clean[:1].repeat(800, 1)
    drawn = [
        ours.generate(tokens, 1, do_sample=True, temperature=0.7, generator=torch.Generator().manual_seed(3))[:, -1]
        for _ in range(2)
    ]
    assert torch.equal(*drawn)
    expected = (ours(NEW.clean[:1])[0, -1] / 0.7).softmax(-1)
    share = torch.bincount(drawn[0], minlength=len(expected)) / len(tokens)
    deviation = (expected * (1 - expected) / len(tokens)).sqrt()
    assert ((share - expected).abs() < 5 * deviation + 1e-9).all()


def test_a_prompt_that_ended_is_filled_up_while_others_go_on():
    model = tiny("gpt2").model
    ours = as_model(model, Circuit.full(Graph.from_model(model)), None, "zero")
    tokens = torch.stack((NEW.clean[0, :4], NEW.clean[1, :4]))
    plain = ours.generate(tokens, 5)[:, 4:]
    end = int(plain[0, 1])
    places = [row.tolist().index(end) if end in row else 5 for row in plain]
    stopped = ours.generate(tokens, 5, eos_token_id=end)[:, 4:]
    assert places[0] < 5
    for row, place in enumerate(places):
        n = min(place + 1, stopped.shape[1])
        assert torch.equal(stopped[row, :n], plain[row, :n]) and (stopped[row, n:] == end).all()


def test_a_call_costs_live_nodes_and_an_answer_costs_less_than_everywhere():
    model = tiny("gpt2").model
    graph = Graph.from_model(model)
    circuits = Circuit.from_edges(graph, ["input->a1.h0<v>", "a1.h0->logits"]), Circuit.full(graph)
    costs = []
    for circuit in circuits:
        ours = as_model(model, circuit, REFERENCE)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            ours(NEW.clean)
        costs.append(counter.get_total_flops())
    assert costs[0] < 0.5 * costs[1]


def test_gradients_reach_the_weights_and_the_model_stays_as_it_was():
    model = build("gpt2", torch.float64).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    ours = as_model(model, random_circuit(Graph.from_model(model), 0.7, seed=0), REFERENCE)
    ours(NEW.clean, attention_mask=NEW.mask)[NEW.mask].sum().backward()
    assert model.unembed.original_component.weight.grad is not None
    with pytest.raises(ValueError):
        ours.generate(torch.full((1, 4), 10**6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks == [len(module._forward_hooks) for module in model.modules()]


@pytest.mark.usefixtures("without_type_checks")
def test_refusals():
    model = tiny("gpt2").model
    circuit = Circuit.full(Graph.from_model(model))
    refused = {
        "pairs: expected a reference set for 'mean', got none": lambda: as_model(model, circuit),
        "pairs: expected None under 'zero'": lambda: as_model(model, circuit, REFERENCE, "zero"),
        "circuit: expected a Circuit, got str": lambda: as_model(model, "all", REFERENCE),
        "tokens and input_ids: expected one of the two, got neither": lambda: as_model(model, circuit, None, "zero")(),
        "corrupted: expected corrupted prompts under 'patching', got none": lambda: as_model(
            model, circuit, None, "patching"
        )(NEW.clean),
        "corrupted: expected None under 'zero', got prompts": lambda: as_model(model, circuit, None, "zero")(
            NEW.clean, corrupted=NEW.clean
        ),
        "within the reference set's 9 positions, got 10": lambda: as_model(
            model, circuit, REFERENCE, "mean-positional"
        ).generate(NEW.clean[:1], 4),
        "within the model's 32 positions, got 33": lambda: as_model(model, circuit, REFERENCE).generate(
            NEW.clean[:1], 27
        ),
        r"tokens: expected \[batch pos\] or \[pos\]": lambda: as_model(model, circuit, None, "zero")(NEW.clean[None]),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
