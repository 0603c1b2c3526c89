"""Moves between spans: against a reference head by head, and their identities."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from models import curved, prompt_pairs, prompts_of, relative_error, tiny
from references.edges import Prompt, forward, source_values
from references.literal import Literal
from torch import Tensor

from edge_circuits import eap
from edge_circuits.eap.between_spans import PARTS, crossing
from edge_circuits.graphs import PromptPairs

LENGTHS = [6, 4]
PLAIN = prompt_pairs(LENGTHS, positions=[-1, -2])


def with_spans(**spans: list) -> PromptPairs:
    sides = ([side[row, :n].tolist() for row, n in enumerate(LENGTHS)] for side in (PLAIN.clean, PLAIN.corrupted))
    return PromptPairs(*sides, PLAIN.answers, PLAIN.wrong_answers, positions=PLAIN.positions, spans=spans)


PAIRS = with_spans(name=[(1, 3), 0], end=[-1, -2])


def stream(model: Literal, values: dict[str, Tensor], layer: int) -> Tensor:
    total = values["input"]
    for below in range(layer):
        total = total + model.attention_out(below, sum(values[f"a{below}.h{head}"] for head in range(model.n_heads)))
        total = total + values[f"m{below}"] if model.mlps else total
    return total


@cache
def values_of(model: Literal, row: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    prompt = prompts_of(PAIRS)[row]
    return source_values(model, prompt.clean), source_values(model, prompt.corrupted)


def moved(model: Literal, prompt: Prompt, spans: dict[str, list[int]], row: int, place: tuple) -> float:
    """The derivative of the metric to a strength by which what a head writes at `end` follows its cut keys or values."""
    layer, head, part, start, end = place
    clean, cut = values_of(model, row)
    x, there = stream(model, clean, layer), stream(model, cut, layer)
    mixed = x.clone()
    mixed[spans[start]] = there[spans[start]]
    name = f"a{layer}.h{head}"
    changed = model.head(layer, head, x, *((mixed, x) if part == "k" else (x, mixed)))
    change = torch.zeros_like(x)
    change[spans[end]] = (changed - clean[name])[spans[end]]
    strength = torch.zeros((), dtype=torch.float64, requires_grad=True)
    out = forward(model, prompt.clean, lambda source, value, _: value + strength * change if source == name else value)
    value = curved(out[1][prompt.position][None], PAIRS[[row]])[0]
    return torch.autograd.grad(value, strength, materialize_grads=True)[0].item()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox-parallel"])
def test_moves_are_those_of_the_reference(kind: str) -> None:
    literal = tiny(kind).literal
    found = crossing(tiny(kind).model, PAIRS, curved, "eap", batch_size=1)
    some = (
        torch.ones_like(found.scores).nonzero()[::11].tolist()
    )  # of every part, in every layer, between every two spans
    expected = torch.zeros(len(some), dtype=torch.float64)
    for row, prompt in enumerate(prompts_of(PAIRS)):
        spans = PAIRS.spans.stretches(row)
        for number, (layer, head, part, start, end) in enumerate(some):
            named = (layer, head, PARTS[part], found.spans[start], found.spans[end])
            expected[number] += moved(literal, prompt, spans, row, named) / len(PAIRS)
    values = torch.stack([found.scores[tuple(place)] for place in some])
    assert values.abs().max() > 0.1 * found.scores.abs().max()
    assert relative_error(values, expected) < 1e-9


def test_nothing_moves_back() -> None:
    pairs = with_spans(early=[(0, 2), (0, 2)], late=[(2, None), (2, None)])
    found = crossing(tiny("gpt2").model, pairs, curved, "relp")
    assert found.spans == ("early", "late") and not found.scores[:, :, :, 1, 0].any()
    assert found.scores[:, :, :, 0, 1].any()


def test_one_span_over_everything_has_the_scores_of_the_edges_into_values() -> None:
    """Without a norm a value is linear in the stream, so the edges into <v> add up to the head's own move."""
    pairs, model = with_spans(all=[(0, None), (0, None)]), tiny("attention-only").model
    found, scores = crossing(model, pairs, curved), eap.score(model, pairs, curved, "eap", quiet=True)
    graph = scores.graph
    sums = torch.stack(
        [scores.scores[:, graph.part_destinations(layer, "v")].sum(0) for layer in range(graph.n_layers)]
    )
    assert relative_error(found.scores[:, :, 1, 0, 0], sums.double()) < 1e-9


def test_top_names_the_move() -> None:
    found = crossing(tiny("gpt2").model, PAIRS, curved)
    (name, value), *_ = found.top(3)
    assert " -> " in name and abs(value) == found.scores.abs().max()


def test_what_has_no_moves_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs: expected prompts with spans, got prompts without"):
        crossing(tiny("gpt2").model, PLAIN, curved)
    with pytest.raises(ValueError, match="method: expected one of a single backward pass, got 'eap-ig'"):
        crossing(tiny("gpt2").model, PAIRS, curved, "eap-ig")
