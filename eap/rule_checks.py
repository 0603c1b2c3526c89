"""Checks of `verify` on relevance rules: each step of a forward pass passes on what its rule says.

- Norms under the LN-rule are linear: x times the coefficient is the value without its bias.
- Activations and gates conserve: their inputs times the coefficients add up to the value that leaves.
- Attention gives queries and keys, and values, the share of the plain gradient that the rule is named for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from edge_circuits.eap.edge_checks import Found, method_of
from edge_circuits.eap.methods.relp import RelP
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.attention import Attention
from edge_circuits.graphs.model.mlp import Mlp
from edge_circuits.graphs.model.norm import Norm
from edge_circuits.graphs.model.operations import EXACT, Operations

SHARES = {"live": (1.0, 1.0), "ah": (0.0, 1.0), "attnlrp": (0.25, 0.5)}
"""What queries and keys, and values, get of the gradient."""


@torch.no_grad()
def conserved(model: nn.Module, graph: ScoredGraph, pairs: PromptPairs) -> Iterator[Found]:
    """Relevance rules share out what there is, layer by layer, on the first prompt."""
    method = method_of(graph)
    if not isinstance(method, RelP):
        return
    transformer = adapt(model)
    known = method.attention in SHARES and method.temperature == 1
    rule = method if known else replace(method, attention="live", temperature=1.0)
    operations = rule.operations(transformer, pairs, lambda: None)
    kept = transformer.forward(transformer.embed(pairs[:1].clean.to(transformer.device)))
    for layer, block in enumerate(transformer.blocks):
        if method.norm == "ln" and block.attention_norm is not None:
            lost = _lost_in_norm(operations, block.attention_norm, kept.attention_in[layer])
            yield f"relevance lost or made in the norm of layer {layer}", lost, "the LN-rule"
        parts = [each[layer] for each in (kept.q, kept.k, kept.v)]
        if known and parts[1].shape[1] > 1:
            other = _other_share(operations, block.attention, parts, SHARES[method.attention])
            yield f"share of the gradient in the attention of layer {layer}", other, f"the rule {method.attention!r}"
        if _is_told(method, block.mlp):
            lost = _lost_in_mlp(operations, block.mlp, kept.mlp_normed[layer])
            suspected = "coefficients of the activation or the gate"
            yield f"relevance lost or made in the MLP of layer {layer}", lost, suspected


def _is_told(method: RelP, mlp: object) -> bool:
    """Whether the method's rules say that an MLP conserves relevance."""
    conserves = method.activation == "identity" and isinstance(mlp, Mlp) and mlp.signal is None
    return conserves and (method.gate != "exact" or mlp.W_gate is None)


def _lost_in_norm(operations: Operations, norm: Norm, x: Tensor) -> float:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = operations.norm(norm, leaf)
        weights = torch.linspace(-1, 1, value.shape[-1], dtype=value.dtype, device=value.device)
        (gradient,) = torch.autograd.grad((value * weights).sum(), leaf)
    linear = (value if norm.bias is None else value - norm.bias) * weights
    return float(((leaf * gradient).sum(-1) - linear.sum(-1)).abs().max() / linear.sum(-1).abs().max().clamp(min=1e-12))


def _other_share(
    operations: Operations, attention: Attention, parts: list[Tensor], shares: tuple[float, float]
) -> float:
    """How far the coefficients of q, k and v are from their shares of the gradient, in units of the largest."""
    keys = torch.arange(parts[1].shape[1], device=parts[1].device)[None]
    found = []
    with torch.enable_grad():
        for rule in (operations, EXACT):
            leaves = [each.transpose(1, 2).detach().requires_grad_() for each in parts]
            value = rule.attention(*leaves, attention.scores(None, keys))
            weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view_as(value)
            found.append(torch.autograd.grad((value * weights).sum(), leaves, materialize_grads=True))
    expected = [share * plain for share, plain in zip((shares[0], *shares), found[1])]
    size = max(float(plain.abs().max()) for plain in found[1])
    return max(float((its - mine).abs().max()) for its, mine in zip(found[0], expected)) / max(size, 1e-12)


def _lost_in_mlp(operations: Operations, mlp: Mlp, x: Tensor) -> float:
    """How far the relevance of what enters activation and gate is from the value that leaves, in units of the largest value."""
    with torch.enable_grad():
        inner = (x @ (mlp.W_in if mlp.W_gate is None else mlp.W_gate)).detach().requires_grad_()
        signal = None if mlp.W_gate is None else (x @ mlp.W_in).detach().requires_grad_()
        active = operations.activation(mlp.activation, inner)
        value = active if signal is None else operations.gate(active, signal)
        leaves = [leaf for leaf in (inner, signal) if leaf is not None]
        gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    shares = [leaf * gradient for leaf, gradient in zip(leaves, gradients) if gradient is not None]
    return float((sum(shares) - value).abs().max() / value.abs().max().clamp(min=1e-12))
