"""`score`: a score for every edge of a model, over a whole prompt set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm import tqdm

from eap.edge_attribution_patching import clean_corrupted, eap
from eap.exact import exact
from eap.gradients import Metric, metric_name
from eap.head_importance import hisp
from eap.information_flow import information_flow_routes
from eap.integrated_gradients import eap_ig, eap_ig_activations
from eap.job import Integration, Job, Method, MethodOfAll
from eap.learned_mask import learned_mask
from eap.random_scores import random
from eap.relp import relp
from eap.rules import RelPRules
from graphs import PromptPairs, ScoredGraph
from graphs.adapter import adapt
from graphs.graph import KVDestinations
from graphs.patching import Intervention, check_intervention, cut_values

MAX_TOKENS = 2048
TOKEN_CHUNK = 256
MOST_STEPS = 1000
METHODS: dict[str, Method | MethodOfAll] = {
    "eap": eap,
    "relp": relp,
    "eap-ig": eap_ig,
    "eap-ig-activations": eap_ig_activations,
    "clean-corrupted": clean_corrupted,
    "hisp": hisp,
    "information-flow-routes": information_flow_routes,
    "exact": exact,
    "learned-mask": learned_mask,
    "random": random,
}
OF_ALL = ("learned-mask",)  # need all batches at once
WITHOUT_GRADIENT = ("exact", "information-flow-routes", "learned-mask", "random")
STEPS = {"eap-ig": 5, "eap-ig-activations": 5, "learned-mask": 100}
SETTINGS = {
    "eap-ig": ("steps", "integration"),
    "eap-ig-activations": ("steps", "integration"),
    "learned-mask": ("steps", "penalty", "seed"),
    "random": ("seed",),
}


@torch.inference_mode(False)  # gradients are needed, also when the caller switched them off for good
def score(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric,
    method: str = "relp",
    *,
    intervention: Intervention = "patching",
    steps: int | None = None,
    integration: Integration = "left",
    edges: Bool[Tensor, "source destination"] | None = None,
    seed: int = 0,
    penalty: float | None = None,
    rules: RelPRules | None = None,
    batch_size: int | None = None,
    token_chunk: int = TOKEN_CHUNK,
    kv_destinations: KVDestinations = "query-head",
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> ScoredGraph:
    """Score every edge of a model.

    A score says, or estimates, what cutting the edge does to the metric: positive means that cutting raises it. The
    unit is the metric's, the mean over prompts.

    Args:
        model: a TransformerLens model; handed back as it came.
        pairs: prompts; each batch holds prompts of similar length.
        metric: `metric(logits, pairs)`, one value a prompt, on the logits at the answer positions.
        method: "relp" by default, which agrees best with exact patching for the price of one backward pass (the
            README has the tables); one of
            "eap", edge attribution patching: the gradient on the clean prompt times the source's change;
            "relp", the same pass with the coefficients of layer-wise relevance propagation in the gradient's place;
            "eap-ig", attribution patching with gradients averaged over `steps` points from the cut input to the clean one;
            "eap-ig-activations", over the line of each source's own values instead;
            "clean-corrupted", gradients averaged over the two ends;
            "hisp", head importance, an edge as important as the lesser of its nodes;
            "information-flow-routes", each source's share of what is read, without metric or gradient;
            "exact", every edge cut alone and the metric measured;
            "learned-mask", the probability that a gate trained for the edge stays open;
            "random", the baseline.
        intervention: what a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (over all `pairs`).
        steps: points of the line for "eap-ig" (default 5); steps of training for "learned-mask" (default 100).
        integration: "left" takes the points k / steps, k = 0 ... steps - 1, as published; "midpoint" those between.
        edges: for "exact", the edges to measure; others score zero. All by default.
        seed: of "random" and "learned-mask".
        penalty: of "learned-mask", the price of keeping all edges, in squared shares of the metric (default 2).
        rules: of "relp"; by default RelP's own, see `eap.RelPRules`.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens.
        token_chunk: tokens for which all sources' changes are held at a time; bounds the memory.
        kv_destinations: with grouped-query attention, "query-head" gives each query head <k> and <v> destinations
            of its own, "kv-head" each key-value head.
        checkpoint: for "exact", a folder for what is measured so far; a run that was stopped goes on from it.
        quiet: no progress bar.

    Raises:
        ValueError: an unknown method, intervention or setting, an unsupported model, or a metric that cannot be
            scored with.

    Reference:
        Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery.
    """
    _check(method, metric, intervention, integration)
    steps = STEPS.get(method, 1) if steps is None else steps
    _check_counts(method, steps, token_chunk)
    _check_owned(
        method,
        {
            "rules": ("relp", rules),
            "checkpoint": ("exact", checkpoint),
            "edges": ("exact", edges),
            "penalty": ("learned-mask", penalty),
        },
    )
    transformer = adapt(model, kv_destinations=kv_destinations)
    if edges is not None and edges.shape != transformer.graph.edge_mask.shape:
        raise ValueError(f"edges must be a mask {tuple(transformer.graph.edge_mask.shape)}, got {tuple(edges.shape)}.")
    batches = pairs.batches(batch_size, max_tokens=None if batch_size else MAX_TOKENS)
    batches = [batch.to(transformer.device) for batch in batches]
    job = Job(
        transformer,
        metric,
        cut_values(transformer, batches, intervention),
        intervention,
        token_chunk=token_chunk,
        steps=steps,
        integration=integration,
        edges=edges,
        seed=seed,
        penalty=Job.penalty if penalty is None else penalty,
        rules=rules or RelPRules(),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        quiet=quiet,
    )
    if method in OF_ALL:
        scores = METHODS[method](job, batches)
    else:
        scores = sum(_scores_by_batch(job, METHODS[method], batches, method)) / len(pairs)
    settings = {name: getattr(job, name) for name in SETTINGS.get(method, ())}
    if method == "relp":
        settings["rules"] = job.rules.as_dict()
    metadata = _metadata(job, pairs, method, settings)
    wide = torch.promote_types(transformer.dtype, torch.float32)
    return ScoredGraph(transformer.graph, scores.to(wide), metadata)


def _scores_by_batch(
    job: Job, method: Method, batches: list[PromptPairs], name: str
) -> Iterator[Float[Tensor, "source destination"]]:
    """Each batch's summed scores, in float64 on the CPU."""
    with tqdm(total=sum(map(len, batches)), desc=name, unit="prompt", disable=job.quiet) as bar:
        for batch in batches:
            yield method(job, batch).double().cpu()
            bar.update(len(batch))


def _check(method: str, metric: Metric, intervention: str, integration: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; got {method!r}.")
    if method not in WITHOUT_GRADIENT and getattr(metric, "zero_gradient_at_clean", False):
        raise ValueError(
            "this metric's gradient on the clean prompt is zero (a divergence from the model itself is at its minimum "
            "there), so every score would be zero; score with a task metric, or with method='exact'."
        )
    check_intervention(intervention)
    if integration not in get_args(Integration):
        raise ValueError(f"integration is 'left' or 'midpoint', got {integration!r}.")


def _check_owned(method: str, owned: dict[str, tuple[str, Any]]) -> None:
    """Settings of one method alone, with their values: given to another, they are refused."""
    for name, (owner, value) in owned.items():
        if value is not None and method != owner:
            raise ValueError(f"{name} has no place in method {method!r}; it belongs to {owner}.")
    penalty = owned["penalty"][1]
    if penalty is not None and not 0 <= penalty < float("inf"):
        raise ValueError(f"penalty must be a number from 0 up, got {penalty!r}.")


def _check_counts(method: str, steps: int, token_chunk: int) -> None:
    if steps != 1 and method not in STEPS:
        raise ValueError(f"steps has no place in method {method!r}; it belongs to {', '.join(STEPS)}.")
    if method.startswith("eap-ig") and isinstance(steps, int) and steps > MOST_STEPS:
        raise ValueError(f"steps is {steps}; more than {MOST_STEPS} points add cost and no accuracy: take 5 to 100.")
    for name, value in (("steps", steps), ("token_chunk", token_chunk)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}.")


def _metadata(job: Job, pairs: PromptPairs, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a result says about itself."""
    return {
        "model": job.transformer.name,
        "d_model": job.transformer.W_U.shape[0],
        "method": method,
        "metric": metric_name(job.metric),
        "settings": {"intervention": job.intervention, "n_prompts": len(pairs), **settings},
        "versions": {name: version(name) for name in ("edge-circuits", "torch", "transformer-lens")},
    }
