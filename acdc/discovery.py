"""`discover` and `refine`: ACDC with one threshold, on the whole graph or on a circuit that another method has pruned.

Attribution patching finds a rough circuit in two forward passes and a backward pass; ACDC then tries only its edges.

References: Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability, Algorithm 1. Syed, Rager
and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, section 5.2 (refinement).
"""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from edge_circuits.acdc.algorithm import sweep_edges
from edge_circuits.acdc.search import Search
from edge_circuits.acdc.trace import TracedCircuit
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.surroundings import in_plain_surroundings


@in_plain_surroundings
def discover(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
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
        model: A TransformerLens model; left unchanged.
        pairs: Clean prompts, and corrupted ones to cut to.
        metric: "kl", the KL divergence from the whole model on the clean prompts, in nats; or a task metric, a name of
            `edge_circuits.graphs.metrics` or a function `metric(logits, pairs)` with one value a prompt, larger is better: the
            objective is its negated value. Both at the answer positions, the mean over all prompts.
        threshold: Tau, in the unit of the metric, from 0 to infinity.
        checkpoint: A folder for the trace, written as the sweep continues, `threshold-{threshold}.jsonl`. A sweep that was
            interrupted resumes from it and ends as if it had not been.
        quiet: No progress bar.
        **settings: Of the search, by keyword:
            intervention ("patching"): what a cut edge reads: `patching`, `zero`, `mean` or `mean-positional` (over all
            `pairs`).
            change ("signed"): "signed": an edge is cut when the objective rises by less than the threshold, so also when
            it falls; "absolute": when it moves by less either way.
            order (None): names of all edges in the order to try them; None: as published (`edge_circuits.acdc.order`).
            kv_destinations (None): with grouped-query attention, "query-head" gives each query head <k> and <v>
            destinations of its own, "kv-head" each key-value head; None: "query-head", or what a circuit given has.
            direct_edges (False): try, as the published code does, each head's <q>, <k> and <v> as a whole before the in-edges of
            its layer's heads; what is cut so loses all its in-edges.
            batch_size (None): prompts in a batch; None: as many as fit in 2,048 tokens.
            stacked_tokens (1024): most tokens to run at a time when several edges are tried in one call; bounds the
            memory.
            process_group (None): processes of `torch.distributed` that share the prompts, `torch.distributed.group.WORLD` for
            all; each makes the same call and has the same circuit (`edge_circuits.graphs.running.distributed`). None: this
            process alone.

    Returns:
        The circuit, with the decisions as its `trace`.

    Raises:
        ValueError: A negative or NaN threshold, an unknown setting, an unsupported model, a checkpoint of another
            sweep, or a metric that is not one finite number a prompt; then the edge is named.

    Reference:
        Conmy et al. 2023, Algorithm 1.
    """
    search = Search(model, pairs, metric, settings, thresholds=[threshold], checkpoint=checkpoint)
    return sweep_edges(search, threshold, checkpoint=checkpoint, quiet=quiet).circuit


@in_plain_surroundings
def refine(
    model: nn.Module,
    circuit: Circuit,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TracedCircuit:
    """The circuit that ACDC leaves of a given one; no edge is ever added.

    As `discover`, except that the sweep begins at `circuit`: edges outside it are cut from the start and never
    tried. With "kl" the divergence is still from the whole model. An edge whose source has no path from `input` changes
    nothing under patching, and is cut without a run whenever the threshold is positive.

    Args:
        model: A TransformerLens model; left unchanged.
        circuit: Where to begin; its graph must be the model's, and says what the <k> and <v> destinations are.
        pairs: Clean prompts, and corrupted ones to cut to.
        metric: As in `discover`.
        threshold: Tau, in the unit of the metric, from 0 to infinity.
        checkpoint: A folder for the trace, as in `discover`.
        quiet: No progress bar.
        **settings: As in `discover`; in `order`, e.g. `acdc.by_score(scored)`, edges outside the circuit are passed over.

    Returns:
        The circuit, with the decisions as its `trace`.

    Raises:
        ValueError: As `discover`, or the circuit is of another graph.

    Reference:
        Syed, Rager and Conmy 2023, section 5.2.
    """
    search = Search(model, pairs, metric, settings, circuit, thresholds=[threshold], checkpoint=checkpoint)
    return sweep_edges(search, threshold, checkpoint=checkpoint, quiet=quiet).circuit
