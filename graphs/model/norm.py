"""LayerNorm and RMSNorm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`centred`) or RMSNorm: `(x - mean) / sqrt(var + eps) * weight + bias`, over the last axis.

    Weight and bias are [d], or [head d] where each head of `x` has its own.
    """

    centred: bool
    eps: float
    weight: Float[Tensor, "*head d"] | None = None
    bias: Float[Tensor, "*head d"] | None = None

    def inverse_scale(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 1"]:
        """1 / sigma, where sigma**2 is the variance (or mean square) plus eps."""
        spread = x.var(-1, keepdim=True, correction=0) if self.centred else x.square().mean(-1, keepdim=True)
        return (spread + self.eps).rsqrt()

    def normalised(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The input centred and scaled, before weight and bias (x hat)."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred * self.inverse_scale(x)


def apply_norm(norm: Norm | None, x: Float[Tensor, "*n d"], constant_scale: bool = False) -> Float[Tensor, "*n d"]:
    """The norm as the model computes it, in float32 at least, on the device of x; None is the identity.

    With `constant_scale` the value is the same and the gradient treats sigma as a constant (the LN-rule).
    """
    if norm is None:
        return x
    weight, bias = (None if each is None else each.to(x.device) for each in (norm.weight, norm.bias))
    if norm.centred and not constant_scale and (weight is None or weight.dim() == 1):
        return F.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_scale = norm.inverse_scale(wide.detach() if constant_scale else wide)
    scaled = (wide - wide.mean(-1, keepdim=True) if norm.centred else wide) * inverse_scale
    scaled = scaled if weight is None else scaled * weight
    return (scaled if bias is None else scaled + bias).to(x.dtype)
