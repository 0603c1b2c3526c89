"""Rules of layer-wise relevance propagation (LRP), as replacements for the gradient in one backward pass.

Every rule keeps the value of a step and replaces its local derivative by an LRP coefficient:

| rule | step | coefficient |
| --- | --- | --- |
| LN-rule | every norm: LayerNorm, RMSNorm, post-norms, norms of q and k, the final one | sigma is a constant |
| Identity-rule | activation function f | f(x) / x, with its limit at 0 |
| 0-rule | linear maps, rotary embedding, residual sums | the plain gradient (biases receive nothing) |
| Half-rule | product of a gated MLP | half the gradient to each factor |
| LRP-all | the same | the whole gradient to the signal, nothing to the gate |
| LRP-all | weights of routed experts, under both of these rules | the weights are constants |
| AH-rule | attention | the pattern is a constant |
| AttnLRP | attention | each product shares equally between its factors: q and k x 1/4, v x 1/2 |
| temperature T | attention's softmax | p (g - p . g) with the pattern p of the scores divided by T |
| secant | attention | the softmax's Jacobian, averaged on the line from clean to cut queries (for q) or keys (for k) |

Soft caps (Gemma 2) keep their gradient, those of attention scores and that of the logits.

References: Ali et al. 2022, XAI for Transformers: Better Explanations through Conservative Propagation (LN-rule,
AH-rule). Jafari et al. 2024, MambaLRP (Identity and Half). Arras et al. 2019, Explaining and Interpreting LSTMs
(LRP-half, LRP-all). Montavon et al. 2019, Layer-Wise Relevance Propagation: An Overview (0-rule). Achtibat et al. 2024,
AttnLRP (propositions 3.1 and 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.graphs.model.operations import AttentionScores, Operations, exact_activation, exact_attention
from edge_circuits.graphs.model.transformer import Activations, Transformer, take_rows

NormRule = Literal["ln", "exact"]
ActivationRule = Literal["identity", "exact"]
AttentionRule = Literal["live", "ah", "attnlrp", "secant"]
GateRule = Literal["half", "all", "exact"]

COEFFICIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: torch.special.ndtr(x),
    "gelu_new": lambda x: torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "relu": lambda x: (x > 0).to(x.dtype),
    "silu": torch.sigmoid,
    "solu": lambda x: F.softmax(x, dim=-1),
    "gpt_oss_gate": lambda x: torch.sigmoid(1.702 * x.clamp(max=7)) * (7 / x.clamp(min=7)),
    "gpt_oss_signal": lambda x: 7 / x.abs().clamp(min=7),
}
"""f(x) / x of each activation function, in a form without the division; at 0 this is f'(0), 0 for ReLU."""

_PLACES, _WEIGHTS = np.polynomial.legendre.leggauss(12)  # on [-1, 1]
SECANT_POINTS = tuple(zip(((_PLACES + 1) / 2).tolist(), (_WEIGHTS / 2).tolist()))
"""Where on the line from clean (0) to cut (1) the secant takes Jacobians, and their weights (Gauss-Legendre).

Twelve: on the planted and trained models no score is then farther from that of 96 points than 0.001 of the largest; with eight it
was 0.006, with three up to 0.14. The mean of the softmax's Jacobian has no closed form.
"""


class CutHeads(NamedTuple):
    """Queries and keys of a layer on the cut streams, as attention meets them: after norms and rotation."""

    q: Float[Tensor, "batch head row d_head"]
    k: Float[Tensor, "batch head pos d_head"]


class _Identity(torch.autograd.Function):
    """An activation function whose backward pass multiplies by f(x) / x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name = name
        return exact_activation(name, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * COEFFICIENTS[ctx.name](*ctx.saved_tensors), None


class _ScaledGradient(torch.autograd.Function):
    """The identity, with the gradient times a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def identity_activation(name: str, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """The activation function under the Identity-rule.

    Reference: Jafari et al. 2024, MambaLRP, section 4.1.
    """
    return _Identity.apply(x, name)


def half_gate(gate: Float[Tensor, "*n d"], signal: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """The product under the Half-rule: each factor gets half the gradient, so half the relevance.

    Reference: Arras et al. 2019, LRP-half; Jafari et al. 2024, MambaLRP, section 4.3.
    """
    return _ScaledGradient.apply(gate * signal, 0.5)


def constant_gate(gate: Float[Tensor, "*n d"], signal: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """The product with the gate as a constant: all relevance goes to the signal.

    Reference: Arras et al. 2019, LRP-all.
    """
    return gate.detach() * signal


def constant_pattern_attention(
    q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores
) -> Float[Tensor, "batch head row d_head"]:
    """Attention under the AH-rule: a linear map of the values.

    Reference: Ali et al. 2022, equation 8.
    """
    return exact_attention(q.detach(), k.detach(), v, scores)


def shared_attention(
    q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores
) -> Float[Tensor, "batch head row d_head"]:
    """Attention under AttnLRP.

    The product of pattern and values gives half its relevance to each (proposition 3.3); the softmax passes
    x * gradient, its Taylor expansion without the bias (proposition 3.1); the product of queries and keys shares by
    halves again. As gradients: v times 1/2, q and k times 1/4. The softmax's bias is why relevance is not conserved.

    Reference: Achtibat et al. 2024, section 3.3.
    """
    q, k, v = (_ScaledGradient.apply(x, factor) for x, factor in ((q, 0.25), (k, 0.25), (v, 0.5)))
    return exact_attention(q, k, v, scores)


@dataclass(frozen=True)
class SoftenedAttention:
    """Attention whose backward pass takes the softmax at a temperature, and shares of the gradient.

    The gradient g of the pattern becomes `p_T (g - p_T . g)` at the scores, p_T the pattern of the scores divided by T; at T = 1
    this is the softmax's own. Nothing is divided by T: where the pattern is sure of one key, p_T is less so, and the
    others get some of what they would change if they were turned to.

    Attributes:
        temperature: T.
        of_scores: share of the gradient that queries and keys get.
        of_values: the same for values.

    Reference: Edin et al. 2025, GIM: Improved Interpretability for Large Language Models (temperature-adjusted softmax gradients), with T = 2
    and the shares 1/4 and 1/2.
    """

    temperature: float
    of_scores: float = 1.0
    of_values: float = 1.0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores
    ) -> Float[Tensor, "batch head row d_head"]:
        """The exact output; its gradients are softened."""
        z = exact_attention(q.detach(), k.detach(), _ScaledGradient.apply(v, self.of_values), scores)
        q, k = (_ScaledGradient.apply(x, self.of_scores) for x in (q, k))
        soft = scores.pattern(q, k, self.temperature) @ v.detach() * self.temperature
        return z + (soft - soft.detach())


@dataclass(frozen=True)
class SecantAttention:
    """Attention whose softmax is linearised between the clean and the cut pattern; for one forward pass.

    The gradient at q is the mean of the gradients that attention has at queries on the line from clean to cut, keys
    and values as they are; so for q' = cut it gives the exact change of the output, up to the points' sum. The
    gradient at k likewise with keys on their line. v has its own gradient.

    Deviation: Kramar et al. 2024 recompute the softmax for each node; a mean Jacobian serves all edges of a
    destination at once, and is exact only for the edges together.

    Attributes:
        cut_heads: queries and keys of the layers still to come.

    Reference: Kramar et al. 2024, AtP*, section 3.1, for the pattern's exact change; Sundararajan et al. 2017 for the
    mean gradient.
    """

    cut_heads: Iterator[CutHeads]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores
    ) -> Float[Tensor, "batch head row d_head"]:
        """The exact output; its gradients are the means."""
        cut_q, cut_k = (x.to(q.device) for x in next(self.cut_heads))
        q0, k0, v0 = q.detach(), k.detach(), v.detach()
        z = exact_attention(q0, k0, v, scores)
        for point, weight in SECANT_POINTS:
            through_q = exact_attention(q + point * (cut_q - q0), k0, v0, scores)
            through_k = exact_attention(q0, k + point * (cut_k - k0), v0, scores)
            for through in (through_q, through_k):
                z = z + weight * (through - through.detach())
        return z


@torch.no_grad()
def cut_heads(transformer: Transformer, cut: Activations, rows: Int[Tensor, "batch row"]) -> list[CutHeads]:
    """Queries and keys on the cut streams, layer by layer.

    Args:
        cut: what `cut_values` gives: with q and k (patching) or with streams alone.
        rows: the answer positions, where the last layer's queries are.
    """
    found: list[CutHeads] = []

    def look(q: Tensor, k: Tensor, v: Tensor, scores: AttentionScores) -> Tensor:
        found.append(CutHeads(q, k))
        return q

    for layer, block in enumerate(transformer.blocks):
        attention, here = block.attention, rows if layer == len(transformer.blocks) - 1 else None
        if cut.q:
            q, k = cut.q[layer], cut.k[layer]
        else:
            x = Operations().norm(block.attention_norm, cut.attention_in[layer])
            q = attention.project("q", x if here is None else take_rows(x, here))
            k = attention.per_query_head(attention.project("k", x))
        attention.mix(q, k, k, here, Operations(attention=look))
    return found
