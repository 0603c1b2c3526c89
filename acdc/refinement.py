"""`refine`: ACDC on a circuit that another method has pruned.

Attribution patching finds a rough circuit in two forward passes and a backward pass; ACDC then tries only its edges.

Reference: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, section 5.2.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import nn
from torch.distributed import ProcessGroup

from edge_circuits.acdc.algorithm import sweep_edges
from edge_circuits.acdc.search import STACKED_TOKENS, Search, check_threshold
from edge_circuits.acdc.trace import Change, TracedCircuit
from edge_circuits.graphs import Circuit, PromptPairs
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.running.patching import Intervention


def refine(
    model: nn.Module,
    circuit: Circuit,
    pairs: PromptPairs,
    metric: Metric | str,
    threshold: float,
    *,
    intervention: Intervention = "patching",
    change: Change = "signed",
    order: Sequence[str] | None = None,
    batch_size: int | None = None,
    stacked_tokens: int = STACKED_TOKENS,
    checkpoint: str | os.PathLike[str] | None = None,
    process_group: ProcessGroup | None = None,
    quiet: bool = False,
) -> TracedCircuit:
    """The circuit that ACDC leaves of a given one; no edge is ever added.

    As `acdc.discover`, except that the sweep begins at `circuit`: edges outside it are cut from the start and never
    tried. With "kl" the divergence is still from the whole model. An edge whose source has no path from `input` changes
    nothing under patching, and is cut without a run whenever the threshold is positive.

    Args:
        circuit: where to begin; its graph must be the model's, and says what the <k> and <v> destinations are.
        order: edge names in the order to try them, e.g. `acdc.by_score(scored)`; those outside the circuit are passed
            over.

    Returns:
        The circuit, with the decisions as its `trace`.

    Raises:
        ValueError: as `acdc.discover`, or the circuit is of another graph.
    """
    check_threshold(threshold)
    search = Search(
        model,
        pairs,
        metric,
        start=circuit,
        intervention=intervention,
        change=change,
        order=order,
        batch_size=batch_size,
        stacked_tokens=stacked_tokens,
        process_group=process_group,
    )
    return sweep_edges(search, threshold, checkpoint=checkpoint, quiet=quiet).circuit
