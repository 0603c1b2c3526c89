"""Attention scores of one head, source by source: second derivatives to a strength of each source on either side."""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

import torch
from references import hugging_face, literal, native
from references.edges import forward
from references.literal import Literal
from references.lrp import ruled
from torch import Tensor


def attention_terms(
    model: Literal, tokens: list[int], head: tuple[int, int], weights: Tensor, query: int
) -> dict[tuple[str, str], float]:
    """What each pair of sources adds to the score of a query, weighed over its keys, with every norm's scale held.

    Args:
        weights: Of each key. [pos]
    """
    layer, index = head
    destination, strengths, seen = f"a{layer}.h{index}", {}, []

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: literal.Scores) -> Tensor:
        seen.append(scores.scale * (q @ k.T))
        return kept(q, k, v, scores)

    def read(source: str, value: Tensor, where: str) -> Tensor:
        if where not in (f"{destination}<q>", f"{destination}<k>"):
            return value
        one = torch.ones((), dtype=torch.float64, requires_grad=True)
        return value * strengths.setdefault((where[-2], source), one)

    kept = literal.attend
    with ExitStack() as stack:
        stack.enter_context(ruled(model, "ln"))
        for module in (hugging_face, native):
            stack.enter_context(patch.object(module, "attend", attend))
        forward(model, tokens, read)
    score = (seen[layer * model.n_heads + index][query] * weights).sum()
    sides = {side: {source: each for (at, source), each in strengths.items() if at == side} for side in "qk"}
    slopes = torch.autograd.grad(score, list(sides["q"].values()), create_graph=True)
    found = {}
    for source, slope in zip(sides["q"], slopes):
        again = torch.autograd.grad(slope, list(sides["k"].values()), retain_graph=True, materialize_grads=True)
        found |= {(source, other): each.item() for other, each in zip(sides["k"], again)}
    return found
