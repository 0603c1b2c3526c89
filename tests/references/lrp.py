"""Layer-wise relevance propagation in the literal models, the slow way: in relevances, input by input.

Inside `ruled(...)` the literal models compute the same values, and the backward pass through a step gives each of its
inputs the coefficient `relevance of the input / input`, with relevances spread as the papers write them and without
regard to how the package does it. A relevance is `output * gradient`, element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from references import hugging_face, literal, native
from references.literal import Scores
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class _WithCoefficient(torch.autograd.Function):
    """A value that goes with its input like `coefficient * x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(coefficient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.saved_tensors[0], None, None


def ln_layer_norm(x: Tensor, eps: float, weight: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    """Ali et al. 2022, LN-rule: a linear map, with the variance of this input frozen."""
    d = x.shape[1]
    centring = torch.eye(d, dtype=x.dtype) - torch.full((d, d), 1 / d, dtype=x.dtype)
    sigma = torch.tensor([math.sqrt(float(row @ centring @ row) / d + eps) for row in x.detach()], dtype=x.dtype)
    return (x @ centring) / sigma[:, None] * weight + bias


def ln_rms_norm(x: Tensor, eps: float, weight: Tensor | float = 1.0) -> Tensor:
    """The LN-rule for RMSNorm."""
    sigma = torch.tensor([math.sqrt(float(row @ row) / len(row) + eps) for row in x.detach()], dtype=x.dtype)
    return x / sigma[:, None] * weight


def identity(function: Activation) -> Activation:
    """Jafari et al. 2024, Identity-rule: all relevance of f(x) goes to x, so the coefficient is f(x) / x."""

    def ruled_function(x: Tensor) -> Tensor:
        value = function(x.detach())
        assert (x != 0).all(), "the division is for inputs that are not zero"
        return _WithCoefficient.apply(x, value, value / x.detach())

    return ruled_function


class Gate:
    """The activation of a gated MLP; multiplying a signal by it obeys a rule."""

    def __init__(self, value: Tensor, rule: str) -> None:
        self.value, self.rule = value, rule

    def __mul__(self, signal: Tensor) -> Tensor:
        if self.rule == "exact":
            return self.value * signal
        product = (self.value * signal).detach()
        share = {"half": (0.5, 0.5), "all": (0.0, 1.0)}[self.rule]  # of the relevance: gate, signal
        to_gate = _WithCoefficient.apply(self.value, 0 * product, share[0] * product / self.value.detach())
        to_signal = _WithCoefficient.apply(signal, product, share[1] * product / signal.detach())
        return to_gate + to_signal


def ah_attend(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """Ali et al. 2022, AH-rule: z_i = sum_j p_ij v_j with numbers p_ij."""
    z = literal.attend(q.detach(), k.detach(), torch.eye(len(v), dtype=v.dtype), scores) @ v
    assert q.shape[1] == v.shape[1]
    return z


class _AttnLrp(torch.autograd.Function):
    """Achtibat et al. 2024: relevances through the two products and the softmax of one head."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scores = scores
        return literal.attend(q, k, v, scores)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        to_q, to_k, to_v = (torch.zeros_like(x) for x in (q, k, v))
        pattern = literal.attend(q, k, torch.eye(len(v), dtype=v.dtype), ctx.scores)
        z = pattern @ v
        relevance = z * gradient
        for row in range(len(q)):
            seen = pattern[row].nonzero()[:, 0].tolist()
            ratio = relevance[row] / z[row]
            # proposition 3.3: a product a_j v_jp of a sum over j gets its share, half for each factor
            of_pattern = {j: float((0.5 * pattern[row, j] * v[j] * ratio).sum()) for j in seen}
            for j in seen:
                to_v[j] += 0.5 * pattern[row, j] * v[j] * ratio
            # proposition 3.1: relevance of the softmax's input x_j is x_j (R_j - p_j sum R)
            total = sum(of_pattern.values())
            for j in seen:
                raw = ctx.scores.scale * float(q[row] @ k[j])
                capped = float(literal.capped(torch.tensor(raw, dtype=q.dtype), ctx.scores.softcap))
                of_score = capped * (of_pattern[j] - float(pattern[row, j]) * total)
                if ctx.scores.softcap is not None:  # the soft cap keeps its gradient: x f'(x) / f(x) of the relevance
                    of_score *= raw * (1 - (capped / ctx.scores.softcap) ** 2) / capped
                share = ctx.scores.scale * q[row] * k[j] / raw * of_score  # proposition 3.3 again
                to_q[row] += 0.5 * share
                to_k[j] += 0.5 * share
        return to_q / q, to_k / k, to_v / v, None


def attnlrp_attend(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """One head under AttnLRP."""
    return _AttnLrp.apply(q, k, v, scores)


@contextmanager
def ruled(
    model: literal.Literal, norm: str = "exact", activation: str = "exact", attention: str = "live", gate: str = "exact"
) -> Iterator[None]:
    """The literal models with rules in them; `model` says whether its MLPs are gated."""
    gated = isinstance(model, hugging_face.Llama) or getattr(getattr(model, "config", None), "gated_mlp", False)
    names: dict[str, Callable] = {}
    if norm == "ln":
        names |= {"layer_norm": ln_layer_norm, "rms_norm": ln_rms_norm}
    if attention != "live":
        names |= {"attend": {"ah": ah_attend, "attnlrp": attnlrp_attend}[attention]}

    def ruled_activation(function: Activation) -> Callable[[Tensor], Tensor | Gate]:
        function = identity(function) if activation == "identity" else function
        return (lambda x: Gate(function(x), gate)) if gated else function

    functions = {name: ruled_activation(getattr(literal, name)) for name in ("gelu", "gelu_tanh", "silu")}
    activations = {name: ruled_activation(function) for name, function in native.ACTIVATIONS.items()}
    with patch.multiple(hugging_face, **names, **functions), patch.multiple(native, **names, ACTIVATIONS=activations):
        yield
