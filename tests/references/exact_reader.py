"""Edge scores with the reader exact, the slow way: an edge at a time, on a literal model.

For an edge, the stream of its destination is measured without and with the edge cut. Then the model runs once more, and
at that one destination the normalised stream (or, for <q> and <k> with `softmax`, what the head writes; or, with `whole`,
what an MLP writes and what the logits are too) is

    without the cut + strength * (with the cut - without the cut)

The score is the derivative of the metric to the strength, at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from references import hugging_face, native
from references.edges import Prompt, forward, source_values
from references.literal import Literal
from torch import Tensor


class Mixed(NamedTuple):
    """A stream on its way into a norm: uncut, cut, and the strength between what the norm makes of them."""

    uncut: Tensor
    cut: Tensor
    strength: Tensor


class Reading:
    """A literal model that records what its destinations read, and replaces what one of them reads."""

    def __init__(
        self, model: Literal, replaced: dict[str, Mixed] | None = None, softmax: bool = False, whole: bool = False
    ) -> None:
        self.model, self.replaced, self.softmax, self.whole = model, replaced or {}, softmax, whole
        self.streams: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def at(self, destination: str, stream: Tensor) -> Tensor | Mixed:
        self.streams[destination] = stream
        return self.replaced.get(destination, stream)

    def head(self, layer: int, head: int, *inputs: Tensor) -> Tensor:
        streams = [self.at(f"a{layer}.h{head}<{part}>", x) for part, x in zip("qkv", inputs)]
        mixed = next((x for x in streams[:2] if isinstance(x, Mixed)), None)
        if mixed is None or not self.softmax:
            return self.model.head(layer, head, *streams)
        uncut = self.model.head(layer, head, *inputs)
        cut = self.model.head(layer, head, *(x.cut if isinstance(x, Mixed) else x for x in streams))
        return uncut + mixed.strength * (cut - uncut).detach()

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        return self.through(lambda stream: self.model.mlp(layer, stream), self.at(f"m{layer}", x))

    def logits(self, x: Tensor) -> Tensor:
        return self.through(self.model.logits, self.at("logits", x))

    def through(self, node: Callable, stream: Tensor | Mixed) -> Tensor:
        if not self.whole or not isinstance(stream, Mixed):
            return node(stream)
        uncut = node(stream.uncut)
        return uncut + stream.strength * (node(stream.cut) - uncut).detach()


def through_mixed(norm: Callable) -> Callable:
    """A norm that takes a `Mixed` stream too."""

    def mixing(x: Tensor | Mixed, *settings: Any) -> Tensor:
        if not isinstance(x, Mixed):
            return norm(x, *settings)
        uncut = norm(x.uncut, *settings)
        return uncut + x.strength * (norm(x.cut, *settings) - uncut).detach()

    return mixing


def exact_reader_scores(
    model: Literal,
    prompts: Sequence[Prompt],
    metric: Callable[[Tensor, int], Tensor],
    edges: Sequence[str],
    softmax: bool = False,
    whole: bool = False,
) -> dict[str, float]:
    """Scores of some edges, means over prompts; to be called inside `references.lrp.ruled` for scores with rules."""
    scores = dict.fromkeys(edges, 0.0)
    with ExitStack() as norms:
        for module in (hugging_face, native):
            mixing = {name: through_mixed(getattr(module, name)) for name in ("layer_norm", "rms_norm")}
            norms.enter_context(patch.multiple(module, **mixing))
        for row, prompt in enumerate(prompts):
            cut = source_values(model, prompt.corrupted)
            for edge in scores:
                slope = _slope(model, prompt, cut, edge, lambda out: metric(out, row), softmax or whole, whole)
                scores[edge] += slope / len(prompts)
    return scores


def _slope(
    model: Literal,
    prompt: Prompt,
    cut: dict[str, Tensor],
    edge: str,
    metric: Callable[[Tensor], Tensor],
    softmax: bool,
    whole: bool,
) -> float:
    source, destination = edge.split("->")

    def plain(name: str, value: Tensor, reader: str) -> Tensor:
        return value

    def without_edge(name: str, value: Tensor, reader: str) -> Tensor:
        return cut[name] if (name, reader) == (source, destination) else value

    before, after = Reading(model), Reading(model)
    forward(before, prompt.clean, plain)
    forward(after, prompt.clean, without_edge)
    strength = torch.zeros((), dtype=torch.float64, requires_grad=True)
    mixed = Mixed(before.streams[destination], after.streams[destination], strength)
    _, out = forward(Reading(model, {destination: mixed}, softmax, whole), prompt.clean, plain)
    return torch.autograd.grad(metric(out[prompt.position]), strength, materialize_grads=True)[0].item()


def single_edge_effects(
    model: Literal, prompts: Sequence[Prompt], metric: Callable[[Tensor, int], Tensor], edges: Sequence[str]
) -> list[Tensor]:
    """What cutting each edge alone adds to the metric, means over prompts: a run of the model for each."""
    effects = [torch.zeros((), dtype=torch.float64) for _ in edges]
    for row, prompt in enumerate(prompts):
        cut = source_values(model, prompt.corrupted)
        uncut = metric(forward(model, prompt.clean, lambda name, value, reader: value)[1][prompt.position], row)
        for place, edge in enumerate(edges):

            def read(name: str, value: Tensor, reader: str) -> Tensor:
                return cut[name] if f"{name}->{reader}" == edge else value

            out = forward(model, prompt.clean, read)[1][prompt.position]
            effects[place] = effects[place] + (metric(out, row) - uncut) / len(prompts)
    return effects
