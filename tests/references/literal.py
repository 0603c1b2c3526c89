"""What the literal models share: the formulas of a transformer for one prompt and one head, in plain tensors.

Nothing here or beside it knows the packages under test. Every function takes and gives [pos, ...] of a single
prompt, in float64; a model hands over one node at a time, so that `references.edges` can give each of them an input
of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


class Literal(Protocol):
    """A model as nodes: each method is one of them, for a single prompt."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlps: bool
    parallel: bool

    def embed(self, tokens: list[int]) -> Tensor:
        """[pos d_model]"""

    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        """What a head writes, from the stream that each of its parts reads: [pos d_model]"""

    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        """What attention adds to the stream, from the sum over heads: the output bias and a post-norm."""

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        """What the MLP adds to the stream."""

    def logits(self, x: Tensor) -> Tensor:
        """[pos d_vocab]"""


@dataclass(frozen=True)
class Scores:
    """How one head scores: (soft cap of) scale times q . k, over the last `window` keys if there is one."""

    scale: float
    softcap: float | None = None
    window: int | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    """One head of causal softmax attention: [pos d_head] each."""
    logits = capped(scores.scale * (q @ k.T), scores.softcap)
    distance = torch.arange(len(q))[:, None] - torch.arange(len(q))[None, :]
    seen = distance >= 0
    if scores.window is not None:
        seen &= distance < scores.window
    return torch.softmax(torch.where(seen, logits, torch.tensor(-math.inf, dtype=logits.dtype)), dim=1) @ v


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Gemma 2's soft cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def layer_norm(x: Tensor, eps: float, weight: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    """Ba et al. 2016."""
    mean = x.mean(1, keepdim=True)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def rms_norm(x: Tensor, eps: float, weight: Tensor | float = 1.0) -> Tensor:
    """Zhang and Sennrich 2019."""
    return x / torch.sqrt((x**2).mean(1, keepdim=True) + eps) * weight


def rotate(x: Tensor, first: slice, second: slice, theta: float) -> Tensor:
    """Rotary embedding (Su et al. 2021): dimension pair n of position p turns by p * theta ** (-n / n_pairs).

    Angles are taken in float32, as every model here keeps them.

    Args:
        first, second: the dimensions of the pairs' two halves.
    """
    n_pairs = x[:, first].shape[1]
    speed = 1.0 / theta ** (torch.arange(0, 2 * n_pairs, 2).float() / (2 * n_pairs))
    angle = torch.arange(len(x)).float()[:, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turned = x.clone()
    turned[:, first] = x[:, first] * cos - x[:, second] * sin
    turned[:, second] = x[:, second] * cos + x[:, first] * sin
    return turned


def gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016, exact."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016, the tanh approximation."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    """Elfwing et al. 2017."""
    return x / (1 + torch.exp(-x))


def relu(x: Tensor) -> Tensor:
    """Zero below zero."""
    return torch.where(x > 0, x, torch.zeros_like(x))


def solu(x: Tensor) -> Tensor:
    """Elhage et al. 2022."""
    return x * torch.softmax(x, dim=1)


def clamped(x: Tensor, low: float, high: float) -> Tensor:
    """x, or the bound that it passes."""
    return torch.where(x < low, low, torch.where(x > high, high, x))
