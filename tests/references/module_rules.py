"""RelP's rules in a Hugging Face model's own modules, by calling them: no weight and no formula of a family is written again.

- LN-rule: a norm's Jacobian is used off the direction of its (centred) input; along it, all that the norm gives beyond its
  value at zero goes to the input. That is the norm with sigma frozen: sigma changes along this direction alone.
- Identity-rule: an activation module f gives x times the number f(x) / x.
- Half-rule: a product with what an activation module gave passes half the gradient to each factor.
- Weights of experts, what a router gives, are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from references.modules import Modules
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = ("act", "act_fn", "activation_fn", "gelu_impl")


def frozen(norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A norm under the LN-rule."""
    value = x.detach()
    along = value - value.mean(-1, keepdim=True) if is_centred(type(norm.__self__)) else value
    squared = (along * along).sum(-1, keepdim=True)
    share = (x * along).sum(-1, keepdim=True) / squared.where(squared > 0, 1)  # 1, and moves along the input alone
    given = (norm(value) - norm(torch.zeros_like(value))).detach()
    return norm(x - (share - 1) * along) + given * (share - 1)


@cache
def is_centred(kind: type[nn.Module]) -> bool:
    """Whether a class of norms takes the mean off."""
    torch.manual_seed(0)
    norm, x = kind(6, eps=1e-5) if kind is nn.LayerNorm else kind(6), torch.randn(3, 6)
    return torch.allclose(norm(x + 1), norm(x), rtol=1e-4, atol=1e-4)


def identity(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An activation under the Identity-rule; marked, since products with it are gates."""
    value = x.detach()
    out = x * torch.where(value == 0, torch.zeros_like(value), function(value) / value)
    out.is_gate = True
    return out


def clamped_gate(experts: nn.Module, gate_up: Tensor) -> Tensor:
    """gpt-oss' product, each clamped function as one function, the 1 a bias."""
    gate, signal = gate_up[..., ::2], gate_up[..., 1::2]
    gate = identity(
        lambda x: x.clamp(max=experts.limit) * torch.sigmoid(experts.alpha * x.clamp(max=experts.limit)), gate
    )
    return gate * (identity(lambda x: x.clamp(-experts.limit, experts.limit), signal) + 1)


class HalfOfProducts(TorchFunctionMode):
    """The Half-rule wherever an activation's value is multiplied."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("mul", "__mul__") and any(getattr(x, "is_gate", False) for x in args):
            return 0.5 * out + 0.5 * out.detach()
        return out


@contextmanager
def ruled(reference: Modules) -> Iterator[None]:
    """A model's modules under RelP's default rules."""

    def hook_of(name: str, module: nn.Module) -> Callable[..., Any] | None:
        if "Norm" in type(module).__name__ and not list(module.children()):
            return lambda module, args, out: frozen(module.forward, args[0])
        if name.split(".")[-1] in ACTIVATIONS:
            return lambda module, args, out: identity(module.forward, args[0])
        if type(module).__name__.endswith("Router"):
            return lambda module, args, out: (out[0], out[1].detach(), *out[2:])
        return None

    hooks = [(module, hook) for name, module in reference.model.named_modules() if (hook := hook_of(name, module))]
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    clamped = [module for module in reference.model.modules() if hasattr(module, "limit") and hasattr(module, "alpha")]
    for module in clamped:
        module._apply_gate = lambda gate_up, module=module: clamped_gate(module, gate_up)
    try:
        with HalfOfProducts():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in clamped:
            del module._apply_gate
