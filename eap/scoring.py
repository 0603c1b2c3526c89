"""`score`: a score for every edge of a model, over a whole prompt set."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from tqdm import tqdm

from edge_circuits.eap.budget import affordable, check_budget, with_exact
from edge_circuits.eap.checkpoint import Checkpoint, make_folder, path_of
from edge_circuits.eap.context import Job
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.methods.method import Method
from edge_circuits.graphs import PromptPairs, ScoredGraph
from edge_circuits.graphs.by_span import SpanScores
from edge_circuits.graphs.checks import choice, refusal, whole_number
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.metrics import Metric, as_metric, metric_name
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.prompts.pairs import check_pairs
from edge_circuits.graphs.running.distributed import Processes
from edge_circuits.graphs.running.fingerprint import own_values, question
from edge_circuits.graphs.running.patching import Intervention, check_intervention, cut_values
from edge_circuits.graphs.surroundings import in_plain_surroundings

By = Literal["span", "token"]

MAX_TOKENS = 2048
TOKEN_CHUNK = 256


@in_plain_surroundings
@torch.inference_mode(False)  # gradients are needed, also when the caller switched them off for good
def score(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    method: Method | str = "relp",
    *,
    intervention: Intervention = "patching",
    by: By | None = None,
    budget: float | int | None = None,
    batch_size: int | None = None,
    token_chunk: int = TOKEN_CHUNK,
    kv_destinations: KVDestinations = "query-head",
    checkpoint: str | os.PathLike[str] | None = None,
    process_group: ProcessGroup | None = None,
    quiet: bool = False,
) -> ScoredGraph | SpanScores:
    """Score every edge of a model.

    A score says, or estimates, what cutting the edge does to the metric: positive means that cutting raises it. The
    unit is the metric's, the mean over prompts.

    Args:
        model: a TransformerLens model; left unchanged.
        pairs: prompts; each batch holds prompts of similar length.
        metric: `metric(logits, pairs)`, one value a prompt, on the logits at the answer positions; or the name of one of
            `edge_circuits.graphs.metrics`.
        method: a method with its settings, `RelP(reader="norm")`, or a name with or without settings,
            "relp:reader=norm":
            "eap", `EAP`: edge attribution patching, the gradient on the clean prompt times the source's change;
            "relp", `RelP`: the same pass with the coefficients of layer-wise relevance propagation in the gradient's place;
            "blend", `Blend`: small effects by the gradient, large ones by relevance propagation, both exactly through the destination;
            "gim", the rules of gradient interaction modifications;
            "eap-ig", `IntegratedGradients`: gradients averaged over points from the cut input to the clean one;
            "eap-ig-activations": over the line of each source's own values instead, "eap-ig-all-activations" as published;
            "clean-corrupted", `CleanCorrupted`: gradients averaged over the two ends;
            "hisp", `HeadImportance`: an edge as important as the lesser of its nodes;
            "information-flow-routes", `InformationFlow`: each source's share of what is read, without metric or gradient;
            "exact", `Exact`: every edge cut alone and the metric measured;
            "learned-mask", `LearnedMask`: the probability that a gate trained for the edge stays open;
            "top-k-mask", `TopKMask`: the edge's share of circuits of all sizes, trained from another method's ranks on;
            "random", `Random`: the baseline.
        intervention: what a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (over all `pairs`), an `ec.Mean` over other
            prompts, or what else `edge_circuits.graphs.running.patching` has.
        by: "span": a score for each edge at each of `pairs.spans`, as `SpanScores`; "token": at each position, for prompts of
            one length. None: over all positions. For methods of gradients, and "exact".
        budget: how many plain passes (two forward passes and one backward pass over all prompts) to spend, beside the estimate, on
            measuring the edges of largest score exactly; `ScoredGraph.exact` says which they are, `edge_circuits.eap.budget` how
            their price is counted. For methods whose scores are in the metric's unit. None: nothing.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens, and enough batches for all processes.
        token_chunk: tokens for which all sources' changes are held at a time; bounds the memory.
        kv_destinations: with grouped-query attention, "query-head" gives each query head <k> and <v> destinations
            of its own, "kv-head" each key-value head.
        checkpoint: a folder for what is scored so far; the same call resumes there after an interruption, and ends
            with the same numbers. It costs a digest of the weights (about a second a GB) and two forward passes, by which
            the metric is known again: half of EAP's own time. Not for trained masks.
        process_group: processes of `torch.distributed` that share the prompts, `torch.distributed.group.WORLD` for all; each
            makes the same call and has the same result (`edge_circuits.graphs.running.distributed`). Not for trained masks. None: this process alone.
        quiet: no progress bar.

    Raises:
        ValueError: an unknown method, intervention or setting, an unsupported model, or a metric that cannot be
            scored with, or a budget that does not pay for one edge.

    Reference:
        Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery.
    """
    processes = Processes(process_group)
    with processes.agreeing() as asked:
        check_pairs(pairs)
        method = find(method)
        _check(method, intervention, token_chunk, checkpoint, process_group)
        check_budget(budget, method, by)
        if checkpoint is not None and processes.is_first:
            make_folder(Path(checkpoint))
        pairs = _with_spans(pairs, by, method)
        transformer = adapt(model, kv_destinations=kv_destinations)
        processes.send_from(transformer.device)
        metric = as_metric(metric, transformer, pairs, method.needs_metric)
        method.check_model(transformer)
        method.check_metric(metric)
        batches = [batch.to(transformer.device) for batch in processes.batches(pairs, batch_size, MAX_TOKENS)]
        if checkpoint is not None or processes.size > 1:
            measured = metric if method.needs_metric else None
            settings = dict(method=method.described, intervention=intervention, token_chunk=token_chunk, by=by)
            asked |= question(model, transformer, pairs, measured, batches, gradients=method.needs_gradient, **settings)
            asked |= {"checkpoint": str(checkpoint), "budget": str(budget)}
    cuts = cut_values(transformer, batches, intervention, processes)
    silent = quiet or not processes.is_first
    job = Job(transformer, metric, cuts, intervention, token_chunk, by is not None, quiet=silent)
    if checkpoint is not None:
        path = processes.read_by_first(lambda: _path(Path(checkpoint), job, method, asked, batches))
        job = replace(job, checkpoint=path)
    scores, seconds = _over_prompts(job, batches, processes, method, len(pairs))
    scores = scores.to(torch.promote_types(transformer.dtype, torch.float32))
    metadata = _metadata(job, pairs, method) | {"seconds": round(seconds, 3)}
    _check_scores(scores, method, job.metric)
    if by is not None:
        return SpanScores(transformer.graph, pairs.spans.names, scores, metadata | {"by": by})
    scored = ScoredGraph(transformer.graph, scores, metadata)
    if budget is None:
        return scored
    chosen = affordable(transformer, batches, scored.scores.abs(), budget, intervention)
    same = dict(intervention=intervention, batch_size=batch_size, kv_destinations=kv_destinations, quiet=quiet)
    exact = score(model, pairs, metric, Exact(chosen), checkpoint=checkpoint, process_group=process_group, **same)
    return with_exact(scored, exact, chosen, budget)


def _path(folder: Path, job: Job, method: Method, asked: dict[str, str], batches: list[PromptPairs]) -> Path:
    """The file of a question, if the metric still has the values with which it was asked first."""
    values = own_values(job.transformer, batches, job.metric, job.cuts) if method.needs_metric else None
    return path_of(folder, method.name, asked, values, job.transformer.dtype)


def _with_spans(pairs: PromptPairs, by: By | None, method: Method) -> PromptPairs:
    """The pairs with the spans that scores are asked by.

    Raises:
        ValueError: pairs without spans, a method that does not know them, or no such choice.
    """
    if by is None:
        return pairs
    choice("by", by, get_args(By))
    if not method.knows_spans:
        raise refusal("by", f"None for method {method.name!r}", repr(by), "take a method of gradients, or 'exact'")
    if by == "token":
        return pairs.by_token()
    if pairs.spans is None:
        raise refusal("by", "None or 'token' for pairs without spans", repr(by), "give PromptPairs spans={...}")
    return pairs


def _check(method: Method, intervention: Intervention, token_chunk: int, checkpoint: Any, process_group: Any) -> None:
    check_intervention(intervention)
    for name, value in (("checkpoint", checkpoint), ("process_group", process_group)):
        if value is not None and method.takes_all:
            expected = f"None for method {method.name!r}, which takes all batches at once"
            raise refusal(name, expected, repr(value), "leave it out")
    whole_number("token_chunk", token_chunk, 1)


def _check_scores(scores: Float[Tensor, "source destination *span"], method: Method, metric: Metric) -> None:
    """
    Raises:
        ValueError: Scores that are no numbers, which a finite metric has where its gradient is not finite.
    """
    if n_others := int((~scores.isfinite()).sum()):
        remedy = (
            "see where its gradient is not finite, as a square root's at 0, or whether the model's type is too narrow"
        )
        raise refusal(
            f"metric {metric_name(metric)}", f"finite scores by {method.name!r}", f"{n_others} that are not", remedy
        )
    if method.needs_gradient and not scores.any():
        warnings.warn(
            f"metric {metric_name(metric)}: every score by {method.name!r} is 0; see whether its gradient is 0 on all prompts, as it is where "
            "answers and wrong answers are the same, and whether corrupted prompts differ from clean ones",
            stacklevel=5,
        )


def _over_prompts(
    job: Job, batches: list[PromptPairs], processes: Processes, method: Method, n_prompts: int
) -> tuple[Float[Tensor, "source destination *span"], float]:
    """A method's scores, means over all prompts, and the seconds they took."""
    if not method.takes_all:
        total, seconds = _summed(job, batches, processes, method)
        return method.joined(total / n_prompts, job.transformer.graph), seconds
    start = time.monotonic()
    return method.scores_of_all(job, batches), time.monotonic() - start


def _summed(
    job: Job, batches: list[PromptPairs], processes: Processes, method: Method
) -> tuple[Float[Tensor, "source destination *span"], float]:
    """The scores of all batches added up, in float64 on the CPU, and the seconds they took."""
    more = (len(batches[0].spans),) if job.by_span else (len(method.members),) if len(method.members) > 1 else ()
    zeros = torch.zeros(*job.transformer.graph.edge_mask.shape, *more, dtype=torch.float64)
    sums = processes.read_by_first(
        lambda: Checkpoint(job.checkpoint, zeros, torch.zeros(len(batches), dtype=torch.bool))
    )
    n_done = int(sums.done.sum())
    with tqdm(total=sum(map(len, batches)), desc=method.name, unit="prompt", disable=job.quiet) as bar:
        bar.update(sum(map(len, batches[:n_done])))
        scored = processes.in_turn(batches[n_done:], lambda batch: method.scores(job, batch).double().cpu(), like=zeros)
        for number, scores in enumerate(scored, start=n_done):
            sums.scores += scores
            sums.done[number] = True
            if processes.is_first:
                sums.save_now_and_then()
            bar.update(len(batches[number]))
    if n_done < len(batches) and processes.is_first:
        sums.save()
    return sums.scores, processes.from_first(sums.seconds)


def _metadata(job: Job, pairs: PromptPairs, method: Method) -> dict[str, Any]:
    """What a result says about itself."""
    return {
        "model": job.transformer.name,
        "d_model": job.transformer.W_U.shape[0],
        "method": method.name,
        "signed": method.signed,
        "metric": metric_name(job.metric),
        "prompts": pairs.digest,
        "settings": {"intervention": str(job.intervention), "n_prompts": len(pairs), **method.settings},
        "versions": {name: version(name) for name in ("edge-circuits", "torch", "transformer-lens")},
    }
