"""`score`: a score for every edge of a model, over a whole prompt set."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from tqdm import tqdm

from edge_circuits.eap.checkpoint import Checkpoint
from edge_circuits.eap.context import Integration, Job
from edge_circuits.eap.methods.registry import (
    METHODS,
    OF_ALL,
    SETTINGS,
    STEPS,
    WITHOUT_METRIC,
    check_method,
    check_settings,
)
from edge_circuits.eap.relp_rules import RelPRules
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.metrics import Metric, check_values, metric_name
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.running.fingerprint import first_logits, model_mark
from edge_circuits.graphs.running.patching import Intervention, cut_values

MAX_TOKENS = 2048
TOKEN_CHUNK = 256


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
    process_group: ProcessGroup | None = None,
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
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens, and enough batches for all processes.
        token_chunk: tokens for which all sources' changes are held at a time; bounds the memory.
        kv_destinations: with grouped-query attention, "query-head" gives each query head <k> and <v> destinations
            of its own, "kv-head" each key-value head.
        checkpoint: a folder for what is scored so far; the same call goes on from there after it was stopped, and ends
            with the same numbers. Not for "learned-mask".
        process_group: processes of `torch.distributed` that share the prompts, `torch.distributed.group.WORLD` for all; each
            makes the same call and has the same result (`edge_circuits.graphs.running.distributed`). Not for "learned-mask". None: this process alone.
        quiet: no progress bar.

    Raises:
        ValueError: an unknown method, intervention or setting, an unsupported model, or a metric that cannot be
            scored with.

    Reference:
        Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery.
    """
    check_method(method, metric, intervention, integration)
    steps = STEPS.get(method, 1) if steps is None else steps
    given = dict(steps=steps, token_chunk=token_chunk, rules=rules, edges=edges, penalty=penalty)
    check_settings(method, given | dict(checkpoint=checkpoint, process_group=process_group))
    transformer = adapt(model, kv_destinations=kv_destinations)
    if edges is not None and edges.shape != transformer.graph.edge_mask.shape:
        raise ValueError(f"edges must be a mask {tuple(transformer.graph.edge_mask.shape)}, got {tuple(edges.shape)}.")
    processes = Processes(process_group, transformer.device)
    batches = [batch.to(transformer.device) for batch in processes.batches(pairs, batch_size, MAX_TOKENS)]
    job = Job(
        transformer,
        metric,
        cut_values(transformer, batches, intervention, processes),
        intervention,
        token_chunk=token_chunk,
        steps=steps,
        integration=integration,
        edges=edges,
        seed=seed,
        penalty=Job.penalty if penalty is None else penalty,
        rules=rules or RelPRules(),
        quiet=quiet or not processes.is_first,
    )
    metadata = _metadata(job, pairs, method)
    if method in OF_ALL:
        scores = METHODS[method](job, batches)
    else:
        asked = _asked(job, pairs, batches, metadata) if checkpoint is not None or processes.size > 1 else {}
        processes.check_same(asked)
        if checkpoint is not None:
            job = replace(job, checkpoint=Path(checkpoint) / f"{method}-{digest_of(repr(asked))}.npz")
        scores = _summed(job, batches, processes, method) / len(pairs)
    wide = torch.promote_types(transformer.dtype, torch.float32)
    return ScoredGraph(transformer.graph, scores.to(wide), metadata)


def _summed(
    job: Job, batches: list[PromptPairs], processes: Processes, name: str
) -> Float[Tensor, "source destination"]:
    """The scores of all batches added up, in float64 on the CPU."""
    zeros = torch.zeros(job.transformer.graph.edge_mask.shape, dtype=torch.float64)
    sums = Checkpoint(
        job.checkpoint if processes.is_first else None, zeros, torch.zeros(len(batches), dtype=torch.bool)
    )
    if job.checkpoint is not None:
        sums.scores, sums.done = processes.from_first((sums.scores, sums.done))
    n_done = int(sums.done.sum())
    with tqdm(total=sum(map(len, batches)), desc=name, unit="prompt", disable=job.quiet) as bar:
        bar.update(sum(map(len, batches[:n_done])))
        scored = processes.in_turn(batches[n_done:], lambda batch: METHODS[name](job, batch).double().cpu(), like=zeros)
        for number, scores in enumerate(scored, start=n_done):
            sums.scores += scores
            sums.done[number] = True
            sums.save_now_and_then()
            bar.update(len(batches[number]))
    sums.save()
    return sums.scores


def _asked(job: Job, pairs: PromptPairs, batches: list[PromptPairs], metadata: dict[str, Any]) -> dict[str, str]:
    """All that decides the scores, named."""
    first, logits = pairs[:1].to(job.transformer.device), first_logits(job.transformer, pairs)
    measured = "without"
    if metadata["method"] not in WITHOUT_METRIC:
        with torch.no_grad():
            value = job.metric(logits, first)
            check_values(value, first, job.metric)
        measured = f"{metadata['metric']}, {value.item():.4e} for the first prompt"
    edges = None if job.edges is None else digest_of(repr(job.edges.tolist()))
    return {
        "prompts": pairs.digest,
        "model": model_mark(job.transformer, logits),
        "metric": measured,
        "settings": f"{metadata['method']}, {metadata['settings']}, edges {edges}, token_chunk {job.token_chunk}",
        "batches": repr([list(batch.clean.shape) for batch in batches]),
    }


def _metadata(job: Job, pairs: PromptPairs, method: str) -> dict[str, Any]:
    """What a result says about itself."""
    settings = {name: getattr(job, name) for name in SETTINGS.get(method, ())}
    if method == "relp":
        settings["rules"] = job.rules.as_dict()
    return {
        "model": job.transformer.name,
        "d_model": job.transformer.W_U.shape[0],
        "method": method,
        "metric": metric_name(job.metric),
        "settings": {"intervention": job.intervention, "n_prompts": len(pairs), **settings},
        "versions": {name: version(name) for name in ("edge-circuits", "torch", "transformer-lens")},
    }
