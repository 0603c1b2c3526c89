"""Random dictionaries for the tiny models."""

from __future__ import annotations

from typing import Any

import torch

from edge_circuits.graphs.features.dictionary import Dictionary
from edge_circuits.graphs.features.sites import Site

ACTIVATIONS = ("relu", "linear", "jumprelu", "topk", "topk-any", "gated")


def random_dictionary(
    site: Site,
    d_read: int,
    n: int = 20,
    activation: str = "relu",
    seed: int = 0,
    d_site: int | None = None,
    **settings: Any,
) -> Dictionary:
    """Random weights in float64, with the tensors that the activation needs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    extra: dict[str, Any] = {
        "jumprelu": dict(threshold=normal(n).abs()),
        "topk": dict(k=3),
        "topk-any": dict(k=3),
        "gated": dict(gate=(normal(n).exp(), normal(n))),
    }.get(activation, {})
    weights = (normal(d_read, n), normal(n), normal(n, d_site or d_read), normal(d_site or d_read))
    return Dictionary(site, *weights, activation=activation, **extra, **settings)
