"""Node scores the slow way: a strength added to a node, position by position, wherever its stream is read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from references.edges import Prompt, forward, source_values
from references.literal import Literal
from torch import Tensor


def node_scores(
    model: Literal, prompt: Prompt, metric: Callable[[Tensor], Tensor], kind: str, layer: int, head: int = 0
) -> Tensor:
    """At each position [pos], the derivative of the metric to a strength at which the node there is cut."""
    strengths = torch.zeros(len(prompt.clean), 1, dtype=torch.float64, requires_grad=True)
    value = metric(_out(model, prompt, kind, layer, head, strengths))
    return torch.autograd.grad(value, strengths, materialize_grads=True)[0][:, 0]


def patched_nodes(
    model: Literal, prompt: Prompt, metric: Callable[[Tensor], Tensor], kind: str, layer: int, head: int = 0
) -> Tensor:
    """At each position [pos], what the metric gains when the node is cut there alone, one run after the other."""
    with torch.no_grad():
        nothing = torch.zeros(len(prompt.clean), 1, dtype=torch.float64)
        uncut, each = metric(_out(model, prompt, kind, layer, head, nothing)), []
        for position in range(len(nothing)):
            strengths = nothing.clone()
            strengths[position] = 1.0
            each.append(metric(_out(model, prompt, kind, layer, head, strengths)) - uncut)
    return torch.stack(each)


def _out(model: Literal, prompt: Prompt, kind: str, layer: int, head: int, strengths: Tensor) -> Tensor:
    """Logits at the answer with a node cut by a strength at each position.

    A node in the stream is a part of what every later destination reads, so its change is added to what those
    destinations get from `input`; a head's change is added to its own write.
    """
    clean, corrupted = source_values(model, prompt.clean), source_values(model, prompt.corrupted)
    change = _value(model, corrupted, kind, layer, head) - _value(model, clean, kind, layer, head)

    def above(destination: str) -> bool:
        return _is_above(destination, kind, layer, model.parallel)

    def read(source: str, value: Tensor, destination: str) -> Tensor:
        hit = source == f"a{layer}.h{head}" if kind == "heads" else source == "input" and above(destination)
        return value + strengths * change if hit else value

    return forward(model, prompt.clean, read)[1][prompt.position]


def _is_above(destination: str, kind: str, layer: int, parallel: bool) -> bool:
    """Whether a destination reads the stream that a node is a part of."""
    if destination == "logits":
        return True
    there = int(destination[1:].split(".")[0])
    if kind == "resid_pre":
        return there >= layer
    if kind in ("resid_mid", "attention_out"):
        return there > layer or (destination == f"m{layer}" and not parallel)
    return there > layer


def _value(model: Literal, values: dict[str, Tensor], kind: str, layer: int, head: int) -> Tensor:
    """A node's value [pos d_model], put together from what the sources write."""
    if kind == "heads":
        return values[f"a{layer}.h{head}"]
    if kind == "mlp_out":
        return values[f"m{layer}"]

    def attention(index: int) -> Tensor:
        return model.attention_out(index, sum(values[f"a{index}.h{head}"] for head in range(model.n_heads)))

    if kind == "attention_out":
        return attention(layer)
    total, n_whole = values["input"], layer + (kind == "resid_post")
    for index in range(n_whole):
        total = total + attention(index) + (values[f"m{index}"] if model.mlps else 0)
    return total + attention(layer) if kind == "resid_mid" else total
