"""`discover`: a circuit from the whole graph by ACDC."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import nn
from torch.distributed import ProcessGroup

from edge_circuits.acdc.algorithm import sweep_edges
from edge_circuits.acdc.search import STACKED_TOKENS, Search, check_threshold
from edge_circuits.acdc.trace import Change, TracedCircuit
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.graph import KVDestinations
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.running.patching import Intervention


def discover(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    intervention: Intervention = "patching",
    change: Change = "signed",
    order: Sequence[str] | None = None,
    kv_destinations: KVDestinations = "query-head",
    batch_size: int | None = None,
    stacked_tokens: int = STACKED_TOKENS,
    checkpoint: str | os.PathLike[str] | None = None,
    process_group: ProcessGroup | None = None,
    quiet: bool = False,
) -> TracedCircuit:
    """The circuit that ACDC leaves of the whole graph.

    Edges are tried one after the other, from `logits` down; one is cut for good when the objective rises by less than
    the threshold. Threshold 0 cuts only what the objective is better without; infinity cuts everything. Decisions are
    those of the plain sweep that tries one edge at a time; those which rounding may have decided are in
    `trace.near_ties`.

    The result has all edges that stay, as published. Among them may be edges that no path joins to `input`;
    `.live()` is the circuit without them, and runs the same. In-edges of a destination from which no kept path leads to
    `logits` are cut untried.

    Args:
        model: a TransformerLens model; handed back as it came.
        pairs: clean prompts, and corrupted ones to cut to.
        metric: "kl", the KL divergence from the whole model on the clean prompts, in nats; or a task metric
            `metric(logits, pairs)`, one value a prompt, larger is better: the objective is its negated value. Both at
            the answer positions, the mean over all prompts.
        threshold: tau, in the unit of the metric, from 0 to infinity.
        intervention: what a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (over all `pairs`).
        change: "signed": an edge is cut when the objective rises by less than the threshold, so also when it falls;
            "absolute": when it moves by less either way.
        order: names of all edges in the order to try them; None: as published (`acdc.order`).
        kv_destinations: with grouped-query attention, "query-head" gives each query head <k> and <v> destinations of
            its own, "kv-head" each key-value head.
        batch_size: prompts in a batch; by default as many as fit in 2,048 tokens.
        stacked_tokens: most tokens to run at a time when several edges are tried in one call; bounds the memory.
        checkpoint: a file for the trace, written as the sweep goes on. A sweep that was interrupted continues from it
            and ends as if it had not been.
        process_group: processes of `torch.distributed` that share the prompts, `torch.distributed.group.WORLD` for all; each
            makes the same call and has the same circuit (`edge_circuits.graphs.running.distributed`). None: this process alone.
        quiet: no progress bar.

    Returns:
        The circuit, with the decisions as its `trace`.

    Raises:
        ValueError: a negative or NaN threshold, an unknown setting, an unsupported model, a checkpoint of another
            sweep, or a metric that is not one finite number a prompt; then the edge is named.

    Reference:
        Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability, Algorithm 1.
    """
    check_threshold(threshold)
    search = Search(
        model,
        pairs,
        metric,
        intervention=intervention,
        change=change,
        order=order,
        batch_size=batch_size,
        stacked_tokens=stacked_tokens,
        process_group=process_group,
        kv_destinations=kv_destinations,
    )
    return sweep_edges(search, threshold, checkpoint=checkpoint, quiet=quiet).circuit
