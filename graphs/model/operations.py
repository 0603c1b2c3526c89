"""The steps of a forward pass that are not linear, each replaceable by a relevance rule that keeps its value.

`Operations` holds the places where a rule may differ from the exact computation: the norm, the activation function, the
multiplicative gate, the weights of experts, attention, and what a source writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.model.norm import Norm, apply_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "solu": lambda x: x * F.softmax(x, dim=-1),
    "gpt_oss_gate": lambda x: x.clamp(max=7) * torch.sigmoid(1.702 * x.clamp(max=7)),
    "gpt_oss_signal": lambda x: x.clamp(-7, 7),
}


@dataclass(frozen=True)
class AttentionScores:
    """How queries meet keys: scale, soft cap, which keys a query row sees, and what is added to the scores or beside them.

    Attributes:
        visible: bool [batch|1, 1, row, pos]; None means plainly causal over all positions.
        bias: added to the scaled scores, [1, head, 1, pos].
        sinks: a logit of each head that takes its share of the pattern and gives no value, [head].
    """

    scale: float
    softcap: float | None
    visible: Tensor | None
    bias: Tensor | None = None
    sinks: Tensor | None = None

    def repeated(self, n: int) -> AttentionScores:
        """For as many copies of the batch as have n prompts."""
        visible, bias = (
            x if x is None or len(x) == 1 else x.repeat(n // len(x), 1, 1, 1) for x in (self.visible, self.bias)
        )
        return replace(self, visible=visible, bias=bias)

    def mask(self, n_rows: int, n_keys: int, device: torch.device) -> Tensor:
        """`visible`, written out when it is causal."""
        if self.visible is not None:
            return self.visible
        return torch.ones(n_rows, n_keys, dtype=torch.bool, device=device).tril()

    def pattern(self, q: Tensor, k: Tensor, temperature: float = 1.0) -> Float[Tensor, "batch head row pos"]:
        """The attention pattern, softmax in float32 at least, of the scores divided by the temperature.

        With sinks its rows sum to less than 1.
        """
        scores = (q @ k.transpose(-1, -2)) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if self.bias is not None:
            scores = scores + self.bias.to(scores)
        hidden = ~self.mask(q.shape[-2], k.shape[-2], q.device)
        scores = scores.masked_fill(hidden, -math.inf)
        if self.sinks is not None:
            sinks = self.sinks.to(scores)[:, None, None].expand(*scores.shape[:-1], 1)
            scores = torch.cat((scores, sinks), dim=-1)
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = scores if temperature == 1 else scores / temperature
        return torch.softmax(scores, dim=-1, dtype=wide)[..., : k.shape[-2]].to(q.dtype)


def exact_attention(q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores) -> Float[Tensor, "batch head row d_head"]:
    """Softmax attention; fused where scores are plain products."""
    if any(each is not None for each in (scores.softcap, scores.bias, scores.sinks)):
        return scores.pattern(q, k) @ v
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=scores.visible, is_causal=scores.visible is None, scale=scores.scale
    )


def unchanged(layer: int, kind: str, value: Tensor) -> Tensor:
    """The value itself."""
    return value


def as_it_is(weights: Tensor) -> Tensor:
    """The weights of experts, with their gradient."""
    return weights


def constant(weights: Tensor) -> Tensor:
    """The weights of experts as numbers: all relevance of their product goes to the expert's output."""
    return weights.detach()


def exact_activation(name: str, x: Tensor) -> Tensor:
    """The activation function of that name."""
    return ACTIVATIONS[name](x)


@dataclass(frozen=True)
class Operations:
    """The non-linear steps of a forward pass, each replaceable by a relevance rule that keeps its value.

    Attributes:
        constant_scale: gradients treat the scale of every norm as a constant.
        source: given a layer, a place and the value there, what is to stand in its stead. Places: "stream", read by
            the layer ("stream" of layer n_layers by `logits`); "heads" (z); "attention", what attention adds to the
            stream; "mlp_in", the stream that the MLP reads; "neurons", what its output weights read; "experts", what each of
            them writes, its weight included [batch pos expert d_model]; "mlp", what it adds to the stream.
        experts: the layers of experts whose single writes `source` is asked about; elsewhere they are never written out.
    """

    constant_scale: bool = False
    source: Callable[[int, str, Tensor], Tensor] = unchanged
    experts: frozenset[int] = frozenset()
    activation: Callable[[str, Tensor], Tensor] = exact_activation
    gate: Callable[[Tensor, Tensor], Tensor] = torch.mul
    routing: Callable[[Tensor], Tensor] = as_it_is
    attention: Callable[[Tensor, Tensor, Tensor, AttentionScores], Tensor] = exact_attention

    def norm(self, norm: Norm | None, x: Tensor) -> Tensor:
        """The norm under these operations."""
        return apply_norm(norm, x, self.constant_scale)


EXACT = Operations()


def linear(x: Tensor, weight: Float[Tensor, "d_in d_out"], bias: Tensor | None) -> Tensor:
    """`x @ weight + bias`, in one call, on the weight's device; the result is on the device of x."""
    return F.linear(x.to(weight.device), weight.T, bias).to(x.device)
