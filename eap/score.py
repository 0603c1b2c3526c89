"""`score`: a score for every edge of a model, over a whole prompt set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from eap.attribution import Attribution
from eap.gradients import Metric, differentiate
from graphs import PromptPairs, ScoredGraph
from graphs.adapter import adapt
from graphs.patching import CutValues, Intervention, check_intervention, cut_values, trimmed
from graphs.transformer import Transformer

MAX_TOKENS = 2048
TOKEN_CHUNK = 256


def score(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric,
    method: str = "eap",
    *,
    intervention: Intervention = "patching",
    batch_size: int | None = None,
    token_chunk: int = TOKEN_CHUNK,
    kv_destinations: str = "query-head",
    quiet: bool = False,
) -> ScoredGraph:
    """Score every edge of a model.

    A score estimates what cutting the edge does to the metric: positive means that cutting raises it. The unit is
    the metric's, the mean over prompts.

    Args:
        model: a TransformerLens model; handed back as it came.
        pairs: prompts; each batch holds prompts of similar length.
        metric: `metric(logits, pairs)`, one value a prompt, on the logits at the answer positions.
        method: "eap", edge attribution patching: the gradient on the clean prompt times the source's change.
        intervention: what a cut edge reads: `patching`, `zero`, `mean` or `mean-positional`.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens.
        token_chunk: tokens for which all sources' changes are held at a time; bounds the memory.
        kv_destinations: with grouped-query attention, "query-head" (default) or "kv-head".
        quiet: no progress bar.

    Raises:
        ValueError: an unknown method or intervention, an unsupported model, or a metric that cannot be scored with.

    Reference:
        Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; got {method!r}.")
    if getattr(metric, "zero_gradient_at_clean", False):
        raise ValueError(
            "this metric's gradient on the clean prompt is zero (a divergence from the model itself is at its minimum "
            "there), so every score would be zero; score with a task metric, or use exact patching."
        )
    check_intervention(intervention)
    transformer = adapt(model, kv_destinations=kv_destinations)
    batches = pairs.batches(batch_size, max_tokens=None if batch_size else MAX_TOKENS)
    batches = [batch.to(transformer.device) for batch in batches]
    cuts = cut_values(transformer, batches, intervention)
    total = torch.zeros(transformer.graph.n_sources, transformer.graph.n_destinations, dtype=torch.float64)
    with tqdm(total=len(pairs), desc=method, unit="prompt", disable=quiet, leave=False) as bar:
        for batch in batches:
            total += METHODS[method](transformer, batch, metric, cuts, token_chunk).cpu()
            bar.update(len(batch))
    wide = torch.promote_types(transformer.dtype, torch.float32)
    metadata = {
        "model": transformer.name,
        "method": method,
        "metric": getattr(metric, "__name__", type(metric).__name__),
        "intervention": intervention,
        "n_prompts": len(pairs),
    }
    return ScoredGraph(transformer.graph, (total / len(pairs)).to(wide), metadata)


def eap(
    transformer: Transformer, batch: PromptPairs, metric: Metric, cuts: CutValues, token_chunk: int
) -> Float[Tensor, "source destination"]:
    """Edge attribution patching, summed over the batch: the gradient on the clean prompt."""
    point = differentiate(transformer, transformer.embed(trimmed(batch.clean, batch)), batch, metric)
    with torch.no_grad():
        cut = cuts(batch)
    return Attribution(transformer, point.activations, cut, [point]).scores(batch, token_chunk)


METHODS: dict[str, Callable] = {"eap": eap}
