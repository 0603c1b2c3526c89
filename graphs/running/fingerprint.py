"""What a checkpoint, or another process, knows a model by, without reading all its weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.model.transformer import Transformer
from edge_circuits.graphs.prompts.pairs import PromptPairs
from edge_circuits.graphs.running.patching import answer_rows, trimmed


def model_mark(transformer: Transformer, logits: Float[Tensor, "1 d_vocab"]) -> str:
    """Name, graph, type, and the size of its logits in five digits: all weights enter, rounding hardly ever does."""
    return f"{transformer.name}, {transformer.graph}, {transformer.dtype}, logits of size {logits.double().norm().item():.4e}"


@torch.no_grad()
def first_logits(transformer: Transformer, pairs: PromptPairs) -> Float[Tensor, "1 d_vocab"]:
    """What the model says to the first prompt."""
    first = pairs[:1].to(transformer.device)
    kept = transformer.forward(transformer.embed(trimmed(first.clean, first)), answer_rows(first))
    return transformer.unembed(kept.final[:, 0])
